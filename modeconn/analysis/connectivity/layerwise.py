"""`layerwise_barrier(a, b, data)`: how high the path rises when only some layers move from one network to another."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.comparison import open_comparison
from modeconn.analysis.connectivity.curve import measure_path, report_points
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.layers import Layers, choose_layers, difference, norm, with_layers, with_noise
from modeconn.analysis.connectivity.layerwise_result import MODES, LayerwiseBarrier
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.paths.alphas import Alphas, choose_alphas
from modeconn.analysis.paths.linear import Distance, Line, can_interpolate, equal_values
from modeconn.errors import OptionError, unknown
from modeconn.progress import Report, silent, with_progress


@with_progress
def layerwise_barrier(
    a: Source,
    b: Source,
    data: Any = None,
    *,
    alphas: int | str | Sequence[float] = 11,
    layers: Layers | None = None,
    modes: Collection[str] = MODES,
    control_seed: int = 0,
    higher_is_better: bool | Collection[str] = (),
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> LayerwiseBarrier:
    """Move some layers from `a` to `b` while the rest stays `a`'s, and measure how high each path rises.

    Layer-wise linear mode connectivity (Adilova et al. 2024): the barrier of a layer is the largest error on its path
    minus the mean of the errors of the two *full* networks. It is not symmetric: here `a` is the host, whose layers are
    all those that do not move; to host in `b`, exchange the two. Four modes:

    - `"single"`: one layer moves. At alpha 1, `a` has that layer of `b`.
    - `"from input"`: that layer and all before it move.
    - `"from output"`: that layer and all after it move.
    - `"random"`: the control for `"single"`. The parameters of the layer move as far as there, but in a random
      direction: Gaussian, of the same L2 norm, tensor by tensor. Where neither path rises, the network does not feel a
      step of that length in any direction, and nothing is learned of the two layers. Buffers stay `a`'s (a variance
      cannot go in a random direction), and so do entries that are equal in both networks, such as pruned ones.

    What coincides is measured once: `a` itself, the full path, and paths on which the same tensors move. Tensors are
    composed as they are read, so no further copy of a network is kept. Nothing of the caller's changes.

    Args:
        a, b: networks as `modeconn.error_barrier` takes them. `a` is the host.
        data: what errors are measured on.
        alphas: points on each path: how many, which, or `"paper"`.
        layers: groups of layers: `{name: prefixes of parameter names}`, or a list of prefixes (`["conv1", "layer1"]`).
            A prefix is the whole name of a module or a tensor. If None, each module that owns parameters is one, with
            its buffers; so a BatchNorm is a layer of its own with its running statistics, as is a module with nothing
            but buffers where these differ. Cumulative modes take the layers in this order, which for None is that of
            the state dict: give `layers` if the network calls its modules in another one. Tied weights count once, in
            the layer of their first name.
        modes: which of the four are measured.
        control_seed: of the random directions.
        higher_is_better: which of your own metrics fall where a path is bad.
        report: called after every point with how far all paths are.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: `model`, `evaluate`, `batchnorm`, `calibration`, `calibration_batches`, `device`, `precision`,
            `batch_size`, `data_dir` and `names` of `error_barrier`. With `batchnorm="repair"` a path's ends are `a` and
            what is at its alpha 1.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before a path is measured; what is wrong is named.

    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> inputs = torch.randn(50, 4)
    >>> net_a, net_b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in "ab")
    >>> result = layerwise_barrier(net_a, net_b, (inputs, (inputs[:, 0] > 0).long()), alphas=3)
    >>> result.layers, result.single.shape
    (('0', '2'), (2,))
    >>> bool(result.from_input[-1] == result.full.barrier)
    True
    """
    chosen, modes = _chosen(alphas), _known_modes(modes)
    if not isinstance(control_seed, Integral) or isinstance(control_seed, bool):
        raise OptionError(f"control_seed must be a whole number; got {control_seed!r}")
    options = ComparisonOptions(**how)
    refuse_factors(options.adapter, "layerwise_barrier")
    with open_comparison([a, b], data, options) as comparison:
        host, other = comparison.networks
        line = comparison.line(0, 1)
        differing = _differing(line)
        counting = differing.union(comparison.parameters)
        groups, notes = choose_layers(host, [name for name in host.layout if name in counting], layers)
        lengths = {name: norm(difference(host, other, name)) for name in comparison.parameters if name in line.moving}

        # Paths that coincide have equal moves, and are measured once.
        plan = {mode: _moves(mode, list(groups.values()), differing, lengths) for mode in modes}
        everything = _Move(differing)
        moves = dict.fromkeys(move for of_mode in plan.values() for move in of_mode)
        others = [move for move in moves if move.names and move != everything]

        point_done = report_points(report, len(chosen.points) + len(others) * (len(chosen.points) - 1))
        whole = measure_path(comparison, line, chosen, higher_is_better, point_done)
        full = whole.barrier().without_examples()
        barriers = {everything: full}
        for move in others:
            of_move = _line(line, move, int(control_seed), lengths)
            path = replace(whole, line=of_move, points={0.0: whole.points[0.0]}).measure(chosen, point_done)
            barriers[move] = path.barrier().without_examples()
    curves = {
        mode: {metric: np.stack([_curve(barriers, move, full, metric) for move in of_mode]) for metric in full.metrics}
        for mode, of_mode in plan.items()
    }
    return LayerwiseBarrier(
        layers=tuple(groups),
        full=full,
        curves=curves,
        distance=np.array([_length(names, lengths) for names in groups.values()]),
        tensors=groups,
        notes=(*full.notes, *notes, *_notes(groups, differing, curves)),
        settings=whole.comparison.settings | {"control_seed": int(control_seed)},
    )


@dataclass(frozen=True)
class _Move:
    """A move from the host: of the named tensors, towards the other network or in a random direction."""

    names: frozenset[str]
    random: bool = False


def _moves(
    mode: str, layers: Sequence[Sequence[str]], differing: frozenset[str], lengths: Mapping[str, float]
) -> list[_Move]:
    """The move of each layer. Only tensors that differ are named, so that paths that coincide have equal moves."""
    if mode == "random":
        return [_Move(frozenset(lengths).intersection(names), random=True) for names in layers]
    moves = []
    for at in range(len(layers)):
        first, last = (0 if mode == "from input" else at), (len(layers) - 1 if mode == "from output" else at)
        moves.append(_Move(differing.intersection(itertools.chain(*layers[first : last + 1]))))
    return moves


def _line(full: Line, move: _Move, seed: int, lengths: Mapping[str, float]) -> Line:
    """The path of a move."""
    names = move.names
    if move.random:
        end = with_noise(full.a, full.b, names, seed)
    else:
        end = with_layers(full.a, full.b, names, f"{full.a.origin} with layers of {full.b.origin}")
    moving = frozenset(name for name in full.moving if full.a.aliases.get(name, name) in names)
    return Line(full.a, end, moving, Distance(_length(names, lengths), np.nan, np.nan), ())


def _curve(barriers: Mapping[_Move, Barrier], move: _Move, full: Barrier, metric: str) -> np.ndarray:
    """A metric on the path of a move."""
    if move.names:
        return barriers[move].values(metric)
    return np.full(len(full.alphas), full.end_values(metric)[0])  # nothing moves: the host throughout


def _length(names: Collection[str], lengths: Mapping[str, float]) -> float:
    return float(np.linalg.norm([lengths[name] for name in names if name in lengths]))


def _notes(
    groups: Mapping[str, Sequence[str]], differing: frozenset[str], curves: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[str]:
    if equal := [layer for layer, names in groups.items() if not differing.intersection(names)]:
        yield f"equal in both networks: {', '.join(equal)}"
    for mode, by_metric in curves.items():
        for metric, values in by_metric.items():  # [layers, alphas]
            bad = [layer for layer, curve in zip(groups, values, strict=True) if not np.isfinite(curve).all()]
            if bad:
                yield f"{metric} is not finite at some alphas of {mode!r}: {', '.join(bad)}"


def _differing(line: Line) -> frozenset[str]:
    """Names of the tensors that differ, each once; among them those that are not interpolated."""

    def differs(name: str, meta: Tensor) -> bool:
        if can_interpolate(meta):
            return name in line.moving
        return not equal_values(line.a.read(name), line.b.read(name))

    layout = line.a.layout.items()
    return frozenset(name for name, meta in layout if name not in line.a.aliases and differs(name, meta))


def _chosen(alphas: int | str | Sequence[float]) -> Alphas:
    chosen = choose_alphas(alphas)
    if chosen.adaptive:
        raise OptionError('layer-wise paths share their alphas; give a count, a list or "paper", not "adaptive"')
    return chosen


def _known_modes(modes: Collection[str]) -> tuple[str, ...]:
    """In their own order, each once."""
    given = [modes] if isinstance(modes, str) else list(modes)
    for mode in given:
        if mode not in MODES:
            raise unknown("mode", str(mode), MODES)
    if not given:
        raise OptionError(f"give at least one mode: {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in given)
