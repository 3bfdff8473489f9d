"""Predictions along a path: their calibration, their distance to the ends', and the ensemble of the ends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.result import array_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a path's networks predict, beside the two ends; each float64 [n], at every alpha of the path.

    Logarithms are natural. Where targets are tokens, means are over these.

    Attributes:
        temperature: what logits are divided by for the lowest loss on the data that are measured (Guo et al. 2017).
        calibrated_loss: mean cross-entropy with that temperature.
        calibration_error: expected calibration error, of 15 equally wide bins of confidence, without a temperature: the
            mean over examples of |fraction that is right - mean confidence| of their bin (Guo et al. 2017, equation 3).
        kl_from_a, kl_from_b: mean Kullback-Leibler divergence from an end's predicted probabilities to those at alpha,
            sum over classes of p_end log(p_end / p_alpha).
        disagreement_with_a, disagreement_with_b: fraction that is labelled otherwise than by that end.
        ensemble_error, ensemble_loss: of the averaged probabilities (1 - alpha) p_a + alpha p_b; NaN outside [0, 1].
    """

    temperature: np.ndarray
    calibrated_loss: np.ndarray
    calibration_error: np.ndarray
    kl_from_a: np.ndarray
    kl_from_b: np.ndarray
    disagreement_with_a: np.ndarray
    disagreement_with_b: np.ndarray
    ensemble_error: np.ndarray
    ensemble_loss: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """All of them by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def of_columns(cls, content: Mapping[str, Any] | None, alphas: int) -> Self | None:
        """Those of which JSON holds the columns; None of none.

        Raises:
            ValueError: there are others, or not one value for each alpha.
        """
        if content is None:
            return None
        names = [one.name for one in fields(cls)]
        if sorted(content) != sorted(names):
            raise ValueError(f"its predictions are {', '.join(content)}, and not {', '.join(names)}")
        return cls(**{name: array_of(values, alphas) for name, values in content.items()})

    def lines(self, alphas: np.ndarray, error: np.ndarray, loss: np.ndarray) -> Iterator[str]:
        """The middle of the path, and the barrier of the calibrated loss, in words."""
        middle = int(np.abs(alphas - 0.5).argmin())
        ends = [int(np.flatnonzero(alphas == end)[0]) for end in (0, 1)]
        inside = (alphas >= 0) & (alphas <= 1)
        percent = lambda values, at: f"{100 * values[at]:.3g} %"  # noqa: E731
        yield (
            f"At alpha {alphas[middle]:.3g} the interpolated network errs on {percent(error, middle)} (loss "
            f"{loss[middle]:.3g}), the ensemble of the ends on {percent(self.ensemble_error, middle)} (loss "
            f"{self.ensemble_loss[middle]:.3g})."
        )
        yield (
            f"Its predictions are {self.kl_from_a[middle]:.3g} and {self.kl_from_b[middle]:.3g} nats (KL) from "
            f"the ends', and label {percent(self.disagreement_with_a, middle)} and "
            f"{percent(self.disagreement_with_b, middle)} differently."
        )
        barrier_of = lambda values: barrier_heights(alphas[inside], values[inside]).barrier  # noqa: E731
        yield (
            f"Loss barrier {barrier_of(loss):.3g} nats, with a temperature at each alpha "
            f"{barrier_of(self.calibrated_loss):.3g}; expected calibration error in the middle "
            f"{percent(self.calibration_error, middle)}, of the ends "
            f"{' and '.join(percent(self.calibration_error, end) for end in ends)}."
        )

    def draw(self, ax: "Axes", alphas: np.ndarray, loss: np.ndarray, names: tuple[str, str]) -> "Axes":
        """Draw losses and divergences along the path, in nats."""
        from modeconn.style import PALETTE, draw_legend, short

        a, b = map(short, names)
        lines = {
            "loss": (loss, PALETTE[0], "-"),
            "with a temperature": (self.calibrated_loss, PALETTE[0], "--"),
            "ensemble of the ends": (self.ensemble_loss, "black", ":"),
            f"KL from {a}": (self.kl_from_a, PALETTE[1], "-"),
            f"KL from {b}": (self.kl_from_b, PALETTE[3], "-"),
        }
        for label, (values, color, style) in lines.items():
            ax.plot(alphas, values, color=color, linestyle=style, marker="o", markersize=2, label=label)
        ax.set(xlabel=f"alpha (0: {a}, 1: {b})", ylabel="nats", title="predictions along the path")
        draw_legend(ax)
        return ax
