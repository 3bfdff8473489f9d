import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from modeconn.cli.main import main
from modeconn.tasks import PRESETS

SMALL = ["--replicates", "1", "--alphas", "3", "--iterations", "40", "--workers", "0", "--rewind-iters", "0,20"]


@pytest.fixture
def here(tmp_path, monkeypatch, data_dir) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODECONN_DATA", str(data_dir))
    return tmp_path


def test_the_digits_study_end_to_end(here, capsys):
    """The default study with one replicate and its first and last k: unstable at 0, stable later."""
    command = [sys.executable, "-m", "modeconn", "instability", "--replicates", "1", "--rewind-iters", "0,30%"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    files = next(line for line in done.stdout.splitlines() if line.startswith("Files: "))
    folder = here / files.split()[1]
    assert "On test data the network is stable (below 2 points) from iteration 120" in done.stdout
    rows = pd.read_csv(folder / "instability.csv").set_index(["split", "batchnorm", "rewind_iter"])["barrier"]
    for split in ("test", "train"):
        assert rows[split, "interpolate", 0] > 0.1
        assert rows[split, "interpolate", 120] < 0.02
        assert rows[split, "recalibrate", 0] < rows[split, "interpolate", 0]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stable_from"]["test"]["interpolate"] == 120
    assert summary["command"] == "modeconn instability --replicates 1 --rewind-iters 0,30%"


def test_a_study_prints_its_table_sentences_and_note(here, capsys):
    assert main(["instability", *SMALL, "--splits", "test"]) == 0
    printed = capsys.readouterr().out
    for part in ("interpolate", "recalibrate", "mean", "std", "stable", "The two columns differ in BatchNorm alone"):
        assert part in printed
    assert "train data" not in printed


def test_hyperparameters_are_options_and_have_the_last_word(here, capsys):
    arguments = ["--task.learning-rate", "0.05", "--task.milestones", "10,30", "--no-task.nesterov", "--out", "o"]
    assert main(["instability", *SMALL, *arguments, "--task.norm", "none"]) == 0
    options = json.loads((here / "o" / "summary.json").read_text())["options"]
    assert (options["learning_rate"], options["milestones"], options["norm"]) == (0.05, [10, 30], "none")
    assert "BatchNorm" not in capsys.readouterr().out  # there is none, so nothing is said of it


def test_the_note_of_the_data_is_shown(here, data_dir, capsys):
    import numpy as np

    from modeconn import load_data

    load_data("digits", data_dir)
    arrays = dict(np.load(data_dir / "digits.npz"))
    np.savez(here / "mine.npz", **{**arrays, "note": np.array("MINE: scanned twice")})
    assert main(["instability", *SMALL, "--task.data", "mine.npz", "--out", "o"]) == 0
    assert "Data: MINE: scanned twice" in capsys.readouterr().out
    assert json.loads((here / "o" / "summary.json").read_text())["data_note"] == "MINE: scanned twice"


def test_train_prints_metrics_and_where_states_are(here, capsys):
    assert main(["train", "--iterations", "40", "--save-at", "0,50%"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines()[1:9:2]] == [[str(t), "train"] for t in (4, 8, 12, 16)]
    folders = [Path(line.split(": ")[1]) for line in printed.splitlines() if line.startswith("State at")]
    assert len(folders) == 3
    assert all((folder / "weights.safetensors").exists() for folder in folders)


def test_runs_lists_what_the_store_holds(here, capsys):
    main(["instability", *SMALL])
    capsys.readouterr()
    assert main(["runs"]) == 0
    studies, runs = capsys.readouterr().out.split("\n\n")
    assert studies.splitlines()[1].split()[1:5] == ["done", "20", "of", "20"]
    lines = runs.splitlines()[1:]
    assert {line.split()[1] for line in lines} == {"done"}
    assert {line.split("-")[0] for line in lines} == {"state", "cohort", "evaluation", "path"}
    for label in ("replicate 0 copy 2 from 20", "2 copies from 20"):
        assert any(line.endswith(label) for line in lines)
    assert main(["runs", "--store", "nowhere"]) == 1
    assert not (here / "nowhere").exists()


def test_plot_draws_the_same_pictures_again(here, capsys):
    main(["instability", *SMALL, "--out", "o"])
    before = {path.name: path.read_bytes() for path in (here / "o").glob("*.p*")}
    for name in before:
        (here / "o" / name).unlink()
    assert main(["plot", "o"]) == 0
    assert {path.name: path.read_bytes() for path in (here / "o").glob("*.p*")} == before
    assert len(before) == 4


def test_tasks_are_listed_with_their_source(capsys):
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)
    assert printed.count("Frankle") == len(PRESETS) - 1


def test_errors_are_one_line_and_status_1(here, capsys):
    assert main(["instability", "mnist-lent"]) == 1
    assert capsys.readouterr().err == (
        "modeconn: unknown task 'mnist-lent'; did you mean 'mnist-lenet'? Known: " + ", ".join(sorted(PRESETS)) + "\n"
    )
    assert main(["instability", *SMALL, "--data-dir", "nowhere"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["plot", "nowhere"]) == 1
    assert main(["instability", *SMALL, "--alphas", "2"]) == 1


@pytest.mark.parametrize(
    "arguments", [["--alphas", "x"], ["--copies", "two"], ["--task.milestones", "1,b"], ["--nope"]]
)
def test_what_is_no_number_is_refused_with_the_option_named(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["instability", *arguments])
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["instability"], ["train"], ["tasks"], ["runs"], ["runs", "show"], ["plot"]])
def test_help_is_complete_and_imports_no_torch(command):
    code = (
        "import sys\nfrom modeconn.cli.main import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules), 'help must be quick'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if command == ["instability"]:
        for option in ("--rewind-iters", "--replicates", "--copies", "--alphas", "--threshold", "--batchnorm",
                       "--splits", "--noise", "--iterations", "--workers", "--device", "--precision", "--seed",
                       "--store", "--data-dir", "--out", "--task.model", "--task.learning-rate"):  # fmt: skip
            assert option in done.stdout
        assert done.stdout.count("(default") > 30


def test_help_shows_the_defaults_of_the_named_task(capsys):
    with pytest.raises(SystemExit):
        main(["instability", "mnist-lenet", "--help"])
    assert "defaults: mnist-lenet" in capsys.readouterr().out


def test_importing_modeconn_imports_no_torch():
    code = "import sys, modeconn; assert 'torch' not in sys.modules; modeconn.Task; assert dir(modeconn)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
