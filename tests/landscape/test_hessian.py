"""Products with the Hessian and the Gauss-Newton matrix, against closed forms, plain autograd and curvlinops."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from modeconn.analysis.landscape.curvature.hessian import Curvature, curvature_of
from modeconn.errors import DataError, NetworkError, OptionError

N = 12
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(N) % 3


def made(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    network = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return network.eval()


def mlp() -> nn.Sequential:
    return made(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def matrix_of(curvature: Curvature) -> Tensor:
    """The whole matrix, a column for each unit vector."""
    unit = torch.eye(curvature.dimension, dtype=curvature.like.dtype)
    return torch.stack([curvature.product(vector) for vector in unit], 1)


def plain_hessian(network: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor = X) -> Tensor:
    """By `torch.func`, over all parameters at once."""
    named = dict(network.named_parameters())
    sizes = [parameter.numel() for parameter in named.values()]

    def value(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        return loss(functional_call(network, {name: part.view(p.shape) for (name, p), part in parts}, (x,)))

    return hessian(value)(torch.cat([parameter.detach().reshape(-1) for parameter in named.values()]))


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_linear_regression_has_two_over_n_x_x(kind: str) -> None:
    target = torch.randn(N, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curvature = curvature_of(made(nn.Linear(4, 1, bias=False)), [(X, target)], kind=kind)
    torch.testing.assert_close(matrix_of(curvature), 2 / N * X.T @ X, rtol=0, atol=1e-12)
    curvature.gradient()
    assert curvature.about == "mean squared error on 12 examples"


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_logistic_regression(kind: str) -> None:
    network, labels = made(nn.Linear(4, 1, bias=False)), (Y == 0).double()[:, None]
    s = torch.sigmoid(network(X)).detach()
    closed = X.T @ (s * (1 - s) * X) / N
    curvature = curvature_of(network, [(X, labels)], kind=kind, size=5)
    torch.testing.assert_close(matrix_of(curvature), closed, rtol=0, atol=1e-12)
    curvature.gradient()
    assert curvature.about == "binary cross-entropy on 12 examples"


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_softmax_regression(kind: str) -> None:
    network = made(nn.Linear(4, 3, bias=False))
    p = torch.softmax(network(X), 1).detach()
    blocks = [torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(x, x)) for q, x in zip(p, X, strict=True)]
    curvature = curvature_of(network, [(X, Y)], kind=kind, size=7)
    torch.testing.assert_close(matrix_of(curvature), torch.stack(blocks).mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_the_size_of_pieces_changes_nothing(size: int) -> None:
    network = mlp()
    expected = plain_hessian(network, lambda z: nn.functional.cross_entropy(z, Y))
    uneven = [(X[:7], Y[:7]), (X[7:8], Y[7:8]), (X[8:], Y[8:])]
    curvature = curvature_of(network, uneven, size=size)
    torch.testing.assert_close(matrix_of(curvature), expected, rtol=0, atol=1e-12)
    loss, gradient = curvature.gradient()
    whole = nn.functional.cross_entropy(network(X), Y)
    assert loss == pytest.approx(float(whole.detach()), abs=1e-12)
    flat = torch.cat([part.reshape(-1) for part in torch.autograd.grad(whole, list(network.parameters()))])
    torch.testing.assert_close(gradient, flat, rtol=0, atol=1e-12)


def test_labels_that_do_not_count_weigh_nothing() -> None:
    network, labels = mlp(), Y.clone()
    labels[[0, 1, 2, 3, 8]] = -100  # a piece of 4 without any, and one with 3
    expected = plain_hessian(network, lambda z: nn.functional.cross_entropy(z, labels))
    torch.testing.assert_close(matrix_of(curvature_of(network, [(X, labels)], size=4)), expected, rtol=0, atol=1e-12)
    with pytest.raises(DataError, match="no label of the data counts"):
        curvature_of(network, [(X, torch.full((N,), -100))]).gradient()


def test_tokens_are_weighted_by_their_number() -> None:
    network = made(nn.Embedding(6, 4), nn.Linear(4, 6))
    texts = torch.arange(20).view(5, 4) % 6
    labels = texts.roll(-1, 1)
    labels[0, 1:] = -100
    labels[3, 2:] = -100
    expected = plain_hessian(network, lambda z: nn.functional.cross_entropy(z.flatten(0, 1), labels.flatten()), texts)
    pieces = [{"x": texts[:2], "labels": labels[:2]}, {"x": texts[2:], "labels": labels[2:]}]
    for size in (1, 2, 9):
        found = matrix_of(curvature_of(network, pieces, size=size))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_language_model_shifts_its_labels_itself() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=7, n_positions=6, n_embd=4, n_layer=1, n_head=2, n_inner=4)
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(config).eval().double()
    tokens = torch.arange(20).view(4, 5) * 5 % 7
    labels = tokens.clone()
    labels[1, 1:4] = -100
    batch = {"input_ids": tokens, "labels": labels}
    vector = torch.randn(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    products = [curvature_of(network, [batch], size=size).product(vector) for size in (1, 3, 4)]
    parameters = list(network.parameters())  # of the tied vocabulary one
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        gradient = torch.autograd.grad(network(**batch).loss, parameters, create_graph=True)
        dot = torch.dot(torch.cat([part.reshape(-1) for part in gradient]), vector)
        expected = torch.cat([part.reshape(-1) for part in torch.autograd.grad(dot, parameters)])
    for product in products:  # its loss is computed in float32
        torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="not one tensor"):
        curvature_of(network, [batch], kind="gauss-newton").product(vector)


@pytest.mark.parametrize("wrapped", [True, False])
def test_labels_are_shifted_only_by_a_network_that_computes_the_loss(wrapped: bool) -> None:
    class TinyForCausalLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = made(nn.Embedding(7, 3), nn.Linear(3, 7))

        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.inside(input_ids)
            if labels is None:
                return logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return {"loss": loss, "logits": logits}

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language = TinyForCausalLM()

        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
            return self.language(input_ids=input_ids, labels=labels)

    network = Wrapper() if wrapped else TinyForCausalLM()
    tokens = torch.arange(20).view(4, 5) * 5 % 7
    labels = tokens.clone()
    labels[1, 1:4] = -100
    batch = {"input_ids": tokens, "labels" if wrapped else "targets": labels}
    vector = torch.randn(sum(p.numel() for p in network.parameters()))
    whole, pieces = (curvature_of(network.eval(), [batch], size=size).product(vector) for size in (4, 1))
    torch.testing.assert_close(pieces, whole)


def networks_with_parts() -> dict[str, nn.Module]:
    relu = made(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    relu.append(nn.Linear(3, 3).double())
    norm = made(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.no_grad():
        norm[1].running_mean.uniform_(-1, 1)
        norm[1].running_var.uniform_(0.5, 2)
    return {"mlp": mlp(), "relu and max-pool": relu, "batchnorm and dropout": norm.eval()}


@pytest.mark.parametrize("name", ["mlp", "relu and max-pool", "batchnorm and dropout"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_curvlinops_agrees(name: str, kind: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    network = networks_with_parts()[name]
    curvature = curvature_of(network, [(X, Y)], kind=kind, size=5)
    operator = {"hessian": curvlinops.HessianLinearOperator, "gauss-newton": curvlinops.GGNLinearOperator}[kind]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    given = parameters
    theirs = operator(network, nn.CrossEntropyLoss(), given, [(X, Y)], check_deterministic=False)
    for seed in range(3):
        vector = torch.randn(curvature.dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(curvature.product(vector), theirs @ vector, rtol=0, atol=1e-10)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(2, 12), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(len(x), 1, 2, 2)).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).flatten(1))


def test_fused_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    network = Attention()
    curvature = curvature_of(network, [(X.float(), Y)], size=5)
    found = matrix_of(curvature)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = plain_hessian(network, lambda z: nn.functional.cross_entropy(z, Y), X.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, found.T, rtol=1e-4, atol=1e-6)


def test_parameters_that_the_loss_does_not_reach_are_zeros_with_a_note() -> None:
    network = mlp()
    network.spare = nn.Linear(2, 2).double()  # type: ignore[assignment]
    network.forward = lambda x: network[2](network[1](network[0](x)))  # type: ignore[method-assign]
    curvature = curvature_of(network, [(X, Y)])
    curvature.gradient()
    assert curvature.notes == ("the loss does not depend on spare.weight, spare.bias: rows and columns of zeros",)
    found = matrix_of(curvature)
    assert found.shape == (49, 49)
    assert not found[43:].any()
    assert not found[:, 43:].any()


def test_complex_parameters_are_left_out_with_a_note() -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Linear(3, 4, dtype=torch.complex64)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.last(self.turn(x.to(torch.complex64)).abs()))

    curvature = curvature_of(Turning().eval(), [(torch.randn(6, 3), torch.tensor([0, 1] * 3))])
    curvature.check()
    assert curvature.dimension == 10
    assert curvature.notes == ("complex parameters are left out, as if they were constants: turn.weight, turn.bias",)


def test_recurrent_layers_are_differentiated_without_cudnn() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.enabled)
            return torch.as_tensor(self.recurrent(x)[0][:, -1])

    seen: list[bool] = []
    before = torch.backends.cudnn.enabled
    curvature = curvature_of(Recurrent().eval(), [(torch.randn(6, 4, 3), torch.tensor([0, 1] * 3))])
    curvature.check()
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.enabled == before


def test_frozen_parameters_are_left_out_with_a_note() -> None:
    network = mlp()
    network[0].requires_grad_(False)
    curvature = curvature_of(network, [(X, Y)])
    curvature.gradient()
    assert curvature.dimension == 18
    assert "left out: 0.weight, 0.bias" in curvature.notes[0]
    whole = plain_hessian(network.requires_grad_(True), lambda z: nn.functional.cross_entropy(z, Y))
    network[0].requires_grad_(False)
    torch.testing.assert_close(matrix_of(curvature), whole[25:, 25:], rtol=0, atol=1e-12)


def test_a_tied_tensor_counts_once() -> None:
    network = made(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Linear(4, 3))
    network[2].weight = network[0].weight
    curvature = curvature_of(network, [(X, Y)])
    assert curvature.dimension == 16 + 15

    def value(flat: Tensor) -> Tensor:
        w, v, b = flat.split([16, 12, 3])
        z = torch.tanh(X @ w.view(4, 4).T) @ w.view(4, 4).T
        return nn.functional.cross_entropy(z @ v.view(3, 4).T + b, Y)

    expected = hessian(value)(torch.cat([p.detach().reshape(-1) for p in network.parameters()]))
    torch.testing.assert_close(matrix_of(curvature), expected, rtol=0, atol=1e-12)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * ctx.saved_tensors[0].exp()


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope.detach() * 2 * ctx.saved_tensors[0]


class Through(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 3), function, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function.apply(self.first(x)))


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_a_function_without_second_derivative_is_named(kind: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(NetworkError, match="no second derivative through Once"):
        curvature_of(Through(Once), [(X.float(), Y)], kind=kind).check()


def test_a_function_whose_second_derivative_is_wrong_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(NetworkError, match=r"not symmetric, so that some are missing.* through Detached"):
        curvature_of(Through(Detached), [(X.float(), Y)]).check()


class Writing(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.add_(1).relu_())


def test_networks_that_write_to_their_input_see_it_once() -> None:
    torch.manual_seed(0)
    network = Writing()
    expected = nn.functional.cross_entropy(network.last((X + 1).relu()), Y)
    assert curvature_of(network, [(X.clone(), Y)]).gradient()[0] == pytest.approx(float(expected.detach()))


def test_a_network_that_is_sure_of_its_answers_is_no_fault() -> None:
    """Its Hessian is lost in rounding, and so is its symmetry."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(40)
    labels = network(X.float()).argmax(1)
    curvature_of(network, [(X.float(), labels)]).check()


