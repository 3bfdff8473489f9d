"""`align(a, b)`: recovered permutations, oracles with known answers, files, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, mlp, randomized
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modeconn import Alignment, ModeconnError, align, error_barrier, load_alignment
from modeconn.analysis.alignment.network import graph_of
from modeconn.analysis.alignment.symmetry import compose
from modeconn.analysis.alignment.weight_matching import match_weights
from modeconn.weights.state_dicts import state_tensors

_SEEDS = 3


def _permuted(network: nn.Module, example: Tensor, seed: int) -> tuple[nn.Module, tuple[np.ndarray, ...]]:
    """A copy with its units in a random order, and the order."""
    symmetry = graph_of(network, ((example,), {})).symmetry
    permutations = symmetry.random(np.random.default_rng(seed))
    given = Alignment(symmetry, permutations, "given", 0, 0, (), 0, ("a", "b"), (), {})
    return given.apply(network), permutations


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_permuted_network_is_aligned_to_itself(name: str) -> None:
    """align(A, pi(A)) finds pi, so that the aligned network is A to the bit, for every seed."""
    torch.manual_seed(0)
    network, example = randomized(ARCHITECTURES[name].make()), ARCHITECTURES[name].example()
    example = example.double() if example.is_floating_point() else example
    failed = []
    for seed in range(1 if name in ("convnext", "mobilenetv3", "resnet10") else _SEEDS):
        other, permutations = _permuted(network, example, seed)
        found = align(network, other, example=example, seed=seed, tries=1, double=True)
        moved = compose(permutations, found.permutations)
        if not all(np.array_equal(order, np.arange(len(order))) for order in moved):
            failed.append(seed)
        state, back = state_tensors(network), state_tensors(found.apply(other))
        assert all(torch.equal(state[key], back[key]) for key in state)
    assert failed == []


@pytest.mark.parametrize("name", ["mlp", "flattened", "residual", "grouped", "experts", "tied"])
def test_a_network_is_aligned_to_itself_by_nothing(name: str) -> None:
    torch.manual_seed(0)
    network, example = ARCHITECTURES[name].make(), ARCHITECTURES[name].example()
    found = align(network, network, example=example)
    assert found.moved == 0
    assert found.score == pytest.approx(found.before)


def test_the_barrier_to_a_permuted_network_is_gone_after_alignment() -> None:
    torch.manual_seed(0)
    network, x = randomized(mlp()), torch.randn(64, 3, 4, dtype=torch.float64)
    data = (x, network(x).argmax(1))
    other, _ = _permuted(network, x[:4], 1)
    aligned = align(network, other, example=x[:4]).apply(other)
    assert error_barrier(network, aligned, data).barrier == 0
    assert error_barrier(network, aligned, data).distance == 0
    assert error_barrier(network, other, data).distance > 1


class Bare(nn.Module):
    """Linear layers with one output, the last without a bias, as the oracles have them."""

    def __init__(self, *sizes: int, relu: bool) -> None:
        super().__init__()
        last = len(sizes) - 2
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=relu and n < last) for n, (i, o) in enumerate(pairs))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """One number for each of [batch, in]."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x)) if self.relu else layer(x)
        return self.layers[-1](x)


def _without_connectivity(weights: tuple, biases: tuple) -> Bare:
    network = Bare(2, 2, 2, 1, relu=True).double()
    with torch.no_grad():
        for layer, weight, bias in zip(network.layers, weights, biases, strict=False):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        network.layers[-1].weight.copy_(torch.tensor([[-1.0, -1.0]]))
    return network


