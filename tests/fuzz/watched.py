"""Malformed input one after the other, within limits of time and memory, and what became of each."""

import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import modeconn
from modeconn.errors import ModeconnError

SECONDS = 20  # of CPU time, which does not depend on what else the machine does
STILL = 120  # seconds by the clock, for what waits
BYTES = 2 << 30
_PACKAGE = str(Path(modeconn.__file__).parent)


class Watch:
    """Counts what became of each input: accepted, refused by one of our errors, or a finding.

    Attributes:
        outcomes: how often each was seen.
        findings: where an exception that is not ours came from, or what was over a limit, and one input that did it.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[str, str] = {}

    def call(self, read: Callable[[], object], shown: object) -> None:
        """Call a reader on an input."""
        _forget_peak()
        began, before = time.process_time(), _peak()
        try:
            with (
                _within(signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
                _within(signal.ITIMER_REAL, signal.SIGALRM, STILL),
            ):
                read()
            outcome = "accepted"
        except ModeconnError:
            outcome = "refused"
        except _TooLong as error:
            outcome = self._found("too long", f"over {SECONDS} s {_place(error)}", shown)
        except SystemExit as error:
            outcome = "refused" if error.code else self._found("traceback", "a status of success", shown)
        except BaseException as error:
            outcome = self._found("traceback", f"{type(error).__name__} {_place(error)}: {error!s:.80}", shown)
        if time.process_time() - began > SECONDS:
            outcome = self._found("too long", f"over {SECONDS} s", shown)
        if _peak() - before > BYTES:
            outcome = self._found("too large", f"over {BYTES >> 30} GB", shown)
        self.outcomes[outcome] += 1

    def _found(self, outcome: str, what: str, shown: object) -> str:
        self.findings.setdefault(what, repr(shown)[:300])
        return outcome


class _TooLong(BaseException):
    """Not an Exception, which readers turn into theirs."""


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let this process have no more than so many bytes beside those that it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _within(timer: int, sent: int, seconds: float) -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(sent, stop)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(sent, before)


def _place(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    return f"[{ours[-1].filename.removeprefix(_PACKAGE)}:{ours[-1].lineno}]" if ours else "[elsewhere]"


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
