"""`average(networks)`: the weighted average of networks, or of the last checkpoints of one run."""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modeconn.analysis.averaging.average_result import Average, Member
from modeconn.analysis.averaging.checkpoints import Checkpoint, checkpoints_of, is_stored, select
from modeconn.analysis.averaging.held_out import HeldOut, means
from modeconn.analysis.averaging.recalibrate import recalibrate
from modeconn.analysis.averaging.shares import shares_of
from modeconn.analysis.connectivity.averaging import dtype_of_mean, fitted, mean_of, notes_on_integers, original_of
from modeconn.analysis.connectivity.factors import check_adapter
from modeconn.analysis.connectivity.networks import Networks, Source, open_networks
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.linear import load_weights
from modeconn.errors import OptionError
from modeconn.evaluation.batches import BATCH, preserving_random_state
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.result import count
from modeconn.versions import versions
from modeconn.weights.adapters import factor_files
from modeconn.weights.loadable import loadable
from modeconn.weights.scratch import Scratch
from modeconn.weights.state_dicts import Weights, qualified_name, state_tensors

if TYPE_CHECKING:
    from modeconn.training.stored import Run


def average(
    networks: "Sequence[Source] | str | Path | Run",
    weights: Sequence[float] | str | None = None,
    *,
    last: int | str | None = None,
    every: int = 1,
    decay: float | None = None,
    calibration: Any = None,
    calibration_batches: int | None = None,
    data: Any = None,
    evaluate: str | Callable[..., Any] = "auto",
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    checkpoint_key: str | None = None,
    device: str | torch.device = "auto",
    batch_size: int = BATCH,
    adapter: str = "products",
) -> Average:
    """The weighted average of networks, tensor by tensor, as a state dict: sum over i of w_i theta_i.

    Floating-point and complex tensors are averaged in at least float32 and then take the networks' type, or the widest
    of theirs. Where all networks are equal, the average is bit for bit what they are; of two, it is the middle of
    the path of `modeconn.error_barrier`. Networks of weight 0 are not read. The caller's are left unchanged. Memory
    holds the result and a few tensors, however many networks are read from files.

    Of one run, the last checkpoints can be averaged: a folder of files or of `checkpoint-500`, `checkpoint-1000`, ...,
    in the order of their numbers; the folder of a state that `modeconn train` stored, which stands for the trajectory
    that leads to it; or a `modeconn.Run`. Which ones were averaged, and with which weights, is in the result.

    Running statistics of BatchNorm are averaged like weights, which is not what they should be at the average. With
    `calibration`, they are measured anew there (`modeconn.recalibrate`).

    Args:
        networks: at least one, oldest first where that matters, each as `modeconn.error_barrier` takes it: modules,
            state dicts, files, Hugging Face folders, stored runs. Or a run's checkpoints, as above.
        weights: one for each, not negative, with a sum of 1; or `"uniform"` (if None), `"linear"` (1, 2, ..., the
            newest most), `"exponential"` (a moving average with `decay`) or `"1-sqrt"` (the oldest most), whose
            formulas are those of `modeconn.analysis.averaging.shares.shares_of`.
        last: how many are averaged, counted from the last; or which part of the run, such as `"20%"`: checkpoints of
            the last 20 % of its steps, or, where no steps are known, of their number. All if None.
        every: of these, the last and each n-th before it.
        decay: of exponential weights, the share of the old average at each step.
        calibration: training data to measure running statistics anew on; needs the architecture, by `model` or a
            module. Of stored runs, `"train"` is known.
        calibration_batches: at most; all if None.
        data: held-out data to measure the average on, before and after calibration if there is any. Of stored runs,
            `"test"` and `"train"` are known.
        evaluate: as `modeconn.error_barrier` takes it.
        model: a module of the architecture, or a function that makes one; the tensors get its names. If None, they get
            those of the first module among the networks, or else of the first network.
        names: what messages call networks in a list.
        data_dir: folder of data sets, for stored runs.
        checkpoint_key: of files with several state dicts, the one to read.
        device: where the average is calibrated and measured.
        batch_size: of data that are not batches yet.
        adapter: of LoRA adapters, what is averaged: `"products"`, W0 + scale B A, which gives the state dict of a
            merged network; or `"factors"`, A and B apart, which gives that of an adapter, for the file that PEFT loads.

    Returns:
        By name, where the first network's tensors are and sharing memory with no network. Tied tensors are one tensor
        under each of their names. Weights that `weight_norm` normalizes are given by the length and direction that it
        keeps; what masks, spectral normalization and other parametrizations compute, by its effective name. Integer
        and boolean tensors are not averaged but the first network's; where another's differ, a warning names them. Of a
        run they are the last checkpoint's, and a note names them.

    Raises:
        OptionError: no networks, weights that are no such weights, or checkpoints whose order cannot be told.
        NetworkError: networks that do not fit together, or weights that are NaN or infinite, by name.
        DataError: data that are empty, or that the network fails on.

    >>> a, b, middle = (nn.Linear(2, 1) for _ in range(3))
    >>> keys = middle.load_state_dict(average([a, b], weights=[0.25, 0.75]))
    >>> torch.allclose(middle.weight, 0.25 * a.weight + 0.75 * b.weight)
    True
    """
    factors = check_adapter(adapter) == "factors"
    if factors and any(option is not None for option in (model, calibration, data)):
        raise OptionError(
            'adapter="factors" averages the files of adapters, without a network: leave out model=, data= and '
            "calibration="
        )
    ordered = last is not None or every != 1 or weights not in (None, "uniform")
    found, notes = checkpoints_of(networks, names, ordered)
    chosen = select(found, last, every)
    shares = shares_of(weights, len(chosen), decay)
    of_run = isinstance(networks, str | Path) or any(one.stored for one in found)
    members = [(one, share) for one, share in zip(chosen, shares, strict=True) if share]
    if of_run:
        members.reverse()  # the newest first: what is not averaged is the newest's
    of_stored = isinstance(model, str) and any(is_stored(one.source) for one, _ in members)  # the user's word for code
    original = original_of([one.source for one, _ in members], None if of_stored else model)  # type: ignore[arg-type]
    architecture = None
    if calibration is not None or data is not None:
        options = ComparisonOptions(
            model=model if of_stored else original,
            data_dir=data_dir,
            names=[members[0][0].name],
            checkpoint_key=checkpoint_key,
            device=device,
        )
        architecture = _open(members[0][0], options)
    like = original if original is not None or architecture is None else architecture.scratch
    sources, called = [one.weights for one, _ in members], [one.name for one, _ in members]
    if factors:
        sources, note = factor_files(sources, called)
        notes = (*notes, note)
    averaged = fitted(sources, like, called, data_dir, checkpoint_key, None if of_stored else model)
    mean = mean_of(averaged, [share for _, share in members])
    state = _rounded(mean, averaged)
    for note in notes_on_integers(averaged):
        notes = (*notes, note)
        if not of_run:
            warnings.warn(note, stacklevel=2)
    measured: dict[str, Any] = {}
    if architecture is not None:
        measured = _measured(architecture, mean, calibration, calibration_batches, data, evaluate, batch_size)
        if calibration is not None:
            _replace_statistics(state, architecture.scratch)
    notes = (*notes, *_notes(averaged, found, chosen, calibrated=calibration is not None))
    total = sum(shares)
    return Average(
        state if original is None else loadable(state, original),
        members=tuple(Member(one.name, one.step, share / total) for one, share in zip(chosen, shares, strict=True)),
        of=len(found),
        kind=weights if isinstance(weights, str) else "uniform" if weights is None else "given",
        decay=decay,
        notes=tuple(dict.fromkeys(notes)),
        settings={"last": last, "every": every, "versions": versions()},
        **measured,
    )