def test_no_success_is_claimed_where_no_permutation_connects() -> None:
    """Ainsworth et al. 2023, appendix A.6: two networks that fit the data, none of whose four permutations connects."""
    a = _without_connectivity((((-1, 0), (0, -1)), ((-1, 0), (0, 1))), ((1.0, 0.0), (1.0, 0.0)))
    b = _without_connectivity((((1, 0), (0, 1)), ((1, 0), (0, -1))), ((0.0, 1.0), (0.0, 1.0)))
    line = torch.arange(-50, 51, dtype=torch.float64) / 50
    x = torch.cartesian_prod(line, line)
    label = ((x[:, 0] < 0) & (x[:, 1] > 0)).long()

    def evaluate(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        wrong = (network(batch[0])[:, 0] >= 0) != (batch[1] == 1)
        return {"error": (wrong.double(), torch.ones(len(wrong)))}

    middles = []
    symmetry = graph_of(a, ((x[:4],), {})).symmetry
    for first in ([0, 1], [1, 0]):
        for second in ([0, 1], [1, 0]):
            order = (np.array(first), np.array(second))
            moved = Alignment(symmetry, order, "given", 0, 0, (), 0, ("a", "b"), (), {}).apply(b)
            middles.append(error_barrier(a, moved, (x, label), evaluate=evaluate, alphas=3).samples["error"].values[1])
    assert sorted(round(value, 3) for value in middles) == [0.245, 0.245, 0.26, 0.26]
    found = align(a, b, example=x[:4])
    result = error_barrier(a, found.apply(b), (x, label), evaluate=evaluate, alphas=3)
    assert result.samples["error"].values[[0, 2]] == pytest.approx([0.01, 0.01], abs=0.005)
    assert result.barrier > 0.2


def test_layers_are_matched_together_and_not_from_the_first_one_on() -> None:
    """Ainsworth et al. 2023, appendix A.7.2: matching one layer after the other stays at the identity; both swap."""
    small = 1e-3

    def network(second: tuple, third: tuple) -> Bare:
        made = Bare(1, 2, 2, 1, relu=False).double()
        with torch.no_grad():
            made.layers[0].weight.copy_(torch.tensor([[1.0], [1 + small]]))
            made.layers[1].weight.copy_(torch.diag(torch.tensor(second)))
            made.layers[2].weight.copy_(torch.tensor([third]))
        return made

    a, b = network((1.0, small), (1.0, 0.0)), network((0.0, 1.0), (0.0, 1.0))
    for seed in range(4):
        found = align(a, b, example=torch.ones(2, 1, dtype=torch.float64), seed=seed)
        assert [order.tolist() for order in found.permutations] == [[1, 0], [1, 0]]
        moved = found.apply(b)
        middle = network((0.0, 0.0), (0.0, 0.0))
        with torch.no_grad():
            for layer, one, other in zip(middle.layers, a.layers, moved.layers, strict=True):
                layer.weight.copy_((one.weight + other.weight) / 2)
        slope = float(middle.requires_grad_(False)(torch.ones(1, 1, dtype=torch.float64)))
        assert slope == pytest.approx(1 + small / 2, abs=1e-5)


def test_the_score_is_the_plain_inner_product() -> None:
    torch.manual_seed(0)
    a, b = mlp(), mlp()
    found = align(a, b, example=torch.zeros(2, 3, 4))
    state, aligned = a.state_dict(), found.apply(b.state_dict())
    moved = [name for name in state if name in found.symmetry.tensors]
    inner = sum(float((state[name].double() * aligned[name].double()).sum()) for name in moved)
    assert found.score == pytest.approx(inner)
    assert max(found.scores) == pytest.approx(found.score)


def test_one_group_is_matched_exactly() -> None:
    """With one hidden layer the best of all 120 orders is found."""
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double() for _ in range(2))
    found = align(a, b)
    first, second = a.state_dict(), b.state_dict()

    def score(order: list[int]) -> float:
        moved = {"0.weight": second["0.weight"][order], "0.bias": second["0.bias"][order]}
        moved["2.weight"] = second["2.weight"][:, order]
        return sum(float((first[name] * moved[name]).sum()) for name in moved)

    assert found.score == pytest.approx(max(score(list(order)) for order in itertools.permutations(range(5))))


