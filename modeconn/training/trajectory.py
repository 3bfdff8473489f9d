"""The states of one training that a store holds, found from any of them."""

from pathlib import Path
from typing import Any, TypedDict

from modeconn.errors import DataError
from modeconn.execution.store import Store
from modeconn.reading import check
from modeconn.training.jobs import TrainJob
from modeconn.training.state import WEIGHTS


class _Spec(TypedDict):
    """What of a state's spec tells where on its trajectory it is."""

    iteration: int
    noise: list[dict[str, int]]


def find_trajectory(folder: str | Path) -> dict[int, Path]:
    """The finished states that lead to a stored one, itself the last: their folders by iteration, ascending.

    Two states are of one trajectory if they differ in nothing but the iteration, and the noise of the earlier is the
    beginning of that of the later.

    Raises:
        DataError: the folder holds no finished state of a training, or that training diverged.
    """
    folder = Path(folder).absolute()
    store = Store(folder.parent.parent, create=False)
    last = _finished(store, folder.name)
    if last is None:
        raise DataError(f"{folder} is not the finished state of a run; see modeconn runs for those that are")
    found = {last["iteration"]: folder.name}
    for name in store.names():
        state = _finished(store, name) if name.startswith(f"{TrainJob.kind}-") else None
        if state is not None and _leads_to(state, last):
            found.setdefault(state["iteration"], name)
    return {iteration: store.runs / name for iteration, name in sorted(found.items())}


def weights_file(folder: Path) -> Path:
    """The file of a finished state's weights, which is seen to be as it was written.

    Raises:
        DataError: the training diverged before that state.
        CorruptArtifact: the file has changed.
    """
    store = Store(folder.absolute().parent.parent, create=False)
    artifact = store.finished(folder.name)
    if artifact is None:
        raise DataError(f"{folder} is not the finished state of a run")
    if artifact.facts.get("diverged_at") is not None:
        raise DataError(f"the training of {folder} diverged at iteration {artifact.facts['diverged_at']}")
    artifact.read(WEIGHTS)
    return artifact.folder / WEIGHTS


def _finished(store: Store, name: str) -> dict[str, Any] | None:
    """The spec of a finished state; None of anything else, and of what a diverged training left."""
    found = store.describe(name)
    spec, facts = found["spec"], found["facts"]
    if found["status"] != "done" or spec.get("kind") != TrainJob.kind or facts.get("diverged_at") is not None:
        return None
    try:
        check(spec, _Spec)
    except ValueError:  # of a rewound state, which has no noise of its own
        return None
    return dict(spec)


def _leads_to(state: dict[str, Any], last: dict[str, Any]) -> bool:
    begun = [segment for segment in last["noise"] if segment.get("from", 0) < state["iteration"]]
    # Copies that were trained as one network began at a state that was not.
    aside = {*_Spec.__annotations__, "cohort"}
    rest = ({name: value for name, value in spec.items() if name not in aside} for spec in (state, last))
    return (
        state["iteration"] < last["iteration"]
        and state["noise"] == begun
        and state.get("cohort") in (None, last.get("cohort"))
        and next(rest) == next(rest)
    )
