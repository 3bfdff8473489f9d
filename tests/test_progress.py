"""Progress of a study on a terminal and elsewhere."""

import ast
import inspect
import io
import logging
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import modeconn
from jobs_for_tests import Add
from modeconn.progress import Progress, progress_bar, silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as report:
        for done in range(5):
            report(Progress(done, 0, 4, float(done), 4.0, ()))
        report(Progress(3, 1, 4, 3.0, 4.0, ()))  # work can shrink again
    printed = sys.stderr.getvalue()
    assert "left" in printed
    assert "2 of 4 jobs" in printed
    assert "100%" in printed
    assert "1 failed" in printed


def test_a_bar_counts_what_runs_and_goes_on_over_several_graphs(monkeypatch):
    """A search runs one graph of jobs after the other; its bar does not begin anew, nor stay at its end."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as report:
        report(Progress(0, 0, 2, 0.0, 2.0, ()))
        report(Progress(1, 1, 2, 2.0, 2.0, ()))
        report(Progress(0, 0, 3, 0.0, 6.0, ()))
        report(Progress(1, 0, 3, 2.0, 6.0, (Add(1), Add(2))))
        time.sleep(0.2)  # a bar is drawn ten times a second
        report(Progress(2, 0, 3, 4.0, 6.0, (Add(2),)))
        report(Progress(3, 0, 3, 6.0, 6.0, ()))
    drawn = sys.stderr.getvalue().split("\r")
    assert any("25%" in line and "1 of 5 jobs, 1 failed" in line for line in drawn)
    assert any("75%" in line and "3 of 5 jobs, 1 running, 1 failed" in line for line in drawn)
    assert any("100%" in line and "4 of 5 jobs, 1 failed" in line for line in drawn)


def test_the_time_left_is_what_the_work_so_far_took_for_as_much(monkeypatch):
    """Most looks find nothing new; their time counts. Of the first percent nobody could say."""
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as report:
        for second in range(101):
            clock[0] = float(second)
            report(Progress(0, 0, 2, second // 25 * 25 or second / 100, 200.0, (Add(1),)))
    printed = sys.stderr.getvalue()
    assert " 0% |                        | 00:24 elapsed, ? left" in printed
    assert "01:15 elapsed, 02:05 left" in printed
    assert "01:40 elapsed, 01:40 left" in printed


def test_a_warning_is_a_line_above_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(terminal)])
    with progress_bar() as report:
        report(Progress(0, 0, 2, 1.0, 2.0, (Add(1),)))
        logging.getLogger("modeconn").warning("a worker was lost")
    lines = terminal.getvalue().split("\n")
    assert "a worker was lost" in [line.rpartition("\r")[2] for line in lines]


def test_work_without_cost_is_shown_too(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar() as report:
        for done in range(3):
            report(Progress(done, 0, 2, 0.0, 0.0, ()))
    assert capsys.readouterr().err == "modeconn: 0 %, 1 of 2 jobs\n"


def test_elsewhere_there_are_a_few_plain_lines(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar() as report:
        for done in range(5):
            report(Progress(done, 0, 4, float(done), 4.0, ()))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one in thirty seconds
    assert lines[0] == "modeconn: 25 %, 1 of 4 jobs, about 120 s left"


def test_graphs_add_up_though_one_failed_as_a_whole(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar() as report:
        for jobs, failed in ((2, 2), (3, 0), (5, 1)):
            report(Progress(0, 0, jobs, 0.0, 2.0 * jobs, ()))
            report(Progress(jobs - failed, failed, jobs, 2.0 * jobs, 2.0 * jobs, ()))
    said = [line.partition(", about")[0] for line in capsys.readouterr().err.splitlines()]
    assert said[1:] == [
        "modeconn: 100 %, 0 of 2 jobs, 2 failed",
        "modeconn: 40 %, 0 of 5 jobs, 2 failed",
        "modeconn: 100 %, 3 of 5 jobs, 2 failed",
        "modeconn: 50 %, 3 of 10 jobs, 2 failed",
        "modeconn: 100 %, 7 of 10 jobs, 3 failed",
    ]


def test_steps_after_jobs_are_counted_by_themselves(monkeypatch, capsys):
    """A training's cost and a curve's steps are no sum."""
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar() as report:
        report(Progress(1, 0, 2, 600.0, 1200.0, ()))
        report(Progress(2, 0, 2, 1200.0, 1200.0, ()))
        for step in (1, 3):
            report(Progress.counted(step, 4, "steps"))
        report(Progress.counted(1, 2, "steps"))
    said = [line.partition(", about")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "modeconn: 50 %, 1 of 2 jobs",
        "modeconn: 100 %, 2 of 2 jobs",
        "modeconn: 25 %, 1 of 4 steps",
        "modeconn: 75 %, 3 of 4 steps",
        "modeconn: 67 %, 4 of 6 steps",
    ]
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as report:
        report(Progress(2, 0, 2, 1200.0, 1200.0, ()))
        report(Progress.counted(1, 4, "steps"))
    assert " 25%" in sys.stderr.getvalue().rpartition("100%")[2]


def test_a_study_says_at_once_what_it_is_about_to_do_and_once(monkeypatch, capsys):
    with progress_bar() as report:
        for about in ("3 of 5 jobs to compute", "1 of 1 jobs to compute"):
            report(Progress(0, 0, 3, 0.0, 0.0, (), about))
            report(Progress(1, 0, 3, 1.0, 3.0, ()))
    assert capsys.readouterr().err == "modeconn: 3 of 5 jobs to compute\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as report:
        report(Progress(0, 0, 3, 0.0, 0.0, (), "3 of 5 jobs to compute"))
        report(Progress(3, 0, 3, 3.0, 3.0, ()))
    shown = sys.stderr.getvalue()
    assert "modeconn: 3 of 5 jobs to compute\n" in shown
    assert "100%" in shown


def _reporting() -> list[ast.FunctionDef]:
    """The public functions that take `report=`."""
    homes = set(modeconn._HOMES.values())
    trees = [ast.parse(Path(import_module(home).__file__).read_text()) for home in homes]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = [node for node in functions if node.name in modeconn.__all__]
    return [node for node in public if "report" in [argument.arg for argument in node.args.kwonlyargs]]


@pytest.mark.parametrize("function", sorted(node.name for node in _reporting()))
def test_every_public_function_that_reports_can_show_its_progress(function: str):
    arguments = inspect.signature(getattr(modeconn, function)).parameters
    assert arguments["progress"].default is False
    assert arguments["report"].default is silent  # a name in help()
    assert "progress" in getattr(modeconn, function).__doc__


NETWORKS = [nn.Linear(2, 2) for _ in range(2)]
DATA = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)


def test_progress_is_shown_where_it_is_asked_for_and_told_all_the_same(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "stderr", Terminal())
    modeconn.error_barrier(*NETWORKS, DATA, alphas=5, report=told.append)
    assert sys.stderr.getvalue() == ""
    modeconn.error_barrier(*NETWORKS, DATA, alphas=5, report=told.append, progress=True)
    assert "5 of 5 points" in sys.stderr.getvalue()
    assert [state.done for state in told] == [1, 2, 3, 4, 5] * 2


def test_an_alignment_shows_its_tries(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    deep = [nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
    modeconn.align(*deep, tries=2, progress=True)
    assert "1 of 2 tries" in sys.stderr.getvalue()


def test_in_a_notebook_there_is_a_bar_though_stderr_is_no_terminal(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm misses ipywidgets
        modeconn.error_barrier(*NETWORKS, DATA, alphas=3, progress=True)
    assert "100%" in drawn.getvalue()


def test_what_fails_leaves_no_bar_behind(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(modeconn.ModeconnError):
        modeconn.error_barrier(*NETWORKS, DATA, alphas=1, progress=True)


def test_a_training_says_what_of_it_is_in_the_store(tmp_path, data_dir, capsys):
    how = {"iterations": 3, "workers": 0, "device": "cpu", "data_dir": data_dir, "store": tmp_path, "progress": True}
    modeconn.train("digits-conv", save_at=[1], **how)
    assert capsys.readouterr().err == f"modeconn: 2 of 2 jobs to compute on 1 worker; 0 in the store {tmp_path}\n"
    modeconn.train("digits-conv", save_at=[1], **how)
    assert capsys.readouterr().err == f"modeconn: 0 of 2 jobs to compute on 1 worker; 2 in the store {tmp_path}\n"


@pytest.mark.slow
def test_a_search_may_need_less_than_it_says(tmp_path, data_dir):
    told = []
    how = {"iterations": 4, "workers": 0, "device": "cpu", "data_dir": data_dir, "store": tmp_path, "alphas": 3}
    study = {"rewind_iters": [0, 1, 2, 3], "search": True, "replicates": 1, "calibration": 50}
    modeconn.instability("digits-conv", **study, **how, report=told.append)
    first, *others = told
    assert first.about.startswith("up to ")
    assert not any(state.about for state in others)
    assert first.jobs > sum(state.jobs for state in others if not state.done and not state.running)
