"""Shared setup of all measures between networks: load the networks, prepare the data, choose the metric."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modeconn.analysis.connectivity.ends import check_ends
from modeconn.analysis.connectivity.factors import factor_line, notes_on_adapters
from modeconn.analysis.connectivity.networks import Networks, Source, open_networks
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line, make_line
from modeconn.analysis.paths.recalibrate import refuse_scripted
from modeconn.analysis.paths.repair_layers import repairable_layers
from modeconn.data.batches import knows_its_training_data
from modeconn.errors import OptionError
from modeconn.evaluation.batches import Batches, preserving_random_state
from modeconn.evaluation.compute import autocast, check_precision
from modeconn.evaluation.measure import MetricSums, device_of
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.evaluation.structures import map_tensors, tensors_of
from modeconn.result import count
from modeconn.versions import versions
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.scratch import Scratch
from modeconn.weights.state_dicts import Weights

SPLIT = ""  # the only one: of data that are given, no split is known


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks that fit one scratch network, and how what is in it is measured.

    Attributes:
        evaluator: the scratch network, the data and the metric.
        networks: the weights of each.
        names: what each is called.
        parameters: names of the parameters, each tensor once.
        decided: notes on what was decided before anything was measured.
        settings: how it is measured, and with which versions; JSON.
        factors: whether adapters are interpolated by their factors.
    """

    evaluator: PathEvaluator
    networks: tuple[Weights, ...]
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    decided: tuple[str, ...]
    settings: dict[str, Any]
    factors: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, and what was noticed in all measurements until now."""
        return (*self.decided, *self.evaluator.notes)

    def line(self, first: int, second: int) -> Line:
        """The path between two of the networks, by their places.

        Raises:
            NetworkError: they do not fit together, or are not finite.
        """
        line = make_line(self.networks[first], self.networks[second], self.parameters)
        return factor_line(line) if self.factors else line

    def measure_end(self, network: Weights) -> MetricSums:
        """Measure one of the networks, or an average of them."""
        return self.evaluator.measure_end(network)[SPLIT]

    def measure_at(self, line: Line, alpha: float) -> MetricSums:
        """Measure a point between two of them."""
        return self.evaluator.measure_at(line, alpha)[SPLIT]

    def own_network(self, network: Weights) -> nn.Module:
        """One of the networks in memory of its own, with the running statistics that are chosen."""
        made = self.evaluator.network_of(network)
        if made is self.evaluator.network:
            made = plain_copy(made)
        if self.evaluator.batchnorm == "recalibrate":
            self.evaluator.recalibrate(made)
        return made

    def noting(self, *notes: str, **settings: Any) -> "Comparison":
        """The same, with further notes and settings for its result."""
        return replace(self, decided=(*self.decided, *notes), settings=self.settings | settings)


@contextlib.contextmanager
def open_comparison(sources: Sequence[Source], data: Any, options: ComparisonOptions) -> Iterator[Comparison]:
    """Open networks and data, and see that they fit. Inside, random generators are ours; afterwards the caller's.

    Raises:
        ModeconnError: the first thing that is wrong with the networks, the data, or the options for them.
    """
    if options.calibration is None and not _is_own(data) and knows_its_training_data(data):
        options = replace(options, calibration=data)
    with preserving_random_state(torch.device("cuda" if torch.cuda.is_initialized() else "cpu")):
        networks = open_networks(sources, options)
    device = device_of(networks.scratch)
    check_precision(options.precision, device)
    batches = _batches(networks, data, device, options)
    batchnorm, notes = _normalization(networks, options)
    calibration = _calibration(networks, device, options) if batchnorm in ("recalibrate", "repair") else ()
    preserved = [data for data in (batches, calibration) if isinstance(data, Batches)]
    scratch = Scratch(networks.scratch)
    scaling = getattr(batches, "scaling", "")
    if scaling and networks.stored is None:  # stored runs know how theirs were scaled
        notes.append(f"images reach the networks as {scaling}; networks that were trained otherwise err more")
    with preserving_random_state(device, *preserved):
        meter, batch = _meter(networks.scratch, batches, options)
        evaluator = PathEvaluator(
            networks.scratch,
            meter,
            {SPLIT: batches},
            calibration,
            batchnorm,
            options.precision,
            options.repair_layers,
            scratch,
            networks.own,
        )
        notes += check_ends(evaluator, networks, batch)
        if isinstance(calibration, Batches) and _is_one_example(calibration):
            notes.append(
                "the calibration data are one example, whose statistics say little about those of training; give "
                "calibration= some hundreds"
            )
        yield Comparison(
            evaluator=evaluator,
            networks=networks.weights,
            names=networks.names,
            parameters=networks.parameters,
            decided=(
                *networks.notes,
                *notes_on_adapters(networks.weights, options.adapter),
                *getattr(batches, "notes", ()),
                *notes,
            ),
            factors=options.adapter == "factors",
            settings={
                "measured": meter.name,
                "measured_as": meter.about,
                **({"inputs": scaling} if scaling else {}),
                "precision": options.precision,
                "device": device.type,
                "calibration_batches": options.calibration_batches,
                **({"adapter": options.adapter} if any(one.low_rank for one in networks.weights) else {}),
                "versions": versions(),
            },
        )


def _batches(networks: Networks, data: Any, device: torch.device, options: ComparisonOptions) -> Iterable[Any]:
    if _is_own(data) and networks.stored is not None:
        return networks.stored.batches(data or "test")
    if _is_own(data):
        raise OptionError(
            "give data=: a DataLoader, a Dataset, a tuple of tensors (inputs, targets), an iterable of batches, or a "
            "data set or its name; only stored runs know their own"
        )
    return Batches(data, device, batch_size=options.batch_size, data_dir=options.data_dir)


def _is_own(data: Any) -> bool:
    """Whether data are those that a stored run knows: not given, or a split of them."""
    return data is None or (isinstance(data, str) and data in ("test", "train"))


def _calibration(networks: Networks, device: torch.device, options: ComparisonOptions) -> Iterable[Any]:
    limit = options.calibration_batches
    if options.calibration is None and networks.stored is not None:
        return list(itertools.islice(networks.stored.calibration(), limit))
    size, where = options.batch_size, options.data_dir
    return Batches(options.calibration, device, batch_size=size, limit=limit, split="train", data_dir=where)


def _normalization(networks: Networks, options: ComparisonOptions) -> tuple[str, list[str]]:
    """The choice for BatchNorm, `"none"` if there is nothing to choose, and notes on it."""
    notes = []
    batchnorm, layers = options.batchnorm, running_statistics_layers(networks.scratch)
    kind = nn.modules.batchnorm._BatchNorm
    word = "BatchNorm" if all(isinstance(layer, kind) for layer in layers) else "normalization"
    statistics = f"running statistics of {count(len(layers), f'{word} layer')} are"
    if any(isinstance(m, kind) and m.running_mean is None for m in networks.scratch.modules()):
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
            f"{statistics} interpolated like weights; a barrier can come from them alone: compare with "
            'batchnorm="recalibrate"'
        )
        return batchnorm, notes
    if options.calibration is None and networks.stored is None:
        raise OptionError(
            f'batchnorm="{batchnorm}" needs calibration= data: batches of training examples; '
            'or choose batchnorm="interpolate"'
        )
    if batchnorm == "recalibrate":
        refuse_scripted(networks.scratch)
        notes.append(f"{statistics} measured anew on the calibration data at every alpha, ends included")
    elif len(repairable_layers(networks.scratch)) < 2:
        notes.append("the network has no hidden convolution, linear or BatchNorm layer, so nothing is repaired")
    else:
        notes.append(
            "every hidden channel is rescaled between the ends to the interpolated mean and standard deviation of "
            "the ends' on the calibration data (Jordan et al. 2022)"
        )
    return batchnorm, notes


def _is_one_example(batches: Batches) -> bool:
    """Whether data are one batch of one example; only where the first batch is that small is the next one looked at."""
    lengths = {len(tensor) for tensor in tensors_of(batches.first()) if tensor.ndim}
    return lengths == {1} and len(list(itertools.islice(batches, 2))) == 1


def _meter(network: nn.Module, batches: Any, options: ComparisonOptions) -> tuple[Meter, Any]:
    """What is measured, and the first batch, which shows it."""
    first = batches.first() if isinstance(batches, Batches) else next(iter(batches))
    with torch.no_grad(), evaluating(network), autocast(device_of(network), options.precision):
        return choose_meter(options.evaluate, network, map_tensors(torch.clone, first)), first
