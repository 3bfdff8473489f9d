"""Exceptions of modeconn: each names what is wrong and says what to do."""

import difflib
import re
from collections.abc import Callable, Iterable

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class ModeconnError(Exception):
    """Base of every error that modeconn raises on purpose."""

    def __str__(self) -> str:
        return _COLORS.sub("", super().__str__())  # which messages of PyTorch that are quoted may have


class OptionError(ModeconnError, ValueError):
    """An option or argument that cannot be used, found before anything is computed."""


class DataError(ModeconnError):
    """A data set that is missing, damaged, or not what its task expects."""


class NetworkError(ModeconnError):
    """A network that cannot be built, or two networks that do not fit together."""


class StoreError(ModeconnError):
    """A store that cannot be read or written."""


class CorruptArtifact(StoreError):
    """An artifact whose bytes are not those that were written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"artifact {name} is damaged: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptArtifact"], tuple[str, str]]:
        # Exceptions cross process boundaries by their constructor's arguments.
        return type(self), (self.name, self.reason)


def unknown(kind: str, name: str, known: Iterable[str]) -> OptionError:
    """An `OptionError` for a name that is not among the known ones, with near names suggested.

    >>> print(unknown("task", "mnist-lent", ["mnist-lenet", "cifar10-vgg16"]))
    unknown task 'mnist-lent'; did you mean 'mnist-lenet'? Known: cifar10-vgg16, mnist-lenet
    """
    known = sorted(known)
    return OptionError(f"unknown {kind} {name!r}{did_you_mean(name, known) or '.'} Known: {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], str] = repr, *, likeness: float = 0.5) -> str:
    """The names nearest to one that is not known, as a question; empty if none is near.

    Args:
        name: the unknown one.
        known: the others.
        shown: how a name is written.
        likeness: `difflib`'s ratio from which a name is near.

    >>> did_you_mean("accurracy", ["accuracy", "loss"])
    "; did you mean 'accuracy'?"
    """
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=likeness)
    return f"; did you mean {' or '.join(map(shown, near))}?" if near else ""
