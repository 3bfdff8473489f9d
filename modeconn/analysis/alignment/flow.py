"""Where the units of groups stand in every value of a network's graph, followed operator by operator.

Permutations need to know which places of two tensors move together. What acts on a unit by arithmetic (a scale, a
rotation) needs to know more: that every operator on the unit's way from where it is written to where it is read
commutes with it. `Flow` holds what is true of any linear map of the units; what else commutes is told by a subclass.
"""

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from modeconn.analysis.alignment.call import standing
from modeconn.analysis.alignment.symmetry import Symmetry

WRITTEN, READ = 1, -1
# Operators that move numbers to other places.
_MOVES = """
    permute transpose swapaxes movedim t numpy_T expand cat concat stack split split_with_sizes chunk slice select
    narrow unbind flip
"""
_RESHAPES = "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"
_UNCHANGED = "to _to_copy type_as clone contiguous alias detach dropout feature_dropout alpha_dropout float double"
# Axis of a weight that is given values, axis that it writes; axes in space.
_CONVOLUTIONS = {f"conv{n}d": (1, 0, n) for n in (1, 2, 3)} | {f"conv_transpose{n}d": (0, 1, n) for n in (1, 2, 3)}
_PRODUCTS = {"linear": (1, 0), "mm": (0, 1), "matmul": (0, 1)}

Labels = Tensor  # [as the value, or 1 where they are the same]: number of the unit that stands there, 0 for none


