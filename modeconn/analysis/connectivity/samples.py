"""The outcomes behind a barrier: of every example at every alpha, and of the two ends."""

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from modeconn.analysis.paths.sequential import ThresholdDecision
from modeconn.reading import require_room
from modeconn.result import Number


class _Packed(TypedDict):
    """An array as `_pack` writes it."""

    dtype: Literal[
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]
    shape: list[int]
    zlib: str


class PackedSamples(TypedDict):
    """Samples as they are in JSON."""

    per: Literal["example", "batch", "data", "all"]
    exponential: bool
    sums: _Packed
    counts: _Packed
    chose: NotRequired[_Packed]


class BarrierFields(TypedDict):
    """A barrier in JSON."""

    alphas: list[float]
    metric: str
    higher_is_better: list[str]
    ends: dict[str, Number]
    names: list[str]
    batchnorm: Literal["none", "interpolate", "recalibrate", "repair"]
    notes: list[str]
    settings: dict[str, Any]
    samples: dict[str, PackedSamples]
    decided: NotRequired[ThresholdDecision]
    unaligned: NotRequired[dict[str, Any]]
    predictions: NotRequired[dict[str, list[Number]]]


@dataclass(frozen=True, eq=False)
class Samples:
    """The outcomes of one metric at every alpha.

    Attributes:
        sums: [alphas, units], for each example (or batch) the sum of what was measured.
        counts: [alphas, units], what each sum is over.
        per: `"example"`, or `"batch"` where the caller's own `evaluate` gave one pair of numbers for a batch, `"data"`
            where a metric is of all examples together, or `"all"` where examples were not kept.
        exponential: whether the metric is exp of the mean, as perplexity is of the loss.
        chose: which units chose the alphas, bool [units]: an interval must not use them; None where alphas were given.
    """

    sums: np.ndarray
    counts: np.ndarray
    per: str = "example"
    exponential: bool = False
    chose: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """The sum over all divided by the count of all (or exp of that), float64 [alphas]."""
        return self.transform(self.sums.sum(1, dtype=np.float64) / self.counts.sum(1, dtype=np.float64))

    def transform(self, means: np.ndarray) -> np.ndarray:
        """From means to the metric."""
        with np.errstate(over="ignore"):  # infinity is what the result then says
            return np.exp(means) if self.exponential else means

    def summed(self) -> "Samples":
        """The same curve, without the outcomes of single examples."""
        sums, counts = (array.sum(1, keepdims=True, dtype=np.float64) for array in (self.sums, self.counts))
        return Samples(sums, counts, "all", self.exponential)

    def packed(self) -> dict[str, Any]:
        """Content for JSON: the arrays as compressed text."""
        counts = self.counts
        if (counts == counts[:1]).all():
            counts = counts[:1]  # the same at every alpha, as is usual
        packed = {"sums": _pack(self.sums), "counts": _pack(counts)}
        if self.chose is not None:
            packed["chose"] = _pack(self.chose[None])
        return {"per": self.per, "exponential": self.exponential, **packed}

    @staticmethod
    def unpacked(content: "PackedSamples") -> "Samples":
        """The samples of which `packed` gave the content."""
        sums = _unpack(content["sums"])
        counts = np.broadcast_to(_unpack(content["counts"]), sums.shape)
        if not (counts > 0).any(axis=1).all() or (counts < 0).any():
            raise ValueError("there are alphas without examples")
        chose = _unpack(content["chose"])[0] if "chose" in content else None
        if chose is not None and (chose.shape != sums.shape[1:] or chose.dtype != bool):
            raise ValueError("what chose the alphas is not one truth value for each unit")
        return Samples(sums, counts, content["per"], content["exponential"], chose)


@dataclass(frozen=True)
class Ends:
    """How the two ends differ, apart from how well they do.

    Attributes:
        l2: norm of the difference of the parameters; buffers do not count.
        cosine: 1 minus the cosine of the angle between the parameters.
        angular: 2 / pi times that angle (Maene et al. 2021): 0 in one direction, 1 orthogonal.
        disagreement: fraction of examples (or tokens) that the ends label differently; NaN without labels.
        disagreement_over_error: the same divided by the mean of the ends' errors (Fort et al. 2019).
        disagreement_over_possible: the same divided by the most that two networks of these errors can disagree:
            error_a + error_b, but at most 1, and with two classes at most 2 - error_a - error_b.
        loss_l2: L2 norm of the difference of the ends' vectors of per-example losses (Frankle et al. 2020,
            appendix G); NaN without a loss.
    """

    l2: float
    cosine: float
    angular: float
    disagreement: float
    disagreement_over_error: float
    disagreement_over_possible: float
    loss_l2: float

    def lines(self) -> Iterator[str]:
        """The distance and the disagreement in words."""
        yield (
            f"Distance between the endpoints' parameters: L2 {self.l2:.4g}, cosine distance {self.cosine:.4g}, angular "
            f"distance {self.angular:.4g} (1 is orthogonal)."
        )
        if not math.isnan(self.disagreement):
            possible = self.disagreement_over_possible
            share = "" if math.isnan(possible) else f", {100 * possible:.3g} % of the maximum given both error rates"
            yield f"Their predictions differ on {100 * self.disagreement:.3g} % of examples{share}."


NO_ENDS = Ends(*[math.nan] * 7)  # of a curve whose ends were not compared


def measured(settings: Mapping[str, Any]) -> str:
    """What was measured, to end the first line of a report; empty where a file does not tell.

    >>> measured({"measured_as": "error of each example", "examples": 360})
    ': error of each example; 360 examples'
    """
    about, examples, inputs = (settings.get(name) for name in ("measured_as", "examples", "inputs"))
    parts = [about, f"{examples} examples" if examples else "", f"inputs {inputs}" if inputs else ""]
    return f": {'; '.join(filter(None, parts))}" if about else ""


def _pack(array: np.ndarray) -> dict[str, Any]:
    plain = np.packbits(array) if array.dtype == bool else np.ascontiguousarray(array)
    data = base64.b64encode(zlib.compress(plain.tobytes(), 6)).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "zlib": data}


def _unpack(content: _Packed) -> np.ndarray:
    shape, boolean = tuple(content["shape"]), content["dtype"] == "bool"
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"outcomes have the shape {list(shape)}, which is not alphas by examples")
    packed, kind = base64.b64decode(content["zlib"], validate=True), np.dtype(content["dtype"])
    size = -(-math.prod(shape) // 8) if boolean else math.prod(shape) * kind.itemsize
    require_room(size, len(packed))
    unpacking = zlib.decompressobj()
    raw = unpacking.decompress(packed, size + 1)  # no more than there should be
    if len(raw) != size or not unpacking.eof:
        raise ValueError(f"outcomes of the shape {list(shape)} do not have {size:,} bytes")
    if boolean:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=math.prod(shape)).astype(bool).reshape(shape)
    return np.frombuffer(raw, kind).reshape(shape)
