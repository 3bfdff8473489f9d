"""Maintenance of a store: who is at work in it, whether all of it is sound, and what of it nobody needs."""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from modeconn.errors import CorruptArtifact, StoreError
from modeconn.execution.names import spec_hash
from modeconn.execution.records import read_records
from modeconn.execution.store import Store
from modeconn.files import entries, is_abandoned, is_damage, remove_if_abandoned, size_of, writing
from modeconn.reading import parse_json, read_file

_ALIVE = 60.0  # seconds that a heartbeat counts where files cannot be locked; jobs write one each second
_OLD = 3600.0  # seconds after which what has not changed is nobody's, where files cannot be locked
UNREADABLE = "it cannot be read here or now, which says nothing of it"
_NAME = re.compile(r"[a-z]+-[0-9a-f]{16}")


def is_busy(store: Store, name: str) -> bool:
    """Whether a process, on any machine, is computing the artifact of that name right now."""
    locked = _is_locked(store, name)
    if locked is None:
        heartbeat = last_heartbeat(store, name)
        return heartbeat is not None and abs(time.time() - heartbeat["time"]) < _ALIVE
    return locked


def last_heartbeat(store: Store, name: str) -> dict[str, Any] | None:
    """The last heartbeat of who was computing an artifact: host, pid, fraction, time; None if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = parse_json(read_file(store.runs / name / "running.json"), _Heartbeat)
        return {"host": "", **content}
    return None


def find_damage(store: Store, name: str) -> str | None:
    """Read every byte of an artifact and say what is wrong with it; None if it is sound, or not there."""
    while True:
        before = _listings(store, name)
        reason = _damage(store, name)
        # Only what stays the same is what it seems; it may have been replaced while its files were read.
        if reason is None or before == _listings(store, name):
            return reason


def inputs_in(spec: Any) -> list[str]:
    """Names of the other artifacts that a spec contains."""
    if isinstance(spec, str):
        return [spec] if _NAME.fullmatch(spec) else []
    inner = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    return list(dict.fromkeys(name for part in inner for name in inputs_in(part)))


class _Heartbeat(TypedDict):
    """The content of running.json."""

    host: NotRequired[str]
    pid: int
    fraction: float
    time: float


@dataclass(frozen=True)
class Garbage:
    """The parts of a store that nobody needs, with their sizes in bytes.

    Attributes:
        temporary: files that a process left that was stopped while it wrote.
        aside: artifacts that failed their check.
        artifacts: names of those that no study refers to.
        busy: names of those that no study refers to and that another process is working on; they stay.
        studies: how many are recorded.
    """

    temporary: dict[Path, int]
    aside: dict[Path, int]
    artifacts: dict[str, int]
    busy: tuple[str, ...]
    studies: int

    @property
    def size(self) -> int:
        """Of all of them together, in bytes."""
        return sum(sum(sizes.values()) for sizes in (self.temporary, self.aside, self.artifacts))


def find_garbage(store: Store) -> Garbage:
    """Find what can go: leftovers of stopped processes, damaged artifacts set aside, and artifacts of no study.

    A store in which no study is recorded may be older than these records: its artifacts are kept.

    Raises:
        StoreError: the record of a study cannot be read.
    """
    records = read_records(store, strict=True)
    needed = {name for record in records for name in record.jobs}
    names = store.names()
    strangers = [name for name in names if name not in needed] if needed else []
    free = {name: _is_free(store, name) for name in strangers}
    artifacts = {name: size_of(f"{store.runs}/{name}") for name in strangers if free[name]}
    busy = tuple(name for name in strangers if not free[name])
    aside = {path: size_of(path) for path in (Path(entry.path) for entry in entries(store.root / "aside"))}
    stay = [name for name in names if name not in artifacts]
    temporary = {path: size_of(path) for path in _leftovers(store, stay)}
    return Garbage(temporary, aside, artifacts, busy, len(records))


def remove(store: Store, garbage: Garbage) -> int:
    """Remove garbage, except for what has come to be needed or worked on since it was found.

    Returns:
        The bytes that are free now.

    Raises:
        StoreError: the store cannot be written, or the record of a study not read.
    """
    freed = 0
    with writing(store.root):
        for path, size in garbage.temporary.items():
            freed += size if remove_if_abandoned(path) else 0
        needed = {name for record in read_records(store, strict=True) for name in record.jobs}
        for name, size in garbage.artifacts.items():
            if name not in needed and (gone := _take_out(store, name)):
                shutil.rmtree(gone, ignore_errors=True)
                freed += size
        for path, size in garbage.aside.items():
            shutil.rmtree(path, ignore_errors=True)
            freed += size
    return freed


def forget(store: Store, names: Iterable[str]) -> None:
    """Remove artifacts, so that they are computed anew; those that another process is working on stay.

    Raises:
        StoreError: the store cannot be written.
    """
    with writing(store.root):
        for name in names:
            if gone := _take_out(store, name):
                shutil.rmtree(gone, ignore_errors=True)


def _listings(store: Store, name: str) -> list[bytes | None]:
    return [_read(store.runs / name / file) for file in ("spec.json", "partial.json", "done.json")]


def _damage(store: Store, name: str) -> str | None:
    status = store.describe(name)["status"]
    if status == "damaged":
        return "its listing, or a file in it, is missing or unreadable"
    if status == "unreadable":
        return UNREADABLE
    try:
        if artifact := store.held(name):
            artifact.verify()
    except CorruptArtifact as error:
        return error.reason
    except StoreError:
        return UNREADABLE
    try:
        content = parse_json(read_file(store.runs / name / "spec.json"), dict[str, Any])
        sound = name.endswith(spec_hash(content)[:16])
    except FileNotFoundError:
        sound = status == "started"  # nothing is written yet, or it is no longer there
    except OSError as error:
        if not is_damage(error):
            return UNREADABLE
        sound = False
    except (ValueError, TypeError):
        sound = False
    return None if sound else "spec.json does not have the hash that is in the name"


def _leftovers(store: Store, artifacts: Iterable[str]) -> Iterator[Path]:
    """Temporary files that nobody is writing, in some artifacts and beside all."""
    for name in artifacts:
        if files := [Path(entry.path) for entry in entries(f"{store.runs}/{name}") if ".tmp-" in entry.name]:
            free = _is_free(store, name)
            yield from (file for file in files if free and is_abandoned(file))
    elsewhere = (Path(entry.path) for entry in (*entries(store.root), *entries(store.root / "studies")))
    yield from filter(is_abandoned, elsewhere)


def _take_out(store: Store, name: str) -> Path | None:
    """Move an artifact to where no study looks, in one step, unless somebody is working on it."""
    target = store.root / "aside" / f"{name}-removed-{time.monotonic_ns()}"
    lock = store.root / "locks" / name
    target.parent.mkdir(exist_ok=True)
    with open(lock, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:
            if not _is_free(store, name):
                return None
        try:
            os.rename(store.runs / name, target)
        except FileNotFoundError:
            return None
        finally:
            lock.unlink(missing_ok=True)
    return target


def _is_free(store: Store, name: str) -> bool:
    """Whether nobody is working on an artifact; where files cannot be locked, only time tells."""
    locked = _is_locked(store, name)
    return not is_busy(store, name) and _age(store.runs / name) > _OLD if locked is None else not locked


def _is_locked(store: Store, name: str) -> bool | None:
    """Whether a process holds the lock of an artifact; None if this folder has no locks."""
    try:
        with open(f"{store.root}/locks/{name}", "rb", buffering=0) as file:
            # Shared, so that two who look at once do not take each other for a worker.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _age(path: Path) -> float:
    """Seconds since a file, or anything in a folder, was changed; none if it is gone."""
    try:
        newest = max(entry.stat().st_mtime for entry in (path, *path.glob("*")))
    except OSError:
        return 0.0
    return time.time() - newest


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError:
        return None
