"""How differently two networks answer the same examples: in labels (Fort et al. 2019) and in losses."""

import math
from dataclasses import dataclass

import numpy as np

from modeconn.evaluation.measure import MetricSums


@dataclass(frozen=True)
class OutcomeDistance:
    """How the outcomes of two networks on the same examples differ.

    Attributes:
        disagreement: fraction of examples (or tokens) that they label differently; NaN without labels.
        possible: the largest fraction that two networks of these errors can label differently; NaN without labels.
        loss_l2: L2 norm of the difference of their vectors of per-example losses (Frankle et al. 2020, appendix G). It
            is not divided by the number of examples, so it grows with its square root; NaN without a loss.
    """

    disagreement: float
    possible: float
    loss_l2: float


def compare_outcomes(a: MetricSums, b: MetricSums) -> OutcomeDistance:
    """Compare what two networks were measured to do on the same examples, in the same order.

    >>> def measured(predictions, losses):
    ...     ones = np.ones(3)
    ...     wrong = np.array(predictions) != np.array([0, 1, 2])
    ...     sums, counts = {"error": wrong, "loss": np.array(losses)}, {"error": ones, "loss": ones}
    ...     return MetricSums(sums, counts, np.array(predictions), classes=3)
    >>> compare_outcomes(measured([0, 1, 2], [0.0, 0.0, 1.0]), measured([0, 2, 2], [0.0, 3.0, 5.0]))
    OutcomeDistance(disagreement=0.3333333333333333, possible=0.3333333333333333, loss_l2=5.0)
    """
    disagreement = possible = loss_l2 = math.nan
    if a.predictions is not None and b.predictions is not None:
        disagreement = float((a.predictions != b.predictions).mean())
        possible = most_disagreement(a.mean("error") + b.mean("error"), a.classes)
    if "loss" in a.sums and "loss" not in a.whole:
        losses = [_per_example(end, "loss") for end in (a, b)]
        loss_l2 = float(np.linalg.norm(losses[0] - losses[1]))
    return OutcomeDistance(disagreement, possible, loss_l2)


def most_disagreement(errors: float, classes: int) -> float:
    """The largest part that two networks can label differently, from the sum of their errors.

    Where both are right they agree, so it is at most the sum of the errors. Beyond 1, some examples are wrong for both:
    they can be labelled differently where there are three classes or more, and cannot where there are two.
    """
    return min(errors, 2 - errors) if classes == 2 else min(errors, 1.0)


def _per_example(measured: MetricSums, name: str) -> np.ndarray:
    """Means of each example; 0 for one that does not count."""
    sums, counts = measured.sums[name].astype(np.float64), measured.counts[name].astype(np.float64)
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
