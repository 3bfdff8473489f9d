"""Result of `compare`: the two networks' tensors, what differs, the barrier, what removes it, and the verdict."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

from modeconn.analysis.compare.likeness import Likeness
from modeconn.analysis.compare.parts import Part, parts_of, tensor_rows
from modeconn.analysis.compare.removal import Attempt
from modeconn.analysis.compare.siblings import Siblings, judge_siblings
from modeconn.analysis.compare.sums import Moves, Sums
from modeconn.analysis.compare.tensors import TensorDistance
from modeconn.analysis.compare.words import (
    attempts_in_words,
    listed,
    moves_in_words,
    parts_in_words,
    siblings_in_words,
)
from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.result import JsonResult, Number, Row, brief, count, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdict = Literal[
    "average",
    "average and recalibrate",
    "average and repair",
    "align first",
    "align first and recalibrate",
    "align first and repair",
    "do not average",
    "unknown",
]


class _Attempt(TypedDict):
    """An attempt in JSON."""

    way: Literal["average", "recalibrate", "repair", "align", "align and recalibrate", "align and repair"]
    height: Number
    ends: tuple[Number, Number]
    midpoint: Number
    removed: bool
    failed: str
    barrier: dict[str, Any] | None


class _Fields(TypedDict):
    """A report in JSON."""

    names: tuple[str, str]
    verdict: Verdict
    reason: str
    differences: list[str]
    tensors: list[TensorDistance]
    attempts: list[_Attempt]
    notes: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class PairReport(JsonResult):
    """Whether two networks may be averaged, and what that rests on.

    Errors are fractions in [0, 1].

    Attributes:
        names: what the two are called.
        tensors: those that both have, in a's order, tied ones once.
        differences: everything but weights in which the two differ, in words; with any, nothing is measured.
        attempts: with data, the plain average, and then what was tried to remove a barrier.
        verdict: what to do; `"unknown"` of files alone.
        reason: of the verdict, with its numbers.
        notes: everything that was decided.
        settings: thresholds, versions; JSON.
    """

    _FORMAT = "modeconn pair report 1"
    _NAME = "a report on two networks"
    _SCHEMA = _Fields
    _COLUMNS = None

    names: tuple[str, str]
    tensors: tuple[TensorDistance, ...]
    differences: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    verdict: Verdict = "unknown"
    reason: str = ""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether all tensors are, and nothing else differs."""
        return not self.differences and all(tensor.equal for tensor in self.tensors)

    @functools.cached_property
    def siblings(self) -> Siblings:
        """Whether the two look like descendants of one network, and what that rests on."""
        return judge_siblings(self.tensors)

    @property
    def layers(self) -> tuple[Part, ...]:
        """The modules that own tensors."""
        return parts_of(self.tensors, lambda tensor: tensor.layer)

    @property
    def blocks(self) -> tuple[Part, ...]:
        """Layers whose names are the same up to the first number."""
        return parts_of(self.tensors, lambda tensor: tensor.block)

    @property
    def whole(self) -> Part:
        """All tensors."""
        return next(iter(parts_of(self.tensors, lambda tensor: "all")), Part("all", Sums(), True, None))

    @property
    def barrier(self) -> Barrier | None:
        """The path between the two as they are, at alphas 0, 0.5 and 1; None without data."""
        return self.attempts[0].barrier if self.attempts else None

    def noting(self, *notes: str) -> "PairReport":
        """The same, with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def rows(self) -> list[Row]:
        """One row per tensor: its distances, and those of its task vectors where there is an ancestor."""
        return tensor_rows(self.tensors)

    def plot(self, ax: "Axes | None" = None, *, annotate: bool = True) -> "Axes":
        """Draw relative distance and cosine by layer, and mark the equal layers; with an ancestor, task vectors too.

        Layers without a matrix, such as norms, are hollow: they begin equal in all networks.

        Args:
            ax: where to draw; a new figure, as wide as the layers need, if None.
            annotate: whether there is a title.
        """
        from modeconn.style import PALETTE, drawing, name_places, short

        layers = self.layers
        places = range(len(layers))
        longest = max((len(layer.name) for layer in layers), default=0)
        with drawing(ax, max(4.5, min(16, 0.16 * len(layers) + 1)), 3 + 0.05 * longest) as ax:
            curves: dict[str, list[float]] = {
                "relative distance": [layer.sums.relative_distance for layer in layers],
                "cosine": [layer.sums.cosine for layer in layers],
            }
            if any(layer.moves for layer in layers):
                curves["cosine of task vectors"] = [(layer.moves or Moves()).cosine for layer in layers]
            matrices = {tensor.layer for tensor in self.tensors if len(tensor.shape) > 1}
            filled = [layer.name in matrices for layer in layers]
            for (label, values), marker, color in zip(curves.items(), "os^", PALETTE, strict=False):
                faces = [color if fill else "white" for fill in filled]
                ax.scatter(places, values, marker=marker, s=14, facecolor=faces, edgecolor=color, zorder=2)
                ax.plot([], [], marker=marker, markersize=4, linewidth=0, color=color, label=label)
            for place in (place for place, layer in enumerate(layers) if layer.equal):
                ax.axvspan(place - 0.5, place + 0.5, color="#DDDDDD", linewidth=0)
            if any(layer.equal for layer in layers):
                ax.fill_between([], [], color="#DDDDDD", label="equal")
            if layers:
                name_places(ax, [layer.name for layer in layers])
            ax.grid(False, axis="x")
            a, b = map(short, self.names)
            ax.set_xlabel("layer")
            if annotate:
                ax.set_title(f"{a} and {b}: {self.verdict}\n{self.siblings.answer}")
            ax.set_xlim(-0.6, max(len(layers), 1) - 0.4)
            lowest = min((value for values in curves.values() for value in values if value < 0), default=0)
            ax.set_ylim(lowest - 0.1, 2.35)  # distances reach 2, and above is room for the legend
            ax.legend(loc="upper center", ncols=len(curves) + 1)
            return ax

    def __repr__(self) -> str:
        a, b = (brief(name, 40) for name in self.names)
        return f"PairReport({a} and {b}: {self.verdict}; {self.siblings.answer})"

    def __str__(self) -> str:
        a, b = self.names
        head = f"{a} and {b}: {count(len(self.tensors), 'tensor')} in common, {self.whole.sums.entries:,} weights"
        verdict = f"Verdict: {self.verdict}. {self.reason[:1].upper()}{self.reason[1:]}."
        paragraphs = [
            [head],
            [verdict],
            listed("Differences", self.differences),
            siblings_in_words(self.siblings, self.layers),
            parts_in_words(self.layers, self.blocks, self.whole),
            moves_in_words(self.names, self.whole.moves),
            attempts_in_words(self.names, self.attempts),
        ]
        notes = self.notes if self.barrier is None else (*self.notes, *self.barrier.notes)
        text = "\n\n".join("\n".join(lines) for lines in paragraphs if lines)
        return "\n".join(line.rstrip() for line in [*text.splitlines(), *note_lines(dict.fromkeys(notes))])

    def _fields(self) -> dict[str, Any]:
        attempts = [
            {entry: getattr(attempt, entry) for entry in ("way", "height", "ends", "midpoint", "removed", "failed")}
            | {"barrier": attempt.barrier and attempt.barrier.without_examples().content()}
            for attempt in self.attempts
        ]
        return {
            "names": self.names,
            "verdict": self.verdict,
            "reason": self.reason,
            "siblings": asdict(self.siblings),  # for readers; it comes from the tensors
            "differences": self.differences,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "attempts": attempts,
            "notes": self.notes,
            "settings": self.settings,
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        a, b = content["names"]
        return cls(
            names=(a, b),
            tensors=tuple(_tensor(**tensor) for tensor in content["tensors"]),
            differences=tuple(content["differences"]),
            attempts=tuple(_attempt(**attempt) for attempt in content["attempts"]),
            verdict=content["verdict"],
            reason=content["reason"],
            notes=tuple(content["notes"]),
            settings=content["settings"],
        )


def _tensor(**content: Any) -> TensorDistance:
    shape, types, sums, found, moves = (content[name] for name in ("shape", "types", "sums", "likeness", "moves"))
    return TensorDistance(
        content["name"],
        content["kind"],
        tuple(shape),
        (types[0], types[1]),
        content["equal"],
        Sums(**sums),
        None if found is None else Likeness(**found),
        None if moves is None else Moves(**moves),
    )


def _attempt(**content: Any) -> Attempt:
    barrier = content["barrier"]
    numbers = from_jsonable({name: content[name] for name in ("height", "midpoint", "ends")})
    a, b = numbers["ends"].tolist()
    return Attempt(
        content["way"],
        numbers["height"],
        (a, b),
        numbers["midpoint"],
        content["removed"],
        None if barrier is None else Barrier.from_content(barrier),
        content["failed"],
    )
