"""Result of `average`: a state dict that says what was averaged."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modeconn.analysis.averaging.recalibration import Recalibration
from modeconn.notebook import html_of
from modeconn.result import count, json_text, note_lines
from modeconn.weights.writing import write_weights

_SHOWN = 12  # members in words


@dataclass(frozen=True)
class Member:
    """A network in an average.

    Attributes:
        name: what it is called.
        step: how far its training was, if that is known.
        weight: its share; all have the sum 1.
    """

    name: str
    step: int | None
    weight: float


class Average(dict[str, Tensor]):
    """An average of networks: a state dict, which any module loads, with attributes.

    Attributes:
        members: the networks, oldest first, with their weights.
        of: how many there were to choose from.
        kind: of weights: `"uniform"`, `"linear"`, `"exponential"`, `"1-sqrt"` or `"given"`.
        decay: of exponential weights.
        value: metric to value of the average on the held-out data; empty without.
        recalibration: how running statistics were measured anew; None if they were averaged.
        measured_as: what was measured, in words.
        notes: what was decided.
        settings: options and versions; JSON.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        members: tuple[Member, ...],
        of: int = 0,
        kind: str = "uniform",
        decay: float | None = None,
        value: Mapping[str, float] | None = None,
        recalibration: Recalibration | None = None,
        measured_as: str = "",
        notes: tuple[str, ...] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tensors)
        self.members, self.of, self.kind, self.decay = members, of, kind, decay
        self.value, self.recalibration, self.measured_as = dict(value or {}), recalibration, measured_as
        self.notes, self.settings = notes, dict(settings or {})

    def rows(self) -> list[dict[str, Any]]:
        """A row for each member: name, step and weight."""
        return [asdict(member) for member in self.members]

    def save(self, path: str | Path) -> None:
        """Write the weights as a safetensors file; its metadata says what was averaged, under `"modeconn"`.

        Raises:
            StoreError: the file cannot be written.
        """
        write_weights(self, path, {"modeconn": self.described()})

    def described(self) -> str:
        """What was averaged, and what was decided, as JSON text."""
        found = self.recalibration
        about = {
            "members": self.rows(),
            "of": self.of,
            "weights": self.kind,
            "decay": self.decay,
            "value": self.value,
            "measured_as": self.measured_as,
            "recalibrated": None
            if found is None
            else {
                "layers": found.recalibrated,
                "left": found.left,
                "examples": found.examples,
                "before": found.before,
                "after": found.after,
            },
            "notes": self.notes,
            "settings": self.settings,
        }
        return json_text(about)

    def __repr__(self) -> str:
        return f"Average({count(len(self), 'tensor')} of {self._head})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the members, 20 at most, and the notes."""
        return html_of(self._head, self.rows(), notes=self.notes)

    def __str__(self) -> str:
        lines = [self._head, ""]
        width = max(len(member.name) for member in self.members)
        shown = [f"  {member.name:<{width}}  {member.weight:.4g}" for member in self.members]
        if len(shown) > _SHOWN:
            half = _SHOWN // 2
            shown[half:-half] = [f"  ... and {count(len(shown) - 2 * half, 'other')}"]
        lines += shown
        if self.recalibration is not None and (self.recalibration.recalibrated or self.recalibration.left):
            lines += ["", str(self.recalibration)]
        elif self.value:
            shown = [
                f"{name} {100 * value:.4g} %" if name == "error" else f"{name} {value:.4g}"
                for name, value in self.value.items()
            ]
            lines += ["", f"On the data: {', '.join(shown)}."]
        return "\n".join([*lines, *note_lines(self.notes)])

    @property
    def _head(self) -> str:
        networks = f"{len(self.members)} of {self.of} networks"
        if self.of == len(self.members):
            networks = count(self.of, "network")
        decay = "" if self.decay is None else f", decay {self.decay:g}"
        return f"average of {networks}, weights {self.kind}{decay}"
