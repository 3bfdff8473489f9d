"""Result of `layerwise_barrier`: a curve for every layer and mode, and their barriers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.samples import measured
from modeconn.errors import unknown
from modeconn.result import JsonResult, Number, array_of, note_lines, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES = ("single", "from input", "from output", "random")
_BAR = 0.38  # width of a bar in a figure, of the space of a layer
_LINE = 0.13  # height of a line of labels, in inches


class _Fields(TypedDict):
    """A layer-wise barrier in JSON."""

    layers: list[str]
    distance: list[Number]
    tensors: dict[str, list[str]]
    curves: dict[str, dict[str, list[list[Number]]]]
    full: dict[str, Any]
    notes: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class LayerwiseBarrier(JsonResult):
    """How high the paths rise on which some layers move from `a`, the host, towards `b` (Adilova et al. 2024).

    Errors are fractions in [0, 1]. A barrier is the worst value on a path minus the mean of the values of the two full
    networks, so it is negative where the host is better than that mean and the path does not rise above it; half the
    difference of the two networks is the least that a host which is the worse one can have.

    Attributes:
        layers: their names, in the order of the cumulative modes.
        full: the path on which everything moves; its curves are those of all examples together.
        curves: mode to metric to its values, float64 [layers, alphas].
        distance: float64 [layers], L2 norm of the difference of each layer's parameters; buffers do not count.
        tensors: layer to the names of its tensors.
        notes: everything that was decided.
        settings: seed of the control, data, meter, precision, device, versions; JSON.

    >>> from modeconn.analysis.connectivity.samples import Samples
    >>> samples = Samples(np.array([[10.0], [50.0], [20.0]]), np.full((3, 1), 100), "all")
    >>> full = Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error")
    >>> curves = {"single": {"error": np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.4]])}}
    >>> result = LayerwiseBarrier(("0", "2"), full, curves, distance=np.array([1.5, 0.5]))
    >>> result.single.round(9).tolist(), round(result.full.barrier, 9)
    ([-0.05, 0.25], 0.35)
    """

    _FORMAT = "modeconn layerwise barrier 1"
    _NAME = "a layer-wise barrier"
    _SCHEMA = _Fields

    layers: tuple[str, ...]
    full: Barrier
    curves: Mapping[str, Mapping[str, np.ndarray]]
    distance: np.ndarray
    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alphas(self) -> np.ndarray:
        """float64 [n], ascending; 0 is the host."""
        return self.full.alphas

    @property
    def modes(self) -> tuple[str, ...]:
        """Those that were measured."""
        return tuple(self.curves)

    @property
    def metric(self) -> str:
        """The one that barriers are of: the error, or else the first."""
        return self.full.metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics."""
        return self.full.metrics

    @property
    def single(self) -> np.ndarray:
        """Barriers where one layer moves alone, float64 [layers]."""
        return self.heights("single")

    @property
    def from_input(self) -> np.ndarray:
        """Barriers where a layer and all before it move, float64 [layers]."""
        return self.heights("from input")

    @property
    def from_output(self) -> np.ndarray:
        """Barriers where a layer and all after it move, float64 [layers]."""
        return self.heights("from output")

    @property
    def random(self) -> np.ndarray:
        """Barriers of the control: one layer moves as far in a random direction, float64 [layers]."""
        return self.heights("random")

    @property
    def barriers(self) -> list[dict[str, Any]]:
        """Rows: layer, mode, barrier."""
        return [
            {"layer": layer, "mode": mode, "barrier": float(height)}
            for mode in self.modes
            for layer, height in zip(self.layers, self.heights(mode), strict=True)
        ]

    def values(self, mode: str, metric: str | None = None) -> np.ndarray:
        """A metric on the paths of a mode, float64 [layers, alphas].

        Raises:
            OptionError: no such metric, or a mode that was not measured.
        """
        if mode not in self.curves:
            raise unknown("mode", str(mode), self.modes)
        metric = self.metric if metric is None else metric
        if metric not in self.metrics:
            raise unknown("metric", metric, self.metrics)
        return self.curves[mode][metric]

    def heights(self, mode: str, metric: str | None = None) -> np.ndarray:
        """The barriers of a metric, float64 [layers]. Of a metric where higher is better, the dip.

        Raises:
            OptionError: no such metric, or a mode that was not measured.
        """
        values, mean = self.values(mode, metric), sum(self.full.end_values(metric)) / 2
        with np.errstate(invalid="ignore"):  # over an end that is infinite, a barrier is NaN
            falls = (metric or self.metric) in self.full.higher_is_better
            return mean - values.min(1) if falls else values.max(1) - mean

    def plot(
        self,
        ax: "Axes | None" = None,
        metric: str | None = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw the barriers over the layers: bars for one at a time, lines for several; dotted, that of the full path.

        What is not finite is left out. In one colour, bars are outlines.

        Args:
            ax: where to draw; a new figure, as wide as the layers need, if None.
            metric: which one; the one that barriers are of, if None.
            label: what it is called in the legend, beside other results.
            color: of all that is drawn; on axes where something is already the next of their own colours, if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the lines, for `matplotlib.lines.Line2D`.

        Raises:
            OptionError: no such metric.
        """
        from modeconn.style import BATCHNORM, PALETTE, drawing, look_of, name_places, short, unused

        looks: dict[str, dict[str, Any]] = {
            "single": {"color": PALETTE[0], "label": "this layer alone"},
            "random": {"color": "#999999", "label": "as far, at random"},
            "from input": {"color": PALETTE[1], "marker": ">", "label": "from the input to here"},
            "from output": {"color": PALETTE[2], "marker": "<", "label": "from here to the output"},
        }
        metric = metric or self.metric
        scale, unit = unit_of(metric)
        places = np.arange(len(self.layers))
        with drawing(ax, max(4.5, 0.16 * len(places) + 1), 3 + 0.05 * max(map(len, self.layers))) as ax:
            look = look_of(ax, label, color, annotate, **line)
            a, b = map(short, self.full.names)

            def named(words: str) -> str:
                return unused(ax, look.name(words, f"{b} in {a}", words))

            full = float(_finite(scale * self.full.heights(metric).barrier))
            across: dict[str, Any] = {"color": look.color or "black", "linewidth": 1, "linestyle": ":"}
            ax.axhline(full, **across, label=named("all layers together"))
            for mode in (mode for mode in looks if mode in self.modes):
                values = _finite(scale * self.heights(mode, metric))
                drawn = looks[mode] | {"label": named(looks[mode]["label"])}
                drawn |= {} if look.color is None else {"color": look.color}
                outline: dict[str, Any] = {}
                if mode in ("single", "random"):
                    side = -1 if mode == "single" else 1
                    if look.color is not None:
                        outline = {"fill": False, "hatch": "" if side < 0 else "///", "edgecolor": drawn.pop("color")}
                    ax.bar(places + side * _BAR / 2, values, _BAR, **drawn, **outline)
                else:
                    ax.plot(places, values, **{"linewidth": 1, "markersize": 3} | drawn | dict(look.line))
            ax.axhline(0, color="black", linewidth=0.6)
            width = ax.get_window_extent().width / ax.figure.dpi  # inches
            name_places(ax, self.layers, every=max(1, math.ceil(len(places) * _LINE / width)))
            ax.set_xlim(-0.6, len(places) - 0.4)
            ax.grid(False, axis="x")
            ax.set(xlabel="layer", ylabel=f"barrier ({unit})")
            if look.annotate:
                ax.set_title(", ".join(filter(None, (f"layers of {b} in {a}", BATCHNORM[self.full.batchnorm]))))
            columns = 2 if width < 6 else 3  # above the curves, as names of layers need the width
            rows = -(-len(ax.get_legend_handles_labels()[0]) // columns)
            low, high = ax.get_ylim()
            ax.update_datalim(
                [(0, high + (0.08 + 0.08 * rows) * (high - low))]
            )  # no limit: axes may become logarithmic
            ax.autoscale_view(scalex=False)
            ax.legend(loc="upper center", fontsize=7, ncols=columns, handlelength=1.6, columnspacing=1)
            return ax

    def rows(self) -> list[dict[str, Any]]:
        """One for each mode, layer and alpha: layer, mode, alpha, and each metric."""
        return [
            {"layer": layer, "mode": mode, "alpha": float(alpha)}
            | {metric: float(values[at, point]) for metric, values in curves.items()}
            for mode, curves in self.curves.items()
            for at, layer in enumerate(self.layers)
            for point, alpha in enumerate(self.alphas)
        ]

    def __str__(self) -> str:
        unit, word = unit_of(self.metric)
        a, b = self.full.names
        width = max(7, *(len(layer) + 2 for layer in self.layers))
        lines = [f"barriers ({word}) where layers move from {a}, the host, to {b}, {len(self.alphas)} alphas", ""]
        lines[0] += measured(self.settings)
        lines.append(" " * width + "".join(f"{mode:>13}" for mode in self.modes) + f"{'distance':>13}")
        columns = [*(unit * self.heights(mode) for mode in self.modes), self.distance]
        for layer, *numbers in zip(self.layers, *columns, strict=True):
            lines.append(f"{layer:{width}}" + "".join(f"{number:>13.4g}" for number in numbers))
        lines += self._legend()
        ends = " and ".join(f"{unit * value:.4g}" for value in self.full.end_values())
        lines += ["", f"All layers together: {unit * self.full.barrier:.4g}. The networks themselves: {ends}."]
        return "\n".join([*lines, *note_lines(self.notes)])

    def _legend(self) -> list[str]:
        """What the columns of the table are."""
        a, b = self.full.names
        said = {
            "single": f"this layer alone moves to {b}",
            "from input": "it and all before it",
            "from output": "it and all after it",
            "random": "it alone, as far, in a random direction",
        }
        modes = "; ".join(f"{mode}: {said[mode]}" for mode in self.modes)
        return ["", f"{modes}; distance: L2 between the layer's weights in {a} and {b}."]

    def _fields(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "barriers": {mode: self.heights(mode) for mode in self.modes},  # for readers; they come from the curves
            "distance": self.distance,
            "tensors": self.tensors,
            "curves": self.curves,
            "full": self.full.content(),
            "notes": self.notes,
            "settings": self.settings,
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        full, layers = Barrier.from_content(content["full"]), tuple(content["layers"])
        if not layers or not content["curves"].keys() <= set(MODES) or not content["curves"]:
            raise ValueError(f"it has no layers, or modes other than {', '.join(MODES)}")
        return cls(
            layers=layers,
            full=full,
            curves={
                mode: {metric: array_of(of_mode[metric], len(layers), len(full.alphas)) for metric in full.metrics}
                for mode, of_mode in content["curves"].items()
            },
            distance=array_of(content["distance"], len(layers)),
            tensors={layer: tuple(names) for layer, names in content["tensors"].items()},
            notes=tuple(content["notes"]),
            settings=content["settings"],
        )


def _finite(heights: Any) -> Any:
    return np.where(np.isfinite(heights), heights, np.nan)