class Flow:
    """A walk over a graph with labels of units in the place of numbers.

    Attributes:
        symmetry: whose groups are followed.
        refused: why a group's units cannot be acted on, by its number: the operator, and the module that it is in.
        uses: by tensor and axis whether units are written to it or read by it; 0 if it stands beside them.
    """

    names: ClassVar[Mapping[str, str]] = {  # operators by the method that has their rule
        **dict.fromkeys(_MOVES.split(), "moved"),
        **dict.fromkeys(_RESHAPES.split(), "reshaped"),
        **dict.fromkeys(_UNCHANGED.split(), "unchanged"),
        **dict.fromkeys(("add", "sub"), "agreeing"),
        **dict.fromkeys(("mul", "div"), "multiplied"),
        **dict.fromkeys(("mean", "sum"), "averaged"),
        **dict.fromkeys((f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)), "pooled"),
        **dict.fromkeys(_CONVOLUTIONS, "convolution"),
        **dict.fromkeys(_PRODUCTS, "product"),
        "addmm": "addmm",
        "embedding": "embedding",
    }

    def __init__(self, symmetry: Symmetry, groups: Collection[int]) -> None:
        self.symmetry = symmetry
        self.refused: dict[int, str] = {}
        self.uses: dict[tuple[str, int], int] = {}
        self._groups = groups
        self._parameters: dict[Node, str] = {}
        self._labels: dict[Node, Any] = {}
        sizes = [group.size for group in symmetry.groups]
        self._ends = torch.from_numpy(np.cumsum(np.array(sizes, dtype=np.int64)))
        self._first = np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])
        for number in groups:
            group = symmetry.groups[number]
            if group.parent is not None or any(other.parent == number for other in symmetry.groups):
                self.refused[number] = "its units are in blocks"
        for axes in symmetry.tensors.values():
            for axis in axes:
                stands = sum(np.broadcast_to(units, _shape(axis)) >= 0 for _, units in axis.units)
                if axis.context or np.max(stands) > 1:
                    self.refused |= dict.fromkeys(axis.groups, "its units are in blocks")

    def follow(self, program: Any) -> None:
        """Walk over the graph of a network, see `exported`."""
        targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
        for node in program.graph.nodes:
            if node.op == "placeholder" and targets.get(node.name) in self.symmetry.shapes:
                self._parameters[node] = str(targets[node.name])
            elif node.op == "call_function":
                self._labels[node] = self.called(node)
            elif node.op == "output":
                for given in node.all_input_nodes:
                    self.refuse(self.value(given), "it is an output of the network")
            else:
                self._labels[node] = _nothing(node.meta.get("val"))

    def called(self, node: Node) -> Any:
        """The labels of what an operator gives."""
        if node.target is operator.getitem:
            found = self._labels[node.args[0]]  # type: ignore[index]
            return found[node.args[1]]
        if node.meta.get("val") is None:
            return None
        if not any(self.stands(given) for given in node.all_input_nodes):
            return _nothing(node.meta["val"])
        rule: Callable[[Node], Any] | None = getattr(self, self.names.get(opname(node), ""), None)
        found = rule(node) if rule is not None else None
        if found is None:
            for given in node.all_input_nodes:
                self.refuse_all(given, where(node))
            found = _nothing(node.meta["val"])
        return found

    def stands(self, node: Node) -> bool:
        """Whether there are units in a value."""
        if node in self._parameters:
            return bool(self.lines(self._parameters[node]))
        return any(bool(labels.any()) for labels in _each(self._labels[node]))

    def value(self, node: Node) -> Labels:
        """The labels of a value; a parameter that is used as one is written."""
        if node not in self._parameters:
            return self._labels[node]
        name = self._parameters[node]
        lines = self.lines(name)
        shape = self.symmetry.shapes[name]
        if len(lines) > 1:
            self.refuse_all(node, f"{name} has units on several axes")
            return torch.zeros((), dtype=torch.int64).expand(shape)
        labels = torch.zeros((), dtype=torch.int64)
        for axis, line in lines.items():
            self.use(name, axis, WRITTEN)
            labels = along(line, axis, len(shape))
        return labels.expand(shape)

    def lines(self, name: str) -> dict[int, Labels]:
        """The labels along each axis of a parameter that has units of the groups."""
        found = {}
        for axis in self.symmetry.tensors.get(name, ()):
            line = np.zeros(self.symmetry.shapes[name][axis.axis], dtype=np.int64)
            for group, units in axis.units:
                if group in self._groups and group not in self.refused:
                    line = np.where(units.ravel() >= 0, self._first[group] + units.ravel() + 1, line)
            if line.any():
                found[axis.axis] = torch.from_numpy(line)
        return found

    def use(self, name: str, axis: int, kind: int) -> None:
        """Note how an axis of a tensor is used; one that is used in two ways cannot be acted on."""
        line = self.lines(name).get(axis)
        name = self.symmetry.tied.get(name, name)
        if line is not None and self.uses.setdefault((name, axis), kind) != kind:
            self.refuse(line, f"{name} is both written and read on axis {axis}")

    def refuse(self, labels: Labels, why: str) -> None:
        """Refuse the groups whose units these are."""
        for label in torch.unique(labels[labels > 0]):
            self.refused.setdefault(int(torch.searchsorted(self._ends, label)), why)

    def refuse_all(self, node: Node, why: str) -> None:
        """Refuse all groups that stand in a value."""
        if node in self._parameters:
            for line in self.lines(self._parameters[node]).values():
                self.refuse(line, why)
        else:
            for labels in _each(self._labels[node]):
                self.refuse(labels, why)

    def agree(self, one: Labels, other: Labels, why: str) -> None:
        """Refuse the groups of places where two values, which are broadcast, have different units."""
        differ = one != other
        if differ.any():
            for labels in torch.broadcast_tensors(one, other):
                self.refuse(labels[differ], why)

    # The rules: the labels of the result, or None where the operator does not commute with a map of the units.

    def layer(self, node: Node, x: Any, weight: Any, bias: Any, axes: tuple[int, int], channel: int) -> Labels | None:
        """Read units by one axis of a weight and write others by another: a linear layer or a convolution."""
        name = self._parameters.get(weight)
        if name is None or (bias is not None and bias not in self._parameters):
            return None
        shape = _size(node)
        lines, none = self.lines(name), torch.zeros((), dtype=torch.int64)
        given, out = (lines.get(axis, none) for axis in axes)
        values = self.value(x)
        self.agree(values, along(given, channel, values.dim()), where(node))
        self.use(name, axes[0], READ)
        self.use(name, axes[1], WRITTEN)
        if bias is not None:
            self.agree(self.lines(self._parameters[bias]).get(0, none), out, where(node))
            self.use(self._parameters[bias], 0, WRITTEN)
        return along(out, channel, len(shape)).expand(shape)

    def product(self, node: Node) -> Labels | None:
        """See `layer`: by a matrix."""
        if len(node.meta["val"].shape) == 0 or self._rank(node.args[1]) != 2:
            return None
        bias = node.args[2] if len(node.args) > 2 else None
        return self.layer(node, node.args[0], node.args[1], bias, _PRODUCTS[opname(node)], -1)

    def addmm(self, node: Node) -> Labels | None:
        """See `layer`: by a matrix [in, out]."""
        bias, x, weight = node.args[:3]
        return self.layer(node, x, weight, bias, (0, 1), -1) if not node.kwargs and self._rank(bias) == 1 else None

    def convolution(self, node: Node) -> Labels | None:
        """See `layer`: by a convolution that is not in groups."""
        into, out, space = _CONVOLUTIONS[opname(node)]
        groups = node.kwargs.get("groups", node.args[6] if len(node.args) > 6 else 1)
        bias = node.args[2] if len(node.args) > 2 else None
        return self.layer(node, node.args[0], node.args[1], bias, (into, out), -1 - space) if groups == 1 else None

    def embedding(self, node: Node) -> Labels | None:
        """Write units by the rows of a table."""
        name = self._parameters.get(node.args[0])  # type: ignore[arg-type]
        lines = self.lines(name) if name is not None else {}
        if name is None or list(lines) != [1]:
            return None
        self.use(name, 1, WRITTEN)
        return lines[1].expand(_size(node))

    def moved(self, node: Node) -> Any:
        """The same operator, on the labels."""
        args, kwargs = map_arg((node.args, node.kwargs), self.value)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def reshaped(self, node: Node) -> Labels:
        """The labels in another shape."""
        return self.value(node.args[0]).reshape(_size(node))  # type: ignore[arg-type]

    def unchanged(self, node: Node) -> Labels:
        """The labels as they are."""
        return self.value(node.args[0])  # type: ignore[arg-type]

    def agreeing(self, node: Node) -> Labels | None:
        """Two values that have the same units everywhere."""
        one, other = node.args[:2]
        if not (isinstance(one, Node) and isinstance(other, Node)):
            return None
        labels = self.value(one), self.value(other)
        self.agree(*labels, where(node))
        return labels[0].expand(_size(node)) if labels[0].shape == _size(node) else labels[1].expand(_size(node))

    def multiplied(self, node: Node) -> Labels | None:
        """A value by a number."""
        one, other = node.args[:2]
        plain = isinstance(one, Node) and not isinstance(other, Node) and not node.kwargs
        return self.value(one) if plain else None  # type: ignore[arg-type]

    def averaged(self, node: Node) -> Labels:
        """Axes along which all places have the same units."""
        labels = self.value(node.args[0])  # type: ignore[arg-type]
        axes = node.args[1] if len(node.args) > 1 and node.args[1] is not None else range(labels.dim())
        return self._first_of(node, labels, [axes] if isinstance(axes, int) else axes).reshape(_size(node))

    def pooled(self, node: Node) -> Labels:
        """Axes in space, along which all places have the same units."""
        labels = self.value(node.args[0])  # type: ignore[arg-type]
        space = int(next(letter for letter in opname(node)[::-1] if letter.isdigit()))
        return self._first_of(node, labels, range(-space, 0)).expand(_size(node))

    def _first_of(self, node: Node, labels: Labels, axes: Any) -> Labels:
        """The labels of the first place of some axes; groups are refused whose units differ along them."""
        first = labels
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        self.agree(labels, first, where(node))
        return first

    def _rank(self, node: Any) -> int:
        return len(_size(node)) if isinstance(node, Node) else 0


