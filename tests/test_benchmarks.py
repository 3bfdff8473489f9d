"""The pure parts of the benchmarks, and that both sides do the same work. Nothing is timed."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import floor, machine, ours, plan, profile_step, rounds, search_cost, summary, table, tried, tutorial
from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.instability.plan import jobs_of, plan_pairs, plan_study
from modeconn.data import load_data
from modeconn.execution.names import job_name
from modeconn.models import build_network
from modeconn.tasks import get_task
from modeconn.training.jobs import TrainJob
from modeconn.training.splits import SplitBatches
from modeconn.training.task_training import prepare

ROW = plan.Row("toy", "ours", ("slow", "fast"), target=2.0)


def run(work: float, seconds: float = 1.0, others: float | None = 0.0, **facts: object) -> rounds.Run:
    return rounds.Run(work, seconds, others, facts=facts)


def of(row: plan.Row, kept: list[rounds.Round], count: object = None, noisy: object = lambda found: False) -> dict:
    return json.loads(json.dumps(summary.summarize(row, kept, count, noisy)))


# The floor.


def macs_of_resnet_20() -> int:
    """By hand: 3x3 convolutions, the two 1x1 shortcuts, the linear layer."""
    stages = [(16, 32), (32, 16), (64, 8)]
    total, before = 9 * 3 * 16 * 32**2, 16
    for channels, side in stages:
        convolutions = [before, *[channels] * 5]  # input channels of the stage's six
        total += sum(9 * inputs * channels * side**2 for inputs in convolutions)
        total += before * channels * side**2 if before != channels else 0
        before = channels
    return total + 64 * 10


@pytest.mark.slow
def test_operations_of_resnet_20() -> None:
    macs = macs_of_resnet_20()
    assert round(macs / 1e6, 1) == 40.8
    assert floor.amount("cifar10-resnet20", "float32", 2, training=False).operations == 2 * macs
    # Three times forward, but for the gradient of the images, which nobody needs.
    images = 9 * 3 * 16 * 32**2
    for precision in ("float32", "bfloat16"):
        assert floor.amount("cifar10-resnet20", precision, 2, training=True).operations == 2 * (3 * macs - images)


def test_operations_and_bytes_of_lenet() -> None:
    sizes = [(784, 300), (300, 100), (100, 10)]
    macs, weights = sum(i * o for i, o in sizes), sum(i * o + o for i, o in sizes)
    forward = floor.amount("mnist-lenet", "float32", 60, training=False)
    assert forward.operations == 2 * macs
    # Read: weights and inputs; written: outputs; both: ReLU. The loss and how it is counted is a little more.
    values = weights / 60 + 784 + 300 + 300 + 100 + 100 + 10 + 2 * (300 + 100)
    assert 4 * values <= forward.bytes <= 4.1 * values
    # Fused Adam reads four numbers for each weight. Gradients of weights read what forward wrote, and write as many.
    training = floor.amount("mnist-lenet", "float32", 60, training=True)
    assert training.bytes >= 4 * (2 * values + 4 * weights / 60)


def test_the_part_of_the_floor_that_is_reached() -> None:
    row = plan.Row("toy", "ours", work=plan.Work("task", "float32", 8, training=True))
    found = {"ours": run(300, 2.0), "float32 products": run(4e6, 2.0), "copies": run(9000, 1.0)}
    line = of(row, [found], count=lambda work: floor.Amount(operations=1e4, bytes=15.0))
    assert line["floor"]["images/s that matrix products allow"] == pytest.approx(200)
    assert line["floor"]["of matrix products"] == pytest.approx(0.75)
    assert line["floor"]["of copies"] == pytest.approx(150 * 15 / 9000)
    paths = plan.Row("toy", "ours", unit="paths/h", work=plan.Work("task", "float32", 8, False, images=150))
    found["ours"] = run(2, 2.0)
    assert of(paths, [found], count=lambda work: floor.Amount(1e4, 15.0))["floor"]["of matrix products"] == 0.75


def test_operations_by_operator_of_lenet() -> None:
    """Forward, and backward without the gradient of the images; all of them are what the floor has."""
    sizes = [(784, 300), (300, 100), (100, 10)]
    macs = sum(i * o for i, o in sizes)
    found = floor.operations_by_operator("mnist-lenet", "float32", 2)
    assert found == {"addmm": 2 * macs, "mm": 2 * (2 * macs - 784 * 300)}
    assert sum(found.values()) == floor.amount("mnist-lenet", "float32", 2, training=True).operations


def test_a_profile_says_each_parts_share_and_what_it_reaches() -> None:
    seconds = {"addmm": 1.0, "mm": 2.0, "relu": 0.5, "threshold_backward": 0.25, "made_up": 0.25}
    lines = profile_step.markdown(seconds, {"addmm": 80.0, "mm": 100.0}, rate=100.0, iterations=10).splitlines()
    assert lines[2:] == [
        "| products, forward | 100.00 | 25.0% | 80% |",
        "| products, backward | 200.00 | 50.0% | 50% |",
        "| ReLU | 75.00 | 18.8% |  |",
        "| other | 25.00 | 6.2% |  |",
        "| all | 400.00 | 100.0% | 45% |",
    ]


# Rounds.


def test_noisy_rounds_are_thrown_away_unless_they_shall_count(monkeypatch) -> None:
    shares = iter([0.0, 0.01, 0.2, 0.0, None, 0.03, 0.0, 0.031, 0.0, 0.0])
    monkeypatch.setattr(rounds, "run_side", lambda side: run(1, others=next(shares)))
    sides = [rounds.Side("a", "x:y"), rounds.Side("b", "x:y")]
    kept, thrown = rounds.measure(sides, 3, others=0.03)
    assert [[found[name].others for name in "ab"] for found in kept] == [[0.0, 0.01], [None, 0.03], [0.0, 0.0]]
    assert [[found[name].others for name in "ab"] for found in thrown] == [[0.2, 0.0], [0.0, 0.031]]
    monkeypatch.setattr(rounds, "run_side", lambda side: run(1, others=0.5))
    assert [len(part) for part in rounds.measure(sides, 3, others=0.03)] == [0, 6]
    assert [len(part) for part in rounds.measure(sides, 3, others=0.03, keep_noisy=True)] == [3, 0]


def test_others_are_what_neither_we_nor_our_descendants_used() -> None:
    before, after = machine.Usage(10.0, 50.0, 7.0), machine.Usage(20.0, 66.0, 19.0)
    assert machine.others_share(before, after, cores=4) == pytest.approx(4 / 40)
    assert machine.others_share(None, after, cores=4) is None
    assert machine.others_share(after, machine.Usage(30.0, 66.0, 19.1), cores=4) == 0


BURN = "import time\nwhile time.process_time() < 0.4: pass\n"
# It burns as much in a child, which has ended when the parent says so: the parent inherits what that used.
PARENT = f"import subprocess, sys\n{BURN}subprocess.run([sys.executable, '-c', '''{BURN}'''])\nprint(1)\ninput()"


@pytest.mark.processes
@pytest.mark.skipif(not machine.CHECKED, reason="what others use is read from /proc")
def test_a_family_is_a_process_and_its_descendants_dead_or_alive() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        alone = machine.family_ticks(parent.pid) / tick
        ours = machine.family_ticks(os.getpid()) / tick
        own = time.process_time()
        parent.communicate(b"\n")
    assert alone >= 0.75  # both burnt 0.4 seconds, in ticks of a hundredth
    assert ours >= alone + own - 0.1
    assert machine.family_ticks(2**22 + 1) == 0


@pytest.mark.skipif(not machine.CHECKED, reason="what others use is read from /proc")
def test_all_are_busier_than_we_are() -> None:
    used = machine.usage()
    assert used.all >= used.ours > 0


@pytest.mark.processes
def test_a_side_runs_in_processes_of_its_own() -> None:
    found = rounds.run_side(rounds.Side("search", "benchmarks.search_cost:cost", {"task": "digits-conv"}, processes=2))
    assert found.work == 2 * max(search_cost.ratio_by_answer("digits-conv").values())
    assert found.seconds == 0
    assert found.facts["by first stable k"]
    with pytest.raises(RuntimeError, match="ended before it was measured"):
        rounds.run_side(rounds.Side("wrong", "benchmarks.search_cost:cost", {"task": "nobody"}))


# Rows.


def test_a_row_is_medians_and_ratios_of_rounds_against_the_better_baseline() -> None:
    speeds = [(10, 2, 5), (30, 1, 6), (18, 9, 4)]
    kept = [{"ours": run(a, 0.5), "slow": run(b, 0.5), "fast": run(c, 0.5)} for a, b, c in speeds]
    line = of(ROW, kept)
    assert (line["value"], line["range"]) == (36, [20, 60])
    assert (line["baseline"], line["baseline value"]) == ("fast", 10)
    assert (line["ratio"], line["ratio range"], line["reached"]) == (4.5, [2, 5], True)
    kept[2]["slow"] = kept[0]["slow"] = run(50)
    assert of(ROW, kept)["baseline"] == "slow"
    assert not of(ROW, kept)["reached"]


def test_seconds_are_better_when_they_are_fewer() -> None:
    row = plan.Row("toy", "ours", ("slow", "fast"), unit="s", target=3.0)
    found = {"ours": run(1, 2.0), "slow": run(1, 9.0), "fast": run(1, 5.0)}
    line = of(row, [found])
    assert (line["baseline"], line["ratio"], line["reached"]) == ("fast", 2.5, False)
    for target, reached in ((1.9, False), (2.0, True)):
        assert of(plan.Row("toy", "ours", unit="s", target=target), [found])["reached"] is reached


def test_a_row_is_reached_only_with_the_same_numbers() -> None:
    curve = {"alphas": [0, 0.5, 1], "error": [0.1, 0.3, 0.1], "loss": [1.0, 2.0, 1.0], "barrier": 0.2}
    other = curve | {"error": [0.1, 0.302, 0.1], "barrier": 0.202}
    found = {"ours": run(9, **curve), "slow": run(1, **other)}
    row = plan.Row("toy", "ours", ("slow",), target=2.0, agree={"error": 1e-3})
    line = of(row, [found])
    assert line["differences"] == {"barrier": pytest.approx(0.002), "error": pytest.approx(0.002), "loss": 0}
    assert not line["reached"]
    assert of(dataclasses.replace(row, agree={"error": 3e-3}), [found])["reached"]
    decides = dataclasses.replace(row, agree={"decision": 0})
    for above, reached in ((True, True), (False, False)):
        found = {"ours": run(9, above=True, **curve), "slow": run(1, above=above, **curve)}
        assert of(decides, [found])["reached"] is reached


def test_the_table_has_every_row_and_says_what_is_no_result() -> None:
    kept = [{"ours": run(4000, others=0.5), "slow": run(1), "fast": run(1000)}]
    noisy = [of(ROW, kept, noisy=lambda found: True) | {"thrown away": 2}, of(ROW, []) | {"thrown away": 6}]
    machine_ = dict.fromkeys(("cpu", "cores", "modeconn", "torch", "torchvision", "numpy", "python"), "some")
    how = {"command": "run", "others": 0.03, "checked": False, "keep noisy": True, "quick": False}
    results = {"rows": noisy, "machine": machine_ | {"flags": ["avx2"]}, "how": how, "when": "now"}
    text = table.markdown(results)
    first = "| toy | 4,000 images/s (4,000 to 4,000) | 1,000 (fast) | 4 (4 to 4) | ≥ 2 | yes |  |  |  |"
    assert f"{first} 1, 1 noisy (2 thrown away) |" in text
    for words in ("| toy | no quiet round |", "0 (6 thrown away)", "no result", "Not checked", "emulated"):
        assert words in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {len(table.COLUMNS) + 1}


def test_the_page_shows_what_was_measured() -> None:
    docs = Path(__file__).parents[1] / "docs"
    measured = json.loads((docs / "speed.json").read_text())
    assert table.markdown(measured) in (docs / "speed.md").read_text()


def test_every_side_that_a_row_names_is_there() -> None:
    names = []
    for one in plan.benchmarks(plan.QUICK, 2, "data", "folder"):
        sides = {side.name for side in one.sides}
        assert len(sides) == len(one.sides)
        for row in one.rows:
            alone = one.only([row.name])
            needed = {row.side, *row.against, *plan.floor_sides(row)}
            assert {side.name for side in alone.sides} == needed <= sides
            assert alone.rows == (row,)
            assert row.unit in summary.UNITS
            names.append(row.name)
    assert len(set(names)) == len(names)


# Both sides do the same.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """A folder with a small CIFAR-10 and a small MNIST, of noise."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, shape in (("cifar10", (32, 32, 3)), ("mnist", (28, 28))):
        arrays = {}
        for split, n in (("train", 100), ("test", 30)):
            arrays[f"{split}_images"] = draw.integers(0, 256, (n, *shape), dtype=np.uint8)
            arrays[f"{split}_labels"] = draw.integers(0, 10, n)
        np.savez(folder / f"{name}.npz", **arrays)
    return str(folder)


