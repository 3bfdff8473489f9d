"""Result of a sweep over density: tidy rows, their summary, figure and words, and the files it is kept in."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from modeconn.result import Columns, Result, Row, brief, count, load_study, one_of, save_study, study_title, whole

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
    def title(self) -> str:
        """The task, and how it differs from its preset."""
        return study_title(self.summary)

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

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw the median k over density: a line for each condition and property, with gaps where there is none.

        Args:
            ax: where to draw; a new figure if None.
            label: what it is called in the legend, beside other results.
            color: of all its lines; on axes where something is drawn already the next of their own colours, if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the curves, for `matplotlib.lines.Line2D`.
        """
        from matplotlib.ticker import FixedLocator, NullLocator

        from modeconn.style import CONDITIONS, draw_legend, drawing, look_of, unused
        from modeconn.tickets.drawing import MARKERS, mark_densities

        with drawing(ax, 5, 3.4) as ax:
            look = look_of(ax, label, color, annotate, **line)
            for place, condition in enumerate(self.conditions):
                shown, own = CONDITIONS.get(condition, (condition, "black"))
                marker = "o" if look.color is None else MARKERS[place % len(MARKERS)]
                for name, dash in zip(PROPERTIES, ("-", "--"), strict=True):
                    densities, ks = self.medians(condition, name)
                    ks = np.where(np.isinf(ks), np.nan, ks)
                    what = unused(ax, look.name(f"{shown}, {name}", self.title, f"{shown}, {name}"))
                    # Several may be the same, so that what is drawn first is wider.
                    wider = len(self.conditions) - 1 - place
                    size = {"markersize": 3 + 3 * wider, "linewidth": 1.2 + 1.2 * wider}
                    drawn = look.options(linestyle=dash, marker=marker, **size)
                    ax.plot(100 * densities, ks, **drawn, color=look.color or own, label=what)
            mark_densities(ax, [row["density"] for row in self.rows])
            before = ax.yaxis.get_major_locator()
            others = before.tick_values(0, 0) if isinstance(before, FixedLocator) else ()
            marked = sorted({int(k) for k in (*self.summary["candidates"], *others)})
            ax.set_yscale("symlog", linthresh=min((k for k in marked if k), default=1))
            ax.yaxis.set_major_locator(FixedLocator(marked))
            ax.yaxis.set_major_formatter(lambda k, _: f"{k:g}")
            ax.yaxis.set_minor_locator(NullLocator())
            ax.set_ylim(bottom=-0.2 * min((k for k in marked if k), default=1) if not marked[0] else None)
            ax.set_ylim(top=max(1.2 * marked[-1], ax.get_ylim()[1]))  # where nothing is drawn, too
            ax.set_ylabel("median rewinding iteration k (symlog scale)")
            draw_legend(ax)
            return ax

    def __str__(self) -> str:
        summary, total = self.summary, self.summary["iterations"]
        among = ", ".join(map(str, summary["candidates"]))
        lines = [
            f"rewinding iterations over density, {self.title}",
            f"median over {count(summary['replicates'], 'replicate')} of the smallest k by bisection among {among}",
            "",
            f"{'condition':<17}{'level':>6}{'density %':>11}{'stable from':>13}{'matching from':>15}",
            *(line for condition in self.conditions for line in self._lines(condition)),
            "",
            f"Stable: instability below {100 * summary['threshold']:g} percentage points. Matching: error increase "
            f"below 0.2. A training has {total} iterations.",
        ]
        if summary["data_note"]:
            lines += ["", f"Data: {summary['data_note']}"]
        if self.folder:
            lines += ["", f"Files: {self.folder}/ ({', '.join(sorted(file.name for file in self.folder.iterdir()))})"]
        return "\n".join(lines)

    def _lines(self, condition: str) -> Iterator[str]:
        levels = sorted({row["level"] for row in self.rows if row["condition"] == condition})
        (densities, stable), (_, matching) = (self.medians(condition, name) for name in PROPERTIES)
        for level, density, *ks in zip(levels, densities, stable, matching, strict=True):
            shown = ["at none" if math.isinf(k) else f"{k:.0f}" for k in ks]
            yield f"{condition:<17}{level:>6}{100 * density:>11.2f}{shown[0]:>13}{shown[1]:>15}"

    def __repr__(self) -> str:
        return brief(f"SweepResult({self.title}; {', '.join(self.conditions)})")

    def save(self, folder: str | Path) -> "SweepResult":
        """Write `sweep.csv` and `summary.json`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        save_study(Path(folder), _TABLES, (self.rows,), self.summary)
        return replace(self, folder=Path(folder))


def load_sweep(folder: str | Path) -> SweepResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of such a study.
    """
    (rows,), summary = load_study(Path(folder), _TABLES, _Summary, "sweep of densities")
    return SweepResult(rows, summary, Path(folder))
