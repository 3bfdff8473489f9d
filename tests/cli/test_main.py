"""The command line as a whole: help, what it imports, errors and exit status."""

import io
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import modeconn
from modeconn.cli.main import main
from modeconn.tasks import PRESETS

COMMANDS = [
    "instability",
    "lottery",
    "sweep",
    "export",
    "train",
    "barrier",
    "compare",
    "align",
    "average",
    "soup",
    "curve",
    "plane",
    "sharpness",
    "reproduce",
    "tasks",
    "runs",
    "plot",
]


@pytest.fixture
def here(tmp_path, monkeypatch, data_dir) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODECONN_DATA", str(data_dir))
    return tmp_path


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    return capsys.readouterr().out


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_help_lists_the_commands_in_order(capsys):
    assert re.findall(r"^    (\w+)(?:  |$)", help_of(capsys), re.M) == COMMANDS
    assert re.findall(r"^    (\w+)(?:  |$)", help_of(capsys, "runs"), re.M) == ["show", "verify", "clean"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_describes_itself_with_the_sentence_of_the_list(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    listed = re.search(rf"^    {command}\s+(.*)$", help_of(capsys), re.M)
    assert listed
    sentence = listed[1][0].upper() + listed[1][1:] + "."
    assert sentence in help_of(capsys, command)


def test_help_shows_the_defaults_of_the_named_task(capsys):
    shown = help_of(capsys, "instability", "mnist-lenet")
    assert "defaults: mnist-lenet" in shown
    assert "(default: lenet-300-100)" in shown


@pytest.mark.processes
def test_parsing_and_help_import_no_torch(tmp_path):
    """Nor do errors in what was asked for; so they are there at once."""
    lines = [[], *([command] for command in COMMANDS), *(["runs", action] for action in ("show", "verify", "clean"))]
    lines = [[*line, "--help"] for line in lines]
    lines += [["tasks"], ["runs", "--store", "nowhere"], ["train", "--seed", "x"], ["instability", "mnist-lent"]]
    lines += [["instability", "--copies", "1"], ["lottery", "--levels", "2", "--conditions", "inp"]]
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom modeconn.cli.main import main\n"
        f"for line in {lines!r}:\n"
        "    try: main(line)\n"
        "    except SystemExit: pass\n"
        "    found = {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "    assert not found, f'{line} imports {found}'\n"
    )
    done = run_python(str(script))
    assert done.returncode == 0, done.stderr
    for error in ("invalid int value", "'mnist-lenet'?", "there must be at least 2", "'imp' or 'snip'?"):
        assert error in done.stderr


@pytest.mark.processes
def test_importing_modeconn_imports_no_torch():
    done = run_python(
        "-c", "import sys, modeconn; assert 'torch' not in sys.modules; modeconn.Task; assert dir(modeconn)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("module", ["modeconn", "modeconn.cli.main"])
def test_python_runs_it_as_a_module(module):
    done = run_python("-m", module, "--version")
    assert (done.returncode, done.stdout) == (0, f"modeconn {modeconn.__version__}\n")
    assert run_python("-m", module, "runs", "--store", "nowhere").returncode == 1


def test_the_console_script_is_main():
    (script,) = entry_points(group="console_scripts", name="modeconn")
    assert script.load() is main


def test_errors_are_one_line_and_status_1_or_2_where_options_are_wrong(here, capsys):
    assert main(["instability", "mnist-lent"]) == 2
    assert capsys.readouterr().err == (
        "modeconn: unknown task 'mnist-lent'; did you mean 'mnist-lenet'? Known: " + ", ".join(sorted(PRESETS)) + "\n"
    )
    short = ["--iterations", "40", "--workers", "0", "--rewind-iters", "0,20"]
    assert main(["instability", *short, "--data-dir", "nowhere"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["plot", "nowhere"]) == 1
    assert main(["instability", *short, "--alphas", "2"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["instability", "--alphas", "x"],
        ["instability", "--copies", "two"],
        ["instability", "--task.milestones", "1,b"],
        ["instability", "--nope"],
        ["instability", "--replicate", "3"],  # the beginning of an option is none
        ["lottery", "--rates", "output=half"],
        ["lottery", "--task.validation", "3"],
        ["soup", "--gate", "x", "a.pt"],
        ["runs", "--yes"],
    ],
)
def test_what_cannot_be_parsed_is_status_2_and_names_the_option(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert arguments[1] in said
    assert said.startswith("modeconn: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("instabilty", "unknown command 'instabilty'; did you mean 'instability'? Known: align, "),
        ("runs shwo", "unknown action 'shwo'; did you mean 'show'? Known: clean, show, verify"),
        (
            "instability --rewind-iter 0",
            "unknown option --rewind-iter; did you mean --rewind-iters? See modeconn instab",
        ),
        ("instability --rewind_iter=0", "unknown option --rewind_iter; did you mean --rewind-iters?"),
        ("instability --task.learning_rat 1", "did you mean --task.learning-rate or --task.final-learning-rate?"),
        ("instability --zzz", "unknown option --zzz; see modeconn instability --help"),
        ("instability digits-conv extra", "nothing is taken here for 'extra'; see modeconn instability --help"),
        ("runs --store x verify --yess", "unknown option --yess; see modeconn runs verify --help"),
        ("instability --alphas", "--alphas: expected one argument; see modeconn instability --help"),
        ("soup --gate x a.pt", "'x' is neither a number of percentage points nor none"),
        ("instability --task.batch-size 0", "--task.batch-size must be at least 1"),
        ("instability --task.learning_rate -1", "--task.learning-rate must be positive; got -1.0"),
        ("", "arguments are required: COMMAND"),
    ],
)
def test_what_was_perhaps_meant_is_said(line, said, capsys):
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_options_may_have_underscores_and_their_values_stay_as_they_are(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr("modeconn.instability", lambda task, **options: asked.update(options, task=task))
    line = ["instability", "--task.learning_rate=0.5", "--rewind_iters", "0", "--out", "my_results", "--workers", "0"]
    assert main(line) == 0
    assert asked["task"].learning_rate == 0.5
    assert (asked["rewind_iters"], str(asked["out"])) == ("0", "my_results")


def test_an_interrupted_command_is_status_130_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeconn.instability", interrupt)
    assert main(["instability", "--workers", "0"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.processes
def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "modeconn", "tasks"], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_fault_of_our_own_is_one_sentence_and_a_traceback_in_a_file(monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise KeyError("Ω\n\udcff")

    monkeypatch.setattr("modeconn.instability", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["instability", "--workers", "0"]) == 1
    said = capsys.readouterr().err
    (file,) = tmp_path.glob("modeconn-*.txt")
    assert said.count("\n") == 1
    assert f"please report it to the modeconn developers, with {file}" in said
    assert "modeconn instability --workers 0" in file.read_text()
    assert 'raise KeyError("' in file.read_text()


def test_a_function_that_ends_python_does_not_pass_for_success(monkeypatch, capsys):
    def leave(*_, **__):
        sys.exit(0)

    monkeypatch.setattr("modeconn.instability", leave)
    assert main(["instability", "--workers", "0"]) == 1
    assert "ended Python" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_letter_gets_its_number(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    monkeypatch.setattr("modeconn.cli.studies.PRESETS", {"Ω\udcff": replace(PRESETS["digits-conv"], name="Ω\udcff")})
    assert main(["tasks"]) == 0
    sys.stdout.flush()
    assert b"\\u03a9\\udcff" in written.getvalue()
