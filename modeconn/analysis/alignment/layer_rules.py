"""Rules of the operators that have weights: layers, norms, embeddings, attention."""

import math
from collections.abc import Sequence
from typing import Any

from modeconn.analysis.alignment import labels, values
from modeconn.analysis.alignment.atoms import fixed
from modeconn.analysis.alignment.blocks import apart
from modeconn.analysis.alignment.call import SPACE, Call, NoRule
from modeconn.analysis.alignment.labels import Value, along
from modeconn.analysis.alignment.reshaping import reshape
from modeconn.analysis.alignment.shape_rules import repeated


def linear(call: Call, value: Value, weight: Value, bias: Value | None = None) -> Value:
    """Inputs contracted with the second axis of the weights."""
    if len(weight.shape) == 1:
        return matmul(call, value, weight)
    names = _letters(len(value.shape))
    out = values.contract(call.atoms, [(names, value), (f"Z{names[-1]}", weight)], f"{names[:-1]}Z", call.why)
    return out if bias is None else values.broadcast(call.atoms, [out, bias], call.why)


def matmul(call: Call, one: Value, other: Value) -> Value:
    """Matrices, vectors, or batches of matrices, whose batches go together."""
    left, right = len(one.shape), len(other.shape)
    batch = _letters(max(left, right, 2) - 2)
    first = "y" if left == 1 else f"{batch[len(batch) - left + 2 :]}xy"
    second = "y" if right == 1 else f"{batch[len(batch) - right + 2 :]}yz"
    out = batch + ("x" if left > 1 else "") + ("z" if right > 1 else "")
    return values.contract(call.atoms, [(first, one), (second, other)], out, call.why)


def addmm(call: Call, bias: Value, one: Value, other: Value, **_: Any) -> Value:
    """A product of matrices and a bias."""
    return values.broadcast(call.atoms, [bias, matmul(call, one, other)], call.why)


def grouped(call: Call, tokens: Value, weight: Value, *_: Any, **__: Any) -> Value:
    """Tokens in the order of their experts by [experts, in, out]; which rows are whose is not known: experts stay."""
    weight = values.reduce(call.atoms, values.pin(call.atoms, weight, [0], call.why), [0], why=call.why)
    return values.contract(call.atoms, [("td", tokens), ("df", weight)], "tf", call.why)


def einsum(call: Call, equation: str, tensors: Sequence[Value], **_: Any) -> Value:
    """Products by letters; those that occur twice in one tensor have no rule."""
    equation = equation.replace(" ", "")
    if "..." in equation:
        raise NoRule
    given, arrow, out = equation.partition("->")
    if not arrow:
        every = given.replace(",", "")
        out = "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    names = given.split(",")
    if any(len(set(name)) < len(name) for name in names):
        raise NoRule
    return values.contract(call.atoms, list(zip(names, tensors, strict=True)), out, call.why)