@pytest.mark.parametrize("task", ["cifar10-resnet20", "mnist-lenet"])
def test_the_tutorial_sees_the_same_images(task, pictures) -> None:
    (inputs, labels), *rest = tutorial.test_loader(task, pictures, 30, loader_workers=0)
    (images, targets), *others = SplitBatches(load_data(get_task(task).data, pictures), "test")
    torch.testing.assert_close(inputs, images, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, targets)
    assert rest == others == []


@pytest.mark.parametrize("side", [tutorial.train, ours.train, ours.cohort, ours.study_job, ours.bare_steps])
def test_a_training_passes_as_many_images_as_it_says(side, pictures) -> None:
    """Over the end of an epoch, whose last batch is short: 100 images in batches of 60."""
    more = {
        tutorial.train: {"loader_workers": 0},
        ours.cohort: {"members": 1},
        ours.study_job: {"checkpoint_every": 60.0},
    }
    measure = side(0, task="mnist-lenet", iterations=4, data_dir=pictures, **more.get(side, {}))
    seen = []
    with torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0])) if isinstance(module, torch.nn.Flatten) else None
    ):
        work = measure()["work"]
    assert len(seen) == 4
    assert sum(seen) == work == 200


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cifar10-resnet20", "mnist-lenet"])
def test_a_profile_finds_the_operators_that_are_counted(task, pictures, capsys, monkeypatch) -> None:
    """Under the same names, so that all of the products' time has a floor."""
    seconds, images = profile_step.seconds_by_operator(task, "float32", 2, pictures)
    assert images == {"cifar10-resnet20": 200, "mnist-lenet": 100}[task]  # iterations 5 and 6, in epochs of 100 images
    assert {name for name in floor.operations_by_operator(task, "float32", 2) if not seconds.get(name)} == set()
    monkeypatch.setattr(profile_step, "_SECONDS", 0.01)
    profile_step.main([task, "--iterations", "2", "--data-dir", pictures])
    shown = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"| products, forward", "| products, backward", "| ReLU", "| optimizer", "| loss", "| all"} <= set(shown)


