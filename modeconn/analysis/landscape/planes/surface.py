"""Weights at any linear combination of a basis, and what is measured there."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.curve import main_metric
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.paths.combination import combination
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.weights.state_dicts import Weights

Basis = Callable[[Comparison], tuple[Weights, ...]]
Reopenable = Callable[[], "Given"]  # gives the same in another process, too


@dataclass(frozen=True, eq=False)
class Given:
    """Networks, data and options as they were given.

    Attributes:
        sources: the networks.
        data: what is measured on.
        how: fields of `ComparisonOptions`.
    """

    sources: Sequence[Source]
    data: Any
    how: OptionKeywords


@dataclass(frozen=True, eq=False)
class AsGiven:
    """Networks, data and options as they are."""

    given: Given

    def __call__(self) -> Given:
        """The same."""
        return self.given


@dataclass(frozen=True, eq=False)
class Surface:
    """Networks and data that are open, and what spans the landscape around them."""

    comparison: Comparison
    basis: tuple[Weights, ...]

    def measure(self, coefficients: Sequence[float]) -> tuple[dict[str, float], int]:
        """Each metric at a point, and over how many examples; a network of the basis is measured as what it is."""
        point = combination(self.basis, coefficients, "a point of the landscape")
        measured = self.comparison.measure_end(point)
        found = {name: measured.mean(name) for name in measured.sums}
        if self.comparison.evaluator.meter.perplexity:
            with np.errstate(over="ignore"):
                found["perplexity"] = float(np.exp(found["loss"]))
        return found, len(measured.sums[main_metric(measured)])

    def is_undefined(self, coefficients: np.ndarray) -> np.ndarray:
        """At which points a running variance would be below 0, bool [points]; nowhere if they are measured anew.

        Beyond the networks, variances are extrapolated like weights.
        """
        undefined = np.zeros(len(coefficients), dtype=bool)
        if self.comparison.evaluator.batchnorm != "interpolate":
            return undefined
        for layer in running_statistics_layers(self.comparison.evaluator.network).values():
            name = f"{layer}.running_var" if layer else "running_var"
            if name in self.basis[0].layout:
                of_basis = np.stack([one.read(name).double().cpu().numpy().reshape(-1) for one in self.basis])
                undefined |= (coefficients @ of_basis < 0).any(axis=1)
        return undefined


@contextlib.contextmanager
def open_surface(given: Reopenable, basis: Basis) -> Iterator[Surface]:
    """Open networks and data, and what spans the landscape around them.

    Raises:
        ModeconnError: what does not fit.
    """
    found = given()
    with open_comparison(found.sources, found.data, ComparisonOptions(**found.how)) as comparison:
        yield Surface(comparison, basis(comparison))
