"""Every figure of the papers at protocol smoke, what is refused, and the ledger."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import made_results
import pytest

from modeconn import get_task, instability
from modeconn.cli.main import main
from modeconn.errors import DataError
from modeconn.reproduce.cost import trainings_of
from modeconn.reproduce.figure import PAPERS, PROTOCOLS, SMOKE, SOURCES
from modeconn.reproduce.forecast import every_job
from modeconn.reproduce.ledger import ledger, write_ledger
from modeconn.reproduce.run import planned_jobs, reproduce
from modeconn.reproduce.scripts import figure_names, load_figure
from modeconn.tickets.sweep_result import SweepResult
from modeconn.training.jobs import TrainJob

ROOT = Path(__file__).parents[2]
NAMES = figure_names()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one store, so that studies that figures share are computed once."""
    return tmp_path_factory.mktemp("figures")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_made_by_its_command(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    arguments = ["reproduce", name, "--protocol", "smoke", "--workers", "0"]
    assert main(arguments) == 0
    assert "trainings" in capsys.readouterr().out.splitlines()[0]
    base = folder / "figures" / name / f"{SMOKE}-smoke"
    about = json.loads(base.with_name(f"{base.name}.json").read_text())
    assert about["command"] == f"modeconn {' '.join(arguments)}"
    assert (about["figure"], about["network"], about["protocol"]) == (name, SMOKE, "smoke")
    assert about["verdict"] in ("agrees", "disagrees", "not reached", "new")
    assert about["found"]
    assert about["n"]
    assert all({"processor", "threads"} <= machine.keys() for machine in about["machine"])
    assert all(about[name] for name in ("machine", "versions"))
    for ending, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert base.with_name(f"{base.name}.{ending}").read_bytes().startswith(magic)
    rows = list(csv.DictReader(base.with_name(f"{base.name}.csv").open()))
    assert rows
    assert all(None not in row and None not in row.values() for row in rows)
    if name == "lmc2020-figure-3":  # once more, everything is in the store
        assert main(arguments) == 0
        assert "nothing is left to compute" in capsys.readouterr().out.splitlines()[0]
        again = json.loads(base.with_name(f"{base.name}.json").read_text())["trainings"]["dense"]
        assert again == dict.fromkeys(
            ("needed", "stored"), trainings_of(load_figure(name).studies(SMOKE, "smoke")["dense"])
        )


@pytest.mark.slow
def test_a_store_in_another_precision_is_said_and_not_used(tmp_path):
    figure, said = load_figure("lmc2020-figure-3"), []
    study = figure.studies(SMOKE, "smoke")["dense"]
    options = {name: value for name, value in study.options.items() if not name.startswith("task.")}
    task = get_task(SMOKE, width=study.options["task.width"])
    how = {"store": tmp_path / "store", "workers": 0}
    instability(task, **options | {"rewind_iters": "8", "replicates": 1, "precision": "bfloat16"}, **how)
    path = reproduce(figure, "lmc2020-figure-3", protocol="smoke", out=tmp_path, say=said.append, **how)
    assert json.loads(path.read_text())["trainings"]["dense"]["stored"] == 0
    assert "of them in the store" not in said[0]
    assert said[1] == (
        "the store has states of these trainings in bfloat16, which are other results; here they are in float32"
    )


def test_a_precision_is_that_of_every_training_of_a_figure_and_nothing_else_changes():
    figure, where = load_figure("lmc2020-figure-4"), {"device": "cpu", "data_dir": None}
    for precision in ("float32", "bfloat16"):
        for title, study in figure.studies(SMOKE, "smoke", precision).items():
            assert study.options == {**figure.studies(SMOKE, "smoke")[title].options, "precision": precision}
            jobs = every_job(planned_jobs(study, where))
            assert {job.training.precision for job in jobs if isinstance(job, TrainJob)} == {precision}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_is_of_and_how_it_is_called(name):
    figure = load_figure(name)
    script = ROOT / "analyses" / f"{name.replace('-', '_')}.py"
    text = script.read_text()
    assert figure.paper in PAPERS
    assert name.startswith(figure.paper)
    assert f"modeconn reproduce {name} " in text
    assert f"python analyses/{script.name} " in text
    assert "smoke" in figure.networks[SMOKE].protocols
    for title, network in figure.networks.items():
        assert set(network.protocols) <= set(PROTOCOLS)
        assert network.source in SOURCES
        assert network.protocols or network.cost  # what cannot be computed here says what it would cost
        assert network.claim or title == SMOKE or figure.paper == "beyond"


@pytest.mark.parametrize("name", NAMES)
def test_options_of_every_protocol_are_ones_that_its_study_takes(name):
    for network in load_figure(name).networks.values():
        for studies in network.protocols.values():
            for study in studies.values():
                assert trainings_of(study) > 1
                fields = {
                    option.removeprefix("task."): value for option, value in study.options.items() if "." in option
                }
                assert get_task(study.task, **fields)


@pytest.mark.processes
def test_a_script_is_the_command():
    done = subprocess.run(
        [sys.executable, str(ROOT / "analyses" / "lmc2020_figure_3.py"), "--protocol", "nothing"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "unknown protocol 'nothing'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lmc2020-figure-33"], "unknown figure 'lmc2020-figure-33'; did you mean 'lmc2020-figure-3'"),
        (["lmc2020-figure-3", "--protocol", "long"], "unknown protocol 'long'"),
        (
            ["lmc2020-figure-3", "--network", "resnet-20"],
            "unknown network 'resnet-20'; did you mean 'cifar10-resnet20'",
        ),
        (
            ["lmc2020-figure-3", "--network", "cifar10-vgg16"],
            "for cifar10-vgg16 cannot be computed here: it would take 22 h",
        ),
        (["lth2019-figure-8"], "Figure 8 of lth2019 has the protocols paper, smoke, not short"),
        (
            ["lmc2020-figure-3", "--protocol", "smoke", "--workers", "-1"],
            "workers must be a whole number, not negative",
        ),
        (
            ["lmc2020-figure-3", "--network", "mnist-lenet", "--protocol", "smoke"],
            "has the protocols paper, short, not smoke",
        ),
        ([], "which figure? modeconn reproduce --list names them"),
        (
            ["beyond-edge-of-stability", "--network", "digits-conv", "--protocol", "smoke", "--precision", "bfloat16"],
            "full-batch gradient descent is computed in float32; leave precision out",
        ),
        (["lmc2020-figure-3", "--protocol", "smoke", "--precision", "float12"], "unknown precision 'float12'"),
        (
            ["lmc2020-figure-3", "--protocol", "smoke", "--precision", "float32", "--saved", "study"],
            "a saved study was computed in its own precision; leave precision out",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_said_before_anything_is_computed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["lmc2020-figure-3", "--network", "mnist-lenet", "--protocol", "paper", "--data-dir", str(tmp_path)]
    assert main(["reproduce", *arguments]) == 1
    assert "mnist" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").write_text("a file")
    assert main(["reproduce", "lmc2020-figure-3", "--protocol", "smoke"]) == 1
    assert "cannot write figures/lmc2020-figure-3" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


@pytest.mark.parametrize("name", ["lmc2020-appendix-b", "lmc2020-appendix-g", "beyond-early"])
def test_a_saved_study_without_what_a_figure_shows_is_said(name, tmp_path):
    made_results.instability().save(tmp_path / "study")
    with pytest.raises(DataError, match="has not all that this figure shows; its study is one with"):
        reproduce(load_figure(name), name, protocol="smoke", saved=tmp_path / "study", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_list_has_every_figure(capsys):
    assert main(["reproduce", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shared"),
    # One-shot pruning to the first level is that level's ticket, with its reinitialisation; and where tickets are no
    # condition, that of the last level is not trained.
    [("lmc2020-figure-3", 0), ("lmc2020-figure-6", 0), ("lth2019-figure-4", 2), ("pai2021-ablations", 2)],
)
def test_trainings_are_counted_from_options_as_they_are_planned(name, shared):
    for study in load_figure(name).studies(SMOKE, "smoke").values():
        jobs = every_job(planned_jobs(study, {"device": "cpu", "data_dir": None}))
        ends = [job for job in jobs if isinstance(job, TrainJob) and job.iteration == job.training.iterations]
        assert trainings_of(study) == len(ends) + shared


def test_a_path_of_figure_2_is_that_at_the_end_of_training():
    figure, end = load_figure("lmc2020-figure-2"), made_results.instability()
    sooner = [row | {"iteration": 50, "error": 0.0} for row in end.paths]
    both = replace(
        end,
        rows=[row | {"iteration": i} for i in (50, 100) for row in end.rows],
        paths=sooner + [row | {"iteration": 100} for row in end.paths],
    )
    assert [row["error"] for row in figure.rows({"dense": both})] == [
        row["error"] for row in figure.rows({"dense": end})
    ]
    assert figure.judge({"dense": both}).found == figure.judge({"dense": end}).found


# --- the ledger


def test_the_ledger_is_what_the_files_say():
    assert (ROOT / "figures" / "README.md").read_text() == ledger(ROOT / "figures").rstrip() + "\n"


def test_every_picture_of_a_paper_has_its_row():
    said = (ROOT / "figures" / "README.md").read_text()
    for path in (ROOT / "figures").glob("*/*.json"):
        if "figure" in json.loads(path.read_text()) and "smoke" not in path.name:
            assert f"({path.parent.name}/{path.stem}.png)" in said
            assert path.with_suffix(".png").exists()


def test_what_disagrees_says_why_that_may_be():
    said = (ROOT / "figures" / "README.md").read_text()
    assert "| disagrees: " in said
    assert "| disagrees |" not in said


def test_a_ledger_of_nothing_says_what_each_run_would_cost(tmp_path):
    path = write_ledger(tmp_path)
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ") and "| what |" not in line]
    networks = sum(len(load_figure(name).networks) - 1 for name in NAMES)  # but the digits, which no paper has
    assert len(lines) == networks
    assert all(line.endswith("| not reached |") for line in lines)


def test_a_sweep_that_is_kept_has_its_line(tmp_path):
    about = {"condition": "imp", "replicate": 0, "property": "stable", "measured": 2}
    rows = [about | {"level": n, "density": 0.8**n, "rewind_iter": k} for n, k in ((1, 4), (3, None))]
    summary = {"task": "digits-conv", "task_changes": "", "replicates": 1, "iterations": 400, "threshold": 0.02}
    SweepResult(rows, summary | {"candidates": [0, 4], "data_note": ""}).save(tmp_path / "studies" / "one")
    (line,) = [line for line in ledger(tmp_path).splitlines() if line.startswith("- [one]")]
    assert line.endswith("imp 4 at 80 %, inf at 51.2 %.")


def test_a_lottery_of_several_k_that_is_kept_has_the_errors_of_the_first(tmp_path, monkeypatch):
    result = made_results.lottery((0, 5))
    (tmp_path / "studies" / "one").mkdir(parents=True)
    (tmp_path / "studies" / "one" / "summary.json").write_text("{}")
    monkeypatch.setattr("modeconn.reproduce.ledger.load_result", lambda folder: result)
    (line,) = [line for line in ledger(tmp_path).splitlines() if line.startswith("- [one]")]
    at_0 = [row["test_error"] for row in result.rows if row["rewind_iter"] == 0 and row["level"] == 2]
    assert (
        f"rewound to 0: dense 2.50, imp {100 * sum(at_0[::2]) / 2:.2f}, random {100 * sum(at_0[1::2]) / 2:.2f}." in line
    )


def test_a_verdict_comes_from_its_file(tmp_path):
    folder = tmp_path / "lmc2020-figure-3"
    folder.mkdir()
    about = {"found": "0.5 points | at 0", "verdict": "agrees", "n": {"dense": "3 replicates"}}
    (folder / "mnist-lenet-paper.json").write_text(json.dumps(about))
    (row,) = [line for line in ledger(tmp_path).splitlines() if "mnist-lenet-paper" in line]
    assert row.endswith(
        "| 0.5 points \\| at 0 | [paper](lmc2020-figure-3/mnist-lenet-paper.png), 3 replicates | agrees |"
    )
    (folder / "mnist-lenet-paper.json").write_text(json.dumps(about | {"precision": "float32"}))
    assert "paper.png) in float32, 3 replicates | agrees |" in ledger(tmp_path)
    (folder / "mnist-lenet-paper.json").rename(folder / "mnist-lenet-short.json")
    (row,) = [line for line in ledger(tmp_path).splitlines() if "mnist-lenet-short" in line]
    assert "3 replicates; paper: not run, at most 45 trainings |" in row
    (folder / "cifar10-resnet20-short.json").write_text(json.dumps(about))
    (row,) = [line for line in ledger(tmp_path).splitlines() if "cifar10-resnet20-short" in line]
    assert "3 replicates; paper: not run, at most 72 trainings, 4.5 h each in full length on one core" in row
    tickets = tmp_path / "lth2019-figure-1"
    tickets.mkdir()
    (tickets / "mnist-lenet-short.json").write_text(json.dumps(about))
    assert "3 replicates; paper: not run, at most 1,130 trainings of 50,000 iterations |" in ledger(tmp_path)
    (folder / "mnist-lenet-paper.json").write_text(json.dumps(about | {"n": [1]}))
    with pytest.raises(DataError, match="not the JSON of a figure"):
        ledger(tmp_path)
    (folder / "mnist-lenet-paper.json").write_text("{}")
    with pytest.raises(DataError, match="not the JSON of a figure"):
        ledger(tmp_path)
