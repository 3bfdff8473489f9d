"""The rewinding iterations from which on subnetworks are stable, and match, over density (Frankle et al. 2020)."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from modeconn.errors import OptionError
from modeconn.options import THRESHOLD, whole_number
from modeconn.result import Columns, Result, Row, count, load_study, one_of, save_study, study_title, whole
from modeconn.tasks import Task, get_task, parse_iterations
from modeconn.tickets.lottery import lottery
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.result import LotteryResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROPERTIES = ("stable", "matching")
COLUMNS: Columns = {
    "condition": str,
    "level": whole,
    "density": float,
    "replicate": whole,
    "property": one_of(*PROPERTIES),
    "rewind_iter": lambda text: whole(text) if text else None,
    "measured": whole,
}
_TABLES = {"sweep.csv": COLUMNS}


class _Summary(TypedDict):
    """What the figure and the table say of a study, in summary.json."""

    task: str
    task_changes: str
    replicates: int
    iterations: int
    threshold: float
    candidates: list[int]
    data_note: str


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult(Result):
    """The smallest rewinding iterations from which on subnetworks are stable, and matching, at each level of pruning.

    Attributes:
        rows: one per condition, level, replicate and property; the columns of `sweep.csv`: `rewind_iter` is the
            smallest k of the candidates at which the subnetwork has the property (None at none) as bisection finds it,
            and `measured` how many k were.
        summary: the task, its settings and the candidates; `summary.json`.
        folder: where the files are, if they were written.
    """

    _COLUMNS = COLUMNS

    rows: list[Row]
    summary: dict[str, Any]
    folder: Path | None = field(default=None)

    @property
    def samples(self) -> str:
        """How many values each median is over, in words."""
        return count(self.summary["replicates"], "replicate")

    @property
    def conditions(self) -> list[str]:
        """The conditions, in the order of the rows."""
        return list(dict.fromkeys(row["condition"] for row in self.rows))

    def medians(self, condition: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Densities, float64 [levels], falling, and the median k over replicates, float64 [levels]; infinite for none.

        Of an even number of replicates the upper of the two in the middle, which is a k that was measured.

        Args:
            condition: one of `conditions`.
            name: of the property, `"stable"` or `"matching"`.
        """
        rows = [row for row in self.rows if (row["condition"], row["property"]) == (condition, name)]
        at = {level: [row for row in rows if row["level"] == level] for level in sorted({row["level"] for row in rows})}
        ks = [sorted(math.inf if (k := row["rewind_iter"]) is None else k for row in of) for of in at.values()]
        densities = [np.mean([row["density"] for row in of]) for of in at.values()]
        return np.array(densities), np.array([of_level[len(of_level) // 2] for of_level in ks], dtype=np.float64)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the median k over density: a line for each condition and property, with gaps where there is none."""
        from modeconn.style import CONDITIONS, drawing
        from modeconn.tickets.drawing import mark_densities

        with drawing(ax, 5, 3.4) as ax:
            for condition in self.conditions:
                label, color = CONDITIONS.get(condition, (condition, "black"))
                for name, line in zip(PROPERTIES, ("-", "--"), strict=True):
                    densities, ks = self.medians(condition, name)
                    ks = np.where(np.isinf(ks), np.nan, ks)
                    look: dict[str, Any] = {"linestyle": line, "marker": "o", "markersize": 3}
                    ax.plot(100 * densities, ks, color=color, label=f"{label}, {name}", **look)
            mark_densities(ax, [row["density"] for row in self.rows])
            positive = [k for k in self.summary["candidates"] if k]
            ax.set_yscale("symlog", linthresh=positive[0] if positive else 1)
            ax.set(ylabel="median rewinding iteration k", title=study_title(self.summary))
            ax.legend(fontsize=7)
            return ax

    def __str__(self) -> str:
        summary, total = self.summary, self.summary["iterations"]
        among = ", ".join(map(str, summary["candidates"]))
        lines = [
            f"rewinding iterations over density, {study_title(summary)}",
            f"median over {count(summary['replicates'], 'replicate')} of the smallest k by bisection among {among}",
            "",
            f"{'condition':<17}{'level':>6}{'density %':>11}{'stable from':>13}{'matching from':>15}",
            *(line for condition in self.conditions for line in self._lines(condition)),
            "",
            f"Stable: instability below {100 * summary['threshold']:g} points. Matching: less than 0.2 points lost. "
            f"A training has {total} iterations.",
        ]
        if summary["data_note"]:
            lines += ["", f"Data: {summary['data_note']}"]
        return "\n".join(lines)

    def _lines(self, condition: str) -> Iterator[str]:
        levels = sorted({row["level"] for row in self.rows if row["condition"] == condition})
        (densities, stable), (_, matching) = (self.medians(condition, name) for name in PROPERTIES)
        for level, density, *ks in zip(levels, densities, stable, matching, strict=True):
            shown = ["at none" if math.isinf(k) else f"{k:.0f}" for k in ks]
            yield f"{condition:<17}{level:>6}{100 * density:>11.2f}{shown[0]:>13}{shown[1]:>15}"

    def __repr__(self) -> str:
        return f"SweepResult({study_title(self.summary)}; {', '.join(self.conditions)})"

    def save(self, folder: str | Path) -> "SweepResult":
        """Write `sweep.csv`, `summary.json` and `sweep.png`, `.pdf`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        from modeconn.style import save_figure

        save_study(Path(folder), _TABLES, (self.rows,), self.summary)
        figure: Any = self.plot().figure
        save_figure(figure, Path(folder) / "sweep")
        return replace(self, folder=Path(folder))


def matching_and_stable_k(
    task: str | Task = "digits-conv",
    *,
    levels: Iterable[int],
    ks: str | Iterable[str | int],
    conditions: Sequence[str] = ("imp", "random"),
    threshold: float = THRESHOLD,
    replicates: int = LotteryOptions.replicates,
    iterations: int | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> SweepResult:
    """Find the smallest k from which subnetworks are stable, and the smallest from which they match, at each density.

    By bisection over k at each level by itself, for every replicate: over density neither property is monotone (Frankle
    et al. 2020, figure 9). Each k that is asked for is a lottery of that k, whose trainings the store keeps, so that
    levels, conditions and properties share them. That a property holds from some k on is a rule with exceptions, which
    bisection does not see.

    Args:
        task: a preset's name, or a `Task`.
        levels: of pruning that are looked at; level n has a density of (1 - fraction)^n.
        ks: candidates for k: iterations and percentages.
        conditions: see `modeconn.lottery`.
        threshold: of instability, as a fraction of error.
        replicates: how many initialisations.
        iterations: shortens the task and its schedule in proportion.
        out: where to write `sweep.csv`, `summary.json`, and the figure; nowhere if None.
        options: others of `modeconn.lottery`.

    Raises:
        OptionError: no level or k, or an option of `lottery` that is decided here.
        ModeconnError: as `modeconn.lottery`.
    """
    decided = {"rewind_iter", "rewind_iters", "search", "barriers", "barriers_of", "at_levels"} & options.keys()
    if decided:
        raise OptionError(f"{', '.join(sorted(decided))} is decided by the search over k; leave it out")
    task = get_task(task)
    task = task if iterations is None else task.shortened(iterations)
    wanted = sorted({whole_number(level, 1, "levels of pruning are whole numbers of at least 1") for level in levels})
    if "ep" in str(ks):
        raise OptionError("ks are iterations or percentages of the training (500, 3%); give epochs as one of these")
    candidates = [k for k in parse_iterations(ks, task.iterations, None) if k < task.iterations]
    if not wanted or not candidates:
        raise OptionError("give levels of pruning, and ks before the last iteration, to look at")
    if "rewind0" in conditions:
        raise OptionError("rewind0 is not rewound to the k that is looked for; leave it out")

    @functools.cache
    def measured(k: int, level: int) -> LotteryResult:
        return lottery(
            task, rewind_iter=k, levels=level, at_levels=(level,), conditions=conditions, barriers=("instability",),
            barriers_of=conditions, threshold=threshold, replicates=replicates, **options,
        )  # fmt: skip

    rows = []
    for condition in conditions:
        for level in wanted:
            for replicate in range(replicates):
                place = {"condition": condition, "level": level, "replicate": replicate}
                of = functools.partial(_row_of, measured, place)
                holds: dict[str, Callable[[int], bool]] = {
                    "stable": lambda k, of=of: bool(of(k)["instability_test"] < threshold),  # type: ignore[misc]
                    "matching": lambda k, of=of: of(k)["matching_02"] is True,  # type: ignore[misc]
                }
                for name in PROPERTIES:
                    found, asked = first_that_holds(candidates, holds[name])
                    about = {"density": of(asked[0])["density"], "property": name, "rewind_iter": found}
                    row = place | about | {"measured": len(asked)}
                    rows.append({column: row[column] for column in COLUMNS})
    any_of = measured(*_some(candidates, wanted)).summary
    kept = ("task", "task_changes", "replicates", "iterations", "data_note", "versions", "machine")
    summary = {name: any_of[name] for name in kept}
    summary |= {"threshold": threshold, "candidates": candidates, "levels": wanted}
    result = SweepResult(rows, summary)
    return result if out is None else result.save(out)


def load_sweep(folder: str | Path) -> SweepResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of such a study.
    """
    (rows,), summary = load_study(Path(folder), _TABLES, _Summary, "sweep of densities")
    return SweepResult(rows, summary, Path(folder))


def first_that_holds(candidates: Sequence[int], holds: Callable[[int], bool]) -> tuple[int | None, list[int]]:
    """Bisect for the first candidate at which something holds, that holds from there on; and which were asked.

    >>> first_that_holds([0, 10, 20, 30, 40], lambda k: k >= 30)
    (30, [20, 30])
    >>> first_that_holds([0, 10], lambda k: False)
    (None, [0, 10])
    """
    low, high = -1, len(candidates)  # it does not hold at `low`, and does at `high`; beyond both ends by assumption
    asked = []
    while high - low > 1:
        middle = (low + high) // 2
        asked.append(candidates[middle])
        low, high = (low, middle) if holds(candidates[middle]) else (middle, high)
    return (candidates[high] if high < len(candidates) else None), asked


def _row_of(measured: Callable[[int, int], LotteryResult], place: dict[str, Any], k: int) -> Row:
    rows = measured(k, place["level"]).rows
    return next(row for row in rows if all(row[name] == value for name, value in place.items()))


def _some(candidates: Sequence[int], levels: Sequence[int]) -> tuple[int, int]:
    """A k and a level that bisection began with."""
    return candidates[(len(candidates) - 1) // 2], levels[0]