@pytest.mark.slow
def test_both_walk_the_same_path(pictures, tmp_path) -> None:
    files = [str(tmp_path / f"{seed}.safetensors") for seed in range(2)]
    for seed, file in enumerate(files):
        save_file(build_network("resnet-20", (3, 32, 32), 10, seed=seed).state_dict(), file)
    options = {"task": "cifar10-resnet20", "files": files, "images": 30, "data_dir": pictures, "alphas": 5}
    mine, theirs = (
        SimpleNamespace(facts=measure())
        for measure in (ours.path(0, **options), tutorial.path(0, **options, loader_workers=0))
    )
    apart = summary.differences(mine, theirs)
    assert set(apart) == {"error", "loss", "barrier"}
    assert max(apart.values()) < 1e-4
    assert math.isclose(
        max(theirs.facts["error"]) - np.mean([theirs.facts["error"][i] for i in (0, -1)]), theirs.facts["barrier"]
    )


@pytest.mark.parametrize("way", ["vmap", "products"])
def test_what_was_tried_computes_the_same(way) -> None:
    """From the same weights, as far as their names and orders tell: logits of the network that is used."""
    grouped, expected = tried._WAYS["grouped"](3)
    logits, weights = tried._WAYS[way](3)
    if way == "vmap":
        found = dict(zip([name for name, _ in grouped.network.named_parameters()], weights, strict=True))
    else:
        names = [f"{layer}.weight" for layer in (0, 3, 7, 10, 14, 17)]
        names += [f"{layer}.{kind}" for kind in ("weight", "bias") for layer in (1, 4, 8, 11, 15, 18)]
        found = dict(zip([*names, "22.weight", "22.bias"], weights, strict=True))
    images = torch.randn(3, 8, 1, 8, 8)
    with torch.no_grad():
        for name, parameter in grouped.network.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            for member in range(3):
                own = grouped.part(name, parameter, member)
                if way == "products":
                    own = own.flatten(1) if own.ndim == 4 else own.T if own.ndim == 2 else own
                found[name][member].copy_(own)
    assert len(expected) == len(weights)
    torch.testing.assert_close(logits(images), grouped(images), rtol=1e-3, atol=1e-4)


# Asking less.


def test_what_a_search_trains_is_what_its_jobs_cost(data_dir) -> None:
    task = get_task("digits-conv").shortened(20)
    training = prepare(task, data_dir=data_dir, device="cpu")
    study = plan_study(training, StudyOptions(rewind_iters="0,2,5,10", together="no"))

    def cost(replicates_by_k: dict[int, int]) -> float:
        pairs = [pair for pair in plan_pairs(study) if pair.replicate < replicates_by_k.get(pair.rewind_iter, 0)]
        found, waiting = {}, jobs_of(pairs)
        while waiting:
            job = waiting.pop()
            found[job_name(job)] = job
            waiting += job.inputs
        of_one = training.training.cost(1)
        states = [job for job in found.values() if isinstance(job, TrainJob) and job.iteration]
        return sum(job.cost for job in states) / of_one

    for replicates_by_k in ({0: 3, 2: 3, 5: 3, 10: 3}, {2: 1, 5: 3}, {0: 1, 10: 2}):
        assert search_cost.iterations(replicates_by_k, 20, copies=2) == cost(replicates_by_k)
