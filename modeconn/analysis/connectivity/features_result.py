"""What `feature_connectivity` found, layer by layer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.result import from_jsonable, jsonable, reading, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMAT = "modeconn features 1"
_CURVES = ("cosine", "cosine_ends", "scale")


@dataclass(frozen=True, eq=False)
class FeatureConnectivity:
    """How close each layer's features on the path are to the average of the ends' features (Zhou et al. 2023).

    Attributes:
        layers: names, in the order in which the layers are called.
        cosine: float64 [layers], mean over examples of the cosine between the features at alpha and the average of the
            ends' features; 1 where they are linearly connected.
        cosine_ends: float64 [layers], mean cosine between the ends' features.
        scale: float64 [layers], the factor c of the features at alpha that comes closest to the average.
        alpha: where on the path; 0 is `a`, 1 is `b`.
        examples: how many there are.
        names: what `a` and `b` are called.
        batchnorm: what was done to normalization: `"none"`, `"interpolate"`, `"recalibrate"` or `"repair"`.
        notes: everything that was decided.
        settings: precision, device, versions; JSON.
    """

    layers: tuple[str, ...]
    cosine: np.ndarray
    cosine_ends: np.ndarray
    scale: np.ndarray
    alpha: float = 0.5
    examples: int = 0
    names: tuple[str, str] = ("a", "b")
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One for each layer: its name, both cosines and the scale."""
        curves = zip(self.layers, *(getattr(self, name).tolist() for name in _CURVES), strict=True)
        return [dict(zip(("layer", *_CURVES), row, strict=True)) for row in curves]

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw both curves over the layers; see `modeconn.plots.features.plot_features`."""
        from modeconn.plots.features import plot_features

        return plot_features(self, ax=ax)

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, also written to a file if a path is given.

        Raises:
            StoreError: the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "layers": list(self.layers),
            **{name: jsonable(getattr(self, name)) for name in _CURVES},
            "alpha": self.alpha,
            "examples": self.examples,
            "names": list(self.names),
            "batchnorm": self.batchnorm,
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }
        return write_text(json.dumps(content, indent=1, allow_nan=False), path)

    @staticmethod
    def from_json(source: str | Path) -> "FeatureConnectivity":
        """The result that `to_json` wrote, from its text or its file.

        Raises:
            DataError: there is no such file, or it is not such a result.
        """
        with reading(source, _FORMAT, "a result of feature_connectivity") as content:
            curves = {name: from_jsonable(content[name]) for name in _CURVES}
            if any(len(curve) != len(content["layers"]) for curve in curves.values()):
                raise ValueError("there is not one value for each layer")
            return FeatureConnectivity(
                layers=tuple(content["layers"]),
                **curves,
                alpha=content["alpha"],
                examples=content["examples"],
                names=(content["names"][0], content["names"][1]),
                batchnorm=content["batchnorm"],
                notes=tuple(content["notes"]),
                settings=content["settings"],
            )

    def __str__(self) -> str:
        lines = [f"features at alpha {self.alpha:g} between {self.names[0]} and {self.names[1]}", ""]
        width = max(map(len, (*self.layers, "layer"))) + 2
        lines.append(f"{'layer':{width}}{'1 - cosine':>12}{'of the ends':>13}{'scale c':>10}")
        for layer, cosine, ends, scale in zip(self.layers, self.cosine, self.cosine_ends, self.scale, strict=True):
            lines.append(f"{layer:{width}}{1 - cosine:>12.4g}{1 - ends:>13.4g}{scale:>10.4g}")
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)
