"""Training by a loop of the user's own: a function from a state to a later one."""

import contextlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.batches import Batches, fingerprint_batches, preserving_random_state
from modeconn.evaluation.compute import check_precision, resolve_device
from modeconn.evaluation.losses import Loss
from modeconn.evaluation.measure import measure
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.evaluation.structures import tensors_of
from modeconn.training.content import content_hash
from modeconn.training.noise import Noise
from modeconn.training.own_builder import own_builder
from modeconn.training.own_state import check_pruned, loading, reloaded, state_of
from modeconn.training.state import Metrics, State, state_to_bytes
from modeconn.training.task_training import Prepared
from modeconn.training.trainer import TrainResult
from modeconn.weights.plain_copy import plain_copy

TrainFunction = Callable[..., Any]  # of state, start, stop and seed; of a mask, too, where it has that parameter
InitFunction = Callable[[int], Any]
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, eq=False)
class OwnLoopTraining:
    """A training by the user's own functions.

    Attributes:
        name: part of the names of runs; another one for another training.
        train: from `(state, start, stop, seed)` to the state at iteration `stop`; one that has a parameter `mask` is
            given the mask of a subnetwork by that name.
        init: from a seed to the network, or the state, at iteration 0.
        data: split to data.
        evaluate: as `modeconn.error_barrier` takes it.
        loss: of `(network, batch)`, by which pruning criteria score weights; None for what the target suggests.
        as_mask: what `train` is handed is made of a mask's tensors by it.
        contents: sha256 of the functions by their content (`modeconn.training.content`), from before any was called,
            and of the names and shapes of the initial state.
        fingerprints: split to sha256 of its data.
    """

    name: str
    train: TrainFunction
    init: InitFunction
    data: dict[str, Any]
    evaluate: str | Callable[..., Any]
    iterations: int
    device: str
    precision: str
    loss: Loss | None = None
    as_mask: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    contents: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    checkpoint_every: float = 0.0

    noise_per_call = True  # a loop mostly draws from a generator that it seeds when it is called
    noise_sources = ("order",)  # one seed for all

    def spec(self) -> dict[str, Any]:
        """The name, the length, and the content of both functions, with whatever they refer to."""
        contents = {part: self.contents[part] for part in ("train", "init", "shapes")}
        return {"own": self.name, "T": self.iterations, **contents}

    def measured_spec(self) -> dict[str, Any]:
        """The data and what is measured."""
        evaluate = self.contents["evaluate"] if callable(self.evaluate) else self.evaluate
        where = {"precision": self.precision, "device": torch.device(self.device).type}
        return {"data": self.fingerprints, "evaluate": evaluate, **where}

    def facts(self) -> dict[str, Any]:
        """The study's name."""
        return {"task": self.name}

    def cost(self, iterations: int) -> float:
        """Work of training, as if in batches of 128 images."""
        return 3.0 * 128 * iterations

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """The caller's own settings; the random generators are put back afterwards."""
        return preserving_random_state(torch.device(self.device))

    def train_until(
        self,
        state: State | None,
        stop: int,
        *,
        noise: Noise,
        init_seed: int,
        metrics: Metrics,
        on_chunk: Callable[[TrainResult], None],
        best: State | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> TrainResult:
        """Call the caller's function, once for each stretch of iterations with one seed.

        Raises:
            OptionError: what it returns is no state, or has weights that the mask prunes; or it loads the state into a
                network with other prefixes.
        """
        handed = self._handed(mask)
        with self.computing():
            network = self.network()
            # Beside its weights a rewound subnetwork has what there is at iteration 0: mostly, no optimizer's state.
            if state is None or (mask is not None and not state.rest):
                begun = state_of(self.init(_short(init_seed)), 0, network)
                state = begun if state is None else replace(state, rest=begun.rest)
            borders = [start for start, _ in noise.segments if state.iteration < start < stop]
            for border in [*borders, *([stop] if state.iteration < stop else [])]:
                start = state.iteration
                # What is handed out is a copy, and always what a store would give back.
                fresh = reloaded(state)
                given = {**fresh.rest, "model": fresh.model}
                with loading(state.model):
                    made = self.train(given, start, border, _short(noise.at(start).order), **handed)
                later = state_of(made, border, network)
                if not all(t.isfinite().all() for t in later.model.values() if t.is_floating_point()):
                    return TrainResult(state, metrics, diverged_at=border)
                check_pruned(later, mask or {})
                state = later
        return TrainResult(state, metrics)

    def _handed(self, mask: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """What `train` is given by name: the mask; for a dense network None, unless it has a default for that."""
        if mask is None:
            parameter = mask_parameter(self.train)
            return {"mask": None} if parameter and parameter.default is parameter.empty else {}
        return {"mask": self.as_mask(mask)}

    def network(self) -> nn.Module:
        """A network as `init` makes it, for weights to be loaded into."""
        return plain_copy(_module(self.init(0))).to(self.device)

    def meter(self) -> Meter:
        """The meter of `evaluate`; for `"auto"` the one that the network's output suggests."""
        network, place = self.network(), torch.device(self.device)
        with torch.no_grad(), evaluating(network):
            return choose_meter(self.evaluate, network, Batches(next(iter(self.data.values())), place).first())

    def batches(self, split: str) -> Batches:
        """A split of the data."""
        return Batches(self.data[split], torch.device(self.device))

    def calibration(self, examples: int) -> list[Any]:
        """The first batches of the training data, until there are so many examples."""
        found, count = [], 0
        for batch in self.batches("train"):
            found.append(batch)
            count += len(tensors_of(batch)[0])
            if count >= examples:
                break
        return found


def prepare_own(
    name: str,
    train: TrainFunction,
    init: InitFunction | None,
    data: Any,
    *,
    iterations: int | None,
    evaluate: str | Callable[..., Any] = "auto",
    device: str = "auto",
    precision: str = "float32",
    elsewhere: bool = False,
    by_name: bool = False,
    loss: Loss | None = None,
    as_mask: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> Prepared:
    """Check the parts of a training loop, and try the network on the data, before any job runs.

    Args:
        name, train, init, data, iterations, evaluate, device, precision: as in `modeconn.instability`.
        elsewhere: whether other processes compute, so that all must be sent to them.
        by_name: whether these import functions by name, as workers on this machine do; some clusters send their code.
        loss, as_mask: as of `OwnLoopTraining`.

    Raises:
        ModeconnError: says which part is missing or wrong.
    """
    check_precision(precision, resolve_device(device))
    if init is None or data is None or iterations is None:
        raise OptionError("train= also needs init= (from a seed to the network), data= and iterations=")
    given: Any = init
    if isinstance(given, type) and issubclass(given, nn.Module):
        raise OptionError(
            f"init= is the class {given.__name__}, whose first argument is no seed; give a function of the seed that "
            f"makes one, such as def make(seed): return {given.__name__}()"
        )
    if not isinstance(iterations, int) or iterations < 1:
        raise OptionError(f"iterations must be a whole number of at least 1; got {iterations!r}")
    splits = dict(data) if isinstance(data, Mapping) and data and data.keys() <= {"test", "train"} else {"test": data}
    place = str(resolve_device(device))
    loop = OwnLoopTraining(name, train, init, splits, evaluate, iterations, place, precision, loss, as_mask)
    named = {"train": train, "init": init, "evaluate": evaluate, "loss": loss}
    contents = {part: content_hash(function, part) for part, function in named.items() if callable(function)}
    if by_name:
        _check_importable(loop)
    if elsewhere:
        _check_picklable(loop)
    fingerprints, examples, chance = {}, {}, {}
    with loop.computing():
        network, meter = loop.network(), loop.meter()
        if meter.name == "probabilities":  # named as what it is: version 0.1.0 took them for logits
            loop = replace(loop, evaluate="".join(["probabilities", *str(evaluate).partition("[")[1:]]))
        made = init(0)
        state, builder = state_of(made, 0, network), own_builder(init, list(_module(made).state_dict()), network)
        for split in splits:
            batches = loop.batches(split)
            outcome = measure(network, batches, meter, precision)
            if "error" not in outcome.sums:
                raise OptionError(
                    f"instability is of the error, but {', '.join(outcome.sums)} is measured; give evaluate= a "
                    'function (network, batch) that gives {"error": (sum, count)}'
                )
            examples[split] = len(outcome.sums["error"])
            chance[split] = outcome.mean("error")  # of the initial network
            fingerprints[split] = fingerprint_batches(batches)
    shapes = sorted((name, list(tensor.shape), str(tensor.dtype)) for name, tensor in state.model.items())
    contents["shapes"] = content_hash(shapes, "init")
    return Prepared(
        training=replace(loop, contents=contents, fingerprints=fingerprints),
        examples=examples,
        per_epoch=None,
        state_bytes=sum(len(content) for content in state_to_bytes(state).values()),
        has_batchnorm=bool(running_statistics_layers(network)),
        about={
            "task": name,
            "task_changes": "",
            "data": "own",
            "data_note": "",
            "data_fingerprint": fingerprints,
            "options": {},
            "builder": builder,
        },
        chance=chance,
    )


def mask_parameter(train: TrainFunction) -> inspect.Parameter | None:
    """The parameter named `mask` of a training loop, if it has one.

    >>> print(mask_parameter(lambda state, start, stop, seed, mask=None: state))
    mask=None
    >>> print(mask_parameter(lambda *state: state))
    None
    """
    try:
        found = inspect.signature(train).parameters.get("mask")
    except (TypeError, ValueError):  # one that is not written in Python
        return None
    return found if found and found.kind in _BY_NAME else None


def _module(given: Any) -> nn.Module:
    module = given.get("model") if isinstance(given, Mapping) else given
    if not isinstance(module, nn.Module):
        raise NetworkError(
            f'init must return a network, or a dict with a network under "model"; got {type(module).__name__}'
        )
    return module


def _short(seed: int) -> int:
    """A seed of 31 bits: NumPy and others take no longer ones."""
    return seed % 2**31


def _check_importable(loop: OwnLoopTraining) -> None:
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not Path(script).is_file():
        for part, function in (("train", loop.train), ("init", loop.init), ("evaluate", loop.evaluate)):
            if getattr(function, "__module__", None) == "__main__":
                raise OptionError(
                    f"{part}= is defined in a notebook or on standard input, where worker processes cannot import it; "
                    "put it into a .py file, or leave workers=0"
                )


def _check_picklable(loop: OwnLoopTraining) -> None:
    try:
        pickle.dumps(loop)
    except Exception as error:
        raise OptionError(
            f"train, init and data cannot be sent to worker processes ({error}); define the functions at the top of a "
            "file, or use workers=0"
        ) from error
