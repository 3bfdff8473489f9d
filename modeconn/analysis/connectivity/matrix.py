"""`barrier_matrix(networks, data)`: the barrier between every two of several networks."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.connectivity.aligning import check_method, open_matching, require_fit, with_alignment
from modeconn.analysis.connectivity.alignments import Alignments
from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.curve import MeasuredPath, check_alike, report_points, resolve_higher_is_better
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.paths.alphas import choose_alphas
from modeconn.errors import OptionError
from modeconn.progress import Report, silent, with_progress


@with_progress
def barrier_matrix(
    networks: Sequence[Source],
    data: Any = None,
    *,
    alphas: int | str | Sequence[float] = 31,
    tolerance: float = 0.001,
    align: str | Alignments | None = None,
    higher_is_better: bool | Collection[str] = (),
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> BarrierMatrix:
    """Measure the error barrier between every two of n networks, and so which of them are linearly connected.

    Each pair gives what `modeconn.error_barrier` gives for it, but for the outcomes of single examples, which are not
    kept. Every network is evaluated once, as the end of all its paths: n + n (n - 1) / 2 * (alphas - 2) passes over the
    data. A path goes from the earlier network to the later one. Nothing of the caller's changes.

    Args:
        networks: at least two, as `error_barrier` takes them: modules, state dicts, files, stored runs.
        data: what errors are measured on.
        alphas: points on each path: how many, which, `"paper"` or `"adaptive"`.
        tolerance: of adaptive alphas.
        align: also measure the path of each pair with the later network's units permuted so that it is most like the
            earlier one: the result is about these paths, and its `unaligned` about those without. A method of
            `modeconn.align` aligns each pair by itself; what `modeconn.align_many` gave for these networks aligns
            each to the other by way of one order for all. Twice as many points are measured.
        higher_is_better: which of your own metrics fall where a path is bad.
        report: called after every point with how far all paths are.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: `model`, `evaluate`, `batchnorm`, `calibration`, `calibration_batches`, `device`, `precision`,
            `batch_size`, `data_dir` and `names` of `error_barrier`.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before a path is measured; what is wrong is named.

    Two networks and a slight change of each are two groups:

    >>> import torch
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> weight = torch.tensor([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    >>> networks = [{"weight": w} for w in (weight, 1.1 * weight, -weight, -1.2 * weight)]
    >>> data = inputs, (inputs[:, 0] < 0).long()
    >>> result = barrier_matrix(networks, data, model=nn.Linear(4, 2, bias=False), alphas=5)
    >>> result.barrier.shape, result.groups()
    ((4, 4), [['a', 'b'], ['c', 'd']])
    """
    sources = _listed(networks)
    chosen = choose_alphas(alphas, tolerance)
    pairs = list(itertools.combinations(range(len(sources)), 2))
    check_method(align, Alignments, "modeconn.align_many")
    points = len(sources) + len(pairs) * (len(chosen.points) - 2)
    aligned_points = 0 if align is None else len(pairs) * (len(chosen.points) - 1)
    point_done = report_points(report, points + aligned_points)
    options = ComparisonOptions(**how)
    if align is not None:
        refuse_factors(options.adapter, "alignment")
    with open_comparison(sources, data, options) as comparison:
        # All lines first: what does not fit is found before anything is measured.
        lines = [comparison.line(i, j) for i, j in pairs]
        found_on, alignments = _alignments(comparison, align, options, pairs)
        ends = []
        for network in comparison.networks:
            ends.append(comparison.measure_end(network))
            check_alike(ends[-1], ends[0])
            point_done()
        better, comparison = resolve_higher_is_better(higher_is_better, comparison, ends[0])
        found = []
        for (i, j), line, alignment in zip(pairs, lines, alignments, strict=True):
            of_pair = _of_pair(comparison, i, j)
            path = MeasuredPath(of_pair, line, {0.0: ends[i], 1.0: ends[j]}, better).measure(chosen, point_done)
            barrier = path.barrier()
            if alignment is not None:
                aligned = with_alignment(of_pair.noting(*found_on), alignment)
                start = MeasuredPath(aligned, aligned.line(0, 1), {0.0: ends[i]}, better)
                path = start.measure_at((1.0,), point_done).measure(chosen, point_done)
                barrier = replace(path.barrier(), unaligned=barrier)
            found.append(barrier.without_examples())
    return BarrierMatrix(comparison.names, tuple(found))


def _alignments(
    comparison: Comparison,
    align: str | Alignments | None,
    options: ComparisonOptions,
    pairs: Sequence[tuple[int, int]],
) -> tuple[tuple[str, ...], Sequence[Alignment | None]]:
    """The alignment of the later network of each pair to the earlier one, and notes on what all were found on.

    Raises:
        ModeconnError: as `modeconn.align`; alignments of other networks.
    """
    if align is None:
        return (), [None] * len(pairs)
    if isinstance(align, str):
        matching = open_matching(comparison, align, options)
        note = "of each pair, the later network is aligned to the earlier one, by itself"
        return (note, *matching.notes), [matching.between(i, j) for i, j in pairs]
    if len(align.names) != len(comparison.names):
        raise OptionError(
            f"align= holds alignments of {len(align.names)} networks, and there are {len(comparison.names)}; give "
            "what modeconn.align_many made of these"
        )
    found = [align.between(i, j) for i, j in pairs]
    for (i, j), alignment in zip(pairs, found, strict=True):
        require_fit(_of_pair(comparison, i, j), alignment)
    return (f"all networks are aligned by one order ({align.reference})",), found


def _of_pair(comparison: Comparison, first: int, second: int) -> Comparison:
    """The comparison of two of the networks."""
    names = comparison.names[first], comparison.names[second]
    return replace(comparison, names=names, networks=(comparison.networks[first], comparison.networks[second]))


def _listed(networks: Sequence[Source]) -> list[Source]:
    single = nn.Module | Mapping | str | Path  # some of these can be gone through, as something else than networks
    if isinstance(networks, single) or not isinstance(networks, Iterable):
        raise OptionError(f"networks must be a list of at least two networks; got a single {type(networks).__name__}")
    listed = list(networks)
    if len(listed) < 2:
        raise OptionError(f"a matrix needs at least two networks; got {len(listed)}")
    return listed
