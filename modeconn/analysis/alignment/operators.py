"""What each operator of an exported graph asks of the axes of what it is given: one rule for each name.

A rule is called as its operator, with a `Value` in the place of each tensor, and gives the labels of its result. The
names are ATen's without their overloads and without the underscore of those that write in place.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from modeconn.analysis.alignment import labels, values
from modeconn.analysis.alignment.atoms import fixed
from modeconn.analysis.alignment.call import SPACE, Call, Rule
from modeconn.analysis.alignment.labels import Value, along
from modeconn.analysis.alignment.layer_rules import (
    addmm,
    attention,
    batch_norm,
    convolution,
    convolved,
    einsum,
    embedding,
    group_norm,
    grouped,
    indexed,
    instance_norm,
    layer_norm,
    linear,
    matmul,
    parametric,
    rms_norm,
    transposed,
)
from modeconn.analysis.alignment.shape_rules import (
    expanded,
    flipped,
    gated,
    joined,
    moved_axes,
    narrowed,
    padded,
    permuted,
    pixels,
    repeated,
    reshaped,
    rolled,
    selected,
    shuffled,
    sliced,
    split,
    stacked,
    swapped,
    tiled,
    turned,
    unbound,
)


def _elementwise(call: Call, *given: Any, **named: Any) -> Value:
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Value)]
    return values.broadcast(call.atoms, tensors, call.why)


def _same(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    return value


def _uniform(call: Call, *_: Any, **__: Any) -> Value:
    return Value(call.shape)


def _constant(call: Call, *_: Any, **__: Any) -> Value:
    return labels.constant(call.shape)


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
    value = values.reduce(call.atoms, values.pin(call.atoms, value, space, SPACE), space, True, call.why)
    rank = len(call.shapes[0])
    stays = (along(axis, fixed(call.shapes[0][axis]), rank) for axis in space if call.shapes[0][axis] > 1)
    out = Value(call.shapes[0], (*value.parts, *stays))
    return out if len(call.shapes) == 1 else (out,) * len(call.shapes)


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
    | _named(convolved, "conv1d conv2d conv3d")
    | _named(transposed, "conv_transpose1d conv_transpose2d conv_transpose3d")
    | _named(matmul, "matmul mm bmm mv dot")
    | _named(addmm, "addmm baddbmm addmv")
    | _named(_softmax, "softmax log_softmax _softmax _log_softmax _safe_softmax")
    | _named(_reduced, "sum mean amax amin var std any all logsumexp prod var_mean nansum count_nonzero")
    | _named(_ranked, "sort argsort cumsum cumprod")
    | _named(grouped, "_grouped_mm grouped_mm_fallback")
    | _named(_norm, "linalg_vector_norm norm")
    | _named(_extreme, "max min")
    | _named(partial(_pooled, many=1), "adaptive_avg_pool1d avg_pool1d max_pool1d upsample_nearest1d upsample_linear1d")
    | _named(
        partial(_pooled, many=2),
        "adaptive_avg_pool2d _adaptive_avg_pool2d avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d "
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa",
    )
    | _named(partial(_pooled, many=3), "adaptive_avg_pool3d avg_pool3d max_pool3d upsample_nearest3d")
    | _named(reshaped, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as")
    | _named(permuted, "permute")
    | _named(swapped, "transpose swapaxes swapdims")
    | _named(turned, "t numpy_T")
    | _named(moved_axes, "movedim moveaxis")
    | _named(expanded, "expand expand_as broadcast_to")
    | _named(joined, "cat concat concatenate")
    | _named(split, "split chunk split_with_sizes tensor_split")
    | _named(padded, "pad constant_pad_nd")
    | _named(layer_norm, "layer_norm native_layer_norm")
    | _named(batch_norm, "batch_norm _native_batch_norm_legit_no_training native_batch_norm")
    | _named(tiled, "repeat tile")
    | {
        "linear": linear,
        "topk": _highest,
        "einsum": einsum,
        "convolution": convolution,
        "group_norm": group_norm,
        "instance_norm": instance_norm,
        "rms_norm": rms_norm,
        "embedding": embedding,
        "index": indexed,
        "scaled_dot_product_attention": attention,
        "repeat_interleave": repeated,
        "stack": stacked,
        "unbind": unbound,
        "slice": sliced,
        "narrow": narrowed,
        "select": selected,
        "flip": flipped,
        "roll": rolled,
        "glu": gated,
        "prelu": parametric,
        "channel_shuffle": shuffled,
        "pixel_shuffle": pixels,
    }
)
