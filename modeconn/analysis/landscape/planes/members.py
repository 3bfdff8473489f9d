"""Networks and trajectories as they are given beside a plane, as one list of networks to open."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.analysis.landscape.planes.frame import Frame
from modeconn.analysis.landscape.planes.places import Place
from modeconn.errors import OptionError
from modeconn.reading import is_file
from modeconn.weights.state_dicts import Weights

if TYPE_CHECKING:
    from modeconn.training.stored import Run

Also: TypeAlias = "Source | Sequence[Source]"
Beside: TypeAlias = "Also | Sequence[Also] | Mapping[str, Also]"
_STATE_DICTS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, eq=False)
class Member:
    """A network that is projected.

    Attributes:
        name: what it is called; of a state of a training, its iteration.
        source: as `modeconn.error_barrier` takes it.
        path: the trajectory that it is a state of; empty of a network alone.
    """

    name: str
    source: Source
    path: str = ""

    @property
    def full_name(self) -> str:
        """A name that no other network has."""
        return f"{self.path} {self.name}".strip()


def members_of(also: Beside, taken: Sequence[str]) -> list[Member]:
    """The networks that are given beside others, those of trajectories in their order.

    Args:
        also: networks; lists of networks, which are trajectories; stored runs or their folders, which stand for all
            their saved states. A mapping names them.
        taken: names that others have.

    Raises:
        OptionError: something that is no network, or a trajectory without states.
        DataError: a folder that holds no finished state.
    """
    given: Any = also
    if not is_network(given) and not isinstance(given, Iterable):
        raise OptionError(
            f"also= is a network, or a list or mapping of networks and trajectories; got {type(given).__name__}"
        )
    named = isinstance(given, Mapping) and not is_network(given)
    entries = list(given.values()) if named else [given] if is_network(given) else list(given)
    titles = list(given) if named else [""] * len(entries)
    found: list[Member] = []
    for number, (name, entry) in enumerate(zip(titles, entries, strict=True), start=1):
        states = trajectory_of(entry)
        if states is None:
            own = _file_name(entry, entries, taken) if isinstance(entry, str | Path) else f"also {number}"
            found.append(Member(name or own, entry))
        else:
            title = name or (_folder_name(entry) if isinstance(entry, str | Path) else f"trajectory {number}")
            found += [Member(state, source, title) for state, source in states]
    names = [*taken, *(member.full_name for member in found)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(
            f"two networks are called {twice[0]}; give each network once, or name those of also= by a mapping"
        )
    return found


def trajectory_of(entry: Any) -> list[tuple[str, Source]] | None:
    """The states of a trajectory in their order, with their names; None of a network alone.

    Raises:
        OptionError: a trajectory without states, or something in it that is no network.
        DataError: a folder that holds no finished state.
    """
    folder = _stored_folder(entry)
    if folder is not None:
        from modeconn.training.trajectory import find_trajectory, weights_file

        states = find_trajectory(folder)
        last = max(states)
        # Files are read tensor by tensor; the last state, as it was given, also knows the data.
        of = {iteration: entry if iteration == last else weights_file(state) for iteration, state in states.items()}
        return [(str(iteration), source) for iteration, source in of.items()]
    if is_network(entry):
        return None
    if not isinstance(entry, Sequence) or not entry or not all(map(is_network, entry)):
        raise OptionError(
            "a trajectory is a list of networks in their order, or a stored run or its folder; got "
            f"{'an empty list' if isinstance(entry, Sequence) and not entry else type(entry).__name__}"
        )
    return [(str(place), source) for place, source in enumerate(entry)]


def is_network(entry: Any) -> bool:
    """Whether something is one network, as `modeconn.error_barrier` takes it."""
    if isinstance(entry, Mapping):  # a state dict, or a checkpoint that holds one; else names of networks
        return any(isinstance(v, Tensor) for v in entry.values()) or any(
            isinstance(entry.get(key), Mapping) for key in _STATE_DICTS
        )
    return isinstance(entry, nn.Module | str | Path) or _is_run(entry)


def project(frame: Frame, members: Sequence[Member], networks: Sequence[Weights]) -> list[Place]:
    """Where members are, by their weights."""
    return [
        Place(member.name, place[0], place[1] if len(place) == 2 else float("nan"), distance, member.path)
        for member, (place, distance) in zip(members, frame.places(networks), strict=True)
    ]


def _stored_folder(entry: Any) -> Path | None:
    """The folder of the last state of a stored run; None of anything else."""
    if isinstance(entry, str | Path) and is_file(Path(entry) / "spec.json"):
        return Path(entry)
    return _folder_of_run(entry) if _is_run(entry) else None


def _folder_of_run(run: "Run") -> Path:
    return run.folders[max(run.folders)]


def _is_run(entry: Any) -> bool:
    if isinstance(entry, nn.Module | str | Path | Mapping | Tensor | list | tuple):
        return False
    from modeconn.training.stored import Run

    return isinstance(entry, Run)


def _file_name(entry: str | Path, entries: Sequence[Any], taken: Sequence[str]) -> str:
    """The name of a file; with its folders, if another network has the same."""
    (own,) = names_of([entry], None)
    others = [Path(one).name for one in entries if isinstance(one, str | Path)]
    return own if others.count(Path(entry).name) == 1 and own not in taken else str(entry)


def _folder_name(entry: str | Path) -> str:
    (name,) = names_of([entry], None)
    return name
