"""Tensors of two networks put together: by layer, by block, and as rows of a table."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from modeconn.analysis.compare.sums import Moves, Sums
from modeconn.analysis.compare.tensors import TensorDistance
from modeconn.result import Row


class Part(NamedTuple):
    """Several tensors of both networks together: a layer, or a block.

    Attributes:
        name: of the layer or block.
        sums: over its weights; statistics and integers do not count.
        equal: whether all of its tensors are.
        moves: over its weights; None without an ancestor.
    """

    name: str
    sums: Sums
    equal: bool
    moves: Moves | None


def parts_of(tensors: Sequence[TensorDistance], part_of: Callable[[TensorDistance], str]) -> tuple[Part, ...]:
    """The tensors by what `part_of` gives, in their order."""
    groups: dict[str, list[TensorDistance]] = {}
    for tensor in tensors:
        groups.setdefault(part_of(tensor), []).append(tensor)
    return tuple(
        Part(
            name,
            sum((tensor.sums for tensor in group if tensor.kind == "weight"), Sums()),
            all(tensor.equal for tensor in group),
            _moves_of(group),
        )
        for name, group in groups.items()
    )


def tensor_rows(tensors: Sequence[TensorDistance]) -> list[Row]:
    """One row per tensor: its distances, and those of its task vectors where there is an ancestor."""
    ancestral = any(tensor.moves for tensor in tensors)
    return [_row(tensor) | (_moves_row(tensor.moves or Moves()) if ancestral else {}) for tensor in tensors]


def _row(tensor: TensorDistance) -> Row:
    sums, found, nan = tensor.sums, tensor.likeness, float("nan")
    known = tensor.kind != "other"
    return {
        "name": tensor.name,
        "layer": tensor.layer,
        "block": tensor.block,
        "kind": tensor.kind,
        "shape": "x".join(map(str, tensor.shape)),
        "entries": sums.entries,
        "type_a": tensor.types[0],
        "type_b": tensor.types[1],
        "equal": tensor.equal,
        "l2": sums.l2 if known else nan,
        "relative_distance": sums.relative_distance,
        "cosine": sums.cosine,
        "sign_agreement": sums.sign_agreement,
        "sampled_cosine": found.cosine if found else nan,
        "random_order_mean": found.mean if found else nan,
        "random_order_deviation": found.deviation if found else nan,
        "score": found.score if found else nan,
    }


def _moves_row(moves: Moves) -> Row:
    entries, nan = moves.entries, float("nan")
    return {
        "moved_a": moves.moved_a / entries if entries else nan,
        "moved_b": moves.moved_b / entries if entries else nan,
        "moved_both": moves.moved_both / entries if entries else nan,
        "relative_move_a": moves.relative[0],
        "relative_move_b": moves.relative[1],
        "task_vector_cosine": moves.cosine,
        "sign_conflicts": moves.conflicts / moves.moved_both if moves.moved_both else nan,
    }


def _moves_of(tensors: Sequence[TensorDistance]) -> Moves | None:
    moves = [tensor.moves for tensor in tensors if tensor.moves and tensor.kind == "weight"]
    return sum(moves, Moves()) if moves else None
