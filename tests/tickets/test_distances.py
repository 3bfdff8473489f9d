"""How the copies of each subnetwork differ, apart from the path between them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tickets.test_conditions import OPTIONS, TASK, K, planned, settings
from torch.nn.functional import cross_entropy

from modeconn import load_result, lottery
from modeconn.errors import OptionError
from modeconn.execution import Store
from modeconn.tickets.tables import COLUMNS, DISTANCES
from modeconn.training.jobs import load_state
from modeconn.training.task_training import TaskTraining, prepare
from modeconn.weights.masks import MASK, mask_from_bytes

CONDITIONS = ["imp", "random", "reinit", "sign", "snip-reinit"]
STUDY = OPTIONS | {"conditions": CONDITIONS, "copies": 3, "barriers": ["instability"], "fix": False}
STUDY |= {"barriers_of": CONDITIONS, "threshold": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distances")


@pytest.fixture(scope="module")
def plain(folder, data_dir):
    """A study without measures, whose trainings are in the store."""
    return lottery(TASK, **STUDY, **settings(folder / "store", data_dir), out=folder / "plain")


@pytest.fixture
def asked(plain, folder, data_dir, monkeypatch):
    """The same with measures; nothing may be trained for it."""

    def only_initialise(training, state, until, **how):
        assert (state, until) == (None, 0), "something was trained anew"
        return initialise(training, state, until, **how)

    initialise = TaskTraining.train_until
    monkeypatch.setattr(TaskTraining, "train_until", only_initialise)
    how = settings(folder / "store", data_dir)
    return lottery(TASK, **STUDY, **how, measures=["ends"], out=folder / "asked")


def flat(model, names) -> np.ndarray:
    return np.concatenate([model[name].double().flatten().numpy() for name in names])


@pytest.mark.slow
def test_distances_are_those_of_a_plain_computation_from_the_stored_copies(asked, folder, data_dir):
    store, training = Store(folder / "store"), prepare(TASK, data_dir=data_dir, device="cpu").training
    parameters = [name for name, _ in training.network().named_parameters()]
    plan = planned(data_dir, **STUDY)

    def model(job):
        return load_state(store.require(job)).model

    @torch.no_grad()
    def answers(weights, split):
        network = training.network().eval()
        network.load_state_dict(weights)
        outputs, labels = zip(*((network(images), labels) for images, labels in training.batches(split)), strict=True)
        logits, labels = torch.cat(outputs), torch.cat(labels)
        losses = cross_entropy(logits, labels, reduction="none").double()
        return logits.argmax(1).numpy(), losses.numpy(), labels.numpy()

    for row in asked.rows:
        found = plan[row["level"], row["condition"]]
        # Where the weights began: at the trunk's initialisation, or at the other one that the condition draws.
        (dense,) = [one for one in plan.values() if one.condition == "dense"]
        drawn = found.start.source if row["condition"] in ("reinit", "sign", "snip-reinit") else None
        init = model(drawn or replace(dense.start, iteration=0, start=None))
        if found.mask:
            mask = mask_from_bytes(store.require(found.mask).read(MASK))
            init = {name: value * mask[name] if name in mask else value for name, value in init.items()}
        copies = [model(copy) for copy in found.copies]
        weights = [flat(one, parameters) for one in copies]
        pairs = list(itertools.combinations(range(3), 2))
        expected = {
            "l2_distance": [np.linalg.norm(weights[a] - weights[b]) for a, b in pairs],
            "cosine_distance": [
                1 - weights[a] @ weights[b] / np.linalg.norm(weights[a]) / np.linalg.norm(weights[b]) for a, b in pairs
            ],
            "l2_from_init_a": [np.linalg.norm(weights[a] - flat(init, parameters)) for a, _ in pairs],
            "l2_from_init_b": [np.linalg.norm(weights[b] - flat(init, parameters)) for _, b in pairs],
        }
        for split in ("test", "train"):
            found_labels, losses, (right, *_) = zip(*(answers(one, split) for one in copies), strict=True)
            errors = [(labels != right).mean() for labels in found_labels]
            expected |= {
                f"disagreement_{split}": [(found_labels[a] != found_labels[b]).mean() for a, b in pairs],
                f"possible_disagreement_{split}": [min(1, errors[a] + errors[b]) for a, b in pairs],
                f"loss_l2_{split}": [np.linalg.norm(losses[a] - losses[b]) for a, b in pairs],
            }
        assert expected.keys() == DISTANCES.keys()
        for name, values in expected.items():
            assert row[name] == pytest.approx(np.mean(values), rel=1e-5, abs=1e-7), (name, row["condition"])


@pytest.mark.slow
def test_all_else_is_as_it_is_without(asked, plain, folder):
    assert str([{name: row[name] for name in COLUMNS} for row in asked.rows]) == str(plain.rows)
    assert list(plain.rows[0]) == list(COLUMNS)
    assert list(asked.to_frame().columns) == [*COLUMNS, *DISTANCES]
    assert "measures" not in plain.summary
    assert asked.summary["measures"] == ["ends"]
    again = load_result(folder / "asked")
    assert str(again.rows) == str(asked.rows)
    assert list(load_result(folder / "plain").rows[0]) == list(COLUMNS)
    drawn = asked.plot(column="disagreement_test", conditions=["imp"]).lines[0].get_ydata()
    assert drawn == pytest.approx(100 * asked.values("disagreement_test", "imp")[1].mean(axis=1))
    with pytest.raises(OptionError, match="unknown column 'l2_distance'"):
        plain.values("l2_distance", "imp")


@pytest.mark.slow
def test_copies_that_are_not_there_or_diverged_have_no_distances(folder, data_dir, tmp_path):
    how = STUDY | {"conditions": ["imp", "random"], "barriers_of": ["imp"], "splits": ["test"], "copies": 2}
    result = lottery(TASK, **how, **settings(tmp_path, data_dir), measures=["ends"])
    for row in result.rows:
        missing = {name for name in DISTANCES if math.isnan(row[name])}
        assert missing == (set(DISTANCES) if row["condition"] == "random" else {n for n in DISTANCES if "train" in n})
    hot = replace(TASK, learning_rate=1e30, name="hot")
    result = lottery(hot, **how, **settings(tmp_path, data_dir), measures=["ends"])
    assert all(math.isnan(row[name]) for row in result.rows for name in DISTANCES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measures": ["end"]}, r"unknown measure 'end'.*did you mean 'ends'"),
        ({"measures": ["ends"], "barriers": ["dense"]}, "add instability to barriers"),
    ],
)
def test_others_are_refused(options, said, tmp_path):
    with pytest.raises(OptionError, match=said):
        lottery(TASK, **STUDY | options, rewind_iters=K, store=tmp_path)
