"""Options of studies: how they are declared, the defaults that studies share, and checks. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import field
from numbers import Integral, Real
from typing import Any

from modeconn.errors import OptionError, unknown

SPLITS = ("test", "train")
BATCHNORM = ("interpolate", "recalibrate")
SCOPES = ("global", "layerwise")  # where weights compete when some are pruned
THRESHOLD = 0.02  # of error: below it a network is stable (Frankle et al. 2020, section 3)
CALIBRATION = 5000  # training examples that BatchNorm is recalibrated on, at most


MOST_JOBS = 100_000  # of a study
LARGEST = 2**63 - 1  # whole number that an option can be; names and files have no larger ones


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """Declare a dataclass field that the command line offers: with its help text and, if limited, its values."""
    return field(default=default, metadata={"help": text, "choices": choices})


def require(condition: bool, message: str) -> None:
    """Raise an `OptionError` with this message unless the condition holds."""
    if not condition:
        raise OptionError(message)


def whole_number(value: Any, least: int, why: str) -> int:
    """Check for a whole number of at least `least` and 63 bits; returns it as an int.

    Raises:
        OptionError: it is none; the message begins with `why`.

    >>> whole_number(3.0, 1, "there must be at least one replicate")
    Traceback (most recent call last):
    modeconn.errors.OptionError: there must be at least one replicate; got 3.0
    """
    require(isinstance(value, Integral) and int(value) >= least, f"{why}; got {value!r}")
    require(int(value) <= LARGEST, f"{why}, and at most {LARGEST:,}; got {value!r}")
    return int(value)


def require_jobs(jobs: int, asked: str) -> None:
    """Refuse a study whose plan alone would fill the memory, before it is made.

    Raises:
        OptionError: it would have more than `MOST_JOBS`.
    """
    require(
        jobs <= MOST_JOBS,
        f"{asked} would be {jobs:,} jobs (trainings and measurements), each an artifact of the store; a study has at "
        f"most {MOST_JOBS:,}, so ask for less",
    )


def number(name: str, value: Any) -> float:
    """Check for a real number; returns it as a float.

    Raises:
        OptionError: it is no number.
    """
    require(isinstance(value, Real) and not isinstance(value, bool), f"{name} must be a number; got {value!r}")
    return float(value)


def chosen_names(kind: str, given: Iterable[str], known: Sequence[str], least: int = 1) -> tuple[str, ...]:
    """Check a list of names, all of them known and each there once; returns them as a tuple.

    Raises:
        OptionError: another name, with near ones suggested; one twice; fewer than `least`; or no list.

    >>> chosen_names("split", ["test"], SPLITS)
    ('test',)
    """
    require(isinstance(given, Iterable) and not isinstance(given, str), f"give each {kind} in a list; got {given!r}")
    names = tuple(given)
    for name in names:
        if name not in known:
            raise unknown(kind, str(name), known)
    require(len(names) >= least, f"give at least one {kind}")
    require(len(set(names)) == len(names), f"each {kind} once, please; got {', '.join(names)}")
    return names
