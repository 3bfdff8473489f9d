"""Progress of a study on a terminal and elsewhere."""

import io
import logging
import sys
import time

from jobs_for_tests import Add
from modeconn.cli.progress import progress_bar
from modeconn.progress import Progress


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
