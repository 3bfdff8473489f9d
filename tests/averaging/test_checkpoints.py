"""Averages over the checkpoints of one run: which are found, in what order, and with which weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from direct import equal
from modeconn import Run, train
from modeconn.analysis.averaging.average import average
from modeconn.analysis.averaging.checkpoints import Checkpoint, checkpoints_of, select
from modeconn.analysis.averaging.shares import KINDS, shares_of
from modeconn.errors import CorruptArtifact, NetworkError, OptionError
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.execution import Store
from modeconn.training.trajectory import find_trajectory

STEPS = (500, 1000, 2000, 10_000)


def state(step: int) -> dict[str, Tensor]:
    w = torch.randn(3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return {"w": w, "calls": torch.tensor(step)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints that are not in alphabetical order, beside files that are none."""
    for step in STEPS:
        save_file(state(step), tmp_path / f"model-step{step}.safetensors")
    torch.save({}, tmp_path / "optimizer.pt")
    torch.save({}, tmp_path / "rng_state_0.pth")
    (tmp_path / "notes.txt").touch()
    return tmp_path


# --- weights


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_exponential_weights_are_those_of_the_moving_average(values: list[float], decay: float) -> None:
    moving = values[0]
    for value in values[1:]:
        moving = decay * moving + (1 - decay) * value
    found = sum(w * v for w, v in zip(shares_of("exponential", len(values), decay), values, strict=True))
    assert found == pytest.approx(moving, abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_uniform_and_1_sqrt_weights_are_a_decay_of_the_steps(values: list[float]) -> None:
    n = len(values)
    for kind, decay in (("uniform", lambda t: 1 - t), ("1-sqrt", lambda t: 1 - t**0.5)):
        shares = shares_of(kind, n)
        found = sum(w * v for w, v in zip(shares, values, strict=True)) / sum(shares)
        steps = [decay(i / n) * (values[i] - values[i - 1]) for i in range(1, n)]
        assert found == pytest.approx(values[0] + sum(steps), abs=1e-9)


def test_linear_weights_are_the_places() -> None:
    assert shares_of("linear", 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "exponential"])
