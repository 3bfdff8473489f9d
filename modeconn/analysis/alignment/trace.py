"""A network's graph, followed once with labels in the place of numbers."""

import contextlib
import io
import logging
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from modeconn.analysis.alignment import labels, values
from modeconn.analysis.alignment.atoms import Atoms
from modeconn.analysis.alignment.call import Call, Rule, standing
from modeconn.analysis.alignment.labels import Part, Value
from modeconn.analysis.alignment.operators import RULES
from modeconn.errors import ModeconnError


class ExportError(ModeconnError):
    """A network's graph cannot be had."""


@dataclass
class Traced:
    """What moves together in a network.

    Attributes:
        atoms: all of them.
        parameters: labels of the parameters and buffers that the network uses, by name.
        seen: the labels of all values in the graph.
        unknown: operators that there is no rule for, with where they were met; their axes are pinned.
        written: labels of what layers compute (before a nonlinearity), by the node of the graph.
        read: labels of what layers are given (behind it), by the node of the graph.
    """

    atoms: Atoms = field(default_factory=Atoms)
    parameters: dict[str, Value] = field(default_factory=dict)
    seen: list[Value] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    written: dict[str, Value] = field(default_factory=dict)
    read: dict[str, Value] = field(default_factory=dict)


_CUT_OFF = "it is cut off, and another example may look at it"
CHOOSING = ("index", "_unsafe_view", "pad", "constant_pad_nd", "repeat", "repeat_interleave", "clone")
LAYERS = ("linear", "addmm", "mm", "conv1d", "conv2d", "conv3d", "conv_transpose2d")
_MATRIX = ("linear", "mm", "matmul", "embedding", "transpose", "permute", ".t.", "einsum", "numpy_T")


