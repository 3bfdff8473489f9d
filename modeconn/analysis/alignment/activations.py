"""What two networks compute at the nodes of the graph that both have, one node after the other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_flatten

from modeconn.errors import DataError, NetworkError


def activations(
    program: Any, a: Mapping[str, Tensor], b: Mapping[str, Tensor], inputs: Sequence[Any]
) -> Iterator[tuple[str, Any, Any]]:
    """What each node computes with the tensors of a, and with those of b; no tensor of theirs is changed.

    Both are at the same node at a time, as later ones may overwrite what it computed, and to hold few of them at once.

    Args:
        program: of `torch.export`.
        a, b: parameters and buffers, by the names that the program has for them.
        inputs: a batch, flat.

    Yields:
        A node's name, and its value in both networks.

    Raises:
        NetworkError: a tensor of the program is missing.
    """
    for (node, one), (_, other) in zip(_computed(program, a, inputs), _computed(program, b, inputs), strict=True):
        yield node, one, other


def batch_size(program: Any) -> int:
    """How many examples a program was exported with."""
    like, _ = tree_flatten(program.example_inputs)
    return next(len(one) for one in like if isinstance(one, Tensor) and one.ndim)


def flat_batches(program: Any, batches: Iterable[Any]) -> Iterator[list[Any]]:
    """Batches of the size that a program was exported with, in the same order; the examples left at the end are not.

    Args:
        program: of `torch.export`. The examples are along the first axis of its first tensor, and along that of every
            other that is as long.
        batches: of what it is called with: a tensor, a tuple of positional arguments, a mapping of named ones, or a
            tuple of both.

    Yields:
        A batch's positional and named arguments, flat.

    Raises:
        DataError: a batch that is not like the example which the program was exported with.
    """
    like, _ = tree_flatten(program.example_inputs)
    size = batch_size(program)
    along = [isinstance(one, Tensor) and one.ndim > 0 and len(one) == size for one in like]
    first = along.index(True)
    rest: list[Any] = []
    for batch in batches:
        found = _flat(batch, program)
        _check(found, like, along)
        if rest:
            both = zip(rest, found, along, strict=True)
            found = [torch.cat([one, other]) if many else other for one, other, many in both]
        whole = len(found[first]) // size * size
        for begin in range(0, whole, size):
            yield [one[begin : begin + size] if many else one for one, many in zip(found, along, strict=True)]
        rest = [one[whole:] if many else one for one, many in zip(found, along, strict=True)]


def _computed(program: Any, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    interpreter = torch.fx.Interpreter(program.graph_module)
    interpreter.args_iter = iter(_given(program, state, inputs))
    for node in program.graph_module.graph.nodes:
        if node.op == "output":
            return
        interpreter.env[node] = interpreter.run_node(node)
        yield node.name, interpreter.env[node]
        for done in interpreter.user_to_last_uses.get(node, ()):
            del interpreter.env[done]


def _given(program: Any, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Iterator[Any]:
    """What the graph's placeholders stand for; the network may write to copies of what are no parameters."""
    flat = iter(inputs)
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            one = next(flat)
            yield one.clone() if isinstance(one, Tensor) else one
        elif spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent is not False):
            if spec.target not in state:
                raise NetworkError(f"{spec.target} is missing; give all parameters and buffers of the network")
            one = state[spec.target]
            yield one if spec.kind is InputKind.PARAMETER else one.clone()
        else:
            one = program.constants[spec.target]
            yield one.clone() if isinstance(one, Tensor) else one


def _flat(batch: Any, program: Any) -> list[Any]:
    """A batch as the program's arguments, flat.

    Raises:
        DataError: they are others than those that it was exported with.
    """
    _, named = program.example_inputs
    args, kwargs = _as_call(batch)
    if set(kwargs) == set(named):
        kwargs = {name: kwargs[name] for name in named}
    flat, structure = tree_flatten((args, kwargs))
    like, wanted = tree_flatten(program.example_inputs)
    if structure != wanted:
        raise DataError(
            f"a batch has {len(args)} positional arguments and the named ones {sorted(kwargs)}, the network was "
            f"exported with {len(like) - len(named)} and {sorted(named)}; give batches of what it is called with"
        )
    return flat


def _as_call(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, tuple | list):
        return (batch,), {}
    if len(batch) == 2 and isinstance(batch[0], tuple) and isinstance(batch[1], Mapping):
        return batch[0], dict(batch[1])
    return tuple(batch), {}


def _check(found: Sequence[Any], like: Sequence[Any], along: Sequence[bool]) -> None:
    """See whether a batch's tensors have the example's shapes, but for the number of examples.

    Raises:
        DataError: they have not.
    """
    lengths = set()
    for one, example, many in zip(found, like, along, strict=True):
        if not isinstance(example, Tensor):
            continue
        shape, wanted = (list(tensor.shape)[many:] if isinstance(tensor, Tensor) else None for tensor in (one, example))
        if shape != wanted:
            raise DataError(f"a batch has {shape} where the network was exported with {wanted}; give such batches")
        if many:
            lengths.add(len(one))
    if len(lengths) > 1:
        raise DataError(f"the tensors of a batch are of {sorted(lengths)} examples; they must be of as many")
