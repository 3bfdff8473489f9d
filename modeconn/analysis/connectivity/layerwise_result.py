"""What `layerwise_barrier` found: a curve for every layer and mode, and their barriers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.errors import unknown
from modeconn.result import from_jsonable, jsonable, reading, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES = ("single", "from input", "from output", "random")
_FORMAT = "modeconn layerwise barrier 1"


@dataclass(frozen=True, eq=False)
class LayerwiseBarrier:
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

    >>> from modeconn.analysis.connectivity.barrier_result import Samples
    >>> samples = Samples(np.array([[10.0], [50.0], [20.0]]), np.full((3, 1), 100), "all")
    >>> full = Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error")
    >>> curves = {"single": {"error": np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.4]])}}
    >>> result = LayerwiseBarrier(("0", "2"), full, curves, distance=np.array([1.5, 0.5]))
    >>> result.single.round(9).tolist(), round(result.full.barrier, 9)
    ([-0.05, 0.25], 0.35)
    """

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

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Draw the barriers over the layers; see `modeconn.plots.layerwise.plot_layerwise`."""
        from modeconn.plots.layerwise import plot_layerwise

        return plot_layerwise(self, ax=ax, **options)

    def rows(self) -> list[dict[str, Any]]:
        """One for each mode, layer and alpha: layer, mode, alpha, and each metric."""
        return [
            {"layer": layer, "mode": mode, "alpha": float(alpha)}
            | {metric: float(values[at, point]) for metric, values in curves.items()}
            for mode, curves in self.curves.items()
            for at, layer in enumerate(self.layers)
            for point, alpha in enumerate(self.alphas)
        ]

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, also written to a file if a path is given.

        Raises:
            StoreError: the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "layers": list(self.layers),
            "barriers": {mode: jsonable(self.heights(mode)) for mode in self.modes},
            "distance": jsonable(self.distance),
            "tensors": {layer: list(names) for layer, names in self.tensors.items()},
            "curves": {
                mode: {name: jsonable(values) for name, values in curves.items()}
                for mode, curves in self.curves.items()
            },
            "full": json.loads(self.full.to_json()),
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }
        return write_text(json.dumps(content, indent=1, allow_nan=False), path)

    @staticmethod
    def from_json(source: str | Path) -> "LayerwiseBarrier":
        """The result that `to_json` wrote, from its text or its file.

        Raises:
            DataError: there is no such file, or it is not such a result.
        """
        with reading(source, _FORMAT, "a layer-wise barrier") as content:
            return LayerwiseBarrier(
                layers=tuple(content["layers"]),
                full=Barrier.from_json(json.dumps(content["full"])),
                curves={
                    mode: {name: from_jsonable(values) for name, values in curves.items()}
                    for mode, curves in content["curves"].items()
                },
                distance=from_jsonable(content["distance"]),
                tensors={layer: tuple(names) for layer, names in content["tensors"].items()},
                notes=tuple(content["notes"]),
                settings=content["settings"],
            )

    def __str__(self) -> str:
        unit, word = (100, "points of error") if self.metric == "error" else (1, self.metric)
        a, b = self.full.names
        width = max(7, *(len(layer) + 2 for layer in self.layers))
        lines = [f"barriers ({word}) where layers move from {a}, the host, to {b}, {len(self.alphas)} alphas", ""]
        lines.append(" " * width + "".join(f"{mode:>13}" for mode in self.modes) + f"{'distance':>13}")
        columns = [*(unit * self.heights(mode) for mode in self.modes), self.distance]
        for layer, *numbers in zip(self.layers, *columns, strict=True):
            lines.append(f"{layer:{width}}" + "".join(f"{number:>13.4g}" for number in numbers))
        ends = " and ".join(f"{unit * value:.4g}" for value in self.full.end_values())
        lines += ["", f"All layers together: {unit * self.full.barrier:.4g}. The networks themselves: {ends}."]
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)
