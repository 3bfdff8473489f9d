"""Curves of loss and error along paths whose jobs are done, read from the store."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from modeconn.analysis.instability.jobs import PATH, PathJobs
from modeconn.analysis.instability.measurement import COUNTS, read_counts
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.execution import Store
from modeconn.training.splits import SplitSums


@dataclass(frozen=True, eq=False)
class Curve:
    """The loss and error along a path.

    Attributes:
        alphas: by split, ends included.
        counts: by split, one for each alpha.
        l2_distance: of the ends.
        notes: on what was decided on the way.
    """

    alphas: dict[str, tuple[float, ...]]
    counts: dict[str, list[SplitSums]]
    l2_distance: float
    notes: tuple[str, ...]


def read_curve(store: Store, path_jobs: PathJobs) -> Curve | None:
    """The curve that jobs measured; None if an end diverged.

    Raises:
        CorruptArtifact: they are not finished, or damaged.
    """
    evaluations = [store.require(end) for end in path_jobs.ends]
    if any(evaluation.facts["diverged_at"] is not None for evaluation in evaluations):
        return None
    content = store.require(path_jobs.path).json(PATH)
    first, last = (read_counts(evaluation.json(COUNTS)) for evaluation in evaluations)
    points = list(zip([0.0, *content["alphas"], 1.0], [first, *map(read_counts, content["points"]), last], strict=True))
    splits = path_jobs.path.measurement.splits
    return Curve(
        # Adaptive alphas differ between splits, and ends may be measured on more splits than the path.
        alphas={split: tuple(alpha for alpha, point in points if split in point) for split in splits},
        counts={split: [point[split] for _, point in points if split in point] for split in splits},
        l2_distance=content["l2_distance"],
        notes=tuple(content["notes"]),
    )


def mean_barrier(store: Store, paths: Iterable[PathJobs], split: str, height: str = "barrier") -> float:
    """The mean error barrier of measured paths on a split; NaN for no paths, or if an end diverged.

    `height` is the definition: `"barrier"` or `"chord_barrier"`.
    """
    heights = []
    for path in paths:
        curve = read_curve(store, path)
        if curve is None or split not in curve.counts:
            return math.nan
        errors = [counts.error for counts in curve.counts[split]]
        heights.append(getattr(barrier_heights(curve.alphas[split], errors), height))
    return sum(heights) / len(heights) if heights else math.nan
