"""`barrier_matrix(networks, data)`: the barrier between every two of several networks."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from modeconn.analysis.connectivity.comparison import ComparisonOptions, open_comparison
from modeconn.analysis.connectivity.curve import check_higher, check_same, count_highest, counted, make_barrier, walk
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.paths.alphas import check_tolerance, grid
from modeconn.analysis.paths.linear import make_line
from modeconn.errors import OptionError
from modeconn.progress import Progress


def barrier_matrix(
    networks: Sequence[Source],
    data: Any = None,
    *,
    alphas: int | str | Sequence[float] = 31,
    tolerance: float = 0.001,
    higher_is_better: bool | Collection[str] = (),
    report: Callable[[Progress], None] = lambda progress: None,
    **how: Unpack[ComparisonOptions],
) -> BarrierMatrix:
    """Measure the error barrier between every two of n networks, and so which of them are linearly connected.

    Each pair gives what `modeconn.error_barrier` gives for it, but for the outcomes of single examples, which are not
    kept. Every network is evaluated once, as the end of all its paths: n + n (n - 1) / 2 * (alphas - 2) passes over the
    data. A path is walked from the earlier network to the later one. Nothing of the caller's changes.

    Args:
        networks: at least two, as `error_barrier` takes them: modules, state dicts, files, stored runs.
        data: what errors are measured on.
        alphas: points on each path: how many, which, `"paper"` or `"adaptive"`.
        tolerance: of adaptive alphas.
        higher_is_better: which of your own metrics fall where a path is bad.
        report: called after every point with how far all paths are.
        **how: `model`, `evaluate`, `batchnorm`, `calibration`, `calibration_batches`, `device`, `precision`,
            `batch_size`, `data_dir` and `names` of `error_barrier`.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before a path is walked; what is wrong is named.

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
    points = grid(alphas)
    adaptive = isinstance(alphas, str) and alphas == "adaptive"
    tolerance = check_tolerance(tolerance)
    pairs = list(itertools.combinations(range(len(sources)), 2))
    step = counted(report, len(sources) + len(pairs) * (len(points) - 2))
    with open_comparison(sources, data, **how) as comparison:
        # All lines first: what does not fit is found before anything is measured.
        lines = [make_line(comparison.networks[i], comparison.networks[j], comparison.parameters) for i, j in pairs]
        ends = []
        for weights in comparison.networks:
            ends.append(comparison.evaluator.measure_end(weights)[""])
            check_same(ends[-1], ends[0])
            step()
        better = check_higher(higher_is_better, comparison, ends[0])
        settings = comparison.settings | {"alphas": alphas if isinstance(alphas, str) else "given"}
        settings |= {"tolerance": tolerance} if adaptive else {}
        found = []
        for (i, j), line in zip(pairs, lines, strict=True):
            path = {0.0: ends[i], 1.0: ends[j]}
            notes: tuple[str, ...] = ()
            if adaptive:
                one = lambda alpha, line=line, path=path: walk(comparison, line, [alpha], path, step, 0)  # noqa: E731
                notes = count_highest(comparison, line, path, better, tolerance, one)
            else:
                walk(comparison, line, points, path, step, 0)
            of_pair = replace(
                comparison, names=(comparison.names[i], comparison.names[j]), notes=(*comparison.notes, *notes)
            )
            found.append(make_barrier(line, path, of_pair, better, settings).without_examples())
    return BarrierMatrix(comparison.names, tuple(found))


def _listed(networks: Sequence[Source]) -> list[Source]:
    single = nn.Module | Mapping | str | Path  # some of these can be gone through, as something else than networks
    if isinstance(networks, single) or not isinstance(networks, Iterable):
        raise OptionError(f"networks must be a list of at least two networks; got a single {type(networks).__name__}")
    listed = list(networks)
    if len(listed) < 2:
        raise OptionError(f"a matrix needs at least two networks; got {len(listed)}")
    return listed
