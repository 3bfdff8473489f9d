"""Perturbations of a network at the fork, in words. Imports no torch."""

import math
from dataclasses import dataclass

from modeconn.errors import OptionError


@dataclass(frozen=True)
class Perturbation:
    """What is changed once of a network.

    Attributes:
        kind: `"weight"`, one weight set anew; `"gaussian"`, noise on all parameters; `"batch"`, another batch in one
            iteration.
        norm: of Gaussian noise, in norms of the initialisation.
    """

    kind: str
    norm: float = 0.0

    @staticmethod
    def parse(text: str) -> "Perturbation":
        """The perturbation that `weight`, `gaussian:NORM` or `batch` asks for.

        Raises:
            OptionError: it is none of these.

        >>> Perturbation.parse("gaussian:0.01")
        Perturbation(kind='gaussian', norm=0.01)
        """
        kind, _, norm = str(text).partition(":")
        try:
            found = Perturbation(kind, float(norm)) if norm else Perturbation(kind)
        except ValueError:
            found = Perturbation("")
        wanted = kind == "gaussian"
        if kind not in ("weight", "gaussian", "batch") or wanted != (0 < found.norm < math.inf):
            raise OptionError(
                f"perturb= is weight, batch, or gaussian:NORM with a positive NORM, as gaussian:0.01; got {text!r:.60}"
            )
        return found
