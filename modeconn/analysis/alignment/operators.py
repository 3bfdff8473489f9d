"""What each operator of an exported graph asks of the axes of what it is given: one rule for each name.

A rule is called as its operator, with a `Value` in the place of each tensor, and gives the labels of its result. The
names are ATen's without their overloads and without the underscore of those that write in place.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from modeconn.analysis.alignment import values
from modeconn.analysis.alignment.atoms import Atoms, fixed
from modeconn.analysis.alignment.values import Value, along


@dataclass(frozen=True)
class Call:
    """An operator of a graph, while its rule is applied.

    Attributes:
        atoms: of the whole network.
        why: what is said of axes that it pins: the operator, and the module that it is in.
        shapes: of its results.
    """

    atoms: Atoms
    why: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its only result."""
        return self.shapes[0]


Rule = Callable[..., Any]
_SPACE = "it is an axis in space"


def _elementwise(call: Call, *given: Any, **named: Any) -> Value:
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Value)]
    return values.broadcast(call.atoms, tensors, call.why)


def _same(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    return value


def _uniform(call: Call, *_: Any, **__: Any) -> Value:
    return Value(call.shape)


def _constant(call: Call, *_: Any, **__: Any) -> Value:
    return values.constant(call.shape)


def _linear(call: Call, value: Value, weight: Value, bias: Value | None = None) -> Value:
    if len(weight.shape) == 1:
        return _matmul(call, value, weight)
    names = _letters(len(value.shape))
    out = values.contract(call.atoms, [(names, value), (f"Z{names[-1]}", weight)], f"{names[:-1]}Z", call.why)
    return out if bias is None else values.broadcast(call.atoms, [out, bias], call.why)


def _matmul(call: Call, one: Value, other: Value) -> Value:
    left, right = len(one.shape), len(other.shape)
    batch = _letters(max(left, right, 2) - 2)
    first = "y" if left == 1 else f"{batch[len(batch) - left + 2 :]}xy"
    second = "y" if right == 1 else f"{batch[len(batch) - right + 2 :]}yz"
    out = batch + ("x" if left > 1 else "") + ("z" if right > 1 else "")
    return values.contract(call.atoms, [(first, one), (second, other)], out, call.why)


def _addmm(call: Call, bias: Value, one: Value, other: Value, **_: Any) -> Value:
    return values.broadcast(call.atoms, [bias, _matmul(call, one, other)], call.why)


def _grouped(call: Call, tokens: Value, weight: Value, *_: Any, **__: Any) -> Value:
    """Tokens in the order of their experts by [experts, in, out]; which rows are whose is not known: experts stay."""
    weight = values.reduce(call.atoms, values.pin(call.atoms, weight, [0], call.why), [0], why=call.why)
    return values.contract(call.atoms, [("td", tokens), ("df", weight)], "tf", call.why)


def _einsum(call: Call, equation: str, tensors: Sequence[Value], **_: Any) -> Value:
    equation = equation.replace(" ", "")
    if "..." in equation:
        raise NotImplementedError
    given, arrow, out = equation.partition("->")
    if not arrow:
        every = given.replace(",", "")
        out = "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    names = given.split(",")
    if any(len(set(name)) < len(name) for name in names):
        raise NotImplementedError
    return values.contract(call.atoms, list(zip(names, tensors, strict=True)), out, call.why)


def _convolution(
    call: Call,
    value: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    transposed: Any = False,
    output_padding: Any = 0,
    groups: int = 1,
) -> Value:
    """Channels are contracted, in each group by itself; what is in space stays."""
    atoms, why = call.atoms, call.why
    spatial = len(weight.shape) - 2
    value = values.pin(atoms, value, range(-spatial, 0), _SPACE)
    weight = values.pin(atoms, weight, range(-spatial, 0), _SPACE)
    batched = len(value.shape) == spatial + 2
    front = value.shape[:-spatial]
    # [batch, groups, channels] by [groups, outputs, channels]; a transposed convolution's weight is [in, out / groups]
    for axis in range(-spatial, 0):
        value = values.reduce(atoms, value, [axis], keep=True, why=why)
        weight = values.reduce(atoms, weight, [axis], keep=True, why=why)
    value = values.reshape(atoms, value, (*front[:-1], groups, front[-1] // groups), why)
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    weight = values.reshape(atoms, weight, (groups, rows, columns), why)
    names = "goi" if not transposed else "gio"
    batch = "b" if batched else ""
    out = values.contract(atoms, [(f"{batch}gi", value), (names, weight)], f"{batch}go", why)
    outputs = rows if not transposed else columns
    out = values.reshape(atoms, out, (*front[:-1], groups * outputs), why)
    if bias is not None:
        out = values.broadcast(atoms, [out, bias], why)
    for _ in range(spatial):
        out = values.inserted(out, len(out.shape))
    rank = len(call.shape)
    stays = (along(axis, fixed(call.shape[axis]), rank) for axis in range(rank - spatial, rank) if call.shape[axis] > 1)
    return Value(call.shape, (*out.parts, *stays))


def _transposed(call: Call, value: Value, weight: Value, bias: Value | None = None, *given: Any, **named: Any) -> Value:
    groups = named.get("groups", given[3] if len(given) > 3 else 1)
    return _convolution(call, value, weight, bias, transposed=True, groups=groups)


def _convolved(call: Call, value: Value, weight: Value, bias: Value | None = None, *given: Any, **named: Any) -> Value:
    groups = named.get("groups", given[3] if len(given) > 3 else 1)
    return _convolution(call, value, weight, bias, groups=groups)


def _channels(call: Call, value: Value, *tensors: Any, **named: Any) -> Value:
    """Tensors with one entry for each channel, which is axis 1."""
    rank = len(value.shape)
    found = [value]
    for tensor in (*tensors, *named.values()):
        if isinstance(tensor, Value):
            for _ in range(rank - 2):
                tensor = values.inserted(tensor, len(tensor.shape))
            found.append(tensor)
    return values.broadcast(call.atoms, found, call.why)


def _batch_norm(call: Call, value: Value, *given: Any, **named: Any) -> Any:
    out = _channels(call, value, *given, **named)
    return out if len(call.shapes) == 1 else (out, *map(values.constant, call.shapes[1:]))


def _instance_norm(call: Call, value: Value, *given: Any, **named: Any) -> Value:
    """Each channel of each example by itself."""
    return _channels(call, values.over(call.atoms, value, range(2, len(value.shape)), call.why), *given, **named)


def _layer_norm(
    call: Call, value: Value, shape: Sequence[int], weight: Value | None = None, bias: Value | None = None, *_: Any
) -> Any:
    value = values.over(call.atoms, value, range(-len(shape), 0), call.why)
    found = [tensor for tensor in (value, weight, bias) if isinstance(tensor, Value)]
    out = values.broadcast(call.atoms, found, call.why)
    statistics = values.reduce(call.atoms, value, range(-len(shape), 0), True, call.why)
    return out if len(call.shapes) == 1 else (out, statistics, statistics)


def _group_norm(
    call: Call, value: Value, groups: int, weight: Value | None = None, bias: Value | None = None, *_: Any, **__: Any
) -> Value:
    batch, channels, *space = value.shape
    parted = values.reshape(call.atoms, value, (batch, groups, channels // groups, *space), call.why)
    parted = values.over(call.atoms, parted, range(2, len(parted.shape)), call.why)
    parted = values.apart(call.atoms, parted, [2], call.why)
    return _channels(call, values.reshape(call.atoms, parted, value.shape, call.why), weight, bias)


def _embedding(call: Call, weight: Value, places: Value, *_: Any, **__: Any) -> Value:
    weight = values.pin(call.atoms, weight, [0], call.why)
    values.pin_all(call.atoms, places, call.why)
    return _looked_up(call, weight, 0, places)


def _looked_up(call: Call, value: Value, axis: int, places: Value) -> Value:
    """One axis exchanged for those of a tensor of places, all of which stay."""
    rest = values.reduce(call.atoms, value, [axis], why=call.why)
    for n in range(len(places.shape)):
        rest = values.inserted(rest, axis + n)
    index = [along(axis + n, fixed(size), len(rest.shape)) for n, size in enumerate(places.shape) if size > 1]
    shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
    return Value(shape, (*rest.parts, *index))


def _index(call: Call, value: Value, places: Sequence[Value | None]) -> Value:
    used = [axis for axis, index in enumerate(places) if index is not None]
    value = values.pin(call.atoms, value, used, call.why)
    for index in places:
        if index is not None:
            values.pin_all(call.atoms, index, call.why)
    if len(used) == 1:
        index = places[used[0]]
        assert index is not None
        return _looked_up(call, value, used[0], index)
    rest = values.reduce(call.atoms, value, used, why=call.why)
    if used != list(range(used[0], used[0] + len(used))):
        raise NotImplementedError
    many = len(call.shape) - len(rest.shape)
    for n in range(many):
        rest = values.inserted(rest, used[0] + n)
    axes = range(used[0], used[0] + many)
    stays = [along(axis, fixed(call.shape[axis]), len(call.shape)) for axis in axes if call.shape[axis] > 1]
    return Value(call.shape, (*rest.parts, *stays))


def _attention(
    call: Call,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **named: Any,
) -> Value:
    """Scores over the keys, in each head by itself; a causal mask tells the positions apart."""
    atoms, why = call.atoms, call.why
    if named.get("enable_gqa") and query.shape[-3] != key.shape[-3]:
        many = query.shape[-3] // key.shape[-3]
        key, value = (_repeated(call, tensor, many, len(tensor.shape) - 3) for tensor in (key, value))
    batch = _letters(len(query.shape) - 2)
    scores = values.contract(atoms, [(f"{batch}xy", query), (f"{batch}zy", key)], f"{batch}xz", why)
    if mask is not None:
        scores = values.broadcast(atoms, [scores, mask], why)
    if is_causal:
        scores = values.pin(atoms, scores, [-1, -2], why)
    scores = values.over(atoms, scores, [-1], why)
    return values.contract(atoms, [(f"{batch}xz", scores), (f"{batch}zw", value)], f"{batch}xw", why)


def _repeated(call: Call, value: Value, many: int, axis: int | None = None, **_: Any) -> Value:
    """Every place of an axis several times, one copy beside the other."""
    if not isinstance(many, int) or axis is None:
        raise NotImplementedError
    axis = axis % len(value.shape)
    wider = values.inserted(value, axis + 1)
    shape = (*value.shape[: axis + 1], many, *value.shape[axis + 1 :])
    merged = (*value.shape[:axis], value.shape[axis] * many, *value.shape[axis + 1 :])
    return values.reshape(call.atoms, values.expand(wider, shape), merged, call.why)


def _repeat(call: Call, value: Value, *sizes: Any) -> Value:
    """The whole tensor several times along each axis."""
    many = _ints(sizes)
    value = values.expand(value, (*(1,) * (len(many) - len(value.shape)), *value.shape))
    for axis, times in enumerate(many):
        if times > 1:
            shape = value.shape
            wider = values.expand(values.inserted(value, axis), (*shape[:axis], times, *shape[axis:]))
            value = values.reshape(
                call.atoms, wider, (*shape[:axis], times * shape[axis], *shape[axis + 1 :]), call.why
            )
    return value


def _softmax(call: Call, value: Value, axis: int, *_: Any, **__: Any) -> Value:
    return values.over(call.atoms, value, [axis], call.why)


def _reduced(call: Call, value: Value, *given: Any, **named: Any) -> Any:
    """Axes that are summed over or the like; all of them if none is named."""
    axes = named.get("dim", next((one for one in given if isinstance(one, int | list | tuple)), None))
    if isinstance(axes, bool) or axes is None or axes == []:
        axes = range(len(value.shape))
    axes = [axes] if isinstance(axes, int) else list(axes)
    keep = len(call.shapes[0]) == len(value.shape)
    out = values.reduce(call.atoms, value, axes, keep, call.why)
    return out if len(call.shapes) == 1 else (out,) * len(call.shapes)


def _norm(call: Call, value: Value, order: Any = 2, axes: Any = None, *_: Any, **named: Any) -> Any:
    return _reduced(call, value, axes, **named)


def _extreme(call: Call, value: Value, axis: Any = None, *_: Any, **named: Any) -> Any:
    """Of two tensors, of everything, or along an axis, whose places are also given and so are told apart."""
    if isinstance(axis, Value):
        return values.broadcast(call.atoms, [value, axis], call.why)
    if len(call.shapes) == 1:
        return _reduced(call, value, axis, **named)
    return _reduced(call, values.pin(call.atoms, value, [axis], call.why), axis)


def _triangle(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    """Rows and columns that are told apart."""
    return values.pin(call.atoms, value, [-1, -2], call.why)


def _highest(call: Call, value: Value, many: int, axis: int = -1, *_: Any, dim: int | None = None, **__: Any) -> Any:
    return _ranked(call, value, axis if dim is None else dim)


def _ranked(call: Call, value: Value, *given: Any, **named: Any) -> Any:
    """An axis whose places are told apart by their order, as sorting and cumulative sums do."""
    axes = [one for one in given if isinstance(one, int) and not isinstance(one, bool)]
    axis = named.get("dim", axes[0] if axes else -1)
    rest = values.reduce(call.atoms, values.pin(call.atoms, value, [axis], call.why), [axis], True, call.why)
    found = []
    for shape in call.shapes:
        size = shape[axis]
        stays = (along(axis % len(shape), fixed(size), len(shape)),) if size > 1 else ()
        found.append(Value(shape, (*rest.parts, *stays)))
    return found[0] if len(found) == 1 else tuple(found)


def _pooled(call: Call, value: Value, *_: Any, many: int, **__: Any) -> Any:
    """The last axes, so many, are in space, and stay."""
    space = range(len(value.shape) - many, len(value.shape))
    value = values.reduce(call.atoms, values.pin(call.atoms, value, space, _SPACE), space, True, call.why)
    rank = len(call.shapes[0])
    stays = (along(axis, fixed(call.shapes[0][axis]), rank) for axis in space if call.shapes[0][axis] > 1)
    out = Value(call.shapes[0], (*value.parts, *stays))
    return out if len(call.shapes) == 1 else (out,) * len(call.shapes)


def _reshaped(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    return values.reshape(call.atoms, value, call.shape, call.why)


def _permuted(call: Call, value: Value, *order: Any) -> Value:
    return values.permute(value, _ints(order))


def _swapped(call: Call, value: Value, one: int, other: int) -> Value:
    order = list(range(len(value.shape)))
    order[one], order[other] = order[other], order[one]
    return values.permute(value, order)


def _turned(call: Call, value: Value) -> Value:
    return values.permute(value, range(len(value.shape))[::-1]) if len(value.shape) > 1 else value


def _moved(call: Call, value: Value, source: Any, target: Any) -> Value:
    """Axes moved to other places, as in `torch.movedim`."""
    rank = len(value.shape)
    places = [axis % rank for axis in ([target] if isinstance(target, int) else target)]
    moved = [axis % rank for axis in ([source] if isinstance(source, int) else source)]
    rest = iter(axis for axis in range(rank) if axis not in moved)
    return values.permute(
        value, [moved[places.index(place)] if place in places else next(rest) for place in range(rank)]
    )


def _expanded(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    return values.expand(value, call.shape)


def _cat(call: Call, tensors: Sequence[Value], axis: int = 0) -> Value:
    whole = [value for value in tensors if value.shape != (0,)]
    return values.join(call.atoms, whole, axis, call.why)


def _stack(call: Call, tensors: Sequence[Value], axis: int = 0) -> Value:
    axis = axis % len(call.shape)
    return values.join(call.atoms, [values.inserted(value, axis) for value in tensors], axis, call.why)


def _split(call: Call, value: Value, sizes: Any, axis: int = 0) -> tuple[Value, ...]:
    """Pieces of an axis, as long as the results are."""
    axis = axis % len(value.shape)
    ends = np.cumsum([shape[axis] for shape in call.shapes])
    starts = [0, *ends[:-1]]
    return tuple(
        values.take(call.atoms, value, axis, range(start, end), call.why)
        for start, end in zip(starts, ends, strict=True)
    )


def _unbound(call: Call, value: Value, axis: int = 0) -> tuple[Value, ...]:
    axis = axis % len(value.shape)
    return tuple(values.select(call.atoms, value, axis, place, call.why) for place in range(value.shape[axis]))


def _sliced(
    call: Call, value: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    places = range(value.shape[axis])[slice(start, end, step)]
    return value if len(places) == value.shape[axis] else values.take(call.atoms, value, axis, places, call.why)


def _narrowed(call: Call, value: Value, axis: int, start: int, length: int) -> Value:
    start += value.shape[axis] if start < 0 else 0
    return _sliced(call, value, axis, start, start + length)


def _selected(call: Call, value: Value, axis: int, place: int) -> Value:
    return values.select(call.atoms, value, axis, place, call.why)


def _flipped(call: Call, value: Value, axes: Sequence[int]) -> Value:
    for axis in axes:
        value = values.take(call.atoms, value, axis, range(value.shape[axis])[::-1], call.why)
    return value


def _rolled(call: Call, value: Value, shifts: Any, axes: Any = ()) -> Value:
    shifts, axes = ([one] if isinstance(one, int) else list(one) for one in (shifts, axes))
    if len(axes) != len(shifts):
        raise NotImplementedError
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


def _padded(call: Call, value: Value, pad: Sequence[int], *given: Any, **_: Any) -> Value:
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


def _gated(call: Call, value: Value, axis: int = -1) -> Value:
    half = value.shape[axis] // 2
    halves = (_narrowed(call, value, axis, start, half) for start in (0, half))
    return values.broadcast(call.atoms, halves, call.why)


def _parametric(call: Call, value: Value, weight: Value) -> Value:
    return _channels(call, value, weight) if math.prod(weight.shape) > 1 else value


def _rms_norm(call: Call, value: Value, shape: Sequence[int], weight: Value | None = None, *_: Any) -> Value:
    return _layer_norm(call, value, shape, weight)


def _shuffled(call: Call, value: Value, groups: int) -> Value:
    """Channels of the groups in turn."""
    batch, channels, *space = value.shape
    parted = values.reshape(call.atoms, value, (batch, groups, channels // groups, *space), call.why)
    return values.reshape(call.atoms, _swapped(call, parted, 1, 2), value.shape, call.why)


def _pixels(call: Call, value: Value, factor: int) -> Value:
    """Channels moved into space: [..., c f f, h, w] becomes [..., c, h f, w f]."""
    *front, channels, height, width = value.shape
    parted = values.reshape(call.atoms, value, (*front, channels // factor**2, factor, factor, height, width), call.why)
    n = len(front)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    parted = values.pin(call.atoms, parted, range(n + 1, n + 5), call.why)
    return values.reshape(call.atoms, values.permute(parted, order), call.shape, call.why)


def _letters(many: int) -> str:
    return "abcdefghijklmnopqrstuv"[:many]


def _ints(given: Sequence[Any]) -> list[int]:
    return list(given[0]) if len(given) == 1 and not isinstance(given[0], int) else list(given)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


# Those that work place by place, whatever they compute.
_PLACEWISE = """
    add sub mul div rsub pow relu gelu silu sigmoid tanh hardswish hardtanh relu6 hardsigmoid leaky_relu elu selu celu
    softplus mish exp exp2 expm1 log log2 log10 log1p sqrt rsqrt neg abs sin cos tan atan asin acos sinh cosh erf erfc
    clamp clamp_min clamp_max where masked_fill maximum minimum eq ne lt gt le ge logical_and logical_or logical_not
    logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor square reciprocal sign floor ceil round trunc fmod
    remainder floor_divide true_divide isnan isinf isfinite log_sigmoid softsign softshrink hardshrink threshold
    addcmul addcdiv lerp atan2 nan_to_num copy xlogy sinc digamma lgamma __and__ __or__ __xor__ rrelu sgn positive
"""
_UNCHANGED = """
    to _to_copy type_as clone contiguous alias detach detach_ lift_fresh lift_fresh_copy dropout feature_dropout
    alpha_dropout float half double bfloat16
"""
RULES: Mapping[str, Rule] = MappingProxyType(
    _named(_elementwise, _PLACEWISE)
    | _named(_same, _UNCHANGED)
    | _named(_uniform, "full zeros ones full_like zeros_like ones_like new_zeros new_ones new_full empty scalar_tensor")
    | _named(_constant, "arange linspace eye tril_indices triu_indices randn rand")
    | _named(_triangle, "tril triu")
    | _named(_convolved, "conv1d conv2d conv3d")
    | _named(_transposed, "conv_transpose1d conv_transpose2d conv_transpose3d")
    | _named(_matmul, "matmul mm bmm mv dot")
    | _named(_addmm, "addmm baddbmm addmv")
    | _named(_softmax, "softmax log_softmax _softmax _log_softmax _safe_softmax")
    | _named(_reduced, "sum mean amax amin var std any all logsumexp prod var_mean nansum count_nonzero")
    | _named(_ranked, "sort argsort cumsum cumprod")
    | _named(_grouped, "_grouped_mm grouped_mm_fallback")
    | _named(_norm, "linalg_vector_norm norm")
    | _named(_extreme, "max min")
    | _named(partial(_pooled, many=1), "adaptive_avg_pool1d avg_pool1d max_pool1d upsample_nearest1d upsample_linear1d")
    | _named(
        partial(_pooled, many=2),
        "adaptive_avg_pool2d _adaptive_avg_pool2d avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d "
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa",
    )
    | _named(partial(_pooled, many=3), "adaptive_avg_pool3d avg_pool3d max_pool3d upsample_nearest3d")
    | _named(_reshaped, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as")
    | _named(_permuted, "permute")
    | _named(_swapped, "transpose swapaxes swapdims")
    | _named(_turned, "t numpy_T")
    | _named(_moved, "movedim moveaxis")
    | _named(_expanded, "expand expand_as broadcast_to")
    | _named(_cat, "cat concat concatenate")
    | _named(_split, "split chunk split_with_sizes tensor_split")
    | _named(_padded, "pad constant_pad_nd")
    | _named(_layer_norm, "layer_norm native_layer_norm")
    | _named(_batch_norm, "batch_norm _native_batch_norm_legit_no_training native_batch_norm")
    | _named(_repeat, "repeat tile")
    | {
        "linear": _linear,
        "topk": _highest,
        "einsum": _einsum,
        "convolution": _convolution,
        "group_norm": _group_norm,
        "instance_norm": _instance_norm,
        "rms_norm": _rms_norm,
        "embedding": _embedding,
        "index": _index,
        "scaled_dot_product_attention": _attention,
        "repeat_interleave": _repeated,
        "stack": _stack,
        "unbind": _unbound,
        "slice": _sliced,
        "narrow": _narrowed,
        "select": _selected,
        "flip": _flipped,
        "roll": _rolled,
        "glu": _gated,
        "prelu": _parametric,
        "channel_shuffle": _shuffled,
        "pixel_shuffle": _pixels,
    }
)
