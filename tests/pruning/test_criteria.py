"""Scores of weights, against the papers' formulas written another way, and against numbers found by hand."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from modeconn.errors import DataError, NetworkError, OptionError
from modeconn.evaluation.batches import Batches
from modeconn.evaluation.losses import mean_loss
from modeconn.pruning.criteria import CRITERIA, needs_data, score
from modeconn.pruning.masks import Mask
from modeconn.pruning.prunable import prunable
from modeconn.seeds import mix
from networks import by_name

each_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def _mlp() -> nn.Module:
    layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4, bias=False)
    return nn.Sequential(*layers).double()


def _batches() -> list[tuple[Tensor, Tensor]]:
    """Of different sizes."""
    return [(torch.randn(n, 6, dtype=torch.float64), torch.randint(4, (n,))) for n in (7, 3)]


def _random_mask(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(weight.shape) < 0.7 for name, weight in prunable(network).items()}


def _everything(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(network).items()}


# --- by hand


HAND = {
    # y = v (w x), x = (1, 2), w = (1, -2), v = 3, so y = -9; L = (y + 10)^2, so dL/dy = 2, g = (6, 12 | -6).
    "magnitude": ([1.0, 2.0], 3.0),
    "snip": ([6.0, 24.0], 18.0),
    # H_ww = 18 (1 2; 2 4), H_wv = 2 v x (w x) + 2 x = (-16, -32), H_vv = 18, so Hg = (636, 1272 | -588).
    "grasp": ([636.0, -2544.0], -1764.0),
    "grasp-abs": ([636.0, 2544.0], 1764.0),
    # R = 3 (1 + 2)
    "synflow": ([3.0, 6.0], 9.0),
}


@pytest.mark.parametrize("criterion", HAND)
def test_two_layers_by_hand(criterion: str) -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0]]))
        network[1].weight.fill_(3)
    batch = torch.tensor([[1.0, 2.0]]), torch.tensor([[-10.0]])
    found = score(network, criterion, [batch], mask=_everything(network))
    first, second = HAND[criterion]
    assert found["0.weight"].tolist() == [first]
    assert found["1.weight"].tolist() == [[second]]


# --- the formulas, written another way


def _loss_of(
    network: nn.Module, mask: Mapping[str, Tensor], batch: Any, temperature: float = 1.0
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The loss in training mode as a function of the masked weights."""
    network = copy.deepcopy(network).train()

    def loss(*weights: Tensor) -> Tensor:
        outputs = functional_call(network, dict(zip(mask, weights, strict=True)), (batch[0],))
        return cross_entropy(outputs / temperature, batch[1])

    parameters = dict(network.named_parameters())
    return loss, tuple((parameters[name] * kept).detach() for name, kept in mask.items())


def test_snip_is_the_weighted_mean_of_each_batchs_finite_differences() -> None:
    network, batches = _mlp(), _batches()
    mask = _random_mask(network)
    found, step = score(network, "snip", batches, mask=mask), 1e-6
    for at, (name, kept) in enumerate(mask.items()):
        expected = torch.zeros(kept.shape, dtype=torch.float64)
        for batch in batches:
            loss, weights = _loss_of(network, mask, batch)
            for index in kept.nonzero().tolist():
                change = torch.zeros_like(expected)
                change[tuple(index)] = step
                moved = [
                    loss(*(w + sign * change if i == at else w for i, w in enumerate(weights))) for sign in (1, -1)
                ]
                slope = (moved[0] - moved[1]) / (2 * step) * weights[at][tuple(index)]
                expected[tuple(index)] += slope.abs() * len(batch[1]) / 10
        assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-9)


def test_grasp_is_the_weights_times_the_hessian_times_the_masked_networks_gradient() -> None:
    network, batches = _mlp(), _batches()
    mask = _random_mask(network)
    found = score(network, "grasp", batches, mask=mask)
    losses = [_loss_of(network, mask, batch, temperature=200) for batch in batches]
    weights = losses[0][1]

    def loss(*weights: Tensor) -> Tensor:
        return sum(one(*weights) * len(batch[1]) / 10 for (one, _), batch in zip(losses, batches, strict=True))

    gradients = torch.autograd.functional.jacobian(loss, weights)
    gradients = tuple(one * kept for one, kept in zip(gradients, mask.values(), strict=True))
    _, product = torch.autograd.functional.hvp(loss, weights, gradients)
    for name, weight, one in zip(mask, weights, product, strict=True):
        assert torch.allclose(found[name], weight * one, rtol=1e-9, atol=1e-18)
        assert torch.equal(score(network, "grasp-abs", batches, mask=mask)[name], found[name].abs())


