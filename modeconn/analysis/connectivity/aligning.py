"""Networks of a comparison in each other's order: `align=` of the measures between networks."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.example import example_of
from modeconn.analysis.alignment.find import METHODS, AlignOptions, find_alignment
from modeconn.analysis.alignment.network import TOLERANCE, Graph, difference, graph_of
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

_MOST = 2 << 30  # bytes of an aligned network that are kept in memory, so that it is not permuted at every alpha


def check_method(align: Any, given: type, by: str) -> None:
    """Refuse what is neither a method nor what aligns already, before networks are opened.

    Args:
        align: the option.
        given: the type of what aligns already.
        by: the function that gives it.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(align, str):
        AlignOptions(align)
    elif align is not None and not isinstance(align, given):
        raise OptionError(
            f"align= must be a method ({', '.join(METHODS)}) or what {by} gave; got {type(align).__name__}"
        )


def aligned_comparison(comparison: Comparison, align: str | Alignment, options: ComparisonOptions) -> Comparison:
    """A comparison of two networks in which the second is aligned to the first, with what that gained in its notes.

    Args:
        comparison: the networks.
        align: the method, or the alignment itself.
        options: of the comparison; of `calibration`, the data that units are matched on.

    Raises:
        ModeconnError: as `modeconn.align`; an alignment of another network.
    """
    if isinstance(align, Alignment):
        require_fit(comparison, align)
        return with_alignment(comparison, align)
    matching = open_matching(comparison, align, options)
    return with_alignment(comparison.noting(*matching.notes), matching.between(0, 1))


def aligned_to_first(comparison: Comparison, method: str, options: ComparisonOptions) -> Comparison:
    """A comparison in which all networks are aligned to the first.

    Args:
        comparison: the networks.
        method: of `modeconn.align`.
        options: of the comparison; of `calibration`, the data that units are matched on.

    Raises:
        ModeconnError: as `modeconn.align`.
    """
    matching = open_matching(comparison, method, options)
    first, *others = comparison.networks
    found = [matching.between(0, place) for place in range(1, len(others) + 1)]
    moved = (kept(alignment.permuted(network)) for alignment, network in zip(found, others, strict=True))
    notes = [alignment.found[0] for alignment in found]
    return replace(comparison, networks=(first, *moved)).noting(*matching.notes, *notes, align=method)


def with_alignment(comparison: Comparison, alignment: Alignment) -> Comparison:
    """A comparison of two networks with the second one permuted, and with notes and settings on that."""
    first, second = comparison.networks
    return replace(comparison, networks=(first, kept(alignment.permuted(second)))).noting(
        *alignment.notes, *_notes_on(comparison, alignment), alignment=_settings(alignment)
    )


@dataclass(frozen=True, eq=False)
class Matching:
    """How the networks of a comparison are aligned to each other.

    Attributes:
        comparison: the networks. Its own network, in which they are measured, is left as it is.
        method: of `modeconn.align`.
        graph: of a copy of that network.
        batches: what units are matched on.
        notes: on these data.
    """

    comparison: Comparison
    method: str
    graph: Graph
    batches: Iterable[Any]
    notes: tuple[str, ...]

    def between(self, first: int, second: int) -> Alignment:
        """The alignment of one of the networks, the second, to another, by their places.

        Raises:
            ModeconnError: as `modeconn.align`.
        """
        weights, names = self.comparison.networks, self.comparison.names
        batches = self.batches
        with preserving_random_state(
            device_of(self.graph.network), *([batches] if isinstance(batches, Batches) else [])
        ):
            return find_alignment(
                self.graph.network,
                (weights[first], weights[second]),
                (names[first], names[second]),
                AlignOptions(self.method),
                batches=batches,
                graph=self.graph,
            )


def open_matching(comparison: Comparison, method: str, options: ComparisonOptions) -> Matching:
    """Find the groups of the network that is compared, and the data that units are matched on.

    Raises:
        ModeconnError: as `modeconn.align`.
    """
    scratch = plain_copy(comparison.evaluator.network)
    load_weights(scratch, comparison.networks[0])
    with preserving_random_state(device_of(scratch)):
        graph = graph_of(scratch, example_of(scratch, _shown(comparison), device_of(scratch)))
    return Matching(comparison, method, graph, *_matched_on(method, comparison, options))


def require_fit(comparison: Comparison, alignment: Alignment) -> None:
    """See that an alignment leaves what the second network computes as it is.

    Raises:
        SymmetryError: it does not, so that it is one of another network.
    """
    scratch, weights = plain_copy(comparison.evaluator.network), comparison.networks[1]
    alignment.permuted(weights)
    load_weights(scratch, weights)
    with preserving_random_state(device_of(scratch)):
        try:
            example = example_of(scratch, _shown(comparison), device_of(scratch))
        except ModeconnError:  # what a function of the user's calls it with is not known
            return
        change = difference(scratch, example, alignment.symmetry, alignment.permutations)
    if not change <= TOLERANCE.get(next(scratch.parameters()).dtype, 1e-2):
        raise SymmetryError(
            f"the alignment would change what {comparison.names[1]} computes by {change:.1e} of its largest output, so "
            "it is one of another network; find one with modeconn.align"
        )


def kept(weights: Weights) -> Weights:
    """Weights whose tensors are in memory, as they are read again and again; large ones are computed when read."""
    if sum(tensor.nbytes for tensor in weights.layout.values()) > _MOST:
        return weights
    tensors = {name: weights.read(name) for name in weights.layout}
    return replace(weights, read=tensors.__getitem__)


def _shown(comparison: Comparison) -> Any:
    """The first batch, which the network is called with; None if a function of the user's makes its own of it."""
    data = comparison.evaluator.data[SPLIT]
    batch = data.first() if isinstance(data, Batches) else next(iter(data))
    if not any(True for _ in tensors_of(batch)):
        return None
    return tuple(batch) if isinstance(batch, list) else batch


def _matched_on(
    method: str, comparison: Comparison, options: ComparisonOptions
) -> tuple[Iterable[Any], tuple[str, ...]]:
    """The data that units are matched on, and a note if they are those that errors are measured on."""
    evaluator, limit = comparison.evaluator, options.calibration_batches
    if method == "weights":
        return (), ()
    if options.calibration is not None:
        device = device_of(evaluator.network)
        size, where = options.batch_size, options.data_dir
        return Batches(options.calibration, device, batch_size=size, limit=limit, split="train", data_dir=where), ()
    note = f"units are matched (by {method}) on the data that errors are measured on; give calibration= training data"
    data = evaluator.data[SPLIT]
    return (data if limit is None else list(itertools.islice(data, limit))), (note,)


def _notes_on(comparison: Comparison, alignment: Alignment) -> list[str]:
    a, b = comparison.names
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
