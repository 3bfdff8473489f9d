"""A network is more than its state dict: what modules merge, cache and compute elsewhere, against fresh copies."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn import average, barrier_matrix, error_barrier, feature_connectivity, layerwise_barrier, soup
from modeconn.errors import NetworkError

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(9))
Y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(8))
BATCHES = [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)]


class Merging(nn.Linear):
    """Merges its low-rank update into its weight in evaluation mode, as LoRA layers do (microsoft/LoRA)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight if self.merged else self.weight + self.up @ self.down, self.bias)


class CachedOnEval(nn.Linear):
    """Computes its weight once, when it is switched to evaluation mode."""

    def train(self, mode: bool = True) -> "CachedOnEval":
        super().train(mode)
        self.cache = None if mode else self.weight.detach().tanh()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.tanh() if self.training else self.cache, self.bias)


class CachedAtFirst(nn.Linear):
    """Computes its weight in the first forward pass; loading a state dict clears it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.cache: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(lambda module, keys: module.cache.clear())

    def forward(self, x: Tensor) -> Tensor:
        if "weight" not in self.cache:
            self.cache["weight"] = self.weight.detach().tanh()
        return F.linear(x, self.cache["weight"], self.bias)


class Remembering(nn.Linear):
    """Adds what it gave for the batches before, kept in a list, an attribute and a buffer that is not saved."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.seen: list[Tensor] = []
        self.hidden = None
        self.register_buffer("total", torch.zeros(outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x) + self.total
        output = output if self.hidden is None else output + self.hidden
        self.seen.append(output.mean(0))
        self.hidden = 0.1 * output.mean(0) + len(self.seen)
        self.total += output.mean(0)
        return output


def pair(layer: type[nn.Module], *, training: bool) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        a, b = (nn.Sequential(layer(5, 8), nn.ReLU(), layer(8, 3)) for _ in range(2))
    return a.train(training), b.train(training)


@torch.no_grad()
def fresh(a: nn.Module, b: nn.Module, alpha: float) -> float:
    """The loss at alpha of a network that was never anything else: built, loaded, put into evaluation mode."""
    network = copy.deepcopy(b if alpha == 1 else a)
    if alpha not in (0, 1):
        network.load_state_dict({name: x.lerp(b.state_dict()[name], alpha) for name, x in a.state_dict().items()})
        network.train(network.training)
    network.eval()
    return float(sum(F.cross_entropy(network(x), y, reduction="sum") for x, y in BATCHES)) / len(X)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("layer", [Merging, CachedOnEval, CachedAtFirst, Remembering])
def test_every_point_is_what_a_fresh_network_gives(layer: type[nn.Module], training: bool) -> None:
    a, b = pair(layer, training=training)
    if layer is CachedAtFirst:
        a(X)  # its cache is full
    before = [copy.deepcopy(network.state_dict()) for network in (a, b)]
    alphas = [0, 0.3, 0.5, 1]
    result = error_barrier(a, b, BATCHES, alphas=alphas)
    np.testing.assert_allclose(result.loss, [fresh(a, b, alpha) for alpha in alphas], rtol=1e-5)
    for network, state in zip((a, b), before, strict=True):
        assert network.training == training
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_all_measures_share_it() -> None:
    a, b = pair(Merging, training=True)
    ends = [fresh(a, b, 0), fresh(a, b, 1)]
    assert [float(soup([a, b], BATCHES, gate=None).outcomes[name]["loss"]) for name in "ab"] == pytest.approx(ends)
    (path,) = barrier_matrix([a, b], BATCHES, alphas=3).pairs
    assert path.end_values("loss") == pytest.approx(ends)
    assert layerwise_barrier(a, b, BATCHES, alphas=3).full.loss[[0, -1]].tolist() == pytest.approx(ends)
    features = feature_connectivity(a, b, [X], alpha=0.0)
    assert features.scale == pytest.approx(1, abs=1e-4)  # at a, the network is a


# --- networks of one shape and another function


class Scaled(nn.Linear):
    def __init__(self, scaling: float) -> None:
        super().__init__(5, 3)
        self.scaling = scaling

    def forward(self, x: Tensor) -> Tensor:
        return self.scaling * super().forward(x)


class Projected(nn.Linear):
    """Its input goes through a random matrix that is no parameter."""

    def __init__(self, saved: str) -> None:
        super().__init__(5, 3)
        if saved == "attribute":
            self.matrix = torch.randn(5, 5)
        else:
            self.register_buffer("matrix", torch.randn(5, 5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.matrix)


class Elsewhere(nn.Module):
    """Its weight is computed by a call that is not in forward (locuslab/deq)."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(3, 5))
        self.weight = self.v / self.v.norm()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _eps(eps: float) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, eps=eps), nn.ReLU(), nn.Linear(8, 3))


def _heads(heads: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, heads, 8, batch_first=True)
    return nn.Sequential(nn.Linear(5, 8), nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 3))


DIFFERENT: dict[str, tuple[Any, Any, str]] = {
    "scaling": (lambda: Scaled(1.0), lambda: Scaled(4.0), "scaling of the network is 4.0 there and 1.0 here"),
    "activation": (
        lambda: nn.Sequential(nn.Linear(5, 3), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh()),
        "1 is a Tanh there and a ReLU here",
    ),
    "eps": (lambda: _eps(1e-5), lambda: _eps(1e-1), "eps of 1 is 0.1 there and 1e-05 here"),
    "heads": (lambda: _heads(1), lambda: _heads(2), "num_heads of 2.self_attn is 2 there and 1 here"),
    "random attribute": (lambda: Projected("attribute"), lambda: Projected("attribute"), "matrix of the network"),
    "random buffer": (lambda: Projected("buffer"), lambda: Projected("buffer"), "matrix of the network"),
    "computed elsewhere": (Elsewhere, Elsewhere, "weight of the network"),
}


@pytest.mark.parametrize(("make_a", "make_b", "says"), DIFFERENT.values(), ids=DIFFERENT)
def test_networks_of_another_function_are_refused_and_it_is_said_what_differs(
    make_a: Any, make_b: Any, says: str
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, b = make_a(), make_b()
    with pytest.raises(NetworkError, match="b does not compute what its weights compute in the network of a") as caught:
        error_barrier(a, b, BATCHES, alphas=3)
    assert says in str(caught.value)
    # As weights of one network they can be compared.
    assert len(error_barrier(a, b.state_dict(), BATCHES, alphas=3).loss) == 3
    average([a, b])


@pytest.mark.slow
def test_of_two_folders_whose_rotary_embeddings_differ_the_setting_is_named(tmp_path: Path) -> None:
    """And not the buffers that are computed from it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    for name, theta in (("base", 10000.0), ("longer", 2.0)):
        config = transformers.LlamaConfig(
            **sizes,
            num_attention_heads=2,
            initializer_range=0.5,
            rope_theta=theta,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    tokens = torch.randint(50, (4, 24), generator=torch.Generator().manual_seed(1))
    with pytest.raises(NetworkError, match="longer does not compute what its weights compute") as caught:
        error_barrier(tmp_path / "base", tmp_path / "longer", [{"input_ids": tokens}], alphas=3)
    assert "rope_theta in the configuration is 2.0 there and 10000.0 here" in str(caught.value)
    assert "inv_freq" not in str(caught.value)


def test_the_two_modes_of_a_merging_network_are_not_mixed() -> None:
    a, b = pair(Merging, training=True)
    with pytest.raises(NetworkError, match=r"the output of 0 departs first.*one mode"):
        error_barrier(a, b.eval(), BATCHES, alphas=3)


def test_a_network_that_draws_random_numbers_in_evaluation_mode_is_measured() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(3)

    a, b = Noisy(5, 3), Noisy(5, 3)
    first, again = (error_barrier(a, b, BATCHES, alphas=3).loss for _ in range(2))
    assert np.array_equal(first, again)


def test_weights_that_a_first_batch_would_overwrite_are_kept() -> None:
    class ActNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.ready = nn.Parameter(torch.zeros(5)), False

        def forward(self, x: Tensor) -> Tensor:
            if not self.ready:
                self.shift.data.copy_(-x.mean(0))
                self.ready = True
            return x + self.shift

    make = lambda: nn.Sequential(ActNorm(), nn.Linear(5, 3))  # noqa: E731
    a, b = make(), make()
    for network in (a, b):
        network(torch.randn(20, 5))
    expected = error_barrier(a, b, BATCHES, alphas=3)
    states = a.state_dict(), b.state_dict()
    own = lambda network, batch: {"loss": (F.cross_entropy(network(batch[0]), batch[1], reduction="none"), 1)}  # noqa: E731
    for evaluate in ("auto", own):
        result = error_barrier(*states, BATCHES, model=make, alphas=3, evaluate=evaluate)
        np.testing.assert_allclose(result.values("loss"), expected.loss, rtol=1e-6)
        assert any("sets 0.shift by the first batch" in note for note in result.notes)


# --- state dicts that hooks change


def _hook(kind: str) -> Any:
    def hook(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}0")]:
            if kind == "copied":
                state[name] = state[name].detach().clone()
            elif kind == "cast":
                state[name] = state[name].half()
            elif kind == "dropped":
                del state[name]
            else:
                state[f"first.{name}"] = state.pop(name)

    return hook


@pytest.mark.parametrize("kind", ["copied", "cast", "dropped", "renamed"])
def test_modules_are_read_past_what_hooks_make_of_their_state_dicts(kind: str) -> None:
    a, b = pair(nn.Linear, training=False)
    expected = error_barrier(a, b, BATCHES, alphas=3)
    hooked = pair(nn.Linear, training=False)
    for network in hooked:
        network._register_state_dict_hook(_hook(kind))
    result = error_barrier(*hooked, BATCHES, alphas=3)
    assert np.array_equal(result.loss, expected.loss)
    assert result.ends == expected.ends
    assert list(average(hooked)) == list(a.state_dict())


# --- one memory in several shapes


class Transposed(nn.Module):
    """Decodes by the transposed matrix that it encodes by."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(5, 3, bias=False), nn.Linear(3, 5, bias=False)
        self.dec.weight = nn.Parameter(self.enc.weight.t())

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(torch.tanh(self.enc(x)))


def test_a_transposed_tie_is_interpolated_and_counted_once_however_it_is_given() -> None:
    a, b = Transposed(), Transposed()
    weights = [network.enc.weight.detach() for network in (a, b)]
    expected = []
    for alpha in (0, 0.25, 1):
        weight = weights[0].lerp(weights[1], alpha)
        expected.append(float((torch.tanh(X @ weight.t()) @ weight - X).square().mean()))
    l2 = float((weights[0] - weights[1]).norm())
    states = a.state_dict(), b.state_dict()
    for ends, model in (((a, b), None), (states, Transposed), (states, a), ((a, states[1]), None)):
        result = error_barrier(*ends, (X, X), model=model, alphas=[0, 0.25, 1])
        np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
        assert result.ends.l2 == pytest.approx(l2)
    with pytest.raises(NetworkError, match="in one memory, but in b they differ"):
        error_barrier(a, states[1] | {"dec.weight": torch.zeros(5, 3)}, (X, X), alphas=3)


def test_weights_that_are_interleaved_in_one_memory_are_apart() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.randn(6, 5)
            self.even, self.odd = nn.Parameter(both[::2]), nn.Parameter(both[1::2])

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.even.t() + 2 * torch.tanh(x @ self.odd.t())

    a, b = Split(), Split()
    states = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in (a, b)]
    result = error_barrier(*states, BATCHES, model=Split, alphas=3)
    assert result.ends.l2 == pytest.approx(
        math.hypot(*(float((states[0][name] - states[1][name]).norm()) for name in states[0]))
    )
    middle = Split()
    middle.load_state_dict({name: x.lerp(states[1][name], 0.5) for name, x in states[0].items()})
    assert result.loss[1] == pytest.approx(fresh(middle, middle, 1), rel=1e-6)


def test_weights_that_a_network_does_not_compute_with_are_told_of():
    class Elsewhere(nn.Module):
        """Computes with a list of tensors that it made of its weights."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.made = (self.layer.weight.detach().clone(),)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.made[0].T

    x, y = torch.randn(30, 4), torch.arange(30) % 3
    states = [nn.ModuleDict({"layer": nn.Linear(4, 3)}).state_dict() for _ in range(2)]
    result = error_barrier(*states, (x, y), model=Elsewhere, alphas=3)
    assert any(note.endswith("the weights that are put into it") for note in result.notes)


def test_modules_of_two_classes_that_do_not_fit_are_named_by_their_classes():
    class Wide(nn.Linear):
        pass

    data = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(NetworkError, match=r"^b is of class Wide, a of class Linear: b does not fit the network"):
        error_barrier(nn.Linear(3, 2), Wide(3, 4), data)
