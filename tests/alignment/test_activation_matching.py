"""Activation matching finds permutations that are known, and is what plain NumPy computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from modeconn.analysis.alignment.activation_matching import match_activations
from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.symmetry import Symmetry
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.errors import DataError, NetworkError, OptionError
from networks import by_name, with_statistics

SIZE = 8  # of the batch that graphs are exported with


def _mlp(inplace: bool = False) -> nn.Module:
    relus = (nn.ReLU(inplace=inplace) for _ in range(2))
    return nn.Sequential(nn.Linear(6, 10), next(relus), nn.Linear(10, 7), next(relus), nn.Linear(7, 3))


def _conv() -> nn.Module:
    return with_statistics(
        nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5)),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(5 * 16, 4)),
        )
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.head = (nn.Linear(*s) for s in ((6, 8), (8, 12), (12, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        return self.head(x + self.down(self.up(x).tanh()))


class Experts(nn.Module):
    """A mixture of stacked experts, whose hidden units no layer of the graph writes or reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 5)), nn.Parameter(torch.randn(4, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        hidden = torch.einsum("bd,edf->bef", x, self.up).relu()
        return self.head(
            x + (self.router(x).softmax(-1)[..., None] * torch.einsum("bef,efd->bed", hidden, self.down)).sum(1)
        )


class GroupedQueries(nn.Module):
    """Attention with three heads to each of two keys and values: heads and dimensions meet on the axis behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(*shape) for shape in ((8, 24), (8, 8), (8, 8), (24, 3)))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2).repeat_interleave(times, 1)
            for layer, times in ((self.q, 1), (self.k, 3), (self.v, 3))
        )
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Case:
    """A network in float64 with the graph, the symmetry, and batches for it."""

    def __init__(self, build: Callable[[], nn.Module], *shape: int, examples: int = 64) -> None:
        torch.manual_seed(1)
        self.network = build().double().eval()
        for parameter in self.network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        self.x = torch.randn(examples, *shape, dtype=torch.float64)
        self.program: Any = exported(self.network, (self.x[:SIZE],))
        self.symmetry: Symmetry = symmetry_of(trace(self.program))
        self.state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def match(self, other: dict[str, Tensor], batches: Any = None, **options: Any) -> Any:
        batches = self.x.split(SIZE) if batches is None else batches
        return match_activations(self.symmetry, self.program, self.state, other, batches, **options)

    def other(self, seed: int = 2) -> dict[str, Tensor]:
        """Another network's tensors."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: tensor + 0.5 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.is_floating_point() and "running" not in name
            else tensor
            for name, tensor in self.state.items()
        }


CASES = {
    "mlp": (_mlp, 6),
    "convolutions": (_conv, 3, 8, 8),
    "residual": (Residual, 6),
    "attention": (by_name("layernorm").build, 5, 8),
    "experts": (Experts, 6),
    "grouped queries": (GroupedQueries, 5, 8),
    "resnet-20": (by_name("resnet-20").build, 3, 8, 8),
}
each_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "resnet-20" else ()) for name in CASES]
)


@each_case
@pytest.mark.parametrize("at", ["read", "written"])
def test_a_permutation_is_found_again(name, at):
    case = Case(*CASES[name])
    for seed in range(3):
        permutations = case.symmetry.random(np.random.default_rng(seed))
        other = case.symmetry.apply(case.state, permutations)
        match = case.match(other, at=at)
        back = case.symmetry.apply(other, match.permutations)
        assert all(torch.equal(back[key], case.state[key]) for key in back)
        assert match.score > match.before


@each_case
def test_a_network_is_matched_with_itself_by_the_identity(name):
    case = Case(*CASES[name])
    match = case.match(case.state)
    assert all((moved == np.arange(len(moved))).all() for moved in match.permutations)
    assert match.score == pytest.approx(match.before)


