"""`flatness(network, data)`: how much error and loss grow under Gaussian noise on a network's weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.curve import main_metric, report_points
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.filters import as_weights, normalised, random_direction
from modeconn.analysis.paths.combination import combination
from modeconn.analysis.paths.linear import can_interpolate, compute_dtype
from modeconn.errors import unknown
from modeconn.options import number, require, whole_number
from modeconn.progress import Report, silent, with_progress
from modeconn.result import JsonResult, Number, count, from_jsonable, note_lines
from modeconn.weights.state_dicts import Weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RELATIVE_TO = ("network", "filter", "nothing")


@with_progress
def flatness(
    network: Source,
    data: Any = None,
    norm: float = 0.1,
    *,
    relative_to: str = "network",
    draws: int = 10,
    seed: int = 0,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> "Flatness":
    """Measure a network under Gaussian noise on its weights: the mean of error and loss over several draws.

    Args:
        network: as `modeconn.error_barrier` takes networks.
        data: what it is measured on, in the form that `modeconn.error_barrier` takes; the training data of a stored
            run if None.
        norm: of the noise: it is scaled to have this L2 norm exactly.
        relative_to: what that norm is relative to: that of the whole `"network"`'s parameters; of each `"filter"`, so
            that biases and parameters of norms have no noise (Li et al. 2018, section 4); or `"nothing"`.
        draws: how many.
        seed: of the noise.
        report: called after every draw.
        progress: show how far it is.
        **how: options of `modeconn.error_barrier`. With `batchnorm="recalibrate"` running statistics are measured anew
            under each noise.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is measured.

    >>> from torch import nn
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> found = flatness(nn.Linear(4, 2), (inputs, (inputs[:, 0] > 0).long()), 0.1, draws=3)
    >>> found.metric, len(found.rows())
    ('error', 3)
    """
    norm, relative_to = noise_of(norm, relative_to)
    draws = whole_number(draws, 1, "there must be at least one draw of noise")
    seed = whole_number(seed, 0, "the seed must be a whole number, not negative")
    refuse_factors(how.get("adapter", "products"), "flatness")
    with open_comparison([network], "train" if data is None else data, ComparisonOptions(**how)) as comparison:
        (weights,) = comparison.networks
        point_done = report_points(report, draws + 1)
        measured = comparison.measure_end(weights)
        point_done()
        generator = torch.Generator().manual_seed(seed)
        values = []
        for _ in range(draws):
            noise = _noise(comparison, weights, norm, relative_to, generator)
            at = combination([weights, as_weights(noise, weights, "noise")], [1.0, 1.0], "the network with noise")
            found = comparison.measure_end(at)
            values.append({name: found.mean(name) for name in measured.sums})
            point_done()
        return Flatness(
            value={name: measured.mean(name) for name in measured.sums},
            draws=tuple(values),
            metric=main_metric(measured),
            norm=norm,
            relative_to=relative_to,
            notes=tuple(note for note in comparison.notes if "interpolated like weights" not in note),
            settings=comparison.settings | {"seed": seed, "batchnorm": comparison.evaluator.batchnorm},
        )


def noise_of(norm: float, relative_to: str) -> tuple[float, str]:
    """The same norm of noise, as a float, and what it is relative to.

    Raises:
        OptionError: the norm is no positive number, or it is relative to something else.
    """
    require(0 < number("the norm", norm) < math.inf, f"the norm of noise must be positive; got {norm!r}")
    if relative_to not in RELATIVE_TO:
        raise unknown("what noise is relative to", str(relative_to), RELATIVE_TO)
    return float(norm), relative_to


def _noise(
    comparison: Comparison, weights: Weights, norm: float, relative_to: str, generator: torch.Generator
) -> dict[str, Tensor]:
    if relative_to == "filter":
        drawn = random_direction(weights, comparison.parameters, generator)
        scaled = normalised(drawn, weights, comparison.evaluator.network, "filter")
        return {name: norm * tensor for name, tensor in scaled.items()}
    names = [name for name in comparison.parameters if can_interpolate(weights.layout[name])]
    drawn = {
        name: torch.randn(
            weights.layout[name].shape, generator=generator, dtype=compute_dtype(weights.layout[name].dtype)
        )
        for name in names
    }
    length = _length(drawn.values())
    wanted = norm * (_length(weights.read(name) for name in names) if relative_to == "network" else 1)
    return {name: tensor * (wanted / length) for name, tensor in drawn.items()}


def _length(tensors: Any) -> float:
    return math.sqrt(math.fsum(float(tensor.detach().double().square().sum()) for tensor in tensors))


class _Fields(TypedDict):
    """A flatness in JSON."""

    value: dict[str, Number]
    draws: list[dict[str, Number]]
    metric: str
    norm: Number
    relative_to: str
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Flatness(JsonResult):
    """Error and loss of a network under Gaussian noise on its weights.

    Attributes:
        value: metric to value of the network as it is.
        draws: the same under each draw of noise.
        metric: the first of them: the error, where there is one.
        norm: of the noise.
        relative_to: `"network"`, `"filter"` or `"nothing"`.
        notes: everything that was decided.
        settings: data, device, versions; JSON.
    """

    _FORMAT = "modeconn flatness 1"
    _NAME = "a flatness"
    _SCHEMA = _Fields

    value: Mapping[str, float]
    draws: tuple[Mapping[str, float], ...]
    metric: str
    norm: float
    relative_to: str
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, metric: str | None = None) -> float:
        """The mean of a metric over the draws; of the first if None."""
        return float(np.mean([draw[metric or self.metric] for draw in self.draws]))

    def standard_error(self, metric: str | None = None) -> float:
        """The standard error of that mean; NaN of one draw."""
        values = [draw[metric or self.metric] for draw in self.draws]
        return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan

    def rows(self) -> list[dict[str, Any]]:
        """A row for each draw: its number, and every metric."""
        return [{"draw": place, **draw} for place, draw in enumerate(self.draws, 1)]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the first metric of every draw, and that of the network as it is as a line.

        Args:
            ax: where to draw; a new figure if None.
        """
        from modeconn.style import COLORS, drawing

        scale, unit = (100, "error (%)") if self.metric == "error" else (1, self.metric)
        with drawing(ax) as ax:
            y = [scale * draw[self.metric] for draw in self.draws]
            ax.plot(range(1, len(y) + 1), y, "o", color=COLORS["train"], markersize=4, label="with noise")
            ax.axhline(scale * self.value[self.metric], color="black", linewidth=1, linestyle="--", label="as it is")
            ax.set(xlabel="draw of noise", ylabel=unit, title=f"noise of norm {self.norm:g}, {self._word}")
            ax.legend()
            return ax

    def __str__(self) -> str:
        about = self.settings.get("measured_as", "")
        lines = [f"under Gaussian noise of norm {self.norm:g}, {self._word}: {about}", ""]
        for name, value in self.value.items():
            scale, unit = (100, " %") if name == "error" else (1, "")
            error = self.standard_error(name)
            spread = "" if math.isnan(error) else f" +- {scale * error:.2g}"
            lines.append(
                f"{name}: {scale * value:.4g}{unit} as it is, {scale * self.mean(name):.4g}{spread}{unit} with noise"
            )
        lines.append(f"Mean over {count(len(self.draws), 'draw')}, with its standard error.")
        return "\n".join([*lines, *note_lines(self.notes)])

    @property
    def _word(self) -> str:
        words = {"network": "relative to the network's", "filter": "relative to each filter's", "nothing": "absolute"}
        return words[self.relative_to]

    def _fields(self) -> dict[str, Any]:
        plain = ("value", "metric", "norm", "relative_to")
        found = {name: getattr(self, name) for name in plain}
        return found | {"draws": list(self.draws), "notes": list(self.notes), "settings": dict(self.settings)}

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        if content["relative_to"] not in RELATIVE_TO or content["metric"] not in content["value"]:
            raise ValueError("it has no such metric, or noise relative to something else")
        return cls(
            value=from_jsonable(content["value"]),
            draws=tuple(from_jsonable(draw) for draw in content["draws"]),
            metric=content["metric"],
            norm=from_jsonable(content["norm"]),
            relative_to=content["relative_to"],
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
