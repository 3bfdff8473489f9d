"""How the copies of a subnetwork differ apart from the path between them (Frankle et al. 2020, appendix G)."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modeconn.analysis.instability.ends import EndDistances, EndsJob, ends_job, read_ends
from modeconn.execution import Job, Store
from modeconn.options import SPLITS
from modeconn.result import Row
from modeconn.tickets.tables import DISTANCES
from modeconn.training.jobs import TrainJob


@dataclass(frozen=True)
class PairDistances:
    """The jobs that compare two copies with each other, and each of them with the weights that they began with."""

    ends: EndsJob
    from_init: tuple[EndsJob, EndsJob]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All three."""
        return self.ends, *self.from_init


def compare_copies(
    copies: Sequence[TrainJob], init: Any, splits: Iterable[str], examples: dict[str, int]
) -> tuple[PairDistances, ...]:
    """The jobs that compare all pairs of copies, as they are.

    Args:
        copies: the trained networks.
        init: the state of iteration 0 that their weights go back to, under their mask.
        splits: on which their answers are compared.
        examples: of each split.
    """
    splits = tuple(splits)
    from_init = [ends_job(init, copy, (), examples) for copy in copies]
    return tuple(
        PairDistances(ends_job(a, b, splits, examples), (from_a, from_b))
        for (a, from_a), (b, from_b) in itertools.combinations(zip(copies, from_init, strict=True), 2)
    )


def read_distances(store: Store, pairs: Iterable[PairDistances]) -> Row:
    """The columns `DISTANCES`: means over all pairs of copies; NaN for no pairs, or if a copy diverged."""
    rows = [_row(*(read_ends(store, job) for job in (pair.ends, *pair.from_init))) for pair in pairs]
    return {name: sum(row[name] for row in rows) / len(rows) if rows else math.nan for name in DISTANCES}


def _row(ends: EndDistances | None, a: EndDistances | None, b: EndDistances | None) -> Row:
    if ends is None or a is None or b is None:
        return dict.fromkeys(DISTANCES, math.nan)
    row = {"l2_distance": ends.l2, "cosine_distance": ends.cosine, "l2_from_init_a": a.l2, "l2_from_init_b": b.l2}
    for split in SPLITS:
        found = ends.outcomes.get(split)
        row[f"disagreement_{split}"] = found.disagreement if found else math.nan
        row[f"possible_disagreement_{split}"] = found.possible if found else math.nan
        row[f"loss_l2_{split}"] = found.loss_l2 if found else math.nan
    return row
