"""Lottery tickets of somebody's own training loop."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

import modeconn
from loops import DATA as POINTS
from loops import init as small
from loops import points
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store
from modeconn.pruning.masks import Mask
from modeconn.tickets.options import CONDITIONS
from modeconn.tickets.scoring import own_examples
from modeconn.training.jobs import load_state
from modeconn.training.own_loop import prepare_own

T, K = 30, 10
CALLS: list[tuple[int, int, int, int | None]] = []  # start, stop, seed, how many weights the mask keeps


def digits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = load_digits()
    inputs, labels = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    test = torch.arange(len(labels)) % 5 == 0
    return {"test": (inputs[test], labels[test]), "train": (inputs[~test], labels[~test])}


DATA = digits()


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def steps(network: nn.Module, optimizer: Any, data: Any, count: int, seed: int, after: Any) -> None:
    """Plain SGD with momentum."""
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = data
    for _ in range(count):
        batch = torch.randint(len(labels), (32,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        after()


def looped(make: Any, data: Any, state: Any, start: int, stop: int, seed: int, mask: Any, rate: float = 0.2) -> dict:
    CALLS.append((start, stop, seed, None if mask is None else sum(int(kept.sum()) for kept in mask.values())))
    network = make(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    steps(network, optimizer, data, stop - start, seed, lambda: None if mask is None else mask.apply(network))
    return {"model": network, "optimizer": optimizer.state_dict()}


def train(state: dict, start: int, stop: int, seed: int, mask: Mask | None = None) -> dict:
    return looped(small, POINTS["train"], state, start, stop, seed, mask)


def train_digits(state: dict, start: int, stop: int, seed: int, mask: Mask | None) -> dict:
    return looped(mlp, DATA["train"], state, start, stop, seed, mask)


def study(tmp_path, name="mine", **options):
    CALLS.clear()
    common = {"train": train, "init": small, "data": POINTS, "iterations": T, "rewind_iter": K, "levels": 2}
    common |= {"replicates": 1, "alphas": 3, "conditions": ["imp"], "device": "cpu", "store": tmp_path / "store"}
    return modeconn.lottery(name, **common | options)


def trained(store: Store, ticket: str) -> list[dict[str, torch.Tensor]]:
    """The networks that were trained from a ticket, or from a trunk's state."""
    names = [folder.name for folder in (store.root / "runs").glob("state-*")]
    of_ticket = [name for name in names if store.describe(name)["spec"].get("origin") == ticket]
    return [load_state(store.finished(name)).model for name in of_ticket]


# --- against plain code


