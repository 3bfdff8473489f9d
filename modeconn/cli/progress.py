"""Progress of a study: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from modeconn.progress import Progress, Report

_LAYOUT = "{percentage:3.0f}% |{bar:24}| {elapsed} elapsed, {remaining} left{postfix}"
_ENOUGH = 0.01  # the part of the work that must be done before the time left is more than a guess
_LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


@contextlib.contextmanager
def progress_bar() -> Iterator[Report]:
    """Show the progress of a whole study and the time left, on stderr.

    A study may run several graphs of jobs one after the other, as a search does; their progress is added up.

    Yields:
        The function to report progress to.
    """
    if not sys.stderr.isatty():
        yield _summed(_plain_lines())
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    # The mean rate since the start: a moving one would leave out the time between two looks that found nothing new.
    with (
        tqdm(total=1.0, bar_format=_LAYOUT, smoothing=0, miniters=0, dynamic_ncols=True, leave=False) as bar,
        logging_redirect_tqdm(),  # a warning is a line above the bar, not in it
    ):
        yield _summed(_on_bar(bar))


def _on_bar(bar: Any) -> Report:
    def show(progress: Progress) -> None:
        bar.total = progress.total or 1.0
        known = max(bar.n, progress.work) > _ENOUGH * bar.total
        bar.bar_format = _LAYOUT if known else _LAYOUT.replace("{remaining}", "?")
        bar.set_postfix_str(_jobs(progress), refresh=False)
        # Work can shrink again when a lost job restarts; a bar that goes back would confuse its own clock.
        bar.update(max(0.0, min(progress.work, bar.total) - bar.n))
        if not progress.running:
            bar.refresh()  # the end, whenever the last time was

    return show


def _summed(show: Report) -> Report:
    """Add to each report of a graph of jobs the last ones of the graphs before it."""
    before = last = Progress(0, 0, 0, 0.0, 0.0, ())

    def add(progress: Progress) -> None:
        nonlocal before, last
        if progress.done + progress.failed < last.done + last.failed:  # every graph begins with nothing done
            before = _sum(before, last)
        last = progress
        show(_sum(before, progress))

    return add


def _sum(a: Progress, b: Progress) -> Progress:
    return Progress(
        a.done + b.done, a.failed + b.failed, a.jobs + b.jobs, a.work + b.work, a.total + b.total, b.running
    )


def _plain_lines() -> Report:
    began = printed = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal printed
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
    return f"{progress.done} of {progress.jobs} jobs{running}{failed}"