def _open(newest: Checkpoint, options: ComparisonOptions) -> Networks:
    """A network of the architecture, for the average to be loaded into."""
    with preserving_random_state(torch.device("cuda" if torch.cuda.is_initialized() else "cpu")):
        return open_networks([newest.source], options)


def _rounded(mean: Weights, averaged: Sequence[Weights]) -> dict[str, Tensor]:
    """The average as a state dict, in the networks' types; tied tensors are one."""
    state: dict[str, Tensor] = {}
    for name in mean.layout:
        twin = mean.aliases.get(name)
        state[name] = state[twin] if twin in state else mean.read(name).to(dtype_of_mean(averaged, name))
    return state


def _measured(
    architecture: Networks,
    mean: Weights,
    calibration: Any,
    calibration_batches: int | None,
    data: Any,
    evaluate: str | Callable[..., Any],
    batch_size: int,
) -> dict[str, Any]:
    """Load the average into the network, measure its statistics anew if asked, and what it errs."""
    network = architecture.scratch
    with Scratch(network).rewriting():
        load_weights(network, mean)
    held_out = _own_data(architecture, data, lambda stored: stored.batches(data), "data")
    if calibration is None:
        test = HeldOut(network, held_out, evaluate, batch_size)
        with preserving_random_state(device_of(network), test.batches):
            return {"value": means(test.measure(network)), "measured_as": test.meter.about}
    found = recalibrate(
        network,
        _own_data(architecture, calibration, lambda stored: stored.calibration(), "calibration"),
        batches=calibration_batches,
        inplace=True,
        data=held_out,
        evaluate=evaluate,
        batch_size=batch_size,
    )
    return {"value": found.after, "recalibration": found, "measured_as": found.measured_as}