def test_masks_and_weights_are_those_of_plain_training_pruning_and_rewinding(tmp_path):
    result = study(tmp_path, train=train_digits, init=mlp, data=DATA, barriers=[], out=tmp_path / "out")
    assert [(start, stop, kept) for start, stop, _, kept in CALLS] == [
        *[(0, K, None), (K, T, None)],  # the trunk and the dense network
        *[(K, T, kept) for kept in (1421, 1137)],  # of 64 x 24 + 24 x 10 = 1776, a fifth less each time
    ]
    store = Store(tmp_path / "store")
    init_seed = store.describe(result.rows[0]["ticket"])["spec"]["init_seed"] % 2**31
    network = mlp(init_seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    steps(network, optimizer, DATA["train"], K, CALLS[0][2], lambda: None)
    at_k = {name: value.clone() for name, value in network.state_dict().items()}
    steps(network, optimizer, DATA["train"], T - K, CALLS[1][2], lambda: None)
    keep = {name: np.ones(at_k[name].shape, bool) for name in ("0.weight", "2.weight")}
    errors = [error_of(network)]
    for level in (1, 2):
        sizes = np.concatenate([network.get_parameter(name).detach().abs().numpy()[k] for name, k in keep.items()])
        smallest = np.sort(sizes)[: round(0.2 * len(sizes))]
        keep = {n: k & (network.get_parameter(n).detach().abs().numpy() > smallest[-1]) for n, k in keep.items()}
        network.load_state_dict(at_k)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
        zero(network, keep)
        steps(network, optimizer, DATA["train"], T - K, CALLS[1 + level][2], lambda: zero(network, keep))  # noqa: B023
        found = load_file(tmp_path / "out" / "masks" / f"replicate-0-level-{level}-imp.safetensors")
        assert found.keys() == keep.keys()
        assert all(np.array_equal(found[name].numpy(), keep[name]) for name in keep)
        (end,) = trained(store, result.rows[level]["ticket"])
        assert all(torch.equal(end[name], value) for name, value in network.state_dict().items())
        errors.append(error_of(network))
    assert [row["test_error"] for row in result.rows] == errors


def zero(network: nn.Module, keep: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, kept in keep.items():
            network.get_parameter(name)[torch.from_numpy(~kept)] = 0


def error_of(network: nn.Module) -> float:
    inputs, labels = DATA["test"]
    with torch.no_grad():
        return int((network(inputs).argmax(1) != labels).sum()) / len(labels)


@pytest.mark.slow
def test_snip_scores_the_first_examples_of_each_class_at_the_initialisation(tmp_path):
    options = {"train": train_digits, "init": mlp, "data": DATA, "barriers": [], "conditions": ["snip"]}
    result = study(tmp_path, **options, per_class=3, levels=1, out=tmp_path / "out")
    store = Store(tmp_path / "store")
    network = mlp(store.describe(result.rows[0]["ticket"])["spec"]["init_seed"] % 2**31)
    inputs, labels = DATA["train"]
    first = [int((labels == label).nonzero()[place]) for place in range(3) for label in range(10)]
    expected = modeconn.prune(network, "snip", density=0.8, data=[(inputs[first], labels[first])])
    found = Mask.load(tmp_path / "out" / "masks" / "replicate-0-level-1-snip.safetensors")
    assert found == expected


# --- conditions


@pytest.mark.slow
def test_every_condition_can_be_asked_of_a_loop(tmp_path):
    result = study(tmp_path, conditions=CONDITIONS, barriers=[], fix=False)
    assert result.conditions == list(CONDITIONS)
    at = {row["condition"]: row for row in result.rows if row["level"] == 2}
    assert all(0 <= row["test_error"] <= 1 and row["density"] == 41 / 64 for name, row in at.items())
    starts = {start for start, *_ in CALLS}
    assert starts == {0, K}  # the trunk and rewind0; all else goes on from k
    with_masks = [call for call in CALLS if call[3] is not None]
    # At level 1 one shot is the ticket, and so are these two on new weights.
    assert len(with_masks) == 2 * len(CONDITIONS) - 2


@pytest.mark.slow
def test_a_rewound_network_begins_with_nothing_but_weights_and_what_init_gives(tmp_path):
    given: list[tuple[int, set[str]]] = []

    def with_count(seed):
        return {"model": small(seed), "count": 0}

    def counting(state, start, stop, seed, mask):
        given.append((start, state.keys() - {"model"}))
        later = train({name: state[name] for name in ("model", "optimizer") if name in state}, start, stop, seed, mask)
        return later | {"count": state["count"] + stop - start}

    study(tmp_path, train=counting, init=with_count, levels=1, barriers=[])
    assert given == [(0, {"count"}), (K, {"count", "optimizer"}), (K, {"count"})]
    given.clear()
    study(tmp_path, train=counting, init=with_count, levels=1, barriers=[], carry_optimizer=True)
    assert given == [(K, {"count", "optimizer"})]  # the dense network is there


@pytest.mark.slow
def test_auto_is_the_instability_study_of_the_same_loop_and_shares_its_networks(tmp_path):
    options = {"train": train, "init": small, "data": POINTS, "iterations": T, "rewind_iters": [0, K], "alphas": 3}
    CALLS.clear()  # which the loop refers to, so that it is a part of its content
    found = modeconn.instability("mine", **options, replicates=1, store=tmp_path / "store", device="cpu")
    result = study(tmp_path, rewind_iter="auto", rewind_iters=[0, K], threshold=0.5)
    assert {kept for *_, kept in CALLS} == {51, 41}  # no dense network was trained again
    assert result.summary["rewind_study"]["instability"]["none"] == found.mean["test"]["none"].tolist()
    assert result.summary["rewind_iter"] == found.stable_from(0.5)["test"]["none"]
    dense = result.rows[0]["instability_test"]
    assert dense == found.mean["test"]["none"][[0, K].index(result.summary["rewind_iter"])]


# --- identity, interruption, workers


def by_rate(rate: float) -> Any:
    return lambda state, start, stop, seed, mask=None: looped(
        small, POINTS["train"], state, start, stop, seed, mask, rate
    )


@pytest.mark.slow
def test_another_learning_rate_is_another_study_and_the_same_one_is_read_from_the_store(tmp_path):
    rows = []
    for rate in (0.05, 0.5, 0.05):
        result = study(tmp_path, train=by_rate(rate), barriers=[])
        rows.append((len(CALLS), [row["ticket"] for row in result.rows]))
    assert [calls for calls, _ in rows] == [4, 4, 0]
    assert rows[0][1] == rows[2][1]
    assert not set(rows[0][1]) & set(rows[1][1])


@pytest.mark.slow
def test_other_training_data_or_another_loss_are_other_masks_of_the_same_network(tmp_path):
    masks = []
    other = POINTS | {"train": points(80, 9)}
    for changes in ({}, {"data": other}, {"loss": loss_of_half}, {}):
        result = study(tmp_path, conditions=["snip"], barriers=[], levels=1, **changes)
        masks.append((len(CALLS), result.rows[1]["mask"]))
    assert len({mask for _, mask in masks}) == 3
    assert masks[0][1] == masks[3][1]
    assert masks[3][0] == 0


def loss_of_half(network, batch):
    inputs, labels = batch
    return nn.functional.cross_entropy(network(inputs[::2]), labels[::2])


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_gives_the_same(tmp_path):
    def stopped_after(calls):
        def fragile(state, start, stop, seed, mask):
            if len(CALLS) == calls:
                raise KeyboardInterrupt
            return train(state, start, stop, seed, mask)

        fragile.modeconn_name = "the same"
        return fragile

    whole = study(tmp_path / "whole", train=stopped_after(100), conditions=["imp", "random"])
    total = len(CALLS)
    for calls in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "parts", train=stopped_after(calls), conditions=["imp", "random"])
    parts = study(tmp_path / "parts", train=stopped_after(100), conditions=["imp", "random"])
    assert len(CALLS) == total - 5
    assert parts.rows == whole.rows
    assert parts.layers == whole.layers


@pytest.mark.processes
def test_workers_compute_the_same(tmp_path):
    alone = study(tmp_path / "alone")
    together = study(tmp_path / "together", workers=2)
    assert CALLS == []
    assert together.rows == alone.rows


# --- masks inside the loop


def masked_by_hand(state, start, stop, seed, mask):
    """A loop that multiplies by its own tensors, in a network with a wrapper."""
    wrapped = nn.DataParallel(small(0))
    wrapped.module.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.2, momentum=0.9)

    def after():
        with torch.no_grad():
            for name, kept in (mask or {}).items():
                wrapped.module.get_parameter(name).mul_(kept)

    steps(wrapped, optimizer, POINTS["train"], stop - start, seed, after)
    return wrapped


