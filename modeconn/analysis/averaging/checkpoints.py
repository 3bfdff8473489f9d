"""The checkpoints of one run, in the order of training, and which of them are averaged."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.averaging.shares import percentage
from modeconn.analysis.connectivity.averaging import listed
from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.errors import OptionError
from modeconn.options import whole_number
from modeconn.reading import is_file, is_folder

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_BESIDE = re.compile(r"^(optimizer|optim|scheduler|scaler|rng_state|random_states|training_args|trainer)\b|^rng_state")
_SHARD = re.compile(r"-\d+-of-\d+$")
# Of these, the folder of a network has one; of the first four, no folder has one that holds checkpoints as files.
_ALONE = ("config.json", "adapter_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_NETWORK = (*_ALONE, "model.safetensors", "pytorch_model.bin")
_STEPS = ("step", "iteration", "iter", "it", "checkpoint", "ckpt", "epoch", "ep")  # the first that is there counts
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network of a run.

    Attributes:
        name: what it is called.
        step: how far training was, in whatever its name counts; None if that is not known.
        source: as `modeconn.error_barrier` takes networks.
        stored: whether that is the folder of a stored state.
    """

    name: str
    step: int | None
    source: Any
    stored: bool = False

    @property
    def weights(self) -> Any:
        """Where its weights are read from: the source, or the file in a stored state, seen to be as it was written."""
        if not self.stored:
            return self.source
        from modeconn.training.trajectory import weights_file

        return weights_file(self.source)


def checkpoints_of(
    source: Any, names: Sequence[str] | None = None, ordered: bool = True
) -> tuple[list[Checkpoint], tuple[str, ...]]:
    """The checkpoints of a run, oldest first, and notes on what was found.

    Args:
        source: a folder of checkpoints (files, or folders such as `checkpoint-500`), the folder of a stored state,
            which stands for the trajectory that leads to it, a `modeconn.Run`, or a list of networks in their order.
        names: of networks in a list.
        ordered: whether the order matters; without numbers in names, a folder's is not known.

    Raises:
        OptionError: none, one network instead of several, or an order that cannot be told.
    """
    if isinstance(source, str | Path) and not is_file(source):
        if names is not None:
            raise OptionError("names= are for networks in a list; those in a folder have the names of their files")
        return _in_folder(Path(source), ordered)
    if _is_run(source):
        if source.diverged_at is not None:
            raise OptionError(f"the run diverged at iteration {source.diverged_at}, so there is no end to average")
        return _stored(source.folders), ()
    sources: list[Source] = listed(source)
    return [Checkpoint(name, None, one) for name, one in zip(names_of(sources, names), sources, strict=True)], ()


def select(checkpoints: Sequence[Checkpoint], last: int | str | None, every: int = 1) -> list[Checkpoint]:
    """The checkpoints that are averaged, oldest first.

    Args:
        checkpoints: of a run, oldest first.
        last: how many, counted from the last; or a percentage: those of the last part of training, whose step is over
            (1 - p) times that of the last; or, of checkpoints without steps, that part of their number. All if None.
        every: of these, the last and each n-th before it.

    Raises:
        OptionError: no such number, or more than there are.
    """
    every = whole_number(every, 1, "every must be a whole number of at least 1")
    steps = [checkpoint.step for checkpoint in checkpoints]
    if last is None:
        chosen = list(checkpoints)
    elif isinstance(last, str):
        share = percentage(last, "last")
        if None in steps:
            chosen = list(checkpoints)[-max(1, round(share * len(checkpoints))) :]
        else:
            end = steps[-1] or 0
            first = (1 - share) * end
            chosen = [one for one in checkpoints if (one.step or 0) > first or one is checkpoints[-1]]
    else:
        last = whole_number(last, 1, 'last must be a whole number of at least 1, or a percentage such as "20%"')
        if last > len(checkpoints):
            raise OptionError(f"last={last} of {len(checkpoints)} checkpoints, which is more than there are")
        chosen = list(checkpoints)[-last:]
    return chosen[::-1][::every][::-1]


def is_stored(source: Any) -> bool:
    """Whether a network is a `modeconn.Run` or the folder of a stored state."""
    return _is_run(source) or (isinstance(source, str | Path) and is_file(Path(source) / "spec.json"))


