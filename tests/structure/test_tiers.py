"""The rules of tests/tiers.py, on planted tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiers

PLANTED = """
import subprocess, sys, time
import pytest

def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_quick():
    pass

def test_long():
    compute(0.3)

def test_long_elsewhere():
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)

def test_waiting():
    time.sleep(0.3)

@pytest.mark.slow
def test_long_and_marked():
    compute(0.3)

@pytest.mark.simulation
def test_wrong():
    assert False
"""

pytestmark = pytest.mark.processes


@pytest.fixture
def outcomes(tmp_path):
    """Run pytest as in this repository on a folder with planted tests; whether each that ran passed, and the output."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_planted.py").write_text(PLANTED)

    def run(*arguments: str, slack: str = "0.04") -> tuple[dict[str, bool], str]:
        settings = Path(tiers.__file__).parents[1] / "pyproject.toml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", ".", "-p", "tiers", "-rA", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(tiers.__file__).parent), tiers.SLACK: slack},
            capture_output=True,
            text=True,
        )
        ran = [
            line.split(" - ")[0].split() for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))
        ]
        return {test.split("::")[1]: outcome == "PASSED" for outcome, test in ran}, done.stdout

    return run


def test_a_test_without_a_tier_fails_when_it_takes_too_long(outcomes):
    """A 25th of 5 s of CPU time, with that of processes it waited for."""
    passed, output = outcomes("tests")
    assert passed == {"test_quick": True, "test_long": False, "test_long_elsewhere": False, "test_waiting": True}
    assert "s of CPU time, over 0.2 s: make it quicker, or mark it slow, processes or simulation" in output


def test_on_a_slow_machine_it_may_take_longer(outcomes):
    passed, _ = outcomes("tests", slack="1")
    assert passed["test_long"]


def test_what_is_named_runs_whatever_its_tier(outcomes):
    assert len(outcomes("tests/test_planted.py")[0]) == 6
    assert outcomes("tests/test_planted.py::test_long_and_marked")[0] == {"test_long_and_marked": True}
    assert outcomes("tests/test_planted.py", "-m", "simulation")[0] == {"test_wrong": False}


def test_everything_is_one_option_away_and_a_mark_nobody_knows_is_refused(outcomes, tmp_path):
    passed, output = outcomes("-m", "", slack="1")
    assert len(passed) == 6
    assert "2 workers" in output
    (tmp_path / "tests" / "test_planted.py").write_text("import pytest\n@pytest.mark.slwo\ndef test(): pass\n")
    assert "'slwo' not found in `markers`" in outcomes("tests")[1]
