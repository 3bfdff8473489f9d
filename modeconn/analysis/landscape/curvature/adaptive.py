"""`adaptive_sharpness(network, data)`: how high the loss rises within reach of a network (Kwon et al. 2021)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curvature.hessian import Curvature, NotFinite
from modeconn.analysis.landscape.curvature.micro_batches import micro_batches, weight_of
from modeconn.analysis.landscape.curvature.opening import counting, open_curvature
from modeconn.evaluation.losses import Loss
from modeconn.options import number, require, whole_number
from modeconn.progress import Report, silent, with_progress
from modeconn.result import JsonResult, Number, count, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@with_progress
def adaptive_sharpness(
    network: Source,
    data: Any = None,
    rho: float = 0.5,
    *,
    adaptive: bool = True,
    m: int | None = None,
    steps: int = 20,
    loss: Loss | None = None,
    examples: int | None = None,
    seed: int = 0,
    double: bool = False,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> "AdaptiveSharpness":
    """Find how much the training loss rises in the worst case within a ball around a network's weights w.

    That is the maximum of L(w + e) - L(w) over |e / |w|| <= rho, elementwise, which does not change where the scale of
    weights is moved from layer to layer without changing the function (Kwon et al. 2021, definition 2).

    The maximum is sought by ascent: e moves to the point of the ball in the direction of the gradient, e = rho T^2 g /
    |T g| with T = |w|, again and again; the first step is that of ASAM. The highest loss on the way is a lower bound
    of the maximum.

    Args:
        network, data, loss, examples, double: as of `modeconn.sharpness`.
        rho: the radius.
        adaptive: whether the ball is scaled by the weights; else it is |e| <= rho (Foret et al. 2021).
        m: the mean over batches of m examples of the worst case of each (m-sharpness, Foret et al. 2021, section 4.1),
            without batches in which no label counts; None for that of all data together.
        steps: of ascent.
        seed: of the first direction where the gradient is zero.
        report: called after every gradient over the data.
        progress: show how far it is.
        **how: options of `modeconn.error_barrier`, as of `modeconn.sharpness`.

    Raises:
        ModeconnError: as `modeconn.sharpness`.

    With one weight w = 1 and L = (w - 1)^2, the loss at 1 + rho is rho^2:

    >>> from torch import nn
    >>> line = nn.Linear(1, 1, bias=False)
    >>> line.weight.data = torch.ones(1, 1)
    >>> round(adaptive_sharpness(line, (torch.ones(4, 1), torch.ones(4, 1) + torch.zeros(4, 1)), 0.5,
    ...     loss=lambda network, batch: (network(batch[0]) - batch[1]).square().mean()).value, 4)
    0.25
    """
    rho = radius(rho)
    seed = whole_number(seed, 0, "the seed must be a whole number, not negative")
    steps = whole_number(steps, 1, "there must be at least one step of ascent")
    if m is not None:
        m = whole_number(m, 1, "m must be a whole number of at least 1")
    with open_curvature([network], data, how, loss=loss, examples=examples, double=double) as opened:
        whole = opened.curvature_at(opened.comparison.networks[0])
        at_network, _ = whole.gradient()
        parts = [whole] if m is None else list(_in_batches(whole, m))
        each = counting(report, len(parts) * (steps + 1))
        rises = [_worst_case(part, rho, adaptive, steps, seed, each) for part in parts]
        about, noticed = whole.about, whole.notes
        settings = opened.comparison.settings | {"steps": steps, "seed": seed, "double": double}
        return AdaptiveSharpness(
            value=float(np.mean(rises)),
            error=float(np.std(rises, ddof=1)) / math.sqrt(len(rises)) if len(rises) > 1 else math.nan,
            rises=tuple(rises),
            loss=at_network,
            rho=rho,
            adaptive=adaptive,
            m=m,
            measured_as=about,
            notes=(*opened.notes, *noticed),
            settings=settings | {"measured_as": about, "measured": "adaptive sharpness"},
        )


def radius(rho: float) -> float:
    """The same radius, as a float.

    Raises:
        OptionError: it is no positive number.
    """
    require(0 < number("rho", rho) < math.inf, f"rho must be a positive radius; got {rho!r}")
    return float(rho)


def _in_batches(curvature: Curvature, m: int) -> Iterator[Curvature]:
    """The same loss on each batch of m examples alone, of those in which a label counts."""
    dtype = curvature.like.dtype
    for batch in micro_batches(curvature.batches, m, dtype, curvature.examples):
        if weight_of(curvature.network, batch, curvature.loss is not None):
            yield curvature.on([batch])


@torch.no_grad()
def _worst_case(
    curvature: Curvature, rho: float, adaptive: bool, steps: int, seed: int, each: Callable[[], None]
) -> float:
    """The highest rise of the loss that ascent finds in the ball; the network is put back."""
    parameters = list(curvature.parameters.values())
    sizes = [parameter.numel() for parameter in parameters]
    w = torch.cat([parameter.reshape(-1) for parameter in parameters])  # a copy
    t = w.abs() if adaptive else torch.ones_like(w)

    def put(flat: Tensor) -> None:
        for parameter, part in zip(parameters, flat.split(sizes), strict=True):
            parameter.copy_(part.view(parameter.shape))

    first, gradient = curvature.gradient()
    each()
    highest = first
    try:
        for _ in range(steps):
            direction = t * gradient
            if not bool(direction.any()):  # at a minimum: anywhere
                generator = torch.Generator().manual_seed(seed)
                direction = t * torch.randn(len(w), generator=generator, dtype=torch.float64).to(w)
            length = direction.norm()
            if not length > 0:  # all weights are zero
                break
            put(w + rho * t * direction / length)
            try:
                value, gradient = curvature.gradient()
            except NotFinite:  # beyond all bounds
                return math.inf
            finally:
                each()
            highest = max(highest, value)
    finally:
        put(w)
    return highest - first


class _Fields(TypedDict):
    """An adaptive sharpness in JSON."""

    value: Number
    error: Number
    rises: list[Number]
    loss: Number
    rho: Number
    adaptive: bool
    m: int | None
    measured_as: str
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class AdaptiveSharpness(JsonResult):
    """How high the training loss rises within a ball around a network's weights.

    Attributes:
        value: the rise of the mean loss in the worst case that was found; with `m`, its mean over batches.
        error: the standard error of that mean; NaN without `m`.
        rises: of each batch.
        loss: the mean loss at the network.
        rho: the radius.
        adaptive: whether the ball is scaled by the weights.
        m: the examples of a batch; None for all data together.
        measured_as: which loss on what, in words.
        notes: everything that was decided.
        settings: options, device, versions; JSON.
    """

    _FORMAT = "modeconn adaptive sharpness 1"
    _NAME = "an adaptive sharpness"
    _SCHEMA = _Fields

    value: float
    error: float
    rises: tuple[float, ...]
    loss: float
    rho: float
    adaptive: bool
    m: int | None
    measured_as: str
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each batch: its number, and the rise there."""
        return [{"batch": place, "rise": rise} for place, rise in enumerate(self.rises, 1)]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the rise of each batch, and their mean as a line.

        Args:
            ax: where to draw; a new figure if None.
        """
        from matplotlib.ticker import MaxNLocator

        from modeconn.style import COLORS, drawing

        with drawing(ax) as ax:
            ax.plot(range(1, len(self.rises) + 1), self.rises, "o", color=COLORS["test"], markersize=3)
            ax.axhline(self.value, color="black", linewidth=1, linestyle="--", label=f"mean {self.value:.3g}")
            ax.set(xlabel="batch", ylabel=f"rise of the loss (rho = {self.rho:g})", title=self.measured_as)
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend()
            return ax

    def __str__(self) -> str:
        ball = "|e / |w|| <=" if self.adaptive else "|e| <="
        error = "" if math.isnan(self.error) else f" +- {self.error:.2g}"
        of = "" if self.m is None else f", mean over {count(len(self.rises), 'group')} of {self.m} examples"
        name = "adaptive sharpness" if self.adaptive else "worst-case sharpness"
        lines = [
            f"{name} of {self.measured_as}, {ball} {self.rho:g}",
            "",
            f"the loss rises by {self.value:.5g}{error}, from {self.loss:.4g}{of}",
        ]
        return "\n".join([*lines, *note_lines(self.notes)])

    def _fields(self) -> dict[str, Any]:
        found = asdict(replace(self, settings={}))
        return found | {"rises": list(self.rises), "notes": list(self.notes), "settings": dict(self.settings)}

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        numbers = {name: from_jsonable(content[name]) for name in ("value", "error", "loss", "rho")}
        return cls(
            rises=tuple(float(from_jsonable(rise)) for rise in content["rises"]),
            **numbers,
            **{name: content[name] for name in ("adaptive", "m", "measured_as")},
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