def test_blocks_are_matched_exactly() -> None:
    """Two heads of two dimensions: the best of all their orders, inside and outside, is found."""
    torch.manual_seed(3)
    architecture = ARCHITECTURES["grouped"]
    network, example = randomized(architecture.make()), architecture.example().double()
    other = randomized(architecture.make())
    graph = graph_of(network, ((example,), {}))
    a, b = state_tensors(network), state_tensors(other)
    names = [name for name in graph.symmetry.tensors if name in dict(network.named_parameters())]

    def score(permutations: tuple[np.ndarray, ...]) -> float:
        moved = graph.symmetry.apply({name: b[name] for name in names}, permutations)
        return sum(float((a[name] * moved[name]).sum().detach()) for name in names)

    found = match_weights(graph.symmetry, {name: a[name] for name in names}, {name: b[name] for name in names})
    assert found.score == pytest.approx(score(found.permutations))
    generator = np.random.default_rng(0)
    assert found.score >= max(score(graph.symmetry.random(generator)) for _ in range(200))


def test_an_alignment_is_kept_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("grouped", "tied"):
        a, b = (ARCHITECTURES[name].make() for _ in range(2))
        found = align(a, b, example=ARCHITECTURES[name].example())
        found.save(tmp_path / "x.safetensors")
        again = load_alignment(tmp_path / "x.safetensors")
        assert str(again) == str(found)
        one, other = found.apply(b.state_dict()), again.apply(b.state_dict())
        assert all(torch.equal(one[key], other[key]) for key in one)
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(ModeconnError, match="no alignment"):
        load_alignment(tmp_path / "y.safetensors")


def test_a_module_a_state_dict_and_a_task_vector_are_moved_alike() -> None:
    torch.manual_seed(0)
    a, b, base = (mlp() for _ in range(3))
    found = align(a, b, example=torch.zeros(2, 3, 4))
    module, state = found.apply(b).state_dict(), found.apply(b.state_dict())
    assert all(torch.equal(module[name], state[name]) for name in state)
    vector = {name: b.state_dict()[name] - base.state_dict()[name] for name in state}
    sums = found.apply(vector)
    moved = found.apply(base.state_dict())
    assert all(torch.allclose(moved[name] + sums[name], state[name]) for name in state)
    wrapped = found.apply({f"module.{name}": tensor for name, tensor in b.state_dict().items()})
    assert all(torch.equal(wrapped[f"module.{name}"], state[name]) for name in state)
    undone = found.inverse().apply(state)
    assert all(torch.equal(undone[name], b.state_dict()[name]) for name in state)


def test_what_is_given_stays_as_it_is() -> None:
    torch.manual_seed(0)
    a, b = ARCHITECTURES["flattened"].make().train(), ARCHITECTURES["flattened"].make().train()
    before = {name: tensor.clone() for name, tensor in b.state_dict().items()}
    state = torch.random.get_rng_state()
    found = align(a, b, example=torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    found.apply(b)
    assert a.training
    assert b.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in b.state_dict().items())


def test_buffers_follow_their_channels() -> None:
    torch.manual_seed(0)
    network = randomized(ARCHITECTURES["flattened"].make())
    other, _ = _permuted(network, torch.randn(2, 3, 8, 8, dtype=torch.float64), 0)
    assert not torch.equal(other[1].running_mean, network[1].running_mean)
    assert torch.equal(other[1].running_mean.sort().values, network[1].running_mean.sort().values)