@pytest.mark.parametrize("masked", [False, True])
def test_what_grasp_removes_first_gains_gradient_flow(masked: bool) -> None:
    """By the definition: how the squared norm of the gradient changes as a weight shrinks is -2 times our score.

    Of a masked network the gradient is that of what remains.
    """
    network, batch = _mlp(), _batches()[0]
    mask = _random_mask(network) if masked else _everything(network)
    found = score(network, "grasp", [batch], mask=mask)
    loss, weights = _loss_of(network, mask, batch, temperature=200)

    def flow(*weights: Tensor) -> float:
        gradients = torch.autograd.functional.jacobian(loss, weights)
        return float(sum((one * kept).square().sum() for one, kept in zip(gradients, mask.values(), strict=True)))

    for name, place in (("0.weight", 0), ("3.weight", 1)):
        index = divmod(int(found[name].argmin()), found[name].shape[1])  # the first to go
        shrunk = torch.zeros_like(weights[place])
        shrunk[index] = 1e-4 * weights[place][index]
        smaller, larger = (
            flow(*(w - sign * shrunk if i == place else w for i, w in enumerate(weights))) for sign in (1, -1)
        )
        gain = (smaller - larger) / 2e-4
        assert gain > 0
        assert gain == pytest.approx(-2 * float(found[name][index]), rel=1e-4)


@pytest.mark.parametrize("convolution", [False, True])
def test_synflow_is_conserved_from_layer_to_layer(convolution: bool) -> None:
    """Tanaka et al. 2020, theorem 1: without biases, what flows into each layer flows through it, and is R."""
    head = [nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten()]
    body = [nn.Linear(16, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)]
    network = nn.Sequential(*(head if convolution else [nn.Flatten()]), *body)
    shape = (2, 6, 6) if convolution else (16,)
    mask = _random_mask(network)
    found = score(network, "synflow", mask=mask, input_shape=shape)
    absolute = copy.deepcopy(network).double()
    Mask(mask).apply(absolute)
    with torch.no_grad():
        for weight in absolute.parameters():
            weight.abs_()
        flow = float(absolute(torch.ones(1, *shape, dtype=torch.float64)).sum())
    assert [float(one.sum()) for one in found.values()] == pytest.approx([flow] * len(mask), rel=1e-12)
    # With data in place of the shape: one example of ones, whatever the data are.
    assert all(
        torch.equal(one, found[name])
        for name, one in score(network, "synflow", [(torch.randn(3, *shape), torch.ones(3))], mask=mask).items()
    )


def test_synflow_takes_the_shape_from_data_that_can_be_read_once_and_leaves_numbers_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x) * scale

    network, batch = Scaled(), (torch.randn(5, 4), torch.tensor(7.0), torch.ones(5))

    class Stream:
        def __init__(self) -> None:
            self.left = iter([batch])

        def __iter__(self) -> Any:
            return self.left

    expected = network.layer.weight.detach().abs()  # inputs are ones, and so is the scale
    once = Batches(Stream(), torch.device("cpu"))
    for batches in ([batch], once, once):
        assert torch.equal(score(network, "synflow", batches, mask=_everything(network))["layer.weight"], expected)


