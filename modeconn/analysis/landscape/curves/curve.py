"""A curve between two networks: its weights at every t, its length, and how errors rise on it."""

import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.averaging import dtype_of_mean
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curves.curve_line import point
from modeconn.analysis.landscape.curves.curve_measure import measure_curve
from modeconn.analysis.landscape.curves.curve_result import CurveResult, described
from modeconn.analysis.landscape.curves.shapes import length
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.measure import device_of
from modeconn.progress import Report, silent, with_progress
from modeconn.reading import check, read_file
from modeconn.result import Number, array_of, json_text, note_lines
from modeconn.weights.loadable import loadable
from modeconn.weights.state_dicts import Weights, aliases_of, shape_of
from modeconn.weights.tensor_files import in_order, read_tensors
from modeconn.weights.writing import write_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMAT = "modeconn curve 1"
_LARGEST = 1 << 40  # bytes of a file


class _Fields(TypedDict):
    """A curve in the metadata of its file."""

    kind: Literal["bezier", "polychain"]
    bends: int
    parameters: list[str]
    names: list[str]
    losses: list[Number]
    notes: list[str]
    settings: dict[str, Any]
    aliases: dict[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """A curve between two networks.

    Attributes:
        kind: `"bezier"` or `"polychain"`.
        points: the state dicts of the control points by plain names, the first and the last being the two networks.
        parameters: names of the parameters, each tensor once, that lengths are measured by.
        names: what the two networks are called.
        losses: the mean training loss of every epoch, over t too; of an elastic band, the highest after every cycle.
        notes: everything that was decided.
        settings: how it was trained; JSON.
        network: a network of this architecture; None of a curve that was read from a file.
        original: the module whose names `state_at` gives.
        stored: the stored run whose data are known.
        train: what the curve was trained on; None of a stored run's data.
        evaluate: what is measured by default.
    """

    kind: str
    points: tuple[Mapping[str, Tensor], ...]
    parameters: tuple[str, ...]
    names: tuple[str, str] = ("a", "b")
    losses: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None
    original: nn.Module | None = None
    stored: Any = None
    train: Any = None
    evaluate: Any = "auto"

    @property
    def bends(self) -> int:
        """How many control points there are between the ends."""
        return len(self.points) - 2

    def state_at(self, t: float) -> dict[str, Tensor]:
        """The state dict at t, in the types and under the names of the networks; at 0 and 1 theirs, to the bit.

        Running statistics of BatchNorm between the ends are interpolated and fit no network there: measure them anew
        by `modeconn.recalibrate` before the weights are used.

        Raises:
            OptionError: t is not in [0, 1].
        """
        weights = self._weights()
        found = point(self.kind, weights, t)
        state: dict[str, Tensor] = {}
        for name in found.layout:
            first = weights[0].aliases.get(name, name)
            dtype = found.layout[name].dtype if t in (0, 1) else dtype_of_mean([weights[0], weights[-1]], name)
            # A tensor of its own, as whoever gets it may write to it.
            state[name] = state[first] if first in state else found.read(name).detach().to(dtype, copy=True)
        return state if self.original is None else loadable(state, self.original)

    @functools.cached_property
    def length(self) -> float:
        """The length of the curve in the L2 norm of the parameters."""
        return length(self.kind, self._gram)

    @functools.cached_property
    def chord(self) -> float:
        """The L2 distance of the ends."""
        return math.sqrt(float(self._gram.sum()))

    @property
    def length_ratio(self) -> float:
        """The length of the curve over that of the segment, at least 1."""
        return self.length / self.chord

    @with_progress
    def barrier(
        self,
        data: Any = None,
        *,
        alphas: int | str | Sequence[float] = 31,
        tolerance: float = 0.001,
        higher_is_better: bool | Collection[str] = (),
        report: Report = silent,
        progress: bool = False,
        **how: Unpack[OptionKeywords],
    ) -> CurveResult:
        """Measure errors and losses along the curve, and on the segment between its ends.

        Running statistics of BatchNorm are measured anew at every t, on the data that the curve was trained on or, of
        stored runs, as `modeconn.error_barrier` does, unless you choose otherwise.

        Args:
            data: as `modeconn.error_barrier` takes them; the training data show what the curve was trained for. Of
                stored runs, `"test"` (the default) and `"train"` are known.
            alphas, tolerance, higher_is_better, report, progress: as of `modeconn.error_barrier`; alpha is t.
            **how: options of `modeconn.error_barrier`. `batchnorm` is `"recalibrate"` (the default) or
                `"interpolate"`; `calibration` is what the curve was trained on by default; a curve that was read from a
                file needs `model`.

        Raises:
            ModeconnError: an option, a network or data that do not fit, before anything is measured.
        """
        given: OptionKeywords = {"batchnorm": "recalibrate", "evaluate": self.evaluate, "names": self.names, **how}
        if given["batchnorm"] == "repair":
            raise OptionError(
                'batchnorm="repair" is defined on the segment and not on a curve; choose "recalibrate" or "interpolate"'
            )
        if self.network is None and given.get("model") is None:
            raise OptionError("this curve was read from a file; give model= the architecture of its networks")
        if (data is None or isinstance(data, str)) and self.stored is not None:
            data = self.stored.batches(data or "test")
        if given.get("calibration") is None:
            known = self.stored is not None and self.train is None
            given["calibration"] = self.stored.calibration() if known else self.train
        if self.network is not None:
            given.setdefault("device", device_of(self.network))
        network = given.get("model")
        given["model"] = self.network if network is None or isinstance(network, str) else network
        return measure_curve(
            self.kind, self._weights(), self.points, data, given, alphas, tolerance, higher_is_better, report,
            about={"bends": self.bends, "length": self.length, "chord": self.chord, "training": dict(self.settings)},
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the curve as a safetensors file, which `modeconn.analysis.landscape.curves.curve.load_curve` reads.

        Raises:
            StoreError: the file cannot be written.
        """
        first = self.points[0]
        aliases = aliases_of(first)
        tensors = {
            f"{i}/{name}": tensor
            for i, state in enumerate(self.points)
            for name, tensor in state.items()
            if name not in aliases and (i == 0 or tensor is not first[name])
        }
        fields = {
            "format": _FORMAT,
            "kind": self.kind,
            "bends": self.bends,
            "parameters": self.parameters,
            "names": self.names,
            "losses": self.losses,
            "notes": self.notes,
            "settings": self.settings,
            "aliases": aliases,
        }
        write_weights(tensors, path, {"curve": json_text(fields)})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the training loss over the epochs, or the cycles of an elastic band.

        Args:
            ax: where to draw; a new figure if None.
        """
        from matplotlib.ticker import MaxNLocator

        from modeconn.style import COLORS, drawing

        with drawing(ax) as ax:
            ax.plot(np.arange(1, len(self.losses) + 1), self.losses, "o-", color=COLORS["train"], markersize=2.5)
            band = self.settings.get("method") == "neb"
            labels = ("cycle", "highest training loss") if band else ("epoch", "mean training loss")
            ax.set(xlabel=labels[0], ylabel=labels[1], title=self._title())
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            return ax

    def __repr__(self) -> str:
        return f"Curve({self._title()}, length {self.length_ratio:.4g} x the segment)"

    def __str__(self) -> str:
        lines = [self._title(), f"length {self.length:.4g}, {self.length_ratio:.4g} x the segment's {self.chord:.4g}"]
        if self.losses:
            which = "highest" if self.settings.get("method") == "neb" else "mean"
            lines.append(f"{which} training loss {self.losses[-1]:.4g}, {self.losses[0]:.4g} at first")
        return "\n".join([*lines, *note_lines(self.notes)])

    def _title(self) -> str:
        return f"{described(self.kind, self.bends)} from {self.names[0]} to {self.names[1]}"

    def _weights(self) -> tuple[Weights, ...]:
        """The control points as weights, ends included."""
        return tuple(weights_of_point(state, f"control point {i}") for i, state in enumerate(self.points))

    @functools.cached_property
    def _gram(self) -> np.ndarray:
        """The inner products of the differences of adjacent control points, by the parameters."""
        n = len(self.points) - 1
        gram = np.zeros((n, n))
        for name in self.parameters:
            columns = [state[name].detach().flatten() for state in self.points]
            if not (columns[0].is_floating_point() or columns[0].is_complex()):
                continue
            wide = torch.complex128 if columns[0].is_complex() else torch.float64
            stacked = torch.stack([column.to(wide) for column in columns]).diff(dim=0)
            gram += (stacked @ stacked.conj().T).real.cpu().numpy()
        return gram


def weights_of_point(state: Mapping[str, Tensor], origin: str) -> Weights:
    """A control point as weights that are read by their names."""
    layout = {name: shape_of(tensor) for name, tensor in state.items()}
    return Weights(layout, state.__getitem__, origin, aliases=aliases_of(state))


def load_curve(path: str | Path) -> Curve:
    """The curve that `Curve.save` wrote; its weights are on the CPU. To measure it needs `model`.

    Raises:
        DataError: the file is not there, or is no curve.
    """
    try:
        tensors, metadata = read_tensors(read_file(path, _LARGEST))
        content = json.loads(metadata["curve"])
        if content["format"] != _FORMAT:
            raise ValueError(f"it has the format {content['format']!r}")
        check(content, _Fields)
        if not 1 <= content["bends"] <= len(tensors):
            raise ValueError(f"it has no tensors for {content['bends']} bends")
        own: list[dict[str, Tensor]] = [{} for _ in range(content["bends"] + 2)]
        for name, tensor in tensors.items():
            number, _, plain = name.partition("/")
            own[int(number)][plain] = tensor
        order = in_order(own[0])
        points = [{name: state.get(name, own[0][name]) for name in order} for state in own]
        for state in points:
            state |= {name: state[first] for name, first in content["aliases"].items()}
        a, b = content["names"]
        losses = array_of(content["losses"], len(content["losses"]))
        return Curve(
            kind=content["kind"],
            points=tuple(points),
            parameters=tuple(content["parameters"]),
            names=(a, b),
            losses=tuple(losses.tolist()),
            notes=tuple(content["notes"]),
            settings=content["settings"],
        )
    except Exception as error:  # nothing but the content of the file is at work here
        raise DataError(f"{path} is no curve that can be read: {error}") from error
