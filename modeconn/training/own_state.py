"""The state that a function of the user's own returned: checked, and as it can be stored."""

import contextlib
import itertools
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from modeconn.errors import OptionError
from modeconn.training.state import State, state_from_bytes, state_to_bytes
from modeconn.weights.names import match_names
from modeconn.weights.sources import weights_of


def state_of(given: Any, iteration: int, network: nn.Module) -> State:
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
    return reloaded(State(iteration, model, rest={key: value for key, value in given.items() if key != "model"}))


def check_pruned(state: State, mask: Mapping[str, Tensor]) -> None:
    """See that the weights that a mask prunes are zero in a state that a training loop returned.

    Raises:
        OptionError: some are not; their layers are named.
    """
    grown = {name: int(state.model[name][~kept].count_nonzero()) for name, kept in mask.items()}
    if found := {name: count for name, count in grown.items() if count}:
        counted = ", ".join(f"{name}: {count} of {int((~mask[name]).sum())}" for name, count in found.items())
        raise OptionError(
            f"train returned weights that its mask prunes ({counted}); call mask.apply(network) after every optimizer "
            "step"
        )


@contextlib.contextmanager
def loading(model: Mapping[str, Tensor]) -> Iterator[None]:
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


def reloaded(state: State) -> State:
    """A state as a store would give it back.

    Raises:
        OptionError: it holds what cannot be stored.
    """
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