class Normed(nn.Module):
    """Every norm of each example, as modules and as a function, between layers without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(5))
        self.norms = nn.ModuleList(
            [nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.RMSNorm(6), nn.InstanceNorm1d(6, affine=True)]
        )
        for norm in self.norms:
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6) + torch.zeros(len(x), 6, dtype=torch.float32)  # and not in double precision
        x = self.norms[0](state @ torch.ones(6, 6) + self.layers[0](x)).relu()
        x = nn.functional.layer_norm(self.norms[1](self.layers[1](x)), (6,)).to(torch.float32)
        x = self.norms[3](self.norms[2](self.layers[2](x))[:, :, None])[:, :, 0]
        return self.layers[4](self.layers[3](x).relu())


def test_synflow_is_conserved_through_norms_of_each_example_which_count_with_their_scale() -> None:
    network = Normed()
    mask = _random_mask(network)
    found = score(network, "synflow", mask=mask, input_shape=(6,))
    flow = torch.ones(6, dtype=torch.float64)
    for index, layer in enumerate(network.layers):
        flow = (layer.weight.detach().abs() * mask[f"layers.{index}.weight"]).double() @ flow
        for norm in {0: [0], 1: [1], 2: [2, 3]}.get(index, []):
            flow = network.norms[norm].weight.detach().abs().double() * flow
    assert [float(one.sum()) for one in found.values()] == pytest.approx([float(flow.sum())] * 5, rel=1e-12)


def test_synflow_takes_instance_norms_with_running_statistics_as_batch_norms() -> None:
    found = []
    for norm in (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), nn.BatchNorm1d(3)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv1d(2, 3, 1), norm, nn.Flatten(), nn.Linear(12, 2))
        norm.running_var.fill_(4)
        found.append(score(network, "synflow", mask=_everything(network), input_shape=(2, 4)))
    assert all(torch.allclose(one, found[1][name]) for name, one in found[0].items())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_synflow_of_a_network_that_makes_its_first_state_itself(kind: type[nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out, self.own = kind(4, 8, batch_first=True), nn.Linear(8, 3), True

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros(1, len(x), 8)
            given = (state, state) if kind is nn.LSTM else state
            return self.out(self.rnn(x, given if self.own else None)[0][:, -1])

    network = Recurrent()
    found = score(network, "synflow", mask=_everything(network), input_shape=(5, 4))
    network.own = False
    assert torch.equal(
        found["out.weight"], score(network, "synflow", mask=_everything(network), input_shape=(5, 4))["out.weight"]
    )


def test_synflow_is_in_evaluation_mode_with_absolute_parameters_and_buffers_as_they_are() -> None:
    network = _mlp()
    with torch.no_grad():
        network[1].running_mean.fill_(-2)
        network[1].running_var.fill_(9)
        network[1].weight.fill_(-1.5)
        network[1].bias.fill_(-0.1)
    found = score(network, "synflow", mask=_everything(network), input_shape=(6,))
    first, last = (network[at].weight.detach().abs() for at in (0, 3))
    hidden = (first.sum(1) + network[0].bias.abs() + 2) / (9 + 1e-5) ** 0.5 * 1.5 + 0.1
    assert torch.allclose(found["3.weight"], last * hidden.tanh())
    slope = last.sum(0) * (1 - hidden.tanh() ** 2) * 1.5 / (9 + 1e-5) ** 0.5
    assert torch.allclose(found["0.weight"], first * slope[:, None])


def test_synflow_of_a_deep_network_needs_double_precision() -> None:
    layers = [layer for _ in range(40) for layer in (nn.Linear(40, 40, bias=False), nn.ReLU())]
    network = nn.Sequential(*layers)
    for layer in network[::2]:
        nn.init.constant_(layer.weight, -0.5)
    found = score(network, "synflow", mask=_everything(network), input_shape=(40,))
    assert float(found["0.weight"].sum()) == pytest.approx(40 * 20.0**40)  # float32 ends at 3e38


def test_random_scores_are_of_a_generator_that_is_the_same_on_every_machine() -> None:
    found = score(nn.Linear(2, 1), "random", mask={"weight": torch.tensor([[True, True]])}, seed=3)["weight"]
    raw = np.random.Philox(key=mix(3, "scores", "weight")).random_raw(2)
    assert found.tolist() == [[int(one) // 2**11 / 2**53 for one in raw]]


def test_random_scores_are_the_seeds_and_the_names() -> None:
    network = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    mask = _everything(network)
    found = score(network, "random", mask=mask)
    again = score(network, "random", mask={"1.weight": mask["1.weight"]})
    assert torch.equal(found["1.weight"], again["1.weight"])
    other = score(network, "random", mask=mask, seed=1)
    drawn = torch.stack([found["0.weight"], found["1.weight"], other["0.weight"]]).flatten(1)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert torch.allclose(drawn.mean(1), torch.tensor(0.5).double(), atol=0.02)
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.05


# --- on the masked network, in the network's order


@each_criterion
def test_pruned_weights_count_as_zero_and_score_zero(criterion: str) -> None:
    network, batches = _mlp(), _batches()
    mask = _random_mask(network)
    pruned = copy.deepcopy(network)
    Mask(mask).apply(pruned)
    backwards = dict(reversed(list(mask.items())))
    found, expected = score(network, criterion, batches, mask=backwards), score(pruned, criterion, batches, mask=mask)
    assert list(found) == list(mask)
    assert all(torch.equal(found[name], expected[name]) for name in mask)
    assert not any(found[name][~kept].any() for name, kept in mask.items())
    assert all(found[name][kept].all() for name, kept in mask.items())


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_layers_without_a_mask_have_no_score_and_change_none(criterion: str) -> None:
    network, batches = _mlp(), _batches()
    only = {"3.weight": torch.ones(4, 5, dtype=torch.bool)}
    found = score(network, criterion, batches, mask=only)
    assert list(found) == ["3.weight"]
    same = torch.allclose(found["3.weight"], score(network, criterion, batches, mask=_everything(network))["3.weight"])
    assert same == (criterion != "grasp")  # whose gradient is that of the masked layers


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_dropout_is_the_seeds(criterion: str) -> None:
    case = by_name("dropout")
    network = case.network(1)
    drawn = [score(network, criterion, case.batches(), mask=_everything(network), seed=seed) for seed in (0, 0, 1)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_dropout_differs_between_batches() -> None:
    case = by_name("dropout")
    network, batch = case.network(1), case.batches()[0]
    once, twice = (score(network, "snip", [batch] * n, mask=_everything(network)) for n in (1, 2))
    assert not any(torch.allclose(once[name], twice[name]) for name in once)


def test_a_tied_weight_gets_the_gradient_of_all_its_places() -> None:
    for own_parameter in (False, True):
        network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        nn.init.constant_(network[0].weight, 3)
        network[1].weight = nn.Parameter(network[0].weight.data) if own_parameter else network[0].weight
        found = score(network, "synflow", mask=_everything(network), input_shape=(1,))
        assert found == {"0.weight": torch.tensor([[18.0]])}  # w d(w w)/dw


def test_a_tied_weight_may_be_called_by_any_of_its_names() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    network[1].weight = network[0].weight
    mask = {"1.weight": torch.ones(1, 1, dtype=torch.bool)}
    for criterion in CRITERIA:
        batches = [(torch.ones(2, 1), torch.ones(2, 1))] if needs_data(criterion) else ()
        assert list(score(network, criterion, batches, mask=mask, input_shape=(1,))) == ["1.weight"]


def test_half_precision_is_scored_in_float32() -> None:
    case = by_name("float16")
    network = case.network(1)
    for criterion in ("snip", "grasp", "synflow"):
        found = score(network, criterion, case.batches(), mask=_everything(network))
        expected = score(copy.deepcopy(network).float(), criterion, case.batches(), mask=_everything(network))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_complex_weight_counts_with_both_its_parts() -> None:
    network, batch = by_name("complex").network(1), by_name("complex").batches(16)[0]
    found = score(network, "snip", [batch], mask=_everything(network))["weight"]
    loss = lambda scale: mean_loss(_scaled(network, scale), batch)  # noqa: E731
    scale = torch.ones(6, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(scale), scale)
    assert torch.allclose(found, slope.abs(), rtol=1e-4, atol=1e-7)


def _scaled(network: nn.Module, scale: Tensor) -> Any:
    weight = dict(network.named_parameters())["weight"].detach() * scale
    caller = lambda x: functional_call(network, {"weight": weight}, (x,))  # noqa: E731
    wrapper = nn.Module()
    wrapper.forward = caller
    return wrapper


def test_a_network_that_writes_to_its_input_writes_to_a_copy() -> None:
    case = by_name("two inputs")
    network, batch = case.network(1), case.batches(16)[0]
    before = [tensor.clone() for tensor in batch]
    for criterion in ("snip", "grasp", "synflow"):
        score(network, criterion, [batch], mask=_everything(network))
    assert all(map(torch.equal, batch, before))


# --- losses


class Speaking(nn.Module):
    """Gives its own loss if it is given labels, as Hugging Face's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layer(inputs)
        return {"logits": logits} | ({} if labels is None else {"loss": 7 * cross_entropy(logits, labels)})