def exported(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """The graph of a network in evaluation mode, by `torch.export`.

    Args:
        network: which; it is in evaluation mode meanwhile.
        args, kwargs: an example of what it is called with.

    Raises:
        ExportError: it cannot be exported; the message says what to do.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        said = io.StringIO()  # the graph, where it cannot be had
        with warnings.catch_warnings(), torch.no_grad(), _quiet(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            return torch.export.export(network, tuple(args), dict(kwargs or {}), strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = type(getattr(network, "network", network)).__name__
        raise ExportError(
            f"the graph of {name} cannot be exported ({first}); if it depends on the data, give "
            "example= another batch or a specification= of your own: a dict from the names of parameters to the "
            "groups of their axes"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(program: Any) -> Traced:
    """Follow a graph from its inputs to its outputs, which both stay.

    Args:
        program: of `torch.export`.
    """
    traced = Traced()
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    tied: dict[Any, Value] = {}
    known: dict[Any, Any] = {}
    steps: list[tuple[list[Value], list[Value]]] = []
    # Of tensors that are one in memory, one that is used comes first: how it is used says what its axes are.
    given_nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node in sorted(given_nodes, key=lambda node: not node.users):
        known[node] = _given(traced, inputs[node.name], node, program.state_dict, tied)
    for node in program.graph.nodes:
        if node.op == "call_function":
            known[node] = _called(traced, node, known)
            _keep_if_written_in_part(traced, node, known)
            if not _is_view(node) and _name(node) not in CHOOSING:
                steps.append(
                    (list(_all_values(known, (node.args, tuple(node.kwargs.values())))), list(_values(known[node])))
                )
            given = _given_to_layer(node, inputs)
            if given is not None and isinstance(known[node], Value):
                traced.written[node.name] = known[node]
                if isinstance(known[given], Value):
                    traced.read[given.name] = known[given]
        elif node.op == "get_attr":
            known[node] = None
        elif node.op == "output":
            for value in _all_values(known, node.args):
                values.pin_all(traced.atoms, value, "an output of the network")
            continue
        if node.users or node.op != "placeholder":
            traced.seen += _values(known[node])
    used = {
        inputs[node.name].target: tied_to for node, tied_to in known.items() if node.op == "placeholder" and node.users
    }
    for name, value in list(traced.parameters.items()):
        if not any(value is other for other in used.values()):
            del traced.parameters[name]  # nothing is computed with it
    _pin_cut_off(traced, steps)
    return traced


def _given_to_layer(node: Any, inputs: Mapping[str, Any]) -> Any:
    """The node of what an operator multiplies by weights; None if it is no layer, or is given a parameter."""
    name = str(getattr(node.target, "_opname", ""))
    if name not in LAYERS:
        return None
    given = node.args[1 if name == "addmm" else 0]  # addmm's first is its bias
    stored = given.op == "placeholder" and inputs[given.name].kind is not InputKind.USER_INPUT
    return None if stored else given


def _given(traced: Traced, spec: Any, node: Any, state: Mapping[str, Tensor], tied: dict[Any, Value]) -> Any:
    """The labels of an input of the graph; tensors that share memory share them."""
    tensor = node.meta.get("val")
    if not isinstance(tensor, Tensor):
        return tensor
    shape = tuple(map(int, tensor.shape))
    moves = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.persistent is not False
    if not moves or not tensor.is_floating_point():
        return labels.constant(shape)
    own = state[spec.target]
    memory = (own.data_ptr(), shape, own.stride()) if own.data_ptr() else id(own)
    value = tied.setdefault(memory, _labelled(traced.atoms, shape, node))
    traced.parameters[spec.target] = value
    return value


def _labelled(atoms: Atoms, shape: tuple[int, ...], node: Any) -> Value:
    """A parameter: its axes are free, and those inside blocks of its first axis are free in each block by themselves.

    The blocks are the groups of a convolution, or all places of the first axis of a stack of matrices, or of vectors.
    """
    convolved = [user for user in node.users if "conv" in str(user.target)]
    multiplied = any(name in str(user.target) for user in node.users for name in _MATRIX)
    blocks = shape[0] if (len(shape) == 3 or (len(shape) == 2 and not multiplied)) and not convolved else 1
    for user in convolved:
        many = user.kwargs.get("groups", user.args[-1] if len(user.args) > 6 else 1)
        blocks = many if isinstance(many, int) and "transpose" not in str(user.target) else 1
    parts = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if axis == 0 or blocks == 1 or (convolved and axis > 1):
            parts.append(labels.along(axis, atoms.fresh(size), len(shape)))
        else:
            inside = atoms.fresh(blocks, size).repeat(shape[0] // blocks, axis=0)
            lengths = [length if place in (0, axis) else 1 for place, length in enumerate(shape)]
            parts.append(Part((axis,), inside.reshape(lengths)))
    return Value(shape, tuple(parts))


def _called(traced: Traced, node: Any, known: Mapping[Any, Any]) -> Any:
    """The labels of what an operator gives."""
    args, kwargs = _known(known, node.args), _known(known, node.kwargs)
    if node.target is operator.getitem:
        return args[0][args[1]] if args[0] is not None else None
    given = list(_values((args, tuple(kwargs.values()))))
    shapes = _shapes(node.meta.get("val"))
    if shapes is None:
        return None
    if given and all(_stays(value) for value in given):
        return _as_given(node, [labels.constant(shape) for shape in shapes])
    name = _name(node)
    call = Call(traced.atoms, standing(name, node), tuple(shapes))
    found = _by_rule(call, RULES.get(name), args, kwargs)
    if found is not None:
        return found
    for value in given:
        values.pin_all(traced.atoms, value, call.why)
    if given:
        traced.unknown.setdefault(name, call.why)
    return _as_given(node, [labels.constant(shape) for shape in shapes])


def _keep_if_written_in_part(traced: Traced, node: Any, known: dict[Any, Any]) -> None:
    """Let a tensor stay that is written to through a view of it, if its labels cannot say what then stands in it.

    They can where every axis has labels: the operator has made those of the view equal to what was written. An axis
    without, as of zeros, is the same at all its places before, and not after.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not isinstance(node.args[0], torch.fx.Node):
        return
    base: Any = node.args[0]
    while _is_view(base):
        base = base.args[0]
    views = list(_views(base))
    value = known[base]
    if not views or not isinstance(value, Value):
        return
    if all(value.owner(axis) for axis, size in enumerate(value.shape) if size > 1):
        return
    written = [one for one in (*_all_values(known, node.args), *_values(known[node])) if not _stays(one)]
    why = standing(f"{_name(node)} into a part of a tensor", node)
    for one in written:
        values.pin_all(traced.atoms, one, why)
        traced.unknown.setdefault(_name(node), why)
    for one in {base, node, *views} & known.keys():
        shapes = _shapes(one.meta.get("val"))
        if shapes is not None:
            known[one] = _as_given(one, [labels.constant(shape) for shape in shapes])


def _is_view(node: Any) -> bool:
    """Whether an operator gives its first argument's memory, and has not written to it."""
    if node.target is operator.getitem:
        return _is_view(node.args[0])
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(one.alias_info for one in schema.returns)


def _views(base: Any) -> Iterator[Any]:
    for user in base.users:
        if _is_view(user) and user.args[0] is base:
            yield user
            yield from _views(user)


def _pin_cut_off(traced: Traced, steps: Sequence[tuple[list[Value], list[Value]]]) -> None:
    """Let places of parameters stay that are cut off before anything is summed over them.

    Another example may look at them, as a longer sequence does at further positions.

    Args:
        traced: where they are pinned.
        steps: what each operator is given and gives, but those that only choose and rearrange places.
    """
    atoms = traced.atoms
    summed = set().union(*(_atoms_of(atoms, given) - _atoms_of(atoms, found) for given, found in steps))
    unused = _leaves(atoms, _atoms_of(atoms, traced.parameters.values())) - _leaves(atoms, summed)
    for part in (part for value in traced.parameters.values() for part in value.parts):
        if np.isin(atoms.find(part.atoms), list(unused)).any():
            for axis in set(range(part.atoms.ndim)) - set(part.axes):  # inside blocks that are cut off as inside others
                atoms.unify(part.atoms, part.atoms.take([0], axis=axis), _CUT_OFF)
    unused = _leaves(atoms, _atoms_of(atoms, traced.parameters.values())) - _leaves(atoms, summed)
    atoms.pin(np.array(sorted(unused), dtype=np.int64), _CUT_OFF)


def _leaves(atoms: Atoms, of: set[int]) -> set[int]:
    return {leaf for atom in of for leaf in atoms.leaves(atom)[0]}


def _atoms_of(atoms: Atoms, found: Iterable[Value]) -> set[int]:
    arrays = [np.unique(atoms.find(part.atoms)) for value in found for part in value.parts]
    return {atom for array in arrays for atom in array.tolist() if atom >= 0}


def _name(node: Any) -> str:
    """Of an operator, as rules have it."""
    name = str(getattr(node.target, "_opname", node.target))
    return name if name.startswith("_") and name in RULES else name.rstrip("_") or name


def _by_rule(call: Call, rule: Rule | None, args: Any, kwargs: Any) -> Any:
    """What a rule gives; None if there is none, or it does not know what the operator was called with."""
    if rule is None:
        return None
    try:
        found = rule(call, *args, **kwargs)
    except Exception:
        return None
    return found if tuple(value.shape for value in _values(found)) == call.shapes else None


def _stays(value: Value) -> bool:
    return all((part.atoms < 0).all() for part in value.parts)


def _as_given(node: Any, found: list[Value]) -> Any:
    return found[0] if isinstance(node.meta["val"], Tensor) else tuple(found)


def _shapes(result: Any) -> list[tuple[int, ...]] | None:
    """The shapes of the tensors that an operator gives, None if it gives none."""
    if isinstance(result, Tensor):
        return [tuple(map(int, result.shape))]
    if isinstance(result, tuple | list) and all(isinstance(one, Tensor) for one in result):
        return [tuple(map(int, one.shape)) for one in result]
    return None


def _known(known: Mapping[Any, Any], given: Any) -> Any:
    """Arguments with labels in the place of nodes."""
    if isinstance(given, torch.fx.Node):
        return known[given]
    if isinstance(given, tuple | list):
        return type(given)(_known(known, one) for one in given)
    if isinstance(given, Mapping):
        return {name: _known(known, one) for name, one in given.items()}
    return given


def _values(found: Any) -> Iterator[Value]:
    if isinstance(found, Value):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from _values(one)


def _all_values(known: Mapping[Any, Any], given: Any) -> Iterable[Value]:
    return _values(_known(known, given))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter writes about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.fx", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
