"""What `soup` made: the averaged weights, who is in it, and why."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modeconn.errors import StoreError
from modeconn.weights.state_dicts import aliases_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Step:
    """What was done with one network.

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


@dataclass(frozen=True, eq=False)
class Soup:
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

    state: Mapping[str, Tensor] = field(repr=False)
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

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def save(self, path: str | Path) -> None:
        """Write the weights as a safetensors file; members, values and settings are in its metadata.

        A tied tensor is written once, and its other names in the metadata, as `safetensors.torch.save_model` does;
        `safetensors.torch.load_model` and modeconn read it so.

        Raises:
            StoreError: the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from modeconn.files import writing

        path = Path(path)
        aliases = aliases_of(self.state)
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items() if name not in aliases}
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        with writing(path):
            try:
                save_file(tensors, temporary, {"format": "pt", "modeconn": self._described(), **aliases})
                os.replace(temporary, path)
            except SafetensorError as error:
                raise StoreError(f"cannot write {path}: {error}; choose another folder") from error
            finally:
                temporary.unlink(missing_ok=True)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the networks' values and the soup's; see `modeconn.plots.soup.plot_soup`."""
        from modeconn.plots.soup import plot_soup

        return plot_soup(self, ax=ax)

    def __str__(self) -> str:
        best, value = next(iter(self.values.items()))
        lines = [f"{self.kind} soup of {len(self.members)} of {len(self.outcomes)} networks", ""]
        lines.append(f"{self.metric} {self._shown(self.value)}; of the best network, {best}, {self._shown(value)}")
        lines.append(f"In it: {', '.join(self.members)}.")
        for step in self.steps:
            if step.reason == "barrier":
                reason = f"behind a barrier of {self._shown(step.barrier)}"
            else:
                reason = f"with it the soup would have {self._shown(step.value)}"
            if not step.added:
                lines.append(f"Left out: {step.network} ({self._shown(self.values[step.network])}), {reason}.")
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)

    def _shown(self, value: float) -> str:
        return f"{100 * value:.4g} %" if self.metric == "error" else f"{value:.4g}"

    def _described(self) -> str:
        """What a reader of the file needs to know; JSON."""
        about = {
            "kind": self.kind,
            "members": self.members,
            "left_out": _finite(self.left_out),
            "metric": self.metric,
            "value": _finite(self.of_soup),
            "networks": {name: _finite(metrics) for name, metrics in self.outcomes.items()},
            "gate": self.gate,
            "batchnorm": self.batchnorm,
            "notes": self.notes,
            "settings": dict(self.settings),
        }
        return json.dumps(about, allow_nan=False)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN or infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