def test_an_average_with_weights_is_that_of_plain_numbers(kind: str, folder: Path) -> None:
    shares = shares_of(kind, len(STEPS))
    expected = sum(share * state(step)["w"] for share, step in zip(shares, STEPS, strict=True)) / sum(shares)
    torch.testing.assert_close(average(folder, kind)["w"], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(average([state(step) for step in STEPS[:1]], kind)["w"], state(STEPS[0])["w"])


def test_the_moving_average_of_checkpoints_is_that_of_the_recursion(folder: Path) -> None:
    moving = state(STEPS[0])["w"]
    for step in STEPS[1:]:
        moving = 0.9 * moving + 0.1 * state(step)["w"]
    torch.testing.assert_close(average(folder, "exponential", decay=0.9)["w"], moving, rtol=1e-12, atol=1e-12)


# --- what is found, and in what order


def names(source: Any, **options: Any) -> list[str]:
    return [one.name for one in checkpoints_of(source, **options)[0]]


def test_checkpoints_are_in_the_order_of_their_numbers(folder: Path) -> None:
    assert names(folder) == [f"model-step{step}.safetensors" for step in STEPS]
    assert names(str(folder)) == names(folder)


@pytest.mark.parametrize(
    ("files", "ordered"),
    [
        (("epoch=9-step=900.ckpt", "epoch=10-step=1000.ckpt"), True),
        (("epoch_9_acc_0.95.pt", "epoch_10_acc_0.91.pt"), True),
        (("resnet20_v2_9.pth", "resnet20_v2_10.pth"), True),
        (("iter_9.pt", "iter_00010.pt"), True),
        (("9.bin", "10.bin"), True),
        (("best.pt", "last.pt"), False),
    ],
)
def test_the_number_that_counts_is_found(files: tuple[str, ...], ordered: bool, tmp_path: Path) -> None:
    for file in files:
        torch.save(state(1), tmp_path / file)
    assert names(tmp_path, ordered=ordered) == list(files)


def test_folders_of_checkpoints_go_before_the_network_that_is_beside_them(tmp_path: Path) -> None:
    for step in STEPS:
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(state(step), tmp_path / f"checkpoint-{step}" / "model.safetensors")
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    save_file(state(1), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "training_args.bin")
    (tmp_path / "runs").mkdir()
    found = average(tmp_path, last=2)
    assert [member.name for member in found.members] == ["checkpoint-2000", "checkpoint-10000"]
    torch.testing.assert_close(found["w"], (state(2000)["w"] + state(10_000)["w"]) / 2)
    assert "left out, as there are folders of checkpoints: model.safetensors" in found.notes


def test_a_file_without_a_number_is_left_out_and_named(folder: Path) -> None:
    save_file(state(10_000), folder / "last.safetensors")
    found = average(folder)
    assert found.of == 4
    assert "left out, as there is no number in its name: last.safetensors" in found.notes


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "there are no checkpoints in"),
        (("optimizer.pt", "notes.txt"), "there are no checkpoints in"),
        (("model-00001-of-00002.safetensors",), "there are no checkpoints in"),
        (("best.pt", "last.pt"), "the order of the checkpoints in .* cannot be told"),
        (("model_1.pt", "ema_1.pt"), "ema_1.pt and model_1.pt have the same number"),
        (("step1.pt", "epoch2.pt"), "count different things"),
        (("config.json", "model.safetensors"), "is one network; give a folder of checkpoints"),
        (("model.safetensors.index.json", "model-00001-of-00002.safetensors"), "is one network"),
        (("store.json",), "is a store, which may hold many runs"),
    ],
)
def test_a_folder_that_is_not_that_of_one_run_is_refused(files: tuple[str, ...], says: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(OptionError, match=says):
        average(tmp_path, last="50%")


def test_files_of_different_architectures_are_told_by_name(folder: Path) -> None:
    save_file({"v": torch.ones(3)}, folder / "model-step3000.safetensors")
    with pytest.raises(NetworkError, match=r"model-step3000\.safetensors.*w"):
        average(folder)


def test_without_numbers_all_are_averaged_where_the_order_does_not_matter(tmp_path: Path) -> None:
    for name, step in (("one", 1), ("other", 2)):
        torch.save(state(step), tmp_path / f"{name}.pt")
    found = average(tmp_path)
    torch.testing.assert_close(found["w"], (state(1)["w"] + state(2)["w"]) / 2)
    assert any("order is not known" in note for note in found.notes)


# --- which are averaged


def of_steps(*steps: int | None) -> list[Checkpoint]:
    return [Checkpoint(str(step), step, None) for step in steps]


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [
        (None, 1, [0, 10, 50, 85, 90, 100]),
        (2, 1, [90, 100]),
        ("20%", 1, [85, 90, 100]),
        ("15%", 1, [90, 100]),  # the step at 85 % is not of the last 15 %
        ("1%", 1, [100]),
        ("100%", 1, [10, 50, 85, 90, 100]),  # the initialisation is of no part of training
        (None, 2, [10, 85, 100]),
        ("50%", 2, [85, 100]),
    ],
)
def test_the_last_part_is_one_of_steps(last: Any, every: int, expected: list[int]) -> None:
    assert [one.step for one in select(of_steps(0, 10, 50, 85, 90, 100), last, every)] == expected