def test_losses_that_are_not_finite_are_refused() -> None:
    x = X.clone()
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match="the loss over the data is nan"):
        curvature_of(mlp(), [(x, Y)]).check()


def test_products_that_are_not_finite_are_refused() -> None:
    def root(network: nn.Module, batch: Any) -> Tensor:
        return network(0 * batch[0]).abs().sqrt().mean()

    curvature = curvature_of(made(nn.Linear(4, 1, bias=False)), [(X, Y)], loss=root)
    with pytest.raises(NetworkError, match="not finite"):
        curvature.product(torch.ones(4).double())


def test_batches_that_suggest_different_losses_are_refused() -> None:
    network = made(nn.Linear(4, 1))
    target = torch.cat([torch.zeros(6), torch.linspace(0, 2, 6)])[:, None].double()
    with pytest.raises(DataError, match="say with loss="):
        curvature_of(network, [(X, target)], size=6).gradient()

    def squared(network: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(network(batch[0]), batch[1])

    for kind in ("hessian", "gauss-newton"):
        curvature = curvature_of(network, [(X, target)], size=6, loss=squared, kind=kind)
        with_ones = torch.cat([X, torch.ones(N, 1)], 1)
        torch.testing.assert_close(matrix_of(curvature), 2 / N * with_ones.T @ with_ones, rtol=0, atol=1e-12)
        curvature.gradient()
        assert curvature.about == "loss=squared on 12 examples"


def test_a_loss_that_is_linear_has_no_curvature() -> None:
    def mean(network: nn.Module, batch: Any) -> Tensor:
        return network(batch[0]).mean()

    for kind in ("hessian", "gauss-newton"):
        curvature = curvature_of(made(nn.Linear(4, 2)), [(X, Y)], loss=mean, kind=kind)
        curvature.check()
        assert not matrix_of(curvature).any()


def test_bad_kinds_losses_and_networks_are_refused() -> None:
    with pytest.raises(OptionError, match="did you mean 'hessian'"):
        curvature_of(mlp(), [(X, Y)], kind="hesian")
    with pytest.raises(NetworkError, match="no floating-point parameters"):
        curvature_of(nn.ReLU(), [(X, Y)])
    with pytest.raises(NetworkError, match="does not depend on the parameters"):
        curvature_of(mlp(), [(X, Y)], loss=lambda network, batch: network(batch[0]).detach().mean()).check()
    with pytest.raises(OptionError, match="does not call the network"):
        curvature_of(
            mlp(), [(X, Y)], kind="gauss-newton", loss=lambda network, batch: network[0].weight.square().mean()
        ).product(torch.ones(43).double())
    with pytest.raises(DataError, match="empty"):
        curvature_of(mlp(), []).check()


def test_examples_are_the_first_ones() -> None:
    network = mlp()
    expected = matrix_of(curvature_of(network, [(X[:8], Y[:8])]))
    batches = [(X[:5], Y[:5]), (X[5:], Y[5:])]
    for size in (2, 5, 9):
        curvature = curvature_of(network, batches, size=size, examples=8)
        torch.testing.assert_close(matrix_of(curvature), expected, rtol=0, atol=1e-12)
        curvature.gradient()
        assert curvature.counted == 8


def test_products_leave_the_network_and_its_gradients_alone() -> None:
    network = mlp().train()
    network(X).sum().backward()
    before = copy.deepcopy(network)
    gradients = [parameter.grad.clone() for parameter in network.parameters()]  # type: ignore[union-attr]
    for kind in ("hessian", "gauss-newton"):
        curvature_of(network, [(X, Y)], kind=kind).product(torch.ones(43).double())
    assert network.training
    for parameter, other, gradient in zip(network.parameters(), before.parameters(), gradients, strict=True):
        assert torch.equal(parameter, other)
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert not network._forward_hooks
