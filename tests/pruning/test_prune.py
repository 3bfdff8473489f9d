"""prune(): exact masks of anyone's network, in steps, and nothing of the caller's changes."""

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from modeconn.errors import DataError, NetworkError, OptionError
from modeconn.models import build_network
from modeconn.pruning.criteria import CRITERIA, needs_data, score
from modeconn.pruning.masks import Mask
from modeconn.pruning.prunable import prunable
from modeconn.pruning.prune import Pruning, find_mask, prune
from modeconn.pruning.torch_prune import from_torch_prune
from modeconn.weights.plain_copy import plain_copy
from networks import Network, by_name, each_network

each_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))


def _data() -> tuple[Tensor, Tensor]:
    return torch.randn(20, 6), torch.randint(4, (20,))


# --- counts


def test_lenet_after_twenty_percent() -> None:
    """open_lth leaves 212,959 of 266,200."""
    network = build_network("lenet-300-100", (1, 28, 28), 10, seed=0)
    mask = prune(network, density=0.8)
    assert (mask.kept, mask.total) == (212_960, 266_200)
    sizes = [(weight.detach().abs(), mask[name]) for name, weight in prunable(network).items()]
    assert max(float(size[~kept].max()) for size, kept in sizes) <= min(float(size[kept].min()) for size, kept in sizes)
    layerwise = prune(network, density=0.8, scope="layerwise", rates={list(mask)[-1]: 0.5})
    assert [layer.kept for layer in layerwise.layers()] == [188_160, 24_000, 900]


@each_criterion
@pytest.mark.parametrize("density", [1, 0.95, 0.1])
def test_counts_are_exact_by_every_criterion_and_scope(criterion: str, density: float) -> None:
    network, data = _network(), _data()
    sizes = [60, 80, 32]
    removed = round(1 - density, 12)
    mask = prune(network, criterion, density=density, data=data, iterations=4)
    assert mask.kept == 172 - round(removed * 172)
    layers = prune(network, criterion, density=density, data=data, scope="layerwise", iterations=4).layers()
    assert [layer.kept for layer in layers] == [n - round(removed * n) for n in sizes]


def test_half_a_weight_is_rounded_as_the_fraction_in_decimals() -> None:
    """1 - 0.95 is a little more than 0.05, of which 10 weights would lose one instead of round(0.5) = 0."""
    assert prune(nn.Linear(10, 1), density=0.95).kept == 10


# --- steps


@pytest.mark.parametrize(("criterion", "steps"), [("synflow", 7), ("snip", 3), ("grasp", 2)])
def test_steps_score_what_is_left_on_the_exponential_schedule(criterion: str, steps: int) -> None:
    network, data = _network(), [_data()]
    found = prune(network, criterion, density=0.2, data=data, iterations=steps)
    mask = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(network).items()}
    for step in range(1, steps + 1):
        scores = score(network, criterion, data, mask=mask)
        ranked = sorted(torch.cat([scores[name][mask[name]] for name in mask]).tolist())
        gone = int(sum(kept.sum() for kept in mask.values())) - (172 - round(172 * (1 - 0.2 ** (step / steps))))
        mask = {name: kept & (scores[name] >= ranked[gone]) for name, kept in mask.items()}
    assert found == Mask(mask)
    assert found.kept == 172 - round(0.8 * 172)
    assert found != prune(network, criterion, density=0.2, data=data, iterations=1)


def test_synflow_takes_100_steps_and_empties_no_layer() -> None:
    """Tanaka et al. 2020: at once, it would; the last layer's few weights carry as much flow as the first's many."""
    network = nn.Sequential(*(nn.Linear(n, m, bias=False) for n, m in ((50, 50), (50, 50), (50, 2))))
    in_steps = prune(network, "synflow", density=0.005, input_shape=(50,))
    assert in_steps == prune(network, "synflow", density=0.005, input_shape=(50,), iterations=100)
    assert in_steps.emptied == []
    assert prune(network, "synflow", density=0.005, input_shape=(50,), iterations=1).emptied != []


def test_iterations_do_not_matter_where_scores_stay_the_same() -> None:
    for criterion in ("magnitude", "random"):
        masks = [prune(net, criterion, density=0.3, iterations=n) for net in [_network()] for n in (None, 1, 5)]
        assert masks[0] == masks[1] == masks[2]


def test_the_seed_decides_between_random_masks() -> None:
    network = _network()
    masks = [prune(network, "random", density=0.5, seed=seed) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]


# --- which layers, and from where