def _hooked(case: Case, state: dict[str, Tensor], layers: list[nn.Module]) -> list[np.ndarray]:
    """Outputs of some layers over all examples, by hooks, [units, positions]."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [layer.register_forward_hook(lambda layer, _, out: found.update({layer: out.clone()})) for layer in layers]
    case.network.load_state_dict(state)
    with torch.no_grad():
        case.network(case.x)
    case.network.load_state_dict(case.state)
    for hook in hooks:
        hook.remove()
    return [found[layer].movedim(1, 0).flatten(1).numpy() for layer in layers]


def _plain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlations of rows by `numpy.corrcoef`, 0 where there is none."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.corrcoef(a, b)[: len(a), len(a) :])


@pytest.mark.parametrize(
    ("name", "at", "layers"),
    [
        ("mlp", "read", (1, 3)),
        ("mlp", "written", (0, 2)),
        ("convolutions", "read", (2, 5)),
        ("convolutions", "written", (0, 3)),
    ],
)
def test_the_score_and_the_permutations_are_those_of_plain_numpy(name, at, layers):
    """Over space too, and over the places of a channel behind the flattening."""
    case = Case(*CASES[name])
    other = case.other()
    match = case.match(other, at=at)
    hooked = [case.network[layer] for layer in layers]
    plain = [
        _plain(*both) for both in zip(*(_hooked(case, state, hooked) for state in (case.state, other)), strict=True)
    ]
    best = [linear_sum_assignment(one, maximize=True) for one in plain]
    assert match.score == pytest.approx(sum(one[rows].sum() for one, rows in zip(plain, best, strict=True)))
    assert match.before == pytest.approx(sum(one.trace() for one in plain))
    for number, (one, (_, columns)) in enumerate(zip(plain, best, strict=True)):
        alive = np.abs(one).max(axis=1) > 0
        assert (match.permutations[number][alive] == columns[alive]).all()


def test_nodes_that_carry_the_same_units_add_up():
    case = Case(*CASES["residual"])
    other = case.other()
    match = case.match(other, at="written")
    layers = [case.network.stem, case.network.down, case.network.up]
    stem, down, up = (
        _plain(*both) for both in zip(*(_hooked(case, s, layers) for s in (case.state, other)), strict=True)
    )
    best = sum(one[linear_sum_assignment(one, maximize=True)].sum() for one in (stem + down, up))
    assert match.score == pytest.approx(best)


@pytest.fixture(scope="module")
def mlp() -> Case:
    return Case(*CASES["mlp"])


@pytest.mark.parametrize("name", ["attention", "experts", "grouped queries"])
def test_nothing_is_gained_by_matching_what_is_matched(name):
    """Orders that depend on each other, of heads and of what is inside them, are improved until none gains."""
    case = Case(*CASES[name])
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        other = {
            key: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            for key, tensor in case.state.items()
        }
        match = case.match(other)
        again = case.match(case.symmetry.apply(other, match.permutations))
        assert again.before == pytest.approx(match.score)
        assert again.score == pytest.approx(match.score)


@settings(max_examples=20)
@given(cuts=st.sets(st.integers(1, 63), max_size=6))
def test_only_the_examples_count_and_not_how_they_are_batched(mlp, cuts):
    other = mlp.other()
    whole, cut = mlp.match(other, [mlp.x]), mlp.match(other, torch.tensor_split(mlp.x, sorted(cuts)))
    assert whole.score == cut.score
    assert all(map(np.array_equal, whole.permutations, cut.permutations))


def test_examples_that_fill_no_batch_are_left_out():
    case = Case(*CASES["mlp"])
    other = case.other()
    assert case.match(other, [case.x[:19]]).score == case.match(other, [case.x[:16]]).score


def test_batches_are_whatever_the_network_is_called_with():
    case = Case(*CASES["mlp"])
    other = case.other()
    pieces = case.x.split(SIZE)
    wanted = case.match(other, pieces).score
    program = exported(case.network, (), {"input": case.x[:SIZE]})
    assert case.match(other, ((piece,) for piece in pieces)).score == wanted
    assert case.match(other, [((piece,), {}) for piece in pieces]).score == wanted
    by_name = [{"input": piece} for piece in pieces]
    assert match_activations(case.symmetry, program, case.state, other, by_name).score == wanted


def test_units_that_are_constant_are_left_to_the_weights_and_named():
    case = Case(*CASES["mlp"])
    for unit in (2, 5):
        case.state["0.bias"][unit] = -100.0 - unit
    permutations = case.symmetry.random(np.random.default_rng(0))
    other = case.symmetry.apply(case.state, permutations)
    match = case.match(other)
    assert "constant on the data, matched by the weights: 2 of 0" in " ".join(match.notes)
    alive = sum(
        int((one.std(axis=1) > 0).sum()) for one in _hooked(case, case.state, [case.network[1], case.network[3]])
    )
    assert match.score == pytest.approx(alive)
    back = case.symmetry.apply(other, match.permutations)
    assert all(torch.equal(back[key], case.state[key]) for key in back)


def test_groups_that_no_layer_shows_are_named():
    case = Case(*CASES["experts"])
    assert case.match(case.state).notes == ("matched by the weights, as no layer's activations show them: up (2)",)


def test_what_is_seen_is_held_while_the_weights_decide_on_the_rest():
    """Experts by what the router writes, and what is inside each by its matrices with the width in its order."""
    case = Case(*CASES["experts"])
    other = {name: torch.randn_like(tensor) for name, tensor in case.state.items()}
    width, experts, hidden = case.match(other).permutations
    router = _plain(*(_hooked(case, state, [case.network.router])[0] for state in (case.state, other)))
    assert (experts == linear_sum_assignment(router, maximize=True)[1]).all()
    for one, block in enumerate(experts):
        up = case.state["up"][one].T @ other["up"][block][width]
        down = case.state["down"][one] @ other["down"][block][:, width].T
        _, best = linear_sum_assignment(up + down, maximize=True)
        assert (hidden[5 * one : 5 * one + 5] == 5 * block + best).all()


def test_what_a_later_operator_overwrites_is_taken_before_it_does():
    plain, inplace = (Case(lambda inplace=inplace: _mlp(inplace), 6) for inplace in (False, True))
    other = plain.other()
    assert inplace.match(other, at="written").score == plain.match(other, at="written").score


def test_data_and_weights_are_left_as_they_are():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return self.body(x.sub_(1))

    case = Case(Writes, 6)
    x, state = case.x.clone(), {name: tensor.clone() for name, tensor in case.state.items()}
    assert case.match(case.state).score == pytest.approx(case.match(case.state).before)
    assert torch.equal(case.x, x)
    assert all(torch.equal(case.state[name], tensor) for name, tensor in state.items())


def test_names_may_have_a_prefix_in_the_graph():
    class Around(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

    case = Case(*CASES["mlp"])
    other = case.other()
    program = exported(Around(case.network), (case.x[:SIZE],))
    found = match_activations(case.symmetry, program, case.state, other, [case.x], prefix="network.")
    assert found.score == case.match(other).score


def test_a_network_with_nothing_to_permute_stays_as_it_is():
    match = Case(lambda: nn.Linear(6, 3), 6).match(
        {"weight": torch.zeros(3, 6).double(), "bias": torch.zeros(3).double()}
    )
    assert (match.permutations, match.score, match.before, match.notes) == ((), 0.0, 0.0, ())


def test_progress_is_reported():
    case = Case(*CASES["mlp"])
    seen: list[tuple[int, int]] = []
    case.match(case.state, report=lambda done, all: seen.append((done, all)))
    assert seen == [(number, 8) for number in range(8)]
    case.match(case.state, iter(case.x.split(SIZE)), report=lambda done, all: seen.append((done, all)))
    assert seen[8:] == [(number, 0) for number in range(8)]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "fewer examples than the 8"),
        ([torch.zeros(7, 6)], "fewer examples than the 8"),
        ([torch.zeros(8, 5)], r"a batch has \[5\] where the network was exported with \[6\]"),
        ([(torch.zeros(8, 6), torch.zeros(8))], "2 positional arguments"),
        ([{"y": torch.zeros(8, 6)}], r"the named ones \['y'\]"),
        ([torch.full((8, 6), torch.nan, dtype=torch.float64)], "NaN or infinite at relu"),
    ],
)
def test_batches_that_do_not_serve(batches, message):
    case = Case(*CASES["mlp"])
    with pytest.raises(DataError, match=message):
        case.match(case.state, batches)


def test_an_unknown_place_and_a_missing_tensor():
    case = Case(*CASES["mlp"])
    with pytest.raises(OptionError, match="unknown place of activations 'reads'; did you mean 'read'"):
        case.match(case.state, at="reads")
    with pytest.raises(NetworkError, match=r"2\.weight is missing"):
        case.match({name: tensor for name, tensor in case.state.items() if name != "2.weight"})