def _is_run(source: Any) -> bool:
    from modeconn.training.stored import Run

    return isinstance(source, Run)


def _in_folder(folder: Path, ordered: bool) -> tuple[list[Checkpoint], tuple[str, ...]]:
    if not is_folder(folder):
        raise OptionError(f"there is no folder {folder}; give a folder of checkpoints, or a list of networks")
    if is_file(folder / "spec.json"):
        from modeconn.training.trajectory import find_trajectory

        return _stored(find_trajectory(folder)), ()
    if is_file(folder / "store.json") or is_file(folder.parent / "store.json"):
        raise OptionError(
            f"{folder} is a store, which may hold many runs; give the folder of the last state of one, which modeconn "
            "runs lists"
        )
    found, notes = _candidates(folder)
    steps = {one: _step(one.name if is_folder(one) else one.stem) for one in found}
    numbered = [one for one in found if steps[one] is not None]
    if not numbered:
        if ordered and len(found) > 1:
            raise OptionError(
                f"the order of the checkpoints in {folder} cannot be told, as there are no numbers in their names "
                f"({_few([one.name for one in found])}); give a list of them, oldest first"
            )
        notes = (*notes, "there are no numbers in the checkpoints' names, so that their order is not known")
        return [Checkpoint(one.name, None, one) for one in found], notes
    if other := [one.name for one in found if steps[one] is None]:
        notes = (*notes, f"left out, as there is no number in its name: {_few(other)}")
    _require_one_order(numbered, steps)
    numbered.sort(key=lambda one: steps[one][1])  # type: ignore[index]
    return [Checkpoint(one.name, steps[one][1], one) for one in numbered], notes  # type: ignore[index]


def _candidates(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The folders of networks in a folder, or else the files of weights; and a note on what is left out."""
    inside = sorted(folder.iterdir())
    networks = [one for one in inside if is_folder(one) and any(is_file(one / name) for name in _NETWORK)]
    files = [one for one in inside if one.suffix in _SUFFIXES and is_file(one) and not _BESIDE.search(one.name)]
    files = [one for one in files if not _SHARD.search(one.stem)]
    if not networks and any(is_file(folder / name) for name in _ALONE):
        raise OptionError(f"{folder} is one network; give a folder of checkpoints, or a list of at least two networks")
    if not networks and not files:
        raise OptionError(
            f"there are no checkpoints in {folder}: neither files ({', '.join(_SUFFIXES)}) nor folders of networks, "
            "such as Hugging Face's checkpoint-500"
        )
    if networks and files:
        return networks, (f"left out, as there are folders of checkpoints: {_few([one.name for one in files])}",)
    return networks or files, ()


def _stored(folders: dict[int, Path]) -> list[Checkpoint]:
    return [
        Checkpoint(f"iteration {iteration}", iteration, folder, stored=True)
        for iteration, folder in sorted(folders.items())
    ]


def _step(name: str) -> tuple[str, int] | None:
    """What a name counts and how far it is: the number after `step`, `iter`, `checkpoint` or `epoch`, or else its last.

    >>> _step("epoch=3-step=400"), _step("checkpoint-500"), _step("model_7"), _step("best")
    (('step', 400), ('checkpoint', 500), ('', 7), None)
    """
    for word in _STEPS:
        if found := re.findall(rf"(?<![a-z]){word}[-_= ]?(\d{{1,18}})(?![\d.]*\.\d)", name.lower()):
            return word, int(found[-1])
    numbers = re.findall(r"(?<![\d.])(\d{1,18})(?!\d|\.\d)", name)
    return ("", int(numbers[-1])) if numbers else None


def _require_one_order(found: Sequence[Path], steps: dict[Path, tuple[str, int] | None]) -> None:
    places: dict[Any, Path] = {}
    for one in found:
        twin = places.setdefault(steps[one], one)
        if twin is not one:
            raise OptionError(
                f"{twin.name} and {one.name} have the same number, so that one of them is no checkpoint of this run; "
                "give a list of the checkpoints, oldest first"
            )
    kinds = {place[0]: one.name for one, place in steps.items() if place is not None}
    if len(kinds) > 1:
        raise OptionError(
            f"the names of the checkpoints count different things ({' and '.join(kinds.values())}), so that their "
            "order cannot be told; give a list of them, oldest first"
        )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