def convolution(
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
    value = values.pin(atoms, value, range(-spatial, 0), SPACE)
    weight = values.pin(atoms, weight, range(-spatial, 0), SPACE)
    batched = len(value.shape) == spatial + 2
    front = value.shape[:-spatial]
    # [batch, groups, channels] by [groups, outputs, channels]; a transposed convolution's weight is [in, out / groups]
    for axis in range(-spatial, 0):
        value = values.reduce(atoms, value, [axis], keep=True, why=why)
        weight = values.reduce(atoms, weight, [axis], keep=True, why=why)
    value = reshape(atoms, value, (*front[:-1], groups, front[-1] // groups), why)
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    weight = reshape(atoms, weight, (groups, rows, columns), why)
    names = "goi" if not transposed else "gio"
    batch = "b" if batched else ""
    out = values.contract(atoms, [(f"{batch}gi", value), (names, weight)], f"{batch}go", why)
    outputs = rows if not transposed else columns
    out = reshape(atoms, out, (*front[:-1], groups * outputs), why)
    if bias is not None:
        out = values.broadcast(atoms, [out, bias], why)
    for _ in range(spatial):
        out = labels.inserted(out, len(out.shape))
    rank = len(call.shape)
    stays = (along(axis, fixed(call.shape[axis]), rank) for axis in range(rank - spatial, rank) if call.shape[axis] > 1)
    return Value(call.shape, (*out.parts, *stays))


def transposed(call: Call, value: Value, weight: Value, bias: Value | None = None, *given: Any, **named: Any) -> Value:
    """A transposed convolution."""
    groups = named.get("groups", given[3] if len(given) > 3 else 1)
    return convolution(call, value, weight, bias, transposed=True, groups=groups)


def convolved(call: Call, value: Value, weight: Value, bias: Value | None = None, *given: Any, **named: Any) -> Value:
    """A convolution."""
    groups = named.get("groups", given[3] if len(given) > 3 else 1)
    return convolution(call, value, weight, bias, groups=groups)


def channelwise(call: Call, value: Value, *tensors: Any, **named: Any) -> Value:
    """Tensors with one entry for each channel, which is axis 1."""
    rank = len(value.shape)
    found = [value]
    for tensor in (*tensors, *named.values()):
        if isinstance(tensor, Value):
            for _ in range(rank - 2):
                tensor = labels.inserted(tensor, len(tensor.shape))
            found.append(tensor)
    return values.broadcast(call.atoms, found, call.why)


def batch_norm(call: Call, value: Value, *given: Any, **named: Any) -> Any:
    """Statistics, scale and shift of each channel."""
    out = channelwise(call, value, *given, **named)
    return out if len(call.shapes) == 1 else (out, *map(labels.constant, call.shapes[1:]))


def instance_norm(call: Call, value: Value, *given: Any, **named: Any) -> Value:
    """Each channel of each example by itself."""
    return channelwise(call, values.over(call.atoms, value, range(2, len(value.shape)), call.why), *given, **named)


def layer_norm(
    call: Call, value: Value, shape: Sequence[int], weight: Value | None = None, bias: Value | None = None, *_: Any
) -> Any:
    """The last axes are normalised together."""
    value = values.over(call.atoms, value, range(-len(shape), 0), call.why)
    found = [tensor for tensor in (value, weight, bias) if isinstance(tensor, Value)]
    out = values.broadcast(call.atoms, found, call.why)
    statistics = values.reduce(call.atoms, value, range(-len(shape), 0), True, call.why)
    return out if len(call.shapes) == 1 else (out, statistics, statistics)


def rms_norm(call: Call, value: Value, shape: Sequence[int], weight: Value | None = None, *_: Any) -> Value:
    """As a layer norm without a shift."""
    return layer_norm(call, value, shape, weight)


def group_norm(
    call: Call, value: Value, groups: int, weight: Value | None = None, bias: Value | None = None, *_: Any, **__: Any
) -> Value:
    """Channels in blocks that are normalised together."""
    batch, channels, *space = value.shape
    parted = reshape(call.atoms, value, (batch, groups, channels // groups, *space), call.why)
    parted = values.over(call.atoms, parted, range(2, len(parted.shape)), call.why)
    parted = apart(call.atoms, parted, [2], call.why)
    return channelwise(call, reshape(call.atoms, parted, value.shape, call.why), weight, bias)


def parametric(call: Call, value: Value, weight: Value) -> Value:
    """A slope of each channel, or one for all."""
    return channelwise(call, value, weight) if math.prod(weight.shape) > 1 else value


def embedding(call: Call, weight: Value, places: Value, *_: Any, **__: Any) -> Value:
    """The vocabulary stays."""
    weight = values.pin(call.atoms, weight, [0], call.why)
    values.pin_all(call.atoms, places, call.why)
    return _looked_up(call, weight, 0, places)


def indexed(call: Call, value: Value, places: Sequence[Value | None]) -> Value:
    """Places of some axes by tensors of numbers, which tell them apart."""
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
        raise NoRule
    many = len(call.shape) - len(rest.shape)
    for n in range(many):
        rest = labels.inserted(rest, used[0] + n)
    axes = range(used[0], used[0] + many)
    stays = [along(axis, fixed(call.shape[axis]), len(call.shape)) for axis in axes if call.shape[axis] > 1]
    return Value(call.shape, (*rest.parts, *stays))


def _looked_up(call: Call, value: Value, axis: int, places: Value) -> Value:
    """One axis exchanged for those of a tensor of places, all of which stay."""
    rest = values.reduce(call.atoms, value, [axis], why=call.why)
    for n in range(len(places.shape)):
        rest = labels.inserted(rest, axis + n)
    index = [along(axis + n, fixed(size), len(rest.shape)) for n, size in enumerate(places.shape) if size > 1]
    shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
    return Value(shape, (*rest.parts, *index))


def attention(
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
        key, value = (repeated(call, tensor, many, len(tensor.shape) - 3) for tensor in (key, value))
    batch = _letters(len(query.shape) - 2)
    scores = values.contract(atoms, [(f"{batch}xy", query), (f"{batch}zy", key)], f"{batch}xz", why)
    if mask is not None:
        scores = values.broadcast(atoms, [scores, mask], why)
    if is_causal:
        scores = values.pin(atoms, scores, [-1, -2], why)
    scores = values.over(atoms, scores, [-1], why)
    return values.contract(atoms, [(f"{batch}xz", scores), (f"{batch}zw", value)], f"{batch}xw", why)


def _letters(many: int) -> str:
    return "abcdefghijklmnopqrstuv"[:many]
