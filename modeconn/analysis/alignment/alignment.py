"""`Alignment`: a permutation of a network's units, what it was found by, and how it is applied and kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from modeconn.analysis.alignment.symmetry import Axis, Group, Permutations, Symmetry, SymmetryError, compose, inverse
from modeconn.analysis.paths.linear import load_weights
from modeconn.errors import DataError
from modeconn.files import writing
from modeconn.result import Result, Row, count, json_text, note_lines
from modeconn.weights.names import match_names
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights
from modeconn.weights.writing import stream_weights

_FORMAT = "modeconn alignment 1"


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Result):
    """A permutation of the units of b under which it is most like a.

    Attributes:
        symmetry: the groups of units, and the axes of tensors that they move.
        permutations: for each group [units]: the unit of b that comes to each place.
        method: `"weights"`, `"activations"`, `"straight-through"`, or `"given"`.
        score: what the method maximises, after: the inner product of the weights, the sum of correlations, or the
            negative of the midpoint's loss.
        before: the same before.
        scores: of all orders of the groups that were tried, whose spread says how much the order matters; of
            straight-through, those of the start and of each epoch.
        change: how far the output of the permuted b is from b's, over the largest output of a batch; NaN if that was
            not looked at.
        names: what a and b are called.
        notes: what was decided.
        settings: how it was found, and with which versions; JSON.
    """

    symmetry: Symmetry
    permutations: Permutations
    method: str
    score: float
    before: float
    scores: tuple[float, ...]
    change: float
    names: tuple[str, str]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of units that can change places."""
        return self.symmetry.groups

    @property
    def moved(self) -> float:
        """The share of units that change their place."""
        units = sum(group.size for group in self.groups)
        moved = sum(int((order != np.arange(len(order))).sum()) for order in self.permutations)
        return moved / units if units else 0.0

    def rows(self) -> list[Row]:
        """A row for each group: its units, how they are in blocks, how many moved, and the axes that they are on."""
        return [
            {
                "group": group.name,
                "units": group.size,
                "inside": "" if group.parent is None else self.groups[group.parent].name,
                "blocks": 1 if group.parent is None else self.groups[group.parent].size,
                "moved": float((order != np.arange(len(order))).mean()),
                "axes": ", ".join(axes_of(self.symmetry, number)),
            }
            for number, (group, order) in enumerate(zip(self.groups, self.permutations, strict=True))
        ]

    @property
    def found(self) -> tuple[str, ...]:
        """What was aligned by which method, and what that gained, in words."""
        a, b = self.names
        units = sum(group.size for group in self.groups)
        what = f"{b} aligned to {a} by {_METHODS[self.method]}: {count(len(self.groups), 'group')} of {units:,} units"
        lines = [f"{what}, {100 * self.moved:.1f} % of which change their place"]
        if self.method != "given":
            sign = -1 if self.method == "straight-through" else 1  # a loss is minimised
            before, score, *others = (sign * value for value in (self.before, self.score, *self.scores))
            spread = f" (over {count(len(others), 'order')}: {min(others):.6g} to {max(others):.6g})"
            several = self.method == "weights" and len(others) > 1
            lines.append(f"{_SCORES[self.method]}: {before:.6g} before, {score:.6g} after{spread if several else ''}")
        return tuple(lines)

    def __str__(self) -> str:
        lines = list(self.found)
        if np.isfinite(self.change):
            lines.append(f"the permuted network's output differs by {self.change:.1e} of the largest on a batch")
        lines += ["", *table(self.symmetry, self.permutations)]
        return "\n".join([*lines, *note_lines(self.notes)])

    @overload
    def apply(self, network: nn.Module) -> nn.Module: ...
    @overload
    def apply(self, network: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, network: nn.Module | Mapping[str, Tensor]) -> nn.Module | dict[str, Tensor]:
        """A network, state dict or task vector with its units in this order; what is given is left unchanged.

        Args:
            network: of the architecture that was aligned. A module comes back as a copy of its class, a mapping under
                its own names; tensors that no group moves are the given ones.

        Raises:
            SymmetryError: another architecture; tensors that lack or differ in shape, by name.
        """
        if isinstance(network, nn.Module):
            copied = plain_copy(network)
            moved = self.permuted(match_names(weights_of(copied, "the network"), copied, "the network", copied))
            fresh = {name: moved.read(name).clone() for name in moved.layout}
            load_weights(copied, replace(moved, read=fresh.__getitem__))
            return copied
        prefix = self._prefix(network)
        return {
            name: self.symmetry.moved(name.removeprefix(prefix), tensor, self.permutations)
            if isinstance(tensor, Tensor)
            else tensor
            for name, tensor in network.items()
        }

    def apply_to_file(self, source: str | Path, path: str | Path) -> None:
        """Write the network of a file or folder with its units in this order, in the memory of two tensors.

        Args:
            source: a checkpoint of the architecture that was aligned, as `modeconn.error_barrier` takes files.
            path: the safetensors file to write, with the names and types of `source`.

        Raises:
            SymmetryError: another architecture; tensors that lack or differ in shape, by name.
            NetworkError: `source` cannot be read.
            StoreError: `path` cannot be written.
        """
        weights = weights_of(source, Path(source).name)
        prefix = self._prefix(weights.layout)

        def read(name: str) -> Tensor:
            return self.symmetry.moved(name.removeprefix(prefix), weights.read(name), self.permutations)

        stream_weights(replace(weights, read=read), path)

    def permuted(self, weights: Weights) -> Weights:
        """Weights with their units in this order, each tensor when it is read.

        Args:
            weights: of the architecture that was aligned, under the network's own names.

        Raises:
            SymmetryError: another architecture; tensors that lack or differ in shape, by name.
        """
        self._require({name: tuple(shape.shape) for name, shape in weights.layout.items()})
        return replace(weights, read=lambda name: self.symmetry.moved(name, weights.read(name), self.permutations))

    def noting(self, *notes: str) -> "Alignment":
        """The same, with further notes."""
        return replace(self, notes=(*notes, *self.notes))

    def inverse(self) -> "Alignment":
        """The alignment that undoes this one: of a to b."""
        return replace(self, permutations=inverse(self.permutations), names=(self.names[1], self.names[0]))

    def then(self, other: "Alignment") -> "Alignment":
        """This alignment, and another one of what comes of it.

        Raises:
            SymmetryError: the other one is of another architecture.
        """
        other._require(self.symmetry.shapes)
        return replace(other, permutations=compose(self.permutations, other.permutations), method="given")

    def save(self, path: str | Path) -> None:
        """Write it as `.safetensors`: the permutation of each group as integers, and the groups as JSON beside them.

        Raises:
            StoreError: the file cannot be written.
        """
        tensors = {f"permutations.{n}": torch.from_numpy(order.copy()) for n, order in enumerate(self.permutations)}
        axes = {}
        for name, found in self.symmetry.tensors.items():
            for axis in found:
                for place, (_, units) in enumerate(axis.units):
                    tensors[f"units.{name}.{axis.axis}.{place}"] = torch.from_numpy(units.copy())
                tensors[f"fixed.{name}.{axis.axis}"] = torch.from_numpy(np.ascontiguousarray(axis.fixed))
            axes[name] = [{"axis": axis.axis, "groups": list(axis.groups)} for axis in found]
        for number, group in enumerate(self.groups):
            if group.owners is not None:
                tensors[f"owners.{number}"] = torch.from_numpy(group.owners.copy())
        content = {
            "format": _FORMAT,
            "groups": [{"name": group.name, "size": group.size, "parent": group.parent} for group in self.groups],
            "axes": axes,
            "shapes": {name: list(shape) for name, shape in self.symmetry.shapes.items()},
            "pinned": [[name, axis, why] for (name, axis), why in self.symmetry.pinned.items()],
            "unknown": dict(self.symmetry.unknown),
            "tied": dict(self.symmetry.tied),
            **{name: getattr(self, name) for name in _KEPT},
        }
        with writing(Path(path)):
            save_file(tensors, str(path), metadata={"alignment": json_text(content)})

    def _prefix(self, state: Mapping[str, Any]) -> str:
        """What stands before the names of a state dict, as wrappers put it there."""
        for prefix in ("", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "network."):
            if all(f"{prefix}{name}" in state or name in self.symmetry.tied for name in self.symmetry.tensors):
                break
        else:
            prefix = ""
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        self._require({name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in tensors.items()})
        return prefix

    def _require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        wrong = []
        for name in self.symmetry.tensors:
            if name not in shapes:
                if name not in self.symmetry.tied:
                    wrong.append(f"there is no {name}")
            elif tuple(shapes[name]) != self.symmetry.shapes[name]:
                wrong.append(f"{name} is {list(shapes[name])} and not {list(self.symmetry.shapes[name])}")
        if wrong:
            shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            raise SymmetryError(f"this is an alignment of another architecture: {shown}")