def test_layers_are_the_only_ones_pruned_and_counted() -> None:
    network = _network()
    mask = prune(network, density=0.25, layers=["4.weight", "0.weight"])
    assert (list(mask), mask.kept, mask.total) == (["0.weight", "4.weight"], 23, 92)
    assert prune(network, density=0.25, layers="2.weight").kept == 20


def test_a_mask_is_gone_on_from() -> None:
    network = _network()
    half = prune(network, "random", density=0.5)
    fifth = prune(network, density=0.2, mask=half)
    assert fifth.kept == 172 - round(0.8 * 172)
    assert not any((fifth[name] & ~half[name]).any() for name in half)
    # Those of what is left that are largest
    half.apply(masked := copy.deepcopy(network))
    assert fifth == prune(masked, density=0.2)
    assert prune(network, density=0.5, mask=half) == half
    with pytest.raises(
        OptionError, match=r"0\.6 is 103 of 172 weights, and the mask has 86 left, .* 0\.5; choose a lower"
    ):
        prune(network, density=0.6, mask=half)


def test_layers_of_a_mask_that_are_not_chosen_stay_as_they_are_and_count_when_scores_are_computed() -> None:
    network, data = _network(), _data()
    first = prune(network, "random", density=0.3, layers=["0.weight"])
    mask = prune(network, "snip", density=0.5, data=data, mask=first, layers=["2.weight"])
    assert list(mask) == ["0.weight", "2.weight"]
    assert torch.equal(mask["0.weight"], first["0.weight"])
    first.apply(masked := copy.deepcopy(network))
    assert torch.equal(mask["2.weight"], prune(masked, "snip", density=0.5, data=data, layers=["2.weight"])["2.weight"])
    assert int(mask["2.weight"].sum()) == 40


def test_rates() -> None:
    mask = prune(_network(), density=0.5, rates={"4.weight": 0, "2.weight": 0.5})
    assert [layer.kept for layer in mask.layers()] == [30, 60, 32]


# --- anyone's network


def _loss(network: nn.Module, batch: Any) -> Tensor:
    return network(batch[0]).square().mean()


def _state(network: nn.Module) -> list[Any]:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = [parameter.grad for parameter in network.parameters()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    return [tensors, gradients, [grad if grad is None else grad.clone() for grad in gradients], flags, modes, hooks]


def _surroundings() -> list[Any]:
    states = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]
    return [*states, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@each_network
def test_nothing_of_the_callers_changes(case: Network) -> None:
    network, data = case.network(1), case.batches()
    for index, module in enumerate(network.modules()):
        module.training = index % 2 == 0
    for index, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.ones_like(parameter) if index % 3 else None
    before, copied, surroundings = _state(network), copy.deepcopy(data), _surroundings()
    total = sum(weight.numel() for weight in prunable(plain_copy(network)).values())
    for criterion in CRITERIA:
        options = {"iterations": 2, "loss": _loss if case.kind == "own" else None}
        with torch.no_grad():
            mask = prune(network, criterion, density=0.5, data=data, **options)
        assert mask.kept == total - round(total / 2)
    surroundings[-1] = torch.is_grad_enabled()
    assert _same(_state(network), before)
    assert _same(data, copied)
    assert _surroundings() == surroundings


def test_a_failure_leaves_everything_as_it_was() -> None:
    network, generator = by_name("batchnorm").network(1), torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*by_name("batchnorm").data), batch_size=7, shuffle=True, generator=generator)
    before, surroundings, state = _state(network), _surroundings(), generator.get_state()

    def loss(network: nn.Module, batch: Any) -> Tensor:
        network(batch[0])
        raise RuntimeError("the loss fails")

    with pytest.raises(RuntimeError, match="the loss fails"):
        prune(network, "snip", density=0.5, data=loader, loss=loss)
    prune(network, "snip", density=0.5, data=loader)
    assert _same(_state(network), before)
    assert _surroundings() == surroundings
    assert torch.equal(generator.get_state(), state)


def test_data_in_any_form() -> None:
    network, data = _network(), _data()
    loader = DataLoader(TensorDataset(*data), batch_size=5)
    masks = [
        prune(network, "grasp", density=0.5, data=form, batch_size=5)
        for form in (data, loader, list(loader), iter(loader))
    ]
    assert masks[0] == masks[1] == masks[2] == masks[3]


def test_what_pytorch_pruned_goes_first() -> None:
    network = by_name("pruned").network(1)
    theirs = from_torch_prune(network)
    mask = prune(network, density=0.3)
    assert not any((mask[name] & ~theirs[name]).any() for name in mask if name in theirs)
    going_on = prune(network, density=0.2, mask=theirs)
    assert torch.equal(going_on["2.bias"], theirs["2.bias"])  # it cannot be pruned here, and stays pruned