def _own_data(architecture: Networks, data: Any, of: Callable[[Any], Any], option: str) -> Any:
    """The data, or those of a stored run where they are named."""
    if not isinstance(data, str):
        return data
    if architecture.stored is None:
        raise OptionError(f"{option}={data!r} is known of stored runs alone; give {option}= a DataLoader or tensors")
    if option == "calibration" and data != "train":
        raise OptionError(f'the calibration data of a stored run are "train"; got {data!r}')
    return of(architecture.stored)


def _replace_statistics(state: dict[str, Tensor], network: nn.Module) -> None:
    """Put a network's running statistics into a state dict, in the types that it has."""
    tensors = state_tensors(network)
    for layer in running_statistics_layers(network).values():
        for buffer in ("running_mean", "running_var"):
            name = qualified_name(layer, buffer)
            if name in state and name in tensors:
                state[name] = tensors[name].detach().to(state[name])


def _notes(
    averaged: Sequence[Weights], found: Sequence[Checkpoint], chosen: Sequence[Checkpoint], calibrated: bool
) -> Iterator[str]:
    statistics = [name for name in averaged[0].layout if name.rpartition(".")[2] == "running_var"]
    if len(chosen) == 1:
        yield "there is one network, so that nothing was averaged"
    if calibrated and not statistics:
        yield "the network has no running statistics, so nothing is recalibrated"
    by_note: dict[str, list[str]] = {}
    for one in averaged:
        for note in one.notes:
            by_note.setdefault(note, []).append(one.origin)
    for note, origins in by_note.items():
        yield f"{origins[0] if len(origins) == 1 else f'{len(origins)} networks'}: {note}"
    if statistics and not calibrated and len(chosen) > 1:
        yield (
            f"running statistics of {count(len(statistics), 'layer')} are averaged like weights; measure them anew, "
            "with calibration= or modeconn.recalibrate"
        )
    steps = [one.step for one in chosen if one.step is not None]
    if len({b - a for a, b in itertools.pairwise(steps)}) > 1:
        yield "the checkpoints are not evenly spaced, so that parts of training with more of them count more"
    if len(chosen) < len(found) and found[0].step is None:
        yield f"{len(chosen)} of {len(found)} networks were chosen by their order"