def test_which_loss() -> None:
    network, inputs, labels = Speaking(), torch.randn(5, 2), torch.tensor([0, 1, 2, -100, 1])
    entropy = cross_entropy(network.layer(inputs), labels)
    assert torch.allclose(mean_loss(network, {"inputs": inputs, "labels": labels}), 7 * entropy)
    assert torch.allclose(mean_loss(network, {"inputs": inputs, "label": labels}), entropy)
    assert torch.allclose(mean_loss(network, (inputs, labels)), entropy)
    cooled = cross_entropy(network.layer(inputs) / 200, labels)
    assert torch.allclose(mean_loss(network, (inputs, labels), temperature=200), cooled)
    targets = torch.randn(5, 3)
    squares = (network.layer(inputs) - targets).square().mean()
    assert torch.allclose(mean_loss(network, (inputs, targets), temperature=200), squares)
    assert mean_loss(network, (inputs, labels), lambda net, batch: net.layer.weight.sum()) == network.layer.weight.sum()


def test_the_loss_of_labels_of_0_and_1_and_of_soft_labels_is_no_squared_error() -> None:
    logits, several = torch.randn(5, 3), torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
    each = torch.where(several == 1, -logits.sigmoid().log(), -(-logits).sigmoid().log())
    soft = torch.rand(5, 3).softmax(1)
    for kind in (torch.float32, torch.int64, torch.bool):
        assert torch.allclose(mean_loss(nn.Identity(), (logits, several.to(kind))), each.mean())
        assert torch.allclose(mean_loss(nn.Identity(), (logits[:, :1], several[:, 0].to(kind))), each[:, 0].mean())
    assert torch.allclose(mean_loss(nn.Identity(), (logits, soft)), -(soft * logits.log_softmax(1)).sum(1).mean())


