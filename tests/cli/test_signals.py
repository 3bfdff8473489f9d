"""Ctrl-C and SIGTERM end a command with one sentence and a status of their own, and the second at once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeconn.cli.main import main

pytestmark = pytest.mark.processes
COMMAND = """
import sys, time
import modeconn.cli.runs
from modeconn.cli.main import main

def runs(options):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        {cleaning}

modeconn.cli.runs.runs = runs
sys.argv = ["modeconn", "runs"]
{before}
sys.exit(main())
"""


def end(*numbers: int, cleaning: str = "pass", before: str = "") -> tuple[int, str]:
    """The status of a command that was sent signals, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(cleaning=cleaning, before=before)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background of a script is told to ignore Ctrl-C, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.3)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.strip()


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_command_with_one_sentence(number, status, word):
    assert end(number) == (status, f"modeconn: {word}; the same command goes on from here")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_without_a_traceback(second):
    """While what was under way is still cleaned up, or while Python shuts down."""
    assert end(signal.SIGINT, second, cleaning="time.sleep(60)") == (-second, "")
    late = "import atexit; atexit.register(time.sleep, 60)"
    assert end(signal.SIGINT, second, before=late) == (
        -second,
        "modeconn: interrupted; the same command goes on from here",
    )


def test_what_is_ignored_stays_ignored():
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert end(signal.SIGINT, signal.SIGTERM, before=ignoring)[0] == 143


def test_a_program_that_calls_main_keeps_its_handlers(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["tasks"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_moments_comes_out_the_same(tmp_path):
    """A handful; the script makes as many as are asked for."""
    file, script = tmp_path / "kills.json", Path(__file__).parents[2] / "benchmarks" / "kills.py"
    counts = {"driver": 2, "group": 1, "terminate": 1, "server": 1}
    options = [word for kind, number in counts.items() for word in (f"--{kind}", str(number))]
    done = subprocess.run([sys.executable, str(script), *options, "--json", str(file)], capture_output=True, text=True)
    found = json.loads(file.read_text())
    assert (done.returncode, found["problems"]) == (0, [])
    assert {kind: found["kills"][kind] for kind in counts} == counts
