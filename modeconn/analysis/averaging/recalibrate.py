"""`recalibrate(network, loader)`: exact running statistics of anyone's normalization layers, over anyone's data."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.averaging.held_out import HeldOut, means, standard_errors
from modeconn.analysis.averaging.recalibration import Recalibration, called
from modeconn.analysis.paths.recalibrate import frozen_layers, refuse_scripted
from modeconn.analysis.paths.recalibrate import recalibrate as measure_statistics
from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.evaluation.batches import BATCH, Batches, preserving_random_state
from modeconn.evaluation.forward import run
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.evaluation.structures import tensors_of
from modeconn.options import whole_number
from modeconn.weights.computed import detached
from modeconn.weights.effective import unwrap

FROZEN = ("keep", "recalibrate")
_FEW = 100  # examples: fewer say little about the statistics of training
_ADVICE = "say with forward= how a batch is passed"


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    loader: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    batches: int | None = None,
    inplace: bool = False,
    skip: Collection[str] = (),
    frozen: str = "keep",
    data: Any = None,
    evaluate: str | Callable[..., Any] = "auto",
    batch_size: int = BATCH,
) -> Recalibration:
    """Replace the running statistics of a network's normalization layers by those over training data.

    Weights that were averaged, merged, interpolated or pruned have other activations than those that the statistics
    of BatchNorm were taken of. Every layer gets the mean and the population variance of all values that reach it, over
    all batches together (not a moving average, and whatever the layer's `momentum` is, 0 and None included). Nothing
    else is in training mode meanwhile, so that dropout stays off, and counters such as `num_batches_tracked` stay.

    It can make a network worse: with data that are not those of training, with few of them, or where the old statistics
    fitted. So give `data`, and the result has the network's error on them before and after.

    Args:
        network: in any mode, on any device, in a wrapper or not. It is left unchanged unless `inplace` is True.
        loader: training data as networks are trained on them, augmentation included: a `DataLoader`, a `Dataset`, a
            tuple of tensors, or any iterable of batches, such as a generator that can be gone through once. Batches
            are tensors, tuples or mappings; targets among them are not used.
        forward: `forward(network, batch)`, for batches that the network does not take as `modeconn.error_barrier` gives
            them: the last entry of a tuple, or an entry called `labels`, is left out.
        batches: how many batches of the loader are used; all if None.
        inplace: change this network instead of a copy.
        skip: names of layers that keep their statistics, or of modules around them.
        frozen: what is done with layers that are kept in evaluation mode, by their own `train()` or that of a module
            around them, or by `eval()` inside a network in training mode: `"keep"` them as they are, or
            `"recalibrate"` them as well.
        data: held-out data to measure the network on before and after; as `modeconn.error_barrier` takes them.
        evaluate: how it is measured; as `modeconn.error_barrier` takes it.
        batch_size: of data that are not batches yet.

    Raises:
        OptionError: an option that cannot be used, or a name in `skip` without such layers.
        DataError: no batches, or batches on which the network fails.
        NetworkError: layers of scripted networks, statistics that are not finite (the old ones are kept), or a network
            that cannot be copied.

    >>> network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    >>> inputs = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> result = recalibrate(network, list(inputs.split(30)))
    >>> hidden = network[0](inputs)
    >>> torch.allclose(result.network[1].running_var, hidden.var(0, correction=0))
    True
    >>> network[1].running_var  # a copy was changed
    tensor([1., 1., 1., 1.])
    """
    if frozen not in FROZEN:
        raise unknown("choice for frozen layers", str(frozen), FROZEN)
    if batches is not None:
        batches = whole_number(batches, 1, "batches must be a whole number of at least 1, or None for all")
    unwrap(network)  # refuses what is no network
    changed = network if inplace else _copy(network)
    inner = unwrap(changed)
    refuse_scripted(inner)
    layers: dict[Any, str] = running_statistics_layers(inner)
    left = dict.fromkeys(_frozen(inner, layers) if frozen == "keep" else (), "frozen")
    left |= dict.fromkeys(_skipped(skip, layers.values()), "skipped")
    device = device_of(inner)
    calibration = Batches(_once(loader), device, batch_size=batch_size, limit=batches, keep=0, split="train")
    test = None if data is None else HeldOut(inner, data, evaluate, batch_size)
    notes = [*calibration.notes, *_notes_on(inner, layers)]
    counted = _Counted(calibration)
    with preserving_random_state(device, calibration, *([test.batches] if test else [])):
        before = after = None if test is None else test.measure(inner)
        if len(left) < len(layers):
            asked = {layer: name for layer, name in layers.items() if name not in left}
            old = {layer: (layer.running_mean.clone(), layer.running_var.clone()) for layer in asked}
            pass_batch = partial(forward or _forward, inner)
            kept = measure_statistics(inner, counted, pass_batch, skip=tuple(left), thaw=frozen == "recalibrate")
            left |= dict.fromkeys(kept, "not reached")
            _refuse_not_finite(asked, old)
            after = None if test is None else test.measure(inner)
    if 0 < counted.examples < _FEW:
        notes.append(f"the statistics are those of {counted.examples} examples alone, which say little; give hundreds")
    return Recalibration(
        network=changed,
        recalibrated=tuple(name for name in layers.values() if name not in left),
        left=left,
        examples=counted.examples,
        batches=counted.batches,
        before=means(before),
        after=means(after),
        standard_error=standard_errors(before, after),
        measured_as="" if test is None else test.meter.about,
        notes=tuple(notes),
    )


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network, detached(network))
    except Exception as error:
        raise NetworkError(
            f"{type(network).__name__} cannot be copied ({type(error).__name__}: {error}); with inplace=True its own "
            "statistics are replaced"
        ) from error


def _skipped(skip: Collection[str], layers: Iterable[str]) -> list[str]:
    """The layers that are in `skip`, or inside a module that is."""
    if isinstance(skip, str) or not all(isinstance(name, str) for name in skip):
        raise OptionError(f"skip must be names of layers in a list; got {skip!r}")
    names = list(layers)
    inside = {given: [name for name in names if f"{name}.".startswith(f"{given}.") or not given] for given in skip}
    for given, found in inside.items():
        if not found:
            around = {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 2)}
            raise unknown("layer with running statistics in skip=", given, around)
    return [name for name in names if any(name in found for found in inside.values())]


def _frozen(network: nn.Module, layers: Mapping[Any, str]) -> list[str]:
    """Layers that training mode does not reach, or that were put into evaluation mode inside a network in training."""
    by_train = frozen_layers(network)
    return [name for layer, name in layers.items() if name in by_train or (network.training and not layer.training)]


def _once(loader: Any) -> Any:
    """The data; an iterator, which can be gone through once, as an iterable that is not kept in memory for a second."""
    return _Stream(loader) if isinstance(loader, Iterator) else loader


class _Stream:
    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(self._iterator)


class _Counted:
    """Batches, counted while they are passed: by the first dimension of the first tensor in each."""

    def __init__(self, data: Batches) -> None:
        self.data, self.batches, self.examples = data, 0, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.data:
            self.batches += 1
            self.examples += next((len(tensor) for tensor in tensors_of(batch) if tensor.ndim), 0)
            yield batch


def _forward(network: nn.Module, batch: Any) -> Any:
    return run(network, batch, _ADVICE)


def _notes_on(network: nn.Module, layers: Mapping[Any, str]) -> list[str]:
    notes = []
    if not layers:
        notes.append("the network has no running statistics, so nothing is recalibrated")
    kind = nn.modules.batchnorm._BatchNorm
    if names := [name for name, m in network.named_modules() if isinstance(m, kind) and m.running_mean is None]:
        notes.append(f"layers without running statistics normalize with each batch's own: {', '.join(names)}")
    return notes


def _refuse_not_finite(layers: Mapping[Any, str], old: Mapping[Any, tuple[Tensor, Tensor]]) -> None:
    """Put the old statistics back if one of the new ones is not finite.

    Raises:
        NetworkError: naming the layers.
    """
    found = {layer: (layer.running_mean, layer.running_var) for layer in layers}
    bad = [layers[layer] for layer, new in found.items() if not all(bool(one.isfinite().all()) for one in new)]
    if bad:
        for layer, new in found.items():
            for tensor, before in zip(new, old[layer], strict=True):
                tensor.copy_(before)
        raise NetworkError(
            f"the statistics measured anew are NaN or infinite, and the old ones are kept: "
            f"{', '.join(map(called, bad))}; see that inputs and weights are finite"
        )