def test_the_loss_of_tokens() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, -100, 2], [4, 0, -100]])
    each = logits.log_softmax(2)
    expected = -(each[0, 0, 1] + each[0, 2, 2] + each[1, 0, 4] + each[1, 1, 0]) / 4
    assert torch.allclose(mean_loss(nn.Identity(), (logits, labels)), expected)
    assert mean_loss(nn.Identity(), (logits, torch.full((2, 3), -100))) == 0


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (torch.tensor([0, 3]), DataError, "a label is not one of the network's 3 classes"),
        (torch.tensor([-1, 0]), DataError, "a label is not one of"),
        (torch.zeros(2, 2, dtype=torch.int64), OptionError, "cannot tell what the loss is.*give loss="),
        (torch.zeros(5), OptionError, "cannot tell what the loss is"),
    ],
)
def test_targets_for_which_there_is_no_loss(target: Tensor, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        mean_loss(nn.Linear(2, 3), (torch.zeros(2, 2), target))


def test_no_target_or_a_loss_that_is_none() -> None:
    network, batch = nn.Linear(2, 3), (torch.zeros(2, 2),)
    with pytest.raises(DataError, match=r"no target.*say with loss="):
        mean_loss(network, batch)
    for value in (3.0, torch.zeros(2)):
        with pytest.raises(OptionError, match="must give a tensor with one number"):
            mean_loss(network, batch, lambda net, batch, value=value: value)  # type: ignore[misc]
    with pytest.raises(NetworkError, match="does not depend on any weight"):
        score(network, "snip", [batch], mask=_everything(network), loss=lambda net, batch: torch.zeros(()))


def test_a_loss_without_curvature_has_no_grasp() -> None:
    network = nn.Linear(2, 3)
    found = score(network, "grasp", [torch.ones(1, 2)], mask=_everything(network), loss=lambda net, x: net(x).sum())
    assert not found["weight"].any()


# --- what cannot be


@pytest.mark.parametrize(
    ("criterion", "options", "says"),
    [
        ("snap", {}, "unknown criterion 'snap'; did you mean 'snip'"),
        ("snip", {}, "snip is computed from training data; give data="),
        ("grasp", {"batches": []}, "grasp is computed from training data"),
        ("grasp-abs", {}, "grasp-abs is computed from training data"),
        ("synflow", {}, "^synflow passes an input of ones; give its shape as input_shape=, or data= to take it from$"),
        ("snip", {"batches": iter([1])}, "^batches are .* once, which an iterator cannot be; give a list of them$"),
    ],
)
def test_options_that_cannot_be(criterion: str, options: dict[str, Any], says: str) -> None:
    network = _mlp()
    with pytest.raises(OptionError, match=says):
        score(network, criterion, options.get("batches", ()), mask=_everything(network))


def test_what_needs_data() -> None:
    assert [name for name in CRITERIA if needs_data(name)] == ["snip", "grasp", "grasp-abs"]
    with pytest.raises(OptionError, match="unknown criterion 'l1'"):
        needs_data("l1")


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_name_the_criterion_and_the_layers(criterion: str, value: float) -> None:
    network = _mlp()
    with torch.no_grad():
        network[3].weight[0, 0] = value
    with pytest.raises(NetworkError, match=rf"scores by {criterion} are NaN or infinite in (0\.weight, )?3\.weight$"):
        score(network, criterion, _batches(), mask=_everything(network))
    mask = _everything(network)
    mask["3.weight"][0, 0] = False  # it is no part of the masked network
    score(network, criterion, _batches(), mask=mask)


def test_a_mask_that_does_not_fit() -> None:
    network = _mlp()
    with pytest.raises(NetworkError, match=r"0\.weight is \[2\] in the mask and \[5, 6\] in the network"):
        score(network, "magnitude", mask={"0.weight": torch.ones(2, dtype=torch.bool)})
