"""Rules of the operators that compute nothing: views, pieces, orders of axes and places."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modeconn.analysis.alignment import labels, values
from modeconn.analysis.alignment.atoms import fixed
from modeconn.analysis.alignment.call import Call, NoRule
from modeconn.analysis.alignment.labels import Value, along
from modeconn.analysis.alignment.reshaping import reshape


def reshaped(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    """The shape is that of the result."""
    return reshape(call.atoms, value, call.shape, call.why)


def permuted(call: Call, value: Value, *order: Any) -> Value:
    """Axes in another order."""
    return labels.permute(value, _ints(order))


def swapped(call: Call, value: Value, one: int, other: int) -> Value:
    """Two axes exchanged."""
    order = list(range(len(value.shape)))
    order[one], order[other] = order[other], order[one]
    return labels.permute(value, order)


def turned(call: Call, value: Value) -> Value:
    """All axes in reverse order."""
    return labels.permute(value, range(len(value.shape))[::-1]) if len(value.shape) > 1 else value


def moved_axes(call: Call, value: Value, source: Any, target: Any) -> Value:
    """Axes moved to other places, as in `torch.movedim`."""
    rank = len(value.shape)
    places = [axis % rank for axis in ([target] if isinstance(target, int) else target)]
    moved = [axis % rank for axis in ([source] if isinstance(source, int) else source)]
    rest = iter(axis for axis in range(rank) if axis not in moved)
    return labels.permute(
        value, [moved[places.index(place)] if place in places else next(rest) for place in range(rank)]
    )


def expanded(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    """The shape is that of the result."""
    return values.expand(value, call.shape)


def repeated(call: Call, value: Value, many: int, axis: int | None = None, **_: Any) -> Value:
    """Every place of an axis several times, one copy beside the other."""
    if not isinstance(many, int) or axis is None:
        raise NoRule
    axis = axis % len(value.shape)
    wider = labels.inserted(value, axis + 1)
    shape = (*value.shape[: axis + 1], many, *value.shape[axis + 1 :])
    merged = (*value.shape[:axis], value.shape[axis] * many, *value.shape[axis + 1 :])
    return reshape(call.atoms, values.expand(wider, shape), merged, call.why)


def tiled(call: Call, value: Value, *sizes: Any) -> Value:
    """The whole tensor several times along each axis."""
    many = _ints(sizes)
    value = values.expand(value, (*(1,) * (len(many) - len(value.shape)), *value.shape))
    for axis, times in enumerate(many):
        if times > 1:
            shape = value.shape
            wider = values.expand(labels.inserted(value, axis), (*shape[:axis], times, *shape[axis:]))
            value = reshape(call.atoms, wider, (*shape[:axis], times * shape[axis], *shape[axis + 1 :]), call.why)
    return value


def joined(call: Call, tensors: Sequence[Value], axis: int = 0) -> Value:
    """Tensors one after the other; empty ones do not count."""
    whole = [value for value in tensors if value.shape != (0,)]
    return values.join(call.atoms, whole, axis, call.why)


def stacked(call: Call, tensors: Sequence[Value], axis: int = 0) -> Value:
    """Tensors beside each other on a new axis."""
    axis = axis % len(call.shape)
    return values.join(call.atoms, [labels.inserted(value, axis) for value in tensors], axis, call.why)


def split(call: Call, value: Value, sizes: Any, axis: int = 0) -> tuple[Value, ...]:
    """Pieces of an axis, as long as the results are."""
    axis = axis % len(value.shape)
    ends = np.cumsum([shape[axis] for shape in call.shapes])
    starts = [0, *ends[:-1]]
    return tuple(
        values.take(call.atoms, value, axis, range(start, end), call.why)
        for start, end in zip(starts, ends, strict=True)
    )


def unbound(call: Call, value: Value, axis: int = 0) -> tuple[Value, ...]:
    """Every place of an axis by itself."""
    axis = axis % len(value.shape)
    return tuple(values.select(call.atoms, value, axis, place, call.why) for place in range(value.shape[axis]))


def sliced(
    call: Call, value: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """Some places of an axis at equal distances."""
    places = range(value.shape[axis])[slice(start, end, step)]
    return value if len(places) == value.shape[axis] else values.take(call.atoms, value, axis, places, call.why)


def narrowed(call: Call, value: Value, axis: int, start: int, length: int) -> Value:
    """A piece of an axis."""
    start += value.shape[axis] if start < 0 else 0
    return sliced(call, value, axis, start, start + length)


def selected(call: Call, value: Value, axis: int, place: int) -> Value:
    """One place of an axis."""
    return values.select(call.atoms, value, axis, place, call.why)


def flipped(call: Call, value: Value, axes: Sequence[int]) -> Value:
    """Axes in reverse order of their places."""
    for axis in axes:
        value = values.take(call.atoms, value, axis, range(value.shape[axis])[::-1], call.why)
    return value


def rolled(call: Call, value: Value, shifts: Any, axes: Any = ()) -> Value:
    """Places moved around an axis."""
    shifts, axes = ([one] if isinstance(one, int) else list(one) for one in (shifts, axes))
    if len(axes) != len(shifts):
        raise NoRule
    for shift, axis in zip(shifts, axes, strict=True):
        places = np.roll(np.arange(value.shape[axis]), shift)
        value = values.take(call.atoms, value, axis, places, call.why)
    return _recounted(value)


def _recounted(value: Value) -> Value:
    """Places that stay, counted anew: where they came from does not matter."""
    parts = [
        along(part.axes[0], fixed(part.atoms.size), len(value.shape))
        if len(part.axes) == 1 and (part.atoms < 0).all()
        else part
        for part in value.parts
    ]
    return Value(value.shape, tuple(parts))


def padded(call: Call, value: Value, pad: Sequence[int], *given: Any, **_: Any) -> Value:
    """Places before and after, all alike where they are a constant."""
    mode = given[0] if given and isinstance(given[0], str) else "constant"
    for n in range(len(pad) // 2):
        axis = len(value.shape) - 1 - n
        before, after = pad[2 * n], pad[2 * n + 1]
        if mode != "constant" or before < 0 or after < 0:
            value = values.pin(call.atoms, value, [axis], call.why)
        owner = value.owner(axis)
        if (before or after) and (owner is None or (owner.atoms < 0).all()):
            shape = (*value.shape[:axis], value.shape[axis] + before + after, *value.shape[axis + 1 :])
            rest = values.reduce(call.atoms, value, [axis], True, call.why)
            value = Value(shape, (*rest.parts, along(axis, fixed(shape[axis]), len(shape))))
        elif before or after:
            edges = [
                Value(tuple(size if place == axis else length for place, length in enumerate(value.shape)))
                for size in (before, after)
            ]
            pieces = [piece for piece in (edges[0], value, edges[1]) if piece.shape[axis]]
            value = values.join(call.atoms, pieces, axis, call.why)
    return value


def gated(call: Call, value: Value, axis: int = -1) -> Value:
    """The second half of an axis gates the first."""
    half = value.shape[axis] // 2
    halves = (narrowed(call, value, axis, start, half) for start in (0, half))
    return values.broadcast(call.atoms, halves, call.why)


def shuffled(call: Call, value: Value, groups: int) -> Value:
    """Channels of the groups in turn."""
    batch, channels, *space = value.shape
    parted = reshape(call.atoms, value, (batch, groups, channels // groups, *space), call.why)
    return reshape(call.atoms, swapped(call, parted, 1, 2), value.shape, call.why)


def pixels(call: Call, value: Value, factor: int) -> Value:
    """Channels moved into space: [..., c f f, h, w] becomes [..., c, h f, w f]."""
    *front, channels, height, width = value.shape
    parted = reshape(call.atoms, value, (*front, channels // factor**2, factor, factor, height, width), call.why)
    n = len(front)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    parted = values.pin(call.atoms, parted, range(n + 1, n + 5), call.why)
    return reshape(call.atoms, labels.permute(parted, order), call.shape, call.why)


def _ints(given: Sequence[Any]) -> list[int]:
    return list(given[0]) if len(given) == 1 and not isinstance(given[0], int) else list(given)
