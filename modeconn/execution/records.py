"""Records of studies: which artifacts each needs, left in the store when it starts.

studies/NAME.json           what was asked, when, by which command, and every job of its graph
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modeconn.errors import StoreError
from modeconn.execution.artifact import SEAL, is_file_name, is_sealed, sealed
from modeconn.execution.job import Job
from modeconn.execution.names import job_name
from modeconn.execution.store import Store
from modeconn.files import entries, is_damage, unreadable, write_atomically, writing
from modeconn.reading import parse_json, read_file

log = logging.getLogger("modeconn")
_LAST = 1e11  # seconds since 1970, beyond which no calendar goes


@dataclass(frozen=True)
class StudyRecord:
    """The record of one study.

    Attributes:
        name: `kind-task-` and a hash of what was asked, so that the same study has one record however often it is run.
        kind: `instability`, `lottery` or `train`.
        task: the task's name.
        command: the last that asked for it; empty if a script did.
        began: when it was first asked for, in seconds since 1970.
        results: the folder its results go to, or None.
        targets: names of the artifacts that were asked for.
        jobs: names of these and of all that they need, each with the names of its inputs.
    """

    name: str
    kind: str
    task: str
    command: str
    began: float
    results: str | None
    targets: tuple[str, ...] = ()
    jobs: dict[str, list[str]] = field(default_factory=dict)


class Recorder:
    """Keeps the record of a study that runs.

    Args:
        store: where its artifacts are.
        kind: of study.
        task: its name.
        asked: all that makes this study another than its neighbours, as JSON as far as it goes.
        command: that asked for it, if any.
        results: the folder its results go to, if any.
    """

    def __init__(
        self, store: Store, kind: str, task: str, asked: dict[str, Any], command: str, results: str | Path | None
    ) -> None:
        where = None if results is None else str(Path(results).absolute())
        text = json.dumps(asked, sort_keys=True, default=str)
        name = f"{kind}-{re.sub(r'[^A-Za-z0-9_.]+', '-', task)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        before = _read(_path(store, name))
        record = before or StudyRecord(name, kind, task, command, time.time(), None)
        self._record = replace(record, command=command, results=where)
        self._store = store

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all artifacts of the study, as far as they were recorded."""
        return tuple(self._record.jobs)

    def add(self, targets: Iterable[Job]) -> None:
        """Record jobs that are asked for, with whatever they need, before they are computed.

        Raises:
            StoreError: the record cannot be written.
        """
        asked = list(targets)
        names = dict.fromkeys((*self._record.targets, *map(job_name, asked)))
        self._record = replace(self._record, targets=tuple(names), jobs=self._record.jobs | _graph(asked))
        path = _path(self._store, self._record.name)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, sealed(vars(self._record)))


def read_records(store: Store, strict: bool = False) -> list[StudyRecord]:
    """The records of all studies, the oldest first.

    Args:
        store: that keeps them.
        strict: raise where a record is damaged, instead of leaving it out with a warning.

    Raises:
        StoreError: a record is damaged, or cannot be read here or now.
    """
    paths = (Path(entry.path) for entry in entries(store.root / "studies") if entry.name.endswith(".json"))
    found = [record for path in paths if (record := _read(path, strict)) is not None]
    return sorted(found, key=lambda record: record.began)


def _read(path: Path, strict: bool = False) -> StudyRecord | None:
    """The record in a file; None if there is none, or it is damaged, which is said."""
    try:
        text = read_file(path)
        content = parse_json(text, StudyRecord)
        if SEAL in content and not is_sealed(text, content):  # modeconn 0.1 wrote none
            raise ValueError("it does not have the hash it was written with")
        content.pop(SEAL, None)
        if content["name"] != path.stem or not 0 <= content["began"] < _LAST:
            raise ValueError("its name is not that of its file, or its time is none")
        if not all(map(is_file_name, content["jobs"])):
            raise ValueError("it has jobs that no folder is called after")
        jobs = {str(name): list(sources) for name, sources in content["jobs"].items()}
        return StudyRecord(**content | {"targets": tuple(content["targets"]), "jobs": jobs})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise unreadable(path, error) from error
        problem = (
            f"the record of a study, {path}, cannot be read ({error}), so nobody knows what it needs; repeat the "
            "command of the study, or remove the record"
        )
        if strict:
            raise StoreError(problem) from error
        log.warning(problem)
        return None


def _path(store: Store, name: str) -> Path:
    return store.root / "studies" / f"{name}.json"


def _graph(targets: list[Job]) -> dict[str, list[str]]:
    """Names of the targets and of every job that they need, each with the names of its inputs."""
    found: dict[str, list[str]] = {}
    waiting = targets[::-1]
    while waiting:
        job = waiting.pop()
        name = job_name(job)
        if name not in found:
            found[name] = [job_name(source) for source in job.inputs]
            waiting.extend(source for source in reversed(job.inputs))
    return found