def masked_by_apply(state, start, stop, seed, mask):
    wrapped = nn.DataParallel(small(0))
    wrapped.module.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.2, momentum=0.9)
    steps(
        wrapped, optimizer, POINTS["train"], stop - start, seed, lambda: None if mask is None else mask.apply(wrapped)
    )
    return wrapped


@pytest.mark.slow
def test_a_mask_may_be_held_in_any_way_and_by_a_network_with_a_wrapper(tmp_path):
    one, other = (study(tmp_path / how.__name__, train=how) for how in (masked_by_hand, masked_by_apply))
    for a, b in zip(one.rows, other.rows, strict=True):
        assert (a["test_error"], a["instability_test"]) == (b["test_error"], b["instability_test"])


def test_a_loop_that_lets_pruned_weights_grow_back_is_refused_by_name_and_early(tmp_path):
    def ignores(state, start, stop, seed, mask):
        return train(state, start, stop, seed)

    with pytest.raises(ModeconnError, match=r"\(0\.weight: \d+ of \d+, .*call mask\.apply\(network\) after every"):
        study(tmp_path, train=ignores, conditions=["imp", "random", "reinit"], levels=3, replicates=3)
    assert len(CALLS) <= 3 + 2  # the first trunk and its copies, and the first level

    def forgets_the_last(state, start, stop, seed, mask):
        later = train(state, start, stop, seed, mask)
        if mask is not None:
            with torch.no_grad():
                later["model"][2].weight[~mask["2.weight"]] = 1e-30
        return later

    with pytest.raises(ModeconnError, match=r"prunes \(2\.weight: (\d+) of \1\); call"):
        study(tmp_path, train=forgets_the_last)


