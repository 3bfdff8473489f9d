"""Result of `feature_connectivity`, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import numpy as np

from modeconn.result import JsonResult, Number, array_of, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = ("cosine", "cosine_ends", "scale")


class _Fields(TypedDict):
    """The linearity of features in JSON."""

    layers: list[str]
    cosine: list[Number]
    cosine_ends: list[Number]
    scale: list[Number]
    alpha: float
    examples: int
    names: list[str]
    batchnorm: Literal["none", "interpolate", "recalibrate", "repair"]
    notes: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureConnectivity(JsonResult):
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

    _FORMAT = "modeconn features 1"
    _NAME = "a result of feature_connectivity"
    _SCHEMA = _Fields

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

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw 1 - cosine over the layers, in the order in which they are called: on the path, and between the ends.

        Args:
            ax: where to draw; a new figure, as wide as the layers need, if None.
            label: what it is called in the legend, beside other results.
            color: of all that is drawn; on axes where something is already the next of their own colours, if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the lines, for `matplotlib.lines.Line2D`.
        """
        from modeconn.style import BATCHNORM, COLORS, NAMES, draw_legend, drawing, look_of, name_places, short, unused

        places = np.arange(len(self.layers))
        a, b = map(short, self.names)
        with drawing(ax, max(4.0, 1.5 + 0.18 * min(len(places), NAMES)), 3.6) as ax:
            look = look_of(ax, label, color, annotate, **line)
            for cosine, split, marker, own, part in (
                (self.cosine_ends, "train", "s", f"{a} against {b}", "the ends"),
                (
                    self.cosine,
                    "test",
                    "o",
                    f"alpha {self.alpha:g} against the average of both",
                    f"alpha {self.alpha:g}",
                ),
            ):
                drawn = look.options(marker=marker, markersize=3.5, color=look.color or COLORS[split])
                ax.plot(places, 1 - cosine, **drawn, label=unused(ax, look.name(own, f"{a} and {b}", part)))
            ax.axhline(0, color="black", linewidth=0.6)
            name_places(ax, self.layers)
            ax.margins(x=0.02)
            finite = self.scale[np.isfinite(self.scale)]
            scale = f", scale c {finite.min():.2f} to {finite.max():.2f}" if len(finite) else ""
            ax.set_ylabel("1 - cosine of features")
            if look.annotate:
                ax.set_title(f"{self.examples:,} examples{scale}")
            draw_legend(ax, BATCHNORM[self.batchnorm])
            return ax

    def __str__(self) -> str:
        lines = [f"features at alpha {self.alpha:g} between {self.names[0]} and {self.names[1]}", ""]
        width = max(map(len, (*self.layers, "layer"))) + 2
        lines.append(f"{'layer':{width}}{'1 - cosine':>12}{'endpoints':>13}{'scale c':>10}")
        for layer, cosine, ends, scale in zip(self.layers, self.cosine, self.cosine_ends, self.scale, strict=True):
            lines.append(f"{layer:{width}}{1 - cosine:>12.4g}{1 - ends:>13.4g}{scale:>10.4g}")
        lines += [
            "",
            "1 - cosine: mean cosine distance between the features here and the average of the endpoints' features;",
            "endpoints: between the features of the two endpoints; scale c: by which the features here come closest to",
            "that average (1 where features are linear in the weights).",
        ]
        return "\n".join([*lines, *note_lines(self.notes)])

    def _fields(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            **{name: getattr(self, name) for name in _CURVES},
            "alpha": self.alpha,
            "examples": self.examples,
            "names": self.names,
            "batchnorm": self.batchnorm,
            "notes": self.notes,
            "settings": self.settings,
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        curves = {name: array_of(content[name], len(content["layers"])) for name in _CURVES}
        a, b = content["names"]
        return cls(
            layers=tuple(content["layers"]),
            **curves,
            alpha=content["alpha"],
            examples=content["examples"],
            names=(a, b),
            batchnorm=content["batchnorm"],
            notes=tuple(content["notes"]),
            settings=content["settings"],
        )
