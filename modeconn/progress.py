"""Progress of a long computation: how it is reported, and shown at a terminal, in a notebook and elsewhere."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_LAYOUT = "{percentage:3.0f}% |{bar:24}| {elapsed} elapsed, {remaining} left{postfix}"
_ENOUGH = 0.01  # the part of the work that must be done before the time left is more than a guess
_LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


@dataclass(frozen=True)
class Progress:
    """The state of a long computation: what is done of it, and what there is to do.

    Attributes:
        done, failed, jobs: jobs, or what else is counted, and how many there are.
        work, total: what is done and what there is to do, in the jobs' units of cost.
        running: the jobs that are being computed now.
        about: of the first report of a study, what it is about to do and where, in words; else empty.
        unit: what is counted.
    """

    done: int
    failed: int
    jobs: int
    work: float
    total: float
    running: tuple[object, ...]
    about: str = ""
    unit: str = "jobs"

    @classmethod
    def counted(cls, done: int, of: int, unit: str) -> Self:
        """That of equal parts, done one after the other."""
        return cls(done, 0, of, done, of, (), unit=unit)


Report = Callable[[Progress], None]
_Show = Callable[..., None]  # of the progress, and whether it is of other work than before
_NOTHING = Progress(0, 0, 0, 0.0, 0.0, ())


def silent(*progress: object) -> None:
    """Report nothing."""


def with_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Have `progress=True` show what a function tells its `report=`.

    The function names `progress: bool = False` among its arguments, for help and type checkers, and ignores it.
    """

    @functools.wraps(function)
    def shown(*args: P.args, **given: P.kwargs) -> R:
        if not given.pop("progress", False):
            return function(*args, **given)
        told: Any = given.get("report", silent)
        with progress_bar() as show:

            def report(*state: Any) -> None:
                show(state[0] if len(state) == 1 else Progress.counted(state[0], state[1], "tries"))
                told(*state)

            given["report"] = report
            return function(*args, **given)

    return shown


@contextlib.contextmanager
def progress_bar() -> Iterator[Report]:
    """Show the progress of a whole study and the time left: a bar at a terminal or in a notebook, lines elsewhere.

    The bar is on stderr, or a widget where ipywidgets is installed; elsewhere there is a line every half minute. A
    study may run several graphs of jobs one after the other, as a search does; their progress is added up.

    Yields:
        The function to report progress to.
    """
    notebook = in_notebook()
    if not notebook and not sys.stderr.isatty():
        yield _summed(_plain_lines())
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    with contextlib.ExitStack() as stack:
        if notebook:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm

            stack.enter_context(logging_redirect_tqdm())  # a warning is a line above the bar, not in it
        layout = _LAYOUT.replace("{bar:24}", "{bar}") if notebook else _LAYOUT
        # The mean rate since the start: a moving one would leave out the time between two looks that found nothing new.
        how = {"bar_format": layout, "smoothing": 0, "miniters": 0, "dynamic_ncols": True, "leave": notebook}
        yield _summed(_on_bar(stack.enter_context(tqdm(total=1.0, **how)), layout))


def _on_bar(bar: Any, layout: str) -> _Show:
    def show(progress: Progress, anew: bool = False) -> None:
        if progress.about:
            bar.write(f"modeconn: {progress.about}", file=sys.stderr)
        if anew:
            bar.reset()
        bar.total = progress.total or 1.0
        known = max(bar.n, progress.work) > _ENOUGH * bar.total
        bar.bar_format = layout if known else layout.replace("{remaining}", "?")
        bar.set_postfix_str(_jobs(progress), refresh=False)
        # Work can shrink again when a lost job restarts; a bar that goes back would confuse its own clock.
        bar.update(max(0.0, min(progress.work, bar.total) - bar.n))
        if not progress.running:
            bar.refresh()  # the end, whenever the last time was

    return show


def _summed(show: _Show) -> Report:
    """Add to each report of a graph of jobs the last ones of the graphs before it; say once what all is about.

    Jobs and the steps of a measurement are no sum: where one follows the other, all begins anew.
    """
    before = last = _NOTHING
    begun = False

    def add(progress: Progress) -> None:
        nonlocal before, last, begun
        if progress.about:
            if not begun:
                show(progress)
            begun = True
            return
        anew = bool(last.jobs) and progress.unit != last.unit
        if anew:
            before = _NOTHING
        elif progress.done + progress.failed < last.done + last.failed:  # every graph begins with nothing done
            before = _sum(before, last)
        last = progress
        show(_sum(before, progress), anew)

    return add


def _sum(a: Progress, b: Progress) -> Progress:
    done, failed, jobs = a.done + b.done, a.failed + b.failed, a.jobs + b.jobs
    return Progress(done, failed, jobs, a.work + b.work, a.total + b.total, b.running, unit=b.unit)


def _plain_lines() -> _Show:
    began = printed = time.monotonic()

    def show(progress: Progress, anew: bool = False) -> None:
        nonlocal began, printed
        began = time.monotonic() if anew else began
        if progress.about:
            print(f"modeconn: {progress.about}", file=sys.stderr, flush=True)
            return
        now = time.monotonic()
        if now - printed >= _LINE_EVERY:
            printed = now
            done = progress.work / progress.total if progress.total else 0.0
            left = f", about {(now - began) * (1 - done) / done:.0f} s left" if done > _ENOUGH else ""
            print(f"modeconn: {100 * done:.0f} %, {_jobs(progress)}{left}", file=sys.stderr, flush=True)

    return show


def _jobs(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    running = f", {len(progress.running)} running" if progress.running else ""
    return f"{progress.done} of {progress.jobs} {progress.unit}{running}{failed}"


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows pictures and widgets."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
