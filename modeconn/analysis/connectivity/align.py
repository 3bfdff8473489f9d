"""`align(a, b)`: the units of b in the order in which it is most like a."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.find import AlignOptions, find_alignment
from modeconn.analysis.alignment.specification import Specification
from modeconn.analysis.connectivity.networks import Source, open_networks
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.evaluation.batches import BATCH, Batches, preserving_random_state
from modeconn.evaluation.measure import device_of
from modeconn.progress import silent, with_progress


@with_progress
def align(
    a: Source,
    b: Source,
    data: Any = None,
    *,
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
    report: Callable[[int, int], None] = silent,
    progress: bool = False,
) -> Alignment:
    """Find the order of b's hidden units in which it is most like a, of all that leave its function unchanged.

    Which axes of which tensors move together is read from the network's graph (`torch.export`): hidden units and
    channels, residual streams, attention heads and what is inside them, groups of convolutions and of norms, experts.
    What no rule is known for stays, and the result says what and why. No specification is needed, and nothing is
    applied that was not seen, on a batch, to leave the output as it is.

    Running statistics of BatchNorm move with their channels, but between a and the aligned b they do not fit: measure
    with `error_barrier(a, b2, ..., batchnorm="recalibrate")` or `"repair"`, or alignment looks useless.

    Args:
        a, b: networks of one architecture, as `modeconn.error_barrier` takes them.
        data: training data, for activation matching and straight-through estimator learning; in the form of
            `modeconn.error_barrier`. With data the default method is `"activations"`, without it is `"weights"`.
        method: `"weights"`: the highest inner product of the weights (Ainsworth et al. 2023, section 3.2);
            `"activations"`: the highest correlation of the units' activations on the data (section 3.1);
            `"straight-through"`: a low loss at the midpoint, learned from there (section 3.3).
        example: a batch that the network is called with; the first of `data` if None, or else it is guessed.
        specification: of your own, where the graph cannot be had: the group of each axis of each tensor, as
            `{"fc1.weight": ("P1", None), ...}`; it is checked.
        model: the architecture, if neither `a` nor `b` is a module.
        tries: random orders of the groups, as the order matters; the best is kept.
        seed: of these orders.
        double: compute in float64.
        device, batch_size, data_dir, names, checkpoint_key: as in `modeconn.error_barrier`.
        report: called with how many tries are done, and how many there are.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

    Raises:
        ModeconnError: networks that differ (every difference), a graph that cannot be had (what to do), an example that
            does not fit, data that lack, weights that are NaN, or a specification that would change the function.

    >>> net_a, net_b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    >>> alignment = align(net_a, net_b)
    >>> alignment.groups[0].name, alignment.groups[0].size
    ('0', 8)
    >>> x = torch.randn(5, 4)
    >>> torch.allclose(alignment.apply(net_b)(x), net_b(x), atol=1e-5)
    True
    """
    asked = AlignOptions.of(method, data is not None, tries=tries, seed=seed, double=double)
    options = ComparisonOptions(
        model=model, device=device, batch_size=batch_size, data_dir=data_dir, names=names, checkpoint_key=checkpoint_key
    )
    networks = open_networks([a, b], options)
    where = device_of(networks.scratch)
    batches = () if data is None else Batches(data, where, batch_size=batch_size, split="train", data_dir=data_dir)
    with preserving_random_state(where, *(batches,) if isinstance(batches, Batches) else ()):
        found = find_alignment(
            networks.scratch,
            networks.weights,
            networks.names,
            asked,
            example=example,
            batches=batches,
            specification=specification,
            report=report,
        )
    return found.noting(*networks.notes)
