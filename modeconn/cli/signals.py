"""Signals that end a command: in an orderly way once, and at once the second time."""

import signal
from functools import partial
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def end_on_signals() -> None:
    """Have SIGTERM end this process as Ctrl-C does, and a second of either signal at once, without a traceback.

    A signal that is ignored, as under `nohup`, stays so.
    """
    for number, default, reason in (
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIG_DFL, Terminated),
    ):
        if signal.getsignal(number) == default:
            signal.signal(number, partial(_end, reason))


def _end(reason: type[KeyboardInterrupt], *_: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    raise reason
