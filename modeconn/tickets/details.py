"""Tables of a lottery-ticket study that are kept if asked: errors along paths between copies, and over training."""

import itertools
from collections.abc import Iterable, Iterator

from modeconn.analysis.instability.curves import read_curve
from modeconn.execution import Store
from modeconn.result import Row
from modeconn.tickets.plan import PLAIN, Subnetwork
from modeconn.training.jobs import read_metrics
from modeconn.training.state import early_stop


def path_rows(subnetworks: Iterable[Subnetwork], store: Store) -> Iterator[Row]:
    """Error and loss at every alpha between all pairs of copies whose instability was measured, as they are."""
    for found in subnetworks:
        paths = found.instability.get(PLAIN, ())
        for (a, b), path in zip(itertools.combinations(range(len(found.copies)), 2), paths, strict=True):
            curve = read_curve(store, path)
            if curve is None:  # a copy diverged
                continue
            for split, counts in curve.counts.items():
                for alpha, count in zip(curve.alphas[split], counts, strict=True):
                    where = _place(found) | {"copy_a": a + 1, "copy_b": b + 1, "split": split}
                    yield where | {"alpha": alpha, "error": count.error, "loss": count.loss}


def curve_rows(subnetworks: Iterable[Subnetwork], store: Store) -> Iterator[Row]:
    """What the first copy of each subnetwork recorded on its way."""
    for found in subnetworks:
        rows = read_metrics(store, found.copies[0])
        lowest = early_stop(rows)
        # Trainings of earlier versions have the test error wherever the validation loss was lowest so far, and all rows
        # in the order of their iterations.
        for row in sorted(rows, key=lambda row: row["iteration"]):
            if lowest and row["split"] == "test" and row["iteration"] != lowest["iteration"]:
                continue
            yield _place(found) | {name: row[name] for name in ("split", "iteration", "error", "loss")}


def _place(found: Subnetwork) -> Row:
    return {
        "replicate": found.replicate,
        "rewind_iter": found.rewind_iter,
        "level": found.level,
        "condition": found.condition,
        "draw": found.draw,
    }