def along(line: Labels, axis: int, rank: int) -> Labels:
    """Labels along one axis of a tensor, of length 1 along the others."""
    return line.reshape([-1 if place == axis % rank else 1 for place in range(rank)])


def opname(node: Node) -> str:
    """The name of an operator, without its overload and without the underscore of those that write in place."""
    name = str(getattr(node.target, "_opname", node.target))
    return name if name.startswith("_") else name.rstrip("_")


def where(node: Node) -> str:
    """An operator, and the module that it stands in."""
    return standing(opname(node), node)


def _size(node: Node) -> tuple[int, ...]:
    return tuple(map(int, node.meta["val"].shape))


def _shape(axis: Any) -> tuple[int, ...]:
    return np.broadcast_shapes(axis.fixed.shape, *(units.shape for _, units in axis.units))


def _each(labels: Any) -> list[Labels]:
    """The labels of each tensor of a value."""
    return [one for one in (labels if isinstance(labels, tuple | list) else [labels]) if one is not None]


def _nothing(value: Any) -> Any:
    """The labels of a value without units."""
    if isinstance(value, Tensor):
        return torch.zeros((), dtype=torch.int64).expand(tuple(map(int, value.shape)))
    if isinstance(value, tuple | list):
        return tuple(_nothing(one) for one in value)
    return None