@pytest.mark.filterwarnings("ignore:integers are not averaged")
def test_the_last_part_of_a_list_is_one_of_its_length() -> None:
    found = average([state(step) for step in range(10)], last="30%", names=[f"n{i}" for i in range(10)])
    assert [member.name for member in found.members] == ["n7", "n8", "n9"]
    assert [member.weight for member in found.members] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"last": 0}, "last must be a whole number of at least 1"),
        ({"last": 5}, "last=5 of 4 checkpoints, which is more than there are"),
        ({"last": "0%"}, "last is a count, or a percentage"),
        ({"last": "101%"}, "last is a count, or a percentage"),
        ({"last": "some"}, "last is a count, or a percentage"),
        ({"last": 0.2}, "last must be a whole number of at least 1, or a percentage"),
        ({"every": 0}, "every must be a whole number"),
        ({"weights": "cubic"}, "unknown kind of weights 'cubic'"),
        ({"weights": "exponential"}, "need decay="),
        ({"weights": "linear", "decay": 0.5}, "other weights have none"),
        ({"weights": "exponential", "decay": 1.0}, "decay must be a number between 0 and 1"),
        ({"weights": [0.5, 0.5]}, "weights must be 4 numbers"),
        ({"names": ["a"]}, "names= are for networks in a list"),
        ({"data": "test"}, "weights alone do not say what network they are of"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(OptionError, match=says):
        average(folder, **options)


# --- the result


def test_a_file_says_what_is_in_it(folder: Path, tmp_path: Path) -> None:
    found = average(folder, "linear", last=3)
    found.save(tmp_path / "mean.safetensors")
    assert equal(load_file(tmp_path / "mean.safetensors"), found)
    with safe_open(tmp_path / "mean.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["modeconn"])
    assert [(row["step"], row["weight"]) for row in about["members"]] == [
        (step, pytest.approx(i / 6)) for i, step in enumerate(STEPS[1:], start=1)
    ]
    assert (about["weights"], about["of"]) == ("linear", 4)
    text = str(found)
    assert text.startswith("average of 3 of 4 networks, weights linear\n")
    assert "model-step10000.safetensors  0.5" in text
    assert any("not evenly spaced" in note for note in found.notes)


def test_integers_are_the_last_checkpoints(folder: Path) -> None:
    found = average(folder)
    assert int(found["calls"]) == 10_000
    assert (
        "integers are not averaged; of those that differ, model-step10000.safetensors's are used: calls" in found.notes
    )


def test_one_network_is_said_to_be_no_average(folder: Path) -> None:
    found = average(folder, last="1%")
    assert equal(found, state(10_000))
    assert "there is one network, so that nothing was averaged" in found.notes


# --- stored runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    store = tmp_path_factory.mktemp("store")
    how = {"iterations": 8, "workers": 0, "store": store, "data_dir": data_dir, "device": "cpu"}
    train("digits-conv", seed=1, save_at="4", **how)  # another run in the same store
    return train("digits-conv", save_at="0,2,4,6", **how)


def test_a_stored_state_stands_for_the_trajectory_that_leads_to_it(run: Run) -> None:
    assert find_trajectory(run.folders[8]) == run.folders
    assert list(find_trajectory(run.folders[4])) == [0, 2, 4]
    found = average(run, last="50%")
    assert equal(found, average(run.folders[8], last="50%"))
    assert [member.step for member in found.members] == [6, 8]
    for name in ("0.weight", "1.running_var"):
        torch.testing.assert_close(found[name], (run.weights(6)[name] + run.weights(8)[name]) / 2)


def test_a_copy_is_led_to_by_the_states_under_its_own_noise_alone(finished_study: Any) -> None:
    """Copies forked at 0 share nothing with the trunk but its initialisation; those forked at 20, its state there."""
    store = Store(finished_study.store, create=False)
    specs = {name: store.describe(name)["spec"] for name in store.names()}
    ends = [name for name, spec in specs.items() if spec.get("kind") == "state" and spec["iteration"] == 40]
    assert sorted(list(find_trajectory(store.runs / name)) for name in ends) == [[0, 20, 40]] * 2 + [[0, 40]] * 2


def test_a_stored_run_knows_its_data_and_its_network(run: Run, data_dir: Path) -> None:
    found = average(run, last=2, calibration="train", calibration_batches=2, data="test", data_dir=data_dir)
    assert found.recalibration is not None
    network = run.network()
    layers = running_statistics_layers(network).values()
    assert set(found.recalibration.recalibrated) == set(layers)
    plain = average(run, last=2)
    statistics = {f"{layer}.{name}" for layer in layers for name in ("running_mean", "running_var")}
    assert {name for name in plain if not torch.equal(plain[name], found[name])} == statistics
    network.load_state_dict(found)
    errors = torch.cat([network(x).argmax(1) != y for x, y in run.training.batches("test")])
    assert found.value["error"] == pytest.approx(float(errors.double().mean()))
    network.load_state_dict(plain)
    errors = torch.cat([network(x).argmax(1) != y for x, y in run.training.batches("test")])
    assert found.recalibration.before["error"] == pytest.approx(float(errors.double().mean()))
    assert average(run, last=2, data="test", data_dir=data_dir).value == found.recalibration.before
    assert "recalibrated" in found.described()


def test_a_stored_state_that_was_changed_is_not_used(run: Run, tmp_path: Path) -> None:
    copied = shutil.copytree(run.folders[8].parents[1], tmp_path / "store") / "runs" / run.folders[8].name
    content = bytearray((copied / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "weights.safetensors").write_bytes(content)
    with pytest.raises(CorruptArtifact, match="does not have the hash"):
        average(copied)


# --- statistics measured anew, of networks in a list


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def test_the_statistics_of_an_average_are_those_of_its_own_activations() -> None:
    a, b = make(0), make(1)
    x = torch.randn(200, 4)
    found = average([a, b], calibration=[x], data=(x, (x[:, 0] > 0).long()))
    hidden = x @ ((a[0].weight + b[0].weight) / 2).T + (a[0].bias + b[0].bias) / 2
    torch.testing.assert_close(found["1.running_var"], hidden.var(0, correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["1.running_mean"], hidden.mean(0), rtol=1e-5, atol=1e-6)
    middle = make(2)
    middle.load_state_dict(found)
    assert found.value["error"] == pytest.approx(
        float((middle.eval()(x).argmax(1) != (x[:, 0] > 0).long()).double().mean())
    )
    states = average([a.state_dict(), b.state_dict()], calibration=[x], model=lambda: make(3))
    assert equal(states, found)
    assert all(torch.equal(one[1].running_var, torch.ones(6)) for one in (a, b))
    assert "measured anew" in str(found)
    assert not any("averaged like weights" in note for note in found.notes)
    assert any("averaged like weights" in note for note in average([a, b]).notes)
