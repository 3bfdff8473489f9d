"""Result of `soup`: the averaged weights, which networks are in it, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from modeconn.analysis.connectivity.samples import measured
from modeconn.result import Result, json_text, note_lines
from modeconn.weights.writing import write_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Step:
    """One step of a soup: a network that joined or did not, and why.

    Attributes:
        step: 0 for the best network, then in their rank.
        network: its name.
        value: metric of the average of the members so far and this one, whether it joined or not; of the best network
            alone at step 0; NaN in uniform soups, which do not ask.
        barrier: on the path from the best network (uniform) or the soup so far (greedy) to this one; NaN at step 0 and
            without a gate.
        added: whether it joined.
        reason: `"best"`, `"joins"`, `"barrier"` (above the gate) or `"worse"` (the average gets worse).
    """

    step: int
    network: str
    value: float
    barrier: float
    added: bool
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Soup(Result):
    """An average of networks.

    Attributes:
        state: its weights and buffers as a state dict, on the device where it was measured, with the running statistics
            that were measured. Tied tensors are one tensor under each of their names.
        members: names of the networks in it, best first; each has the same weight.
        steps: what was done with each network, best first.
        outcomes: network to metric to value, for each network alone, best first.
        of_soup: metric to value, of the soup.
        metric: the one by which networks are ranked.
        kind: `"uniform"` or `"greedy"`.
        gate: the highest barrier with which a network joins; None for no gate.
        higher_is_better: metrics for which that is so.
        batchnorm: `"none"` (there is none), `"recalibrate"` or `"interpolate"`, for networks and averages alike.
        notes: everything that was decided.
        settings: data, alphas, precision, device, versions; JSON.
    """

    state: Mapping[str, Tensor]
    members: tuple[str, ...]
    steps: tuple[Step, ...]
    outcomes: Mapping[str, Mapping[str, float]]
    of_soup: Mapping[str, float]
    metric: str = "error"
    kind: str = "uniform"
    gate: float | None = None
    higher_is_better: frozenset[str] = frozenset()
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The metric of the soup."""
        return self.of_soup[self.metric]

    @property
    def values(self) -> dict[str, float]:
        """The metric of each network alone, best first."""
        return {name: metrics[self.metric] for name, metrics in self.outcomes.items()}

    @property
    def left_out(self) -> dict[str, float]:
        """The networks that are not in the soup, and their barriers; NaN without a gate."""
        return {step.network: step.barrier for step in self.steps if not step.added}

    def rows(self) -> list[dict[str, Any]]:
        """The steps, best network first, as dicts of the fields of `Step`."""
        return [asdict(step) for step in self.steps]

    def save(self, path: str | Path) -> None:
        """Write the weights as a safetensors file; members, values and settings are in its metadata.

        A tied tensor is written once, and its other names in the metadata, as `safetensors.torch.save_model` does;
        `safetensors.torch.load_model` and modeconn read it so.

        Raises:
            StoreError: the file cannot be written.
        """
        write_weights(self.state, path, {"modeconn": self._described()})

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw the metric of every network, best first, full circles being members, and of the soup as a line.

        A greedy soup's steps are squares: the metric of the average with each next network, full where it joined. What
        lies far outside of the range of the members is drawn at the edge, with its number.

        Args:
            ax: where to draw; a new figure, as wide as the names need, if None.
            label: what it is called in the legend, beside other results.
            color: of all that is drawn; on axes where something is already the next of their own colours, if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the circles and squares, for `matplotlib.lines.Line2D`.
        """
        from modeconn.style import BATCHNORM, COLORS, NAMES, draw_legend, drawing, look_of, name_places, unused

        scale, unit = (100, "error (%)") if self.metric == "error" else (1, self.metric)
        names = list(self.outcomes)
        places = np.arange(len(names))
        added = np.array([step.added for step in self.steps])
        own = scale * np.array(list(self.values.values()))
        with_it = scale * np.array([step.value for step in self.steps])
        soup = scale * self.value
        low, high = _range(np.array([*own[added], *with_it[added], soup]), np.array([*own, *with_it]))
        with drawing(ax, max(4.0, 1.5 + 0.25 * min(len(names), NAMES)), 3.6) as ax:
            look = look_of(ax, label, color, annotate, **line)

            def named(*words: str) -> list[str]:
                return [unused(ax, look.name(word, f"{self.kind}, {word}", word)) for word in words]

            across: dict[str, Any] = {"color": look.color or "black", "linewidth": 1, "linestyle": "--"}
            ax.axhline(soup, **across, label=named(f"soup: {soup:.3g}")[0])
            circles = look.options(marker="o", color=look.color or COLORS["test"])
            words = named("network in the soup", "network left out")
            _draw_dots(ax, places, own.clip(low, high), added, words, circles)
            if self.kind == "greedy":
                squares = look.options(marker="s", color=look.color or COLORS["train"])
                later = slice(1, None)
                words = named("soup after it joined", "soup if it had joined")
                _draw_dots(ax, places[later], with_it[later].clip(low, high), added[later], words, squares)
            for place, *values in zip(places, own, with_it, strict=True):
                for edge, beyond in ((low, [v for v in values if v < low]), (high, [v for v in values if v > high])):
                    for row, value in enumerate(dict.fromkeys(beyond)):
                        _write_beyond(ax, float(place), value, edge, row)
            name_places(ax, names)
            ax.margins(x=0.05, y=0.1)
            members = f"{len(self.members)} of {len(names)}"
            ax.set_ylabel(unit)
            if look.annotate:
                ax.set_title(f"{self.kind} soup of {members} networks")
            draw_legend(ax, BATCHNORM[self.batchnorm])
            return ax

    def __str__(self) -> str:
        best, value = next(iter(self.values.items()))
        title = f"{self.kind} soup of {len(self.members)} of {len(self.outcomes)} networks"
        lines = [title + measured(self.settings), ""]
        lines.append(f"{self.metric} {self._shown(self.value)}; of the best network, {best}, {self._shown(value)}")
        lines.append(f"In it: {', '.join(self.members)}.")
        for step in self.steps:
            if step.reason == "barrier":
                reason = f"behind a barrier of {self._shown(step.barrier)}"
            else:
                reason = f"with it the soup would have {self._shown(step.value)}"
            if not step.added:
                lines.append(f"Left out: {step.network} ({self._shown(self.values[step.network])}), {reason}.")
        return "\n".join([*lines, *note_lines(self.notes)])

    def _shown(self, value: float) -> str:
        return f"{100 * value:.4g} %" if self.metric == "error" else f"{value:.4g}"

    def _described(self) -> str:
        """The metadata of the file: members, values and settings, as JSON text."""
        about = {
            "kind": self.kind,
            "members": self.members,
            "left_out": self.left_out,
            "metric": self.metric,
            "value": self.of_soup,
            "networks": self.outcomes,
            "gate": self.gate,
            "batchnorm": self.batchnorm,
            "notes": self.notes,
            "settings": self.settings,
        }
        return json_text(about)


def _range(members: np.ndarray, everything: np.ndarray) -> tuple[float, float]:
    """The values that are drawn in full, so that one bad network hides no other.

    Three times as far as the soup and its members reach, or as half of all values lie from them.
    """
    inside, finite = members[np.isfinite(members)], everything[np.isfinite(everything)]
    low, high = inside.min(initial=np.inf), inside.max(initial=-np.inf)
    if low > high:
        return 0.0, 1.0
    away = np.median(np.maximum(np.maximum(low - finite, finite - high), 0))
    room = 3 * max(high - low, away, 0.02 * abs(high), 1e-9)
    return low - room, high + room


def _draw_dots(
    ax: "Axes", x: np.ndarray, y: np.ndarray, full: np.ndarray, labels: list[str], look: dict[str, Any]
) -> None:
    dots: dict[str, Any] = {"linestyle": "none", "markersize": 5, "zorder": 3} | look
    for chosen, fill, label in ((full, look["color"], labels[0]), (~full, "white", labels[1])):
        if chosen.any():
            ax.plot(x[chosen], y[chosen], **dots | {"markerfacecolor": fill, "label": label})


def _write_beyond(ax: "Axes", place: float, value: float, edge: float, row: int) -> None:
    """The number of what lies beyond the edge; of several, one above the other."""
    above = value > edge
    offset = 7 + 8 * row
    ax.annotate(
        f"{value:.3g}",
        (place, edge),
        xytext=(0, offset if above else -offset),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize="small",
    )