def test_a_file_is_permuted_tensor_by_tensor_under_its_own_names_and_types(tmp_path) -> None:
    torch.manual_seed(0)
    a, b = mlp(), mlp()
    found = align(a, b, example=torch.randn(2, 3, 4))
    state = {f"module.{name}": tensor.half() for name, tensor in b.state_dict().items()}
    save_file(state, tmp_path / "b.safetensors")
    found.apply_to_file(tmp_path / "b.safetensors", tmp_path / "moved.safetensors")
    written, expected = load_file(tmp_path / "moved.safetensors"), found.apply(state)
    assert found.moved > 0
    assert written.keys() == expected.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in expected.items())
    save_file({"other": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ModeconnError, match="alignment of another architecture: there is no"):
        found.apply_to_file(tmp_path / "c.safetensors", tmp_path / "moved.safetensors")


class Branching(nn.Module):
    """A graph that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [batch, 4]."""
        hidden = self.one(x)
        return self.other(torch.relu(hidden) if hidden.sum() > 0 else hidden.abs())


_SPECIFIED = {"one.weight": ("P", None), "one.bias": ("P",), "other.weight": (None, "P")}


def test_a_specification_stands_for_a_graph_that_cannot_be_had() -> None:
    torch.manual_seed(0)
    a, b = Branching(), Branching()
    with pytest.raises(ModeconnError, match=r"graph of Branching cannot be exported .* specification="):
        align(a, b)
    found = align(a, b, specification=_SPECIFIED)
    assert found.groups[0].size == 6
    x = torch.randn(5, 4)
    assert torch.allclose(found.apply(b)(x), b(x), atol=1e-5)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ({"one.weight": ("P", None), "one.bias": ("P",)}, "would change what the network computes: P"),
        ({**_SPECIFIED, "three": ("P",)}, "there is no three"),
        ({**_SPECIFIED, "one.bias": ("P", "P")}, "one.bias has 1 axes"),
        ({"one.weight": (None, "P"), "one.bias": ("P",), "other.weight": (None, "P")}, "no multiple"),
    ],
)
def test_a_specification_that_is_wrong_is_refused(specification: dict, message: str) -> None:
    with pytest.raises(ModeconnError, match=message):
        align(Branching(), Branching(), specification=specification)


def test_what_the_graph_says_of_a_wrong_specification() -> None:
    torch.manual_seed(0)
    wrong = {"1.weight": ("P", None), "3.weight": (None, "P")}
    with pytest.raises(ModeconnError, match=r"computes: P; the network's graph says: axis 0 of 1.weight moves with 1"):
        align(mlp(), mlp(), example=torch.randn(2, 3, 4), specification=wrong)


def test_bad_input_is_refused_by_name() -> None:
    torch.manual_seed(0)
    a, b = mlp(), mlp()
    x = torch.randn(2, 3, 4)
    with pytest.raises(ModeconnError, match="needs data"):
        align(a, b, method="activations")
    with pytest.raises(ModeconnError, match=r"weighs.*weights"):
        align(a, b, method="weighs")
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(ModeconnError, match=r"1.bias is \[7\] in b and \[8\] in the network.*3.weight"):
        align(a, other, example=x)
    with pytest.raises(ModeconnError, match=r"another architecture: 1\.weight"):
        align(a, b, example=x).apply(other)
    with pytest.raises(ModeconnError, match="cannot be exported"):
        align(a, b, example=torch.randn(2, 5))
    with torch.no_grad():
        b[1].weight[0, 0] = float("nan")
    with pytest.raises(ModeconnError, match=r"NaN or infinite: 1.weight in b"):
        align(a, b, example=x)


@pytest.mark.parametrize("method", ["activations", "straight-through"])
def test_methods_that_look_at_data_recover_a_permutation(method: str) -> None:
    """With labelled batches, whose labels the units do not see; the loss at the midpoint is the network's own."""
    torch.manual_seed(0)
    network, x = randomized(mlp()), torch.randn(48, 3, 4, dtype=torch.float64)
    data = (x, network(x).argmax(1))
    other, permutations = _permuted(network, x[:4], 1)
    found = align(network, other, data, method=method, batch_size=20)
    assert found.method == method
    moved = compose(permutations, found.permutations)
    assert all(np.array_equal(order, np.arange(len(order))) for order in moved)
    assert str(found).startswith("b aligned to a by ")


def test_with_data_units_are_matched_by_activations() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3, 4)
    assert align(mlp(), mlp(), (x, torch.zeros(40, dtype=torch.long))).method == "activations"
