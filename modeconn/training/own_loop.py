"""Training by a loop of the user's own: a function from a state to a later one."""

import contextlib
import itertools
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.batches import Batches, fingerprint_batches, preserving_random_state
from modeconn.evaluation.compute import check_precision, resolve_device
from modeconn.evaluation.measure import measure
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.evaluation.structures import tensors_of
from modeconn.training.content import content_hash
from modeconn.training.noise import Noise
from modeconn.training.state import Metrics, State, state_from_bytes, state_to_bytes
from modeconn.training.task_training import Prepared
from modeconn.training.trainer import TrainResult
from modeconn.weights.names import match_names
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.sources import weights_of

TrainFunction = Callable[[dict[str, Any], int, int, int], Any]
InitFunction = Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class OwnLoopTraining:
    """A training by the user's own functions.

    Attributes:
        name: part of the names of runs; another one for another training.
        train: from `(state, start, stop, seed)` to the state at iteration `stop`.
        init: from a seed to the network, or the state, at iteration 0.
        data: split to data.
        evaluate: as `modeconn.error_barrier` takes it.
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
        mask: Mapping[str, Tensor] | None = None,
    ) -> TrainResult:
        """Call the caller's function, once for each stretch of iterations with one seed.

        Raises:
            OptionError: what it returns is no state; it loads the state into a network with other prefixes; or a mask,
                which nobody could hold inside the function.
        """
        if mask is not None:
            raise OptionError("a training loop of your own cannot be given a mask; tasks can")
        with self.computing():
            network = self.network()
            state = _state(self.init(_short(init_seed)), 0, network) if state is None else state
            borders = [start for start, _ in noise.segments if state.iteration < start < stop]
            for border in [*borders, *([stop] if state.iteration < stop else [])]:
                start = state.iteration
                # What is handed out is a copy, and always what a store would give back.
                fresh = _reloaded(state)
                given = {**fresh.rest, "model": fresh.model}
                with _loading(state.model):
                    made = self.train(given, start, border, _short(noise.at(start).order))
                later = _state(made, border, network)
                if not all(t.isfinite().all() for t in later.model.values() if t.is_floating_point()):
                    return TrainResult(state, metrics, diverged_at=border)
                state = later
        return TrainResult(state, metrics)

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
) -> Prepared:
    """Check the parts of a training loop, and try the network on the data, before any job runs.

    Args:
        name, train, init, data, iterations, evaluate, device, precision: as in `modeconn.instability`.
        elsewhere: whether other processes compute, so that all must be sent to them.

    Raises:
        ModeconnError: says which part is missing or wrong.
    """
    check_precision(precision, resolve_device(device))
    if init is None or data is None or iterations is None:
        raise OptionError("train= also needs init= (from a seed to the network), data= and iterations=")
    if not isinstance(iterations, int) or iterations < 1:
        raise OptionError(f"iterations must be a whole number of at least 1; got {iterations!r}")
    splits = dict(data) if isinstance(data, Mapping) and data and data.keys() <= {"test", "train"} else {"test": data}
    loop = OwnLoopTraining(name, train, init, splits, evaluate, iterations, str(resolve_device(device)), precision)
    named = {"train": train, "init": init} | ({"evaluate": evaluate} if callable(evaluate) else {})
    contents = {part: content_hash(function, part) for part, function in named.items()}
    if elsewhere:
        _check_picklable(loop)
    fingerprints, examples, chance = {}, {}, {}
    with loop.computing():
        network, meter = loop.network(), loop.meter()
        if meter.name == "probabilities":  # named as what it is: version 0.1.0 took them for logits
            loop = replace(loop, evaluate="".join(["probabilities", *str(evaluate).partition("[")[1:]]))
        state = _state(init(0), 0, network)
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
        },
        chance=chance,
    )


def _state(given: Any, iteration: int, network: nn.Module) -> State:
    """The state that a function of the caller's returned, checked, as it can be stored."""
    if isinstance(given, nn.Module):
        given = {"model": given}
    if not isinstance(given, Mapping) or "model" not in given:
        raise OptionError(
            f'train and init must return a network, or a dict with "model" (a network or its state dict) and whatever '
            f"else the training carries on; got {type(given).__name__}"
        )
    weights = match_names(weights_of(given["model"], "the state"), network, "the state")
    model = {name: weights.read(name).detach().cpu().clone() for name in weights.layout}
    return _reloaded(State(iteration, model, rest={key: value for key, value in given.items() if key != "model"}))


@contextlib.contextmanager
def _loading(model: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which a failing `load_state_dict` of a state says which part of names is in one network alone."""
    try:
        yield
    except RuntimeError as error:
        missing, unexpected = (_listed(kind, str(error)) for kind in ("Missing", "Unexpected"))
        if not missing or not unexpected or not model.keys() >= set(unexpected):
            raise
        if (more := _inserted(missing, unexpected)) is not None:
            into = f", or into network.{more[:-1]}" if missing[0].startswith(more) else ""
            raise OptionError(
                f"train loads the state into a network whose names have {more!r} where the state's have nothing "
                f"({missing[0]}); states have the names of a network without wrappers such as DataParallel: load them "
                f"before the network is wrapped{into}"
            ) from error
        if (more := _inserted(unexpected, missing)) is not None:
            raise OptionError(
                f"train loads the state into a network whose names lack {more!r}, which the names of init's network "
                f"have ({unexpected[0]}); have both functions build the same network"
            ) from error
        raise


def _listed(kind: str, message: str) -> list[str]:
    """The names that PyTorch's message lists as missing or unexpected, in their own order: PyTorch's may be any."""
    line = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
    return sorted(re.findall(r'"([^"]+)"', line[1])) if line else []


def _inserted(longer: Sequence[str], shorter: Sequence[str]) -> str | None:
    """What all of the longer names have that the shorter ones lack: whole segments, such as `"module."`."""
    segments = longer[0].split(".")
    spans = itertools.combinations(range(len(segments)), 2)
    candidates = (".".join(segments[start:stop]) + "." for start, stop in spans)
    return next((each for each in candidates if {n.replace(each, "", 1) for n in longer} == set(shorter)), None)


def _reloaded(state: State) -> State:
    files = state_to_bytes(state)
    try:
        return state_from_bytes(files, state.iteration)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise OptionError(
            f"the state holds what cannot be stored without pickling code{what}. Keep tensors, numbers, strings, "
            "arrays, and lists, tuples and dicts of them, such as optimizer.state_dict()"
        ) from error


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


def _check_picklable(loop: OwnLoopTraining) -> None:
    try:
        pickle.dumps(loop)
    except Exception as error:
        raise OptionError(
            f"train, init and data cannot be sent to worker processes ({error}); define the functions at the top of a "
            "file, or use workers=0"
        ) from error
