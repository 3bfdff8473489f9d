"""`compare(a, b)`: may these two networks be averaged, and if not, what has to be done first?"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from modeconn.analysis.compare.configurations import compare_folders
from modeconn.analysis.compare.pair_report import PairReport
from modeconn.analysis.compare.pairing import fit_ancestor, pair_weights
from modeconn.analysis.compare.removal import Attempt, measure_barrier, try_to_remove
from modeconn.analysis.compare.tensors import compare_tensors, note_on_integers
from modeconn.analysis.compare.verdict import judge
from modeconn.analysis.connectivity.averaging import original_of
from modeconn.analysis.connectivity.comparison import open_comparison
from modeconn.analysis.connectivity.networks import Source, names_of, origins_of
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.alphas import choose_alphas
from modeconn.analysis.paths.threshold import check_decide
from modeconn.errors import OptionError
from modeconn.evaluation.batches import BATCH, Batches
from modeconn.progress import Report, silent, with_progress
from modeconn.versions import versions
from modeconn.weights.adapters import architecture_folder
from modeconn.weights.state_dicts import Weights


@with_progress
def compare(
    a: Source,
    b: Source,
    data: Any = None,
    *,
    ancestor: "Source | None" = None,
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    evaluate: str | Callable[..., Any] = "auto",
    higher_is_better: bool | Collection[str] = (),
    calibration: Any = None,
    calibration_batches: int | None = None,
    threshold: float = 0.02,
    error_probability: float = 0.001,
    try_all: bool = False,
    device: str | torch.device = "auto",
    precision: str = "float32",
    batch_size: int = BATCH,
    data_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
    checkpoint_key: str | None = None,
    report: Report = silent,
    progress: bool = False,
) -> PairReport:
    """Say whether two networks may be averaged, and what has to be done first, in three steps and a verdict.

    1. From files alone, a tensor of both at a time: every difference of the architectures, by name; which layers are
       equal; distances, cosines and sign agreement of tensors, layers and blocks; and whether the two look like
       siblings, descendants of one network (`modeconn.analysis.compare.likeness` has the test, and the report its
       numbers). With an ancestor, task vectors.
    2. With data: the ends, whether there is a barrier at the midpoint, and disagreement.
    3. If there is a barrier: recalibrated running statistics of BatchNorm, REPAIR, alignment by weights, alignment with
       recalibration and with REPAIR are tried in this order, until one of them removes it.

    Without data nothing is said of the barrier. Nothing of the caller's changes.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them.
        data: what errors are measured on, as there; of stored runs `"test"` or `"train"`. None for the files alone.
        ancestor: what both were trained from, for task vectors; given like a network.
        model: the architecture, where data are given and neither `a` nor `b` is a module, a Hugging Face folder or a
            stored run.
        evaluate, higher_is_better: what is measured, as in `modeconn.error_barrier`.
        calibration: training data for recalibration and REPAIR, which are not tried without; stored runs have theirs.
        calibration_batches: how many of its batches to take; all if None.
        threshold: the error barrier at the midpoint from which on the two are not averaged (0.02 is 2 points). Of other
            metrics than the error, relative to the mean of the two networks.
        error_probability: of the sequential test that decides whether the barrier is below, as in
            `modeconn.error_barrier`; what is found above is counted in full.
        try_all: try all that may remove a barrier, and do not stop at the first that does.
        device, precision, batch_size, data_dir, names, checkpoint_key: as in `modeconn.error_barrier`.
        report: called after every tensor, and then with how far each path is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

    Raises:
        ModeconnError: a network, an ancestor, data or an option that cannot be used, or weights that are NaN. Two
            architectures that differ are no error: the report names the differences.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <...>
    >>> net_a = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> net_b = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> compare(net_a, net_b).siblings.answer
    'not siblings'
    >>> net_b.load_state_dict({name: 1.01 * tensor for name, tensor in net_a.state_dict().items()})
    <All keys matched successfully>
    >>> result = compare(net_a, net_b, (torch.randn(50, 8), torch.randint(10, (50,))))
    >>> result.siblings.answer, result.verdict
    ('siblings', 'average')
    """
    # 1. What is wrong with options and networks, before tensors are read.
    data, calibration = _repeatable(data, batch_size), _repeatable(calibration, batch_size)
    check_decide(threshold, error_probability, choose_alphas(3), "interpolate", (), option="threshold")
    called = names_of([a, b], names)
    options = ComparisonOptions(
        model=model, evaluate=evaluate, calibration=calibration, calibration_batches=calibration_batches, device=device,
        precision=precision, batch_size=batch_size, data_dir=data_dir, names=called, checkpoint_key=checkpoint_key,
    )  # fmt: skip
    stored, origins = origins_of([a, b], called, data_dir, model, checkpoint_key)
    if data is not None and model is None and not any(stored) and not any(map(_has_architecture, (a, b))):
        raise OptionError(
            "with data, weights alone do not say what network they are of; give model= a module of that architecture, "
            "or a function that makes one"
        )
    pair = pair_weights(origins, called, original_of([a, b], None if isinstance(model, str) else model))
    differences, notes = compare_folders([a, b], called)
    differences = (*pair.differences, *differences)
    old: Weights | None = None
    ancestral: tuple[str, ...] = ()
    if ancestor is not None:
        _, (given,) = origins_of([ancestor], ["the ancestor"], data_dir, model, checkpoint_key)
        old, ancestral = fit_ancestor(pair, given, "the ancestor")
    if data is not None and not differences:
        with open_comparison([a, b], data, options):
            pass

    # 2. The files.
    tensors = compare_tensors(pair, old, report)
    found = PairReport(
        names=(called[0], called[1]),
        tensors=tensors,
        differences=differences,
        notes=(*pair.notes, *notes, *ancestral, *note_on_integers(tensors)),
        settings={"threshold": threshold, "error_probability": error_probability, "versions": versions()},
    )

    # 3. The barrier, and what removes it.
    attempts: list[Attempt] = []
    if data is not None and not differences and not found.equal:
        common = {
            "model": model, "evaluate": evaluate, "higher_is_better": higher_is_better, "calibration": calibration,
            "calibration_batches": calibration_batches, "device": device, "precision": precision,
            "batch_size": batch_size, "data_dir": data_dir, "names": called, "checkpoint_key": checkpoint_key,
        }  # fmt: skip
        attempts.append(measure_barrier(a, b, data, threshold, error_probability, common, report))
        plain = attempts[0].barrier
        if plain is not None and not attempts[0].removed:
            calibrated = calibration is not None or any(stored)
            for attempt in try_to_remove(a, b, data, plain, calibrated, threshold, common, report):
                attempts.append(attempt)
                if attempt.removed and not try_all:
                    break
            if not calibrated:
                found = found.noting("recalibration and REPAIR need calibration= training data, and were not tried")
    return judge(replace(found, attempts=tuple(attempts)))


def _repeatable(data: Any, batch_size: int) -> Any:
    """Data that may end after one pass as such that are kept, since several paths are measured on them."""
    stream = getattr(data, "dataset", data)  # of a loader
    if isinstance(stream, Iterator | IterableDataset):
        return Batches(data, torch.device("cpu"), batch_size=batch_size)
    return data


def _has_architecture(source: Source) -> bool:
    """Whether a network is given with its code."""
    return isinstance(source, nn.Module) or architecture_folder(source) is not None
