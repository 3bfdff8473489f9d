"""What every measurement between networks shares: the networks, one scratch network, the data, and what is measured."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from modeconn.analysis.connectivity.networks import Networks, Source, open_networks
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.repair import repairable_layers
from modeconn.errors import OptionError, unknown
from modeconn.evaluation.batches import BATCH, Batches, preserving_random_state
from modeconn.evaluation.compute import autocast, check_precision
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import batchnorm_layers, evaluating
from modeconn.versions import versions
from modeconn.weights.state_dicts import Weights

NORMALIZATION = ("interpolate", "recalibrate", "repair")


class ComparisonOptions(TypedDict, total=False):
    """The options that all measurements between networks take; `modeconn.error_barrier` explains them."""

    model: nn.Module | Callable[[], nn.Module] | None
    evaluate: str | Callable[..., Any]
    batchnorm: str
    calibration: Any
    calibration_batches: int | None
    device: str | torch.device
    precision: str
    batch_size: int
    data_dir: str | Path | None
    names: Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks that fit one scratch network, and how what is in it is measured.

    Attributes:
        networks: the weights of each.
        names: what each is called.
        parameters: names of the parameters, each tensor once.
        notes: what was decided.
        settings: how it is measured, and with which versions; JSON.
    """

    evaluator: PathEvaluator
    networks: tuple[Weights, ...]
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    notes: tuple[str, ...]
    settings: dict[str, Any]


@contextlib.contextmanager
def open_comparison(
    sources: Sequence[Source],
    data: Any,
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    evaluate: str | Callable[..., Any] = "auto",
    batchnorm: str = "interpolate",
    calibration: Any = None,
    calibration_batches: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "float32",
    batch_size: int = BATCH,
    data_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[Comparison]:
    """Open networks and data, and see that they fit. Inside, random generators are ours; afterwards the caller's.

    Raises:
        ModeconnError: the first thing that is wrong with the options, the networks or the data.
    """
    check_precision(precision)
    if batchnorm not in NORMALIZATION:
        raise unknown("choice for BatchNorm", str(batchnorm), NORMALIZATION)
    for option, value in (("batch_size", batch_size), ("calibration_batches", calibration_batches)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise OptionError(f"{option} must be a whole number of at least 1; got {value!r}")
    with preserving_random_state(torch.device("cuda" if torch.cuda.is_initialized() else "cpu")):
        networks = open_networks(sources, model, device, data_dir, names)
    place = device_of(networks.scratch)
    check_precision(precision, place)
    batches = _batches(networks, data, place, batch_size)
    batchnorm, notes = _normalization(networks.scratch, batchnorm, calibration, networks)
    measures = batchnorm in ("recalibrate", "repair")
    calibrating = _calibration(networks, calibration, place, batch_size, calibration_batches) if measures else ()
    preserved = [data for data in (batches, calibrating) if isinstance(data, Batches)]
    with preserving_random_state(place, *preserved):
        meter = _meter(evaluate, networks, batches, precision)
        yield Comparison(
            evaluator=PathEvaluator(networks.scratch, meter, {"": batches}, calibrating, batchnorm, precision),
            networks=networks.weights,
            names=networks.names,
            parameters=tuple(name for name, _ in networks.scratch.named_parameters()),
            notes=(*networks.notes, *getattr(batches, "notes", ()), *notes),
            settings={
                "measured": meter.name,
                "precision": precision,
                "device": place.type,
                "calibration_batches": calibration_batches,
                "versions": versions(),
            },
        )


def _batches(networks: Networks, data: Any, device: torch.device, batch_size: int) -> Iterable[Any]:
    if data is None or isinstance(data, str):
        if networks.stored is None:
            raise OptionError(
                "give data: a DataLoader, a Dataset, a tuple of tensors (inputs, targets), or an iterable of batches; "
                "only stored runs know their own"
            )
        return networks.stored.batches(data or "test")
    return Batches(data, device, batch_size=batch_size)


def _calibration(
    networks: Networks, calibration: Any, device: torch.device, batch_size: int, limit: int | None
) -> Iterable[Any]:
    if calibration is None and networks.stored is not None:
        batches = networks.stored.calibration()
        return list(itertools.islice(batches, limit))
    return Batches(calibration, device, batch_size=batch_size, limit=limit)


def _normalization(network: nn.Module, batchnorm: str, calibration: Any, networks: Networks) -> tuple[str, list[str]]:
    """What is done, and notes on it."""
    notes = []
    layers = batchnorm_layers(network)
    kind = nn.modules.batchnorm._BatchNorm
    if any(isinstance(m, kind) and m.running_mean is None for m in network.modules()):
        notes.append(
            "a BatchNorm layer without running statistics normalizes with each batch's own, so that every number "
            "depends on the batch size"
        )
    if not layers and batchnorm != "repair":
        if batchnorm == "recalibrate":
            notes.append("the network has no running statistics, so nothing is recalibrated")
        return "none", notes
    if batchnorm == "interpolate":
        notes.append(
            f"running statistics of {len(layers)} BatchNorm layers are interpolated like weights; a barrier can come "
            'from them alone: compare with batchnorm="recalibrate"'
        )
        return batchnorm, notes
    if calibration is None and networks.stored is None:
        raise OptionError(
            f'batchnorm="{batchnorm}" needs calibration= data: batches of training examples; '
            'or choose batchnorm="interpolate"'
        )
    if batchnorm == "recalibrate":
        notes.append(
            f"running statistics of {len(layers)} BatchNorm layers are measured anew on the calibration data at every "
            "alpha, ends included"
        )
    elif len(repairable_layers(network)) < 2:
        notes.append("the network has no hidden convolution, linear or BatchNorm layer, so nothing is repaired")
    else:
        notes.append(
            "every hidden channel is rescaled between the ends to the interpolated mean and standard deviation of "
            "the ends' on the calibration data (Jordan et al. 2022)"
        )
    return batchnorm, notes


def _meter(evaluate: str | Callable[..., Any], networks: Networks, batches: Any, precision: str) -> Meter:
    network = networks.scratch
    first = batches.first() if isinstance(batches, Batches) else next(iter(batches))
    with torch.no_grad(), evaluating(network), autocast(device_of(network), precision):
        return choose_meter(evaluate, network, first)