def test_a_wrapped_network_has_the_masks_of_what_is_inside() -> None:
    network = _network()
    assert prune(nn.DataParallel(network), density=0.5) == prune(network, density=0.5)


# --- what cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"density": 0}, "density must be above 0 and at most 1, the fraction that remains; got 0"),
        ({"density": 1.2}, "got 1.2"),
        ({"density": math.nan}, "got nan"),
        ({"density": True}, "got True"),
        ({"density": "half"}, "got 'half'"),
        ({"density": 0.001}, "a density of 0.001 is 0 of 172 weights.*choose a higher"),
        ({"criterion": "magnitud"}, "unknown criterion 'magnitud'; did you mean 'magnitude'"),
        ({"scope": "local"}, "unknown scope 'local'"),
        ({"iterations": 0}, "iterations must be a whole number of at least 1; got 0"),
        ({"iterations": 1.5}, "got 1.5"),
        ({"rates": {"4.wait": 0.5}}, "unknown layer '4.wait'; did you mean '4.weight'"),
        ({"rates": {"4.weight": -1}}, "at least 0; got -1 for 4.weight"),
        ({"rates": {"4.weight": 3}}, "must be below 1; it is not for 4.weight: 1.5"),
        ({"layers": ["4.weigth"]}, "unknown layer '4.weigth'; did you mean '4.weight'"),
        ({"layers": ["4.bias"]}, "unknown layer '4.bias'"),
        ({"layers": [], "density": 0.5}, "layers= is empty"),
        ({"layers": ["0.weight"], "rates": {"4.weight": 0.5}}, "unknown layer '4.weight'"),
        ({"criterion": "snip"}, "snip is computed from training data; give data="),
        ({"criterion": "grasp"}, "grasp is computed from training data; give data="),
        ({"criterion": "synflow"}, "input_shape="),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_computed(options: dict[str, Any], says: str) -> None:
    network = _network()
    nn.init.constant_(network[0].weight, math.nan)  # scores of these are another error
    with pytest.raises(NetworkError, match="scores by magnitude are NaN"):
        prune(network, density=0.5)
    with pytest.raises(OptionError, match=says):
        prune(network, **{"density": 0.5} | options)


def test_a_mask_that_does_not_fit() -> None:
    mask = {"0.weight": torch.ones(6, 10, dtype=torch.bool), "head.weight": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(NetworkError) as error:
        prune(_network(), density=0.5, mask=mask)
    assert "0.weight is [6, 10] in the mask and [10, 6] in the network" in str(error.value)
    assert "head.weight is no parameter of the network" in str(error.value)


def test_networks_and_data_that_cannot_be() -> None:
    with pytest.raises(NetworkError, match="BatchNorm1d has no weights that can be pruned"):
        prune(nn.BatchNorm1d(3), density=0.5)
    with pytest.raises(NetworkError, match="BatchNorm1d has no weights that can be pruned"):
        find_mask(nn.BatchNorm1d(3), Pruning(), 0.5)
    with pytest.raises(NetworkError, match=r"expected a torch\.nn\.Module, not dict"):
        prune(dict(_network().state_dict()), density=0.5)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="no shapes yet"):
        prune(nn.LazyLinear(3), density=0.5)
    with pytest.raises(DataError, match="the network fails in its module 0 on a batch"):
        prune(_network(), "snip", density=0.5, data=(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(DataError, match="the data are empty"):
        prune(_network(), "snip", density=0.5, data=[])
    with pytest.raises(DataError, match="no target"):
        prune(_network(), "snip", density=0.5, data=[torch.zeros(4, 6)])


# --- what a mask is named by


def test_equal_prunings_have_one_spec() -> None:
    assert Pruning("synflow").spec() == Pruning("synflow", iterations=100, seed=3).spec()
    assert Pruning(seed=1).spec() == Pruning().spec()
    one, other = (Pruning("snip", rates=rates) for rates in ((("b", 1), ("a", 0.5)), (("a", 0.5), ("c", 1.0))))
    assert one.spec() == other.spec()
    for criterion in CRITERIA:
        seeds = [Pruning(criterion, seed=seed).spec() for seed in (0, 1)]
        assert (seeds[0] != seeds[1]) == (needs_data(criterion) or criterion == "random")
    names = [Pruning("snip", scope="layerwise"), Pruning("snip", iterations=2), Pruning("snip"), Pruning("grasp"), one]
    assert len({str(how.spec()) for how in names}) == 5


def test_a_layer_has_one_rate() -> None:
    with pytest.raises(OptionError, match="a layer has two rates"):
        Pruning(rates=(("a", 0.5), ("a", 0.5)))