def test_a_loop_that_ignores_its_seed_is_an_error(tmp_path):
    def ignores(state, start, stop, seed, mask):
        return train(state, start, stop, 0, mask)

    with pytest.raises(OptionError, match=r"same weights for two seeds.*argument seed"):
        study(tmp_path, train=ignores)
    assert all(kept is None for *_, kept in CALLS)


def test_a_training_that_diverges_under_its_mask_is_reported(tmp_path):
    def exploding(state, start, stop, seed, mask):
        later = train(state, start, stop, seed, mask)
        if mask is not None:
            with torch.no_grad():
                later["model"][0].weight[mask["0.weight"]] = torch.nan
        return later

    result = study(tmp_path, train=exploding, levels=1)
    assert [(where["level"], where["condition"]) for where in result.summary["diverged"]] == [(1, "imp")]


# --- what cannot be


def no_mask(state, start, stop, seed):
    return train(state, start, stop, seed)


def other_place(state, start, stop, seed, *mask):
    return train(state, start, stop, seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": no_mask}, "no parameter named mask"),
        ({"train": other_place}, "no parameter named mask"),
        ({"train": functools.partial(train, mask=None)}, None),
        ({"init": None}, "needs init="),
        ({"iterations": None}, "iterations="),
        ({"train": None}, "init= goes with train="),
        ({"train": None, "init": None, "data": None, "loss": loss_of_half}, "loss= goes with train="),
        ({"validation": 10}, "leave validation= out"),
        ({"validation": 0}, None),
        ({"retrain": "finetune", "conditions": ["imp"]}, 'choose "rate"'),
        ({"details": ["curves"]}, "leave it out"),
        ({"rewind_iter": "2ep"}, "no epochs"),
        ({"rewind_iter": T}, "leaves nothing to train"),
        ({"data": {"train": POINTS["train"]}}, "matching is about test error"),
        ({"data": POINTS["test"]}, "fix=False"),
        ({"data": POINTS["test"], "fix": False}, None),
        ({"data": POINTS["test"], "fix": False, "conditions": ["snip"]}, "condition snip scores weights on training"),
        ({"data": POINTS["test"], "fix": False, "conditions": ["synflow-shuffle"]}, "condition synflow-shuffle scores"),
        ({"data": POINTS["test"], "fix": False, "conditions": ["magnitude", "oneshot"]}, None),
        (
            {"conditions": ["grasp"], "loss": lambda network, batch: network(batch[0])},
            "condition grasp needs the loss on training data: .*one number",
        ),
        ({"scope": "layerwise", "rates": [("nobody", 0.5)]}, "nobody"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(tmp_path, options, message):
    if message is None:
        assert study(tmp_path, **options, levels=1).rows
        return
    with pytest.raises(ModeconnError, match=message):
        study(tmp_path, **options)
    assert CALLS == []


# --- examples that criteria score with


def prepared(data: Any) -> Any:
    return prepare_own("x", train, small, {"test": POINTS["test"], "train": data}, iterations=5, device="cpu").training


def test_examples_are_the_first_of_each_class_and_of_other_data_the_first_batches():
    inputs, labels = POINTS["train"]
    whole = own_examples(prepared((inputs, labels)), 3)
    loaded = own_examples(prepared([(inputs[:7], labels[:7]), (inputs[7:], labels[7:])]), 3)
    for batches in (whole, loaded):
        ((x, y),) = batches
        assert y.tolist() == [0, 1, 0, 1, 0, 1]
        expected = torch.stack([(labels == label).nonzero().flatten()[:3] for label in (0, 1)], 1).flatten()
        assert torch.equal(x, inputs[expected])
    soft = nn.functional.one_hot(labels, 2).float()
    batches = own_examples(prepared([(inputs[i : i + 8], soft[i : i + 8]) for i in range(0, 80, 8)]), 2)
    assert [len(x) for x, _ in batches] == [8, 8, 8]  # 2 of each of ten classes would be 20