def load_alignment(path: str | Path) -> Alignment:
    """The alignment that `Alignment.save` wrote.

    Raises:
        DataError: the file is not there, or is no alignment.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            content = json.loads((file.metadata() or {})["alignment"])
            tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118  # not a mapping
        if content["format"] != _FORMAT:
            raise ValueError(f"it has the format {content['format']!r}")
        groups = tuple(
            Group(group["name"], group["size"], group["parent"], tensors.get(f"owners.{number}"))
            for number, group in enumerate(content["groups"])
        )
        axes = {
            name: tuple(
                Axis(
                    one["axis"],
                    tuple(
                        (group, tensors[f"units.{name}.{one['axis']}.{place}"])
                        for place, group in enumerate(one["groups"])
                    ),
                    tensors[f"fixed.{name}.{one['axis']}"],
                )
                for one in found
            )
            for name, found in content["axes"].items()
        }
        symmetry = Symmetry(
            groups,
            axes,
            {name: tuple(shape) for name, shape in content["shapes"].items()},
            {(name, axis): why for name, axis, why in content["pinned"]},
            content["unknown"],
            content["tied"],
        )
        permutations = tuple(tensors[f"permutations.{number}"] for number in range(len(groups)))
        symmetry.check(permutations)
        kept = {name: content[name] for name in _KEPT}
        numbers = {name: np.nan if kept[name] is None else float(kept[name]) for name in ("score", "before", "change")}
        words = {name: tuple(kept[name]) for name in ("scores", "names", "notes")}
        return Alignment(symmetry, permutations, **{**kept, **numbers, **words})
    except Exception as error:
        raise DataError(f"{path} is no alignment that can be read: {type(error).__name__}: {error}") from error


def table(symmetry: Symmetry, permutations: Permutations | None = None) -> list[str]:
    """The groups as lines that people read, and the axes that stay with the reasons."""
    heads = ("group", "units", "in blocks of", *(("moved",) if permutations is not None else ()), "axes")
    rows = []
    for number, group in enumerate(symmetry.groups):
        above = None if group.parent is None else symmetry.groups[group.parent]
        blocks = "" if above is None else f"{above.name}: {above.size} x {group.inside}"
        moved: tuple[str, ...] = ()
        if permutations is not None:
            order = permutations[number]
            moved = (f"{100 * (order != np.arange(len(order))).mean():.0f} %",)
        rows.append((group.name, str(group.size), blocks, *moved, _some(axes_of(symmetry, number))))
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in (heads, *rows)]
    lines = ["  ".join(row).rstrip() for row in padded]
    why: dict[str, list[str]] = {}
    for (name, axis), reason in symmetry.pinned.items():
        why.setdefault(reason, []).append(f"{name}[{axis}]")
    if why:
        lines += ["", "These stay:"]
        for reason, axes in why.items():
            lines.append(f"  {_some(axes)}: {reason}")
    for operator, where in symmetry.unknown.items():
        lines.append(f"No rule is known for {operator} (first met: {where}), so that nothing moves which it is given.")
    return lines


def _some(axes: Sequence[str]) -> str:
    return ", ".join(axes[:3]) + (f" and {len(axes) - 3} more" if len(axes) > 3 else "")


def axes_of(symmetry: Symmetry, number: int) -> list[str]:
    """The axes that a group moves, as `name[axis]`."""
    return [f"{name}[{axis.axis}]" for name, axes in symmetry.tensors.items() for axis in axes if number in axis.groups]


_KEPT = ("method", "score", "before", "scores", "change", "names", "notes", "settings")
_METHODS = {
    "weights": "weight matching",
    "activations": "activation matching",
    "straight-through": "straight-through estimator learning",
    "given": "a given permutation",
}
_SCORES = {
    "weights": "inner product of the weights",
    "activations": "sum of the units' correlations",
    "straight-through": "loss at the midpoint",
}
