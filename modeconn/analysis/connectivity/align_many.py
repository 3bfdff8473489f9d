"""`align_many(networks)`: several networks in one order of their units, that of one of them or a common one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.example import example_of
from modeconn.analysis.alignment.find import AlignOptions, find_alignment
from modeconn.analysis.alignment.network import Graph, graph_of
from modeconn.analysis.alignment.specification import Specification
from modeconn.analysis.alignment.symmetry import compose
from modeconn.analysis.connectivity.aligning import kept
from modeconn.analysis.connectivity.alignments import COMMON, Alignments
from modeconn.analysis.connectivity.averaging import listed, mean_of
from modeconn.analysis.connectivity.networks import Networks, Source, open_networks
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.linear import load_weights
from modeconn.errors import OptionError, unknown
from modeconn.evaluation.batches import BATCH, Batches, preserving_random_state
from modeconn.evaluation.measure import device_of
from modeconn.progress import silent, with_progress
from modeconn.weights.state_dicts import Weights

_MOST_PASSES = 100
_GAIN = 1e-6  # of the score, that a network must gain to be moved again

Report = Callable[[int, int], None]


@with_progress
def align_many(
    networks: Sequence[Source],
    data: Any = None,
    *,
    reference: int | str = 0,
    method: str | None = None,
    example: Any = None,
    specification: Specification | None = None,
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    tries: int = 5,
    seed: int = 0,
    double: bool = False,
    device: str | torch.device = "auto",
    batch_size: int = BATCH,
    data_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
    checkpoint_key: str | None = None,
    report: Report = silent,
    progress: bool = False,
) -> Alignments:
    """Align several networks to one of them, or all to a common order of units (MergeMany, Ainsworth et al. 2023).

    Either way there is one order for all, so that alignments between any two of them go together: from a to b, on to c
    and back to a everything is where it was. `modeconn.align` of each pair does not give that.

    For a common order, each network in turn, in random orders, is aligned by its weights to the mean of the others
    (algorithm 2), until none gains.

    Args:
        networks: at least two of one architecture, as `modeconn.error_barrier` takes them.
        data: as of `modeconn.align`, for a reference that is one of the networks.
        reference: which of them the others are aligned to, by its place or name; or `"common"`.
        method: as of `modeconn.align`; a common order is found from the weights.
        example, specification, model, tries, seed, double: as of `modeconn.align`.
        device, batch_size, data_dir, names, checkpoint_key: as of `modeconn.error_barrier`.
        report: called with how many networks are aligned to the one; or how many passes over all are done, and how many
            there are at most.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

    Raises:
        ModeconnError: as `modeconn.align`; a reference that is none of the networks.

    >>> networks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(3)]
    >>> result = align_many(networks, reference="common")
    >>> there = result.between("b", "a").then(result.between("c", "b"))
    >>> there.then(result.between("a", "c")).moved
    0.0
    >>> keys = networks[0].load_state_dict(result.merged())
    """
    sources = listed(networks)
    if len(sources) < 2:
        raise OptionError("to align one network there must be another; give a list of at least two")
    common = reference == COMMON
    if common and method not in (None, "weights"):
        raise OptionError(
            f"a common order is found from the weights; leave method={method!r}, or give reference= one of the networks"
        )
    by_data = data is not None and not common
    options = AlignOptions.of("weights" if common else method, by_data, tries=tries, seed=seed, double=double)
    opened = open_networks(
        sources,
        ComparisonOptions(
            model=model, device=device, batch_size=batch_size, data_dir=data_dir, names=names,
            checkpoint_key=checkpoint_key,
        ),
    )  # fmt: skip
    place = None if common else _place(reference, opened.names)
    where = device_of(opened.scratch)
    batches = () if data is None else Batches(data, where, batch_size=batch_size, split="train", data_dir=data_dir)
    with preserving_random_state(where, *(batches,) if isinstance(batches, Batches) else ()):
        load_weights(opened.scratch, opened.weights[0])
        shown = next(iter(batches), None) if example is None else example
        graph = graph_of(opened.scratch, example_of(opened.scratch, shown, where), specification)
        if place is None:
            found, scores = _to_a_common_order(opened, graph, options, report)
        else:
            found, scores = _to_one(opened, graph, options, place, batches, report), ()
    return Alignments(
        names=opened.names,
        alignments=tuple(found),
        reference=COMMON if place is None else opened.names[place],
        scores=scores,
        notes=opened.notes,
        settings=found[0 if place != 0 else 1].settings,
        weights=opened.weights,
    )


def _place(reference: int | str, names: Sequence[str]) -> int:
    """The place of the network that is called so, or stands there."""
    if isinstance(reference, int) and not isinstance(reference, bool) and 0 <= reference < len(names):
        return reference
    if reference not in names:
        raise unknown("reference", str(reference), [COMMON, *names, *map(str, range(len(names)))])
    return names.index(str(reference))


def _to_one(
    opened: Networks, graph: Graph, options: AlignOptions, place: int, batches: Iterable[Any], report: Report
) -> list[Alignment]:
    """Each network's alignment to the one at a place; its own is the identity."""
    found: dict[int, Alignment] = {}
    for index, weights in enumerate(opened.weights):
        if index != place:
            ends, names = (opened.weights[place], weights), (opened.names[place], opened.names[index])
            found[index] = find_alignment(opened.scratch, ends, names, options, batches=batches, graph=graph)
            report(len(found), len(opened.weights) - 1)
    name, other = opened.names[place], next(iter(found.values()))
    identity = graph.symmetry.identity()
    found[place] = replace(other, permutations=identity, method="given", names=(name, name), change=0.0, notes=())
    return [found[index] for index in range(len(opened.weights))]


def _to_a_common_order(
    opened: Networks, graph: Graph, options: AlignOptions, report: Report
) -> tuple[list[Alignment], tuple[float, ...]]:
    """Algorithm 2 of Ainsworth et al. 2023: the alignments, and after each pass the mean score of a pair."""
    generator = np.random.default_rng(options.seed)
    ordered = list(opened.weights)
    orders = [graph.symmetry.identity() for _ in ordered]
    last: dict[int, Alignment] = {}
    matched = [name for name in opened.parameters if name in graph.symmetry.tensors]
    before = _to_the_others(ordered, matched)
    scores = [float(np.mean(before))]
    for done in range(_MOST_PASSES):
        report(done, _MOST_PASSES)
        gained = False
        for index in generator.permutation(len(ordered)).tolist():
            others = mean_of([weights for place, weights in enumerate(ordered) if place != index])
            ends, names = (others, ordered[index]), ("the mean of the others", opened.names[index])
            step = find_alignment(opened.scratch, ends, names, options, graph=graph)
            last[index] = step
            if step.score - step.before > _GAIN * abs(step.score):
                gained = True
                orders[index] = compose(orders[index], step.permutations)
                ordered[index] = kept(step.permuted(ordered[index]))
        scores.append(float(np.mean(_to_the_others(ordered, matched))))
        if not gained:
            break
    after = _to_the_others(ordered, matched)
    found = [
        replace(last[index], permutations=orders[index], before=before[index], score=score, scores=(score,))
        for index, score in enumerate(after)
    ]
    return found, tuple(scores)


def _to_the_others(networks: Sequence[Weights], names: Sequence[str]) -> list[float]:
    """The inner product of each network's weights with the mean of the others'."""
    scores = np.zeros(len(networks))
    for name in names:
        tensors = [network.read(name).double() for network in networks]
        total: Tensor = torch.stack(tensors).sum(0)
        scores += [float((one * (total - one)).sum()) / (len(networks) - 1) for one in tensors]
    return scores.tolist()
