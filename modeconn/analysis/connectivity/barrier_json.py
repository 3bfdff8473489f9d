"""A barrier as JSON text and back."""

import base64
import json
import math
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier, Decided, Ends, Samples
from modeconn.result import reading

_FORMAT = "modeconn barrier 1"


def dump_barrier(barrier: Barrier, examples: bool) -> str:
    """The text; `values` and `heights` are for readers, `samples` hold the outcomes that they come from."""
    samples = barrier.samples if examples else without_examples(barrier).samples
    content = {
        "format": _FORMAT,
        "alphas": barrier.alphas.tolist(),
        "metric": barrier.metric,
        "higher_is_better": sorted(barrier.higher_is_better),
        "values": {name: [_number(value) for value in barrier.values(name)] for name in barrier.metrics},
        "heights": {name: _numbers(asdict(barrier.heights(name))) for name in barrier.metrics},
        "ends": _numbers(asdict(barrier.ends)),
        "names": list(barrier.names),
        "batchnorm": barrier.batchnorm,
        "notes": list(barrier.notes),
        "settings": dict(barrier.settings),
        "samples": {name: _packed(sample) for name, sample in samples.items()},
    } | ({"decided": asdict(barrier.decided)} if barrier.decided else {})
    return json.dumps(content, indent=1, allow_nan=False)


def read_barrier(source: str | Path) -> Barrier:
    """The barrier that `dump_barrier` wrote, from its text or its file.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    with reading(source, _FORMAT, "a barrier") as content:
        ends = {name: math.nan if value is None else value for name, value in content["ends"].items()}
        barrier = Barrier(
            alphas=np.array(content["alphas"], dtype=np.float64),
            samples={name: _unpacked(packed) for name, packed in content["samples"].items()},
            metric=content["metric"],
            higher_is_better=frozenset(content["higher_is_better"]),
            ends=Ends(**ends),
            names=(content["names"][0], content["names"][1]),
            batchnorm=content["batchnorm"],
            notes=tuple(content["notes"]),
            settings=content["settings"],
            decided=_decided(content.get("decided")),
        )
        barrier.end_values()  # fails if the metric or an end is missing
        return barrier


def without_examples(barrier: Barrier) -> Barrier:
    """The same curves, without the outcomes of single examples."""
    return replace(barrier, samples={name: _summed(samples) for name, samples in barrier.samples.items()})


def _decided(content: dict[str, Any] | None) -> Decided | None:
    return None if content is None else Decided(**content | {"counts": tuple(content["counts"])})


def _numbers(content: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in content.items()}


def _number(value: float) -> float | None:
    """JSON has no NaN or infinity."""
    return float(value) if math.isfinite(value) else None


def _summed(samples: Samples) -> Samples:
    sums, counts = (array.sum(1, keepdims=True, dtype=np.float64) for array in (samples.sums, samples.counts))
    return Samples(sums, counts, "all", samples.exponential)


def _packed(samples: Samples) -> dict[str, Any]:
    counts = samples.counts
    if (counts == counts[:1]).all():
        counts = counts[:1]  # the same at every alpha, as is usual
    return {
        "per": samples.per,
        "exponential": samples.exponential,
        "sums": _pack(samples.sums),
        "counts": _pack(counts),
    }


def _unpacked(content: dict[str, Any]) -> Samples:
    sums = _unpack(content["sums"])
    return Samples(
        sums, np.broadcast_to(_unpack(content["counts"]), sums.shape), content["per"], content["exponential"]
    )


def _pack(array: np.ndarray) -> dict[str, Any]:
    plain = np.packbits(array) if array.dtype == bool else np.ascontiguousarray(array)
    data = base64.b64encode(zlib.compress(plain.tobytes(), 6)).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "zlib": data}


def _unpack(content: dict[str, Any]) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(content["zlib"]))
    shape = tuple(content["shape"])
    if content["dtype"] == "bool":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=math.prod(shape)).astype(bool).reshape(shape)
    return np.frombuffer(raw, content["dtype"]).reshape(shape)
