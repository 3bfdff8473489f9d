"""A network of a comparison in the order of another one: `align=` of the measures between networks."""

import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.example import Call, example_of
from modeconn.analysis.alignment.find import METHODS, AlignOptions, find_alignment
from modeconn.analysis.alignment.network import TOLERANCE, difference
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.linear import load_weights
from modeconn.errors import ModeconnError, OptionError
from modeconn.evaluation.batches import Batches, preserving_random_state
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.structures import tensors_of
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.state_dicts import Weights

Align: TypeAlias = "str | Alignment | None"

_MOST = 2 << 30  # bytes of an aligned network that are kept in memory, so that it is not permuted at every alpha


def check_align(align: Align) -> None:
    """Refuse what is neither a method nor an alignment, before networks are opened.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(align, str):
        AlignOptions(align)
    elif align is not None and not isinstance(align, Alignment):
        raise OptionError(
            f"align= must be a method ({', '.join(METHODS)}) or what modeconn.align gave; got {type(align).__name__}"
        )


def aligned_comparison(
    comparison: Comparison, align: str | Alignment, options: ComparisonOptions, first: int = 0, second: int = 1
) -> Comparison:
    """A comparison in which one network is aligned to another, with what that gained as notes and settings.

    Args:
        comparison: the networks.
        align: the method, or the alignment itself.
        options: of the comparison; of `calibration`, the data that units are matched on.
        first: the place of the network that stays.
        second: that of the network whose units are permuted.

    Raises:
        ModeconnError: as `modeconn.align`; an alignment of another network.
    """
    alignment, notes = alignment_between(comparison, align, options, first, second)
    networks = list(comparison.networks)
    networks[second] = kept(alignment.permuted(networks[second]))
    return replace(comparison, networks=tuple(networks)).noting(
        *notes, *alignment.notes, *_notes_on(comparison, alignment, first, second), alignment=_settings(alignment)
    )


def alignment_between(
    comparison: Comparison, align: str | Alignment, options: ComparisonOptions, first: int, second: int
) -> tuple[Alignment, list[str]]:
    """The alignment of one network of a comparison to another, and notes on the data that it is found on.

    The comparison's own network is left as it is.

    Raises:
        ModeconnError: as `modeconn.align`; an alignment of another network.
    """
    scratch = plain_copy(comparison.evaluator.network)
    device = device_of(scratch)
    shown = _shown(comparison)
    if isinstance(align, Alignment):
        with preserving_random_state(device):
            alignment = _seen_to_fit(align, scratch, comparison.networks[second], shown)
        return alignment, []
    batches, notes = _matched_on(align, comparison, options)
    with preserving_random_state(device, *([batches] if isinstance(batches, Batches) else [])):
        alignment = find_alignment(
            scratch,
            (comparison.networks[first], comparison.networks[second]),
            (comparison.names[first], comparison.names[second]),
            AlignOptions(align),
            example=shown,
            batches=batches,
        )
    return alignment, notes


def kept(weights: Weights) -> Weights:
    """Weights whose tensors are in memory, as they are read again and again; large ones are computed when read."""
    if sum(tensor.nbytes for tensor in weights.layout.values()) > _MOST:
        return weights
    tensors = {name: weights.read(name) for name in weights.layout}
    return replace(weights, read=tensors.__getitem__)


def _shown(comparison: Comparison) -> Any:
    """The first batch, which the network is called with; None if a function of the user's makes its own of it."""
    batch = next(iter(comparison.evaluator.data[SPLIT]))
    if not any(True for _ in tensors_of(batch)):
        return None
    return tuple(batch) if isinstance(batch, list) else batch


def _matched_on(method: str, comparison: Comparison, options: ComparisonOptions) -> tuple[Iterable[Any], list[str]]:
    """The data that units are matched on, and a note if they are those that errors are measured on."""
    evaluator, limit = comparison.evaluator, options.calibration_batches
    if method == "weights":
        return (), []
    if options.calibration is not None:
        device = device_of(evaluator.network)
        return Batches(options.calibration, device, batch_size=options.batch_size, limit=limit), []
    note = f"units are matched (by {method}) on the data that errors are measured on; give calibration= training data"
    data = evaluator.data[SPLIT]
    return (data if limit is None else list(itertools.islice(data, limit))), [note]


def _seen_to_fit(alignment: Alignment, scratch: torch.nn.Module, weights: Weights, shown: Any) -> Alignment:
    """An alignment that leaves what a network computes as it is.

    Raises:
        SymmetryError: it does not, so that it is one of another network.
    """
    alignment.permuted(weights)
    load_weights(scratch, weights)
    example: Call | None = None
    with contextlib.suppress(ModeconnError):  # what a function of the user's calls it with is not known
        example = example_of(scratch, shown, device_of(scratch))
    if example is not None:
        change = difference(scratch, example, alignment.symmetry, alignment.permutations)
        if not change <= TOLERANCE.get(next(scratch.parameters()).dtype, 1e-2):
            raise SymmetryError(
                f"the alignment would change what {weights.origin} computes by {change:.1e} of its largest output, so "
                "it is one of another network; find one with modeconn.align"
            )
    return alignment


def _notes_on(comparison: Comparison, alignment: Alignment, first: int, second: int) -> list[str]:
    a, b = comparison.names[first], comparison.names[second]
    notes = [
        f"no rule is known for {operator} (first met: {where}), so that nothing is permuted which it is given"
        for operator, where in alignment.symmetry.unknown.items()
    ]
    if comparison.evaluator.batchnorm == "interpolate":
        notes.append(
            f"between {a} and the aligned {b} running statistics do not fit however well the weights do (Jordan et al. "
            '2022): measure with batchnorm="recalibrate" or "repair"'
        )
    if not alignment.groups:
        notes.append("no unit of the network can change its place, so that aligned it is what it was")
    return notes


def _settings(alignment: Alignment) -> dict[str, Any]:
    """What a result says of how its networks were aligned; JSON."""
    stays: dict[str, int] = {}
    for why in alignment.symmetry.pinned.values():
        stays[why] = stays.get(why, 0) + 1
    return {
        "method": alignment.method,
        "found": list(alignment.found),
        "score": alignment.score,
        "score_before": alignment.before,
        "moved": alignment.moved,
        "groups": len(alignment.groups),
        "units": sum(group.size for group in alignment.groups),
        "stays": stays,
        "unknown": dict(alignment.symmetry.unknown),
    }
