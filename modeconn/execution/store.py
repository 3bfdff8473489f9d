"""The store: one folder per artifact, written so that what is there is whole, and checked when it is read.

store.json                  the schema version
runs/NAME/spec.json         what the artifact is
runs/NAME/<files>           its content
runs/NAME/partial.json      while it is being computed: sha256 of what there is so far
runs/NAME/done.json         when it is finished: the same, and facts such as where a run diverged
runs/NAME/running.json      the last heartbeat: who is computing it, and the fraction that is done
locks/NAME                  locked by the process that is computing it
aside/NAME-<time>           artifacts that failed their check
studies/NAME.json           what a study asked for: see `records`
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from modeconn.errors import CorruptArtifact, StoreError
from modeconn.execution.artifact import Artifact, dump, find_listed, sealed
from modeconn.execution.names import SCHEMA, Named, job_name, spec_hash
from modeconn.files import (
    entries,
    is_damage,
    remove_abandoned,
    remove_if_abandoned,
    sizes_in,
    unreadable,
    write_atomically,
    writing,
)
from modeconn.reading import parse_json, read_file

log = logging.getLogger("modeconn")
_HOST = socket.gethostname()
_LOCK_TRIES = 100
# Seconds between looks for what should be there: another machine's files can be seen late on a network file system.
_PATIENCE = (0.0, 0.05, 0.1, 0.2, 0.4)


class _Marker(TypedDict):
    """The content of store.json."""

    schema: int


class _Spec(TypedDict, total=False):
    """What is shown of a spec.json, as far as it is there."""

    schema: int
    kind: str
    task: dict[str, Any]
    iteration: int


class Store:
    """A folder of artifacts.

    Args:
        root: the folder.
        create: make it if it is not there, and see that it can be written; without, it is only read.

    Raises:
        StoreError: it is not there or cannot be written, or a newer modeconn made it.
    """

    def __init__(self, root: str | Path, create: bool = True) -> None:
        self.root = Path(root).absolute()
        self.runs = self.root / "runs"
        marker = self.root / "store.json"
        if create:
            self._make(marker)
        try:
            schema = parse_json(read_file(marker), _Marker)["schema"]
        except OSError as error:
            if not is_damage(error):
                raise unreadable(marker, error) from error
            raise StoreError(f"no store {self.root}; a study makes one, or point store= to it") from error
        except ValueError as error:
            raise StoreError(f'{marker} is damaged; write {{"schema": {SCHEMA}}} into it') from error
        if schema > SCHEMA:
            raise StoreError(
                f"the store {self.root} has schema {schema}, made by a newer modeconn; this one knows {SCHEMA}. "
                "Upgrade modeconn, or choose another store="
            )

    def _make(self, marker: Path) -> None:
        with writing(self.root):
            self.runs.mkdir(parents=True, exist_ok=True)
            (self.root / "locks").mkdir(exist_ok=True)
            if not marker.exists():
                write_atomically(marker, dump({"schema": SCHEMA}))
            # A folder can be readable, and old, and no longer writable.
            probe = self.root / ".writable"
            write_atomically(probe, b"", sync=False)
            probe.unlink(missing_ok=True)  # another process may do the same
            remove_abandoned(self.root)

    def folder(self, job: Named) -> Path:
        """Where a job's artifact is or will be."""
        return self.runs / job_name(job)

    def done(self, job: Named) -> Artifact | None:
        """The finished artifact of a job, or None."""
        return self._listed(self.folder(job), "done.json")

    def partial(self, job: Named) -> Artifact | None:
        """The artifact that an interrupted computation of a job left, checked; None if it left none, or none sound."""
        artifact = self._listed(self.folder(job), "partial.json")
        if artifact:
            try:
                artifact.verify()
            except CorruptArtifact as error:
                self.set_aside(error)
                return None
        return artifact

    def latest(self, job: Named) -> Artifact | None:
        """The artifact of a job, finished or partial, unchecked; None if there is none that can be listed."""
        return self.held(job_name(job))

    def require(self, job: Named) -> Artifact:
        """The finished artifact of a job.

        Raises:
            CorruptArtifact: it is not there, though it should be.
        """
        for pause in (*_PATIENCE, None):
            artifact = self.done(job)
            if artifact:
                return artifact
            if pause is not None:
                _refresh(self.folder(job), pause)
        raise CorruptArtifact(job_name(job), "it is not finished")

    def write(self, job: Named, files: dict[str, bytes], facts: dict[str, Any], *, done: bool) -> None:
        """Write an artifact's files, then the listing that makes them count.

        Files are replaced one by one, so every version of a partial artifact should give its files new names; what
        an older version left is removed. A partial result never replaces a finished one.
        """
        folder = self.folder(job)
        if not done and (folder / "done.json").exists():
            return
        with writing(folder):
            folder.mkdir(exist_ok=True)  # in a store that was removed meanwhile, nothing is written
            if not (folder / "spec.json").exists():
                write_atomically(folder / "spec.json", dump({"schema": SCHEMA, **job.spec()}))
            for name, content in files.items():
                write_atomically(folder / name, content)
            hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            listing = sealed({"files": hashes, "facts": facts})
            write_atomically(folder / ("done.json" if done else "partial.json"), listing)
            keep = {
                *files,
                "spec.json",
                "done.json" if done else "partial.json",
                "" if done else "running.json",
            }
            for old in folder.iterdir():
                # Another process may be writing the same artifact; what it has not renamed yet is its own.
                if ".tmp-" in old.name:
                    remove_if_abandoned(old)
                elif old.name not in keep:
                    old.unlink(missing_ok=True)

    def write_heartbeat(self, job: Named, fraction: float) -> None:
        """Write a heartbeat: the fraction of the job done so far."""
        folder = self.folder(job)
        with writing(folder):
            folder.mkdir(exist_ok=True)
            content = {"host": _HOST, "pid": os.getpid(), "fraction": fraction, "time": time.time()}
            write_atomically(folder / "running.json", dump(content), sync=False)

    def read_heartbeat(self, job: Named) -> float:
        """The fraction of the job done so far, from 0 to 1, that its last heartbeat says; 0 if there is none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return float(parse_json(read_file(self.folder(job) / "running.json"), dict[str, Any])["fraction"])
        return 0.0

    @contextlib.contextmanager
    def lock(self, job: Named) -> Iterator[None]:
        """Keep other processes from computing a job meanwhile. The lock goes with the process that holds it."""
        with self._locked(self.root / "locks" / job_name(job)):
            yield

    def _locked(self, path: Path) -> BinaryIO:
        """Open and lock the file at a path."""
        for _ in range(_LOCK_TRIES):
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                file = open(path, "wb")  # noqa: SIM115
            with contextlib.suppress(OSError):  # some network file systems have no locks; a job may then run twice
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                break
            file.close()  # cleaning up removed it while we waited, and who comes next would lock another
        return file

    def set_aside(self, error: CorruptArtifact) -> None:
        """Move a damaged artifact out of the way, and say so."""
        target = self.root / "aside" / f"{error.name}-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns()}"
        with writing(target):
            target.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.runs / error.name, target)
                log.warning("%s; it is set aside in %s and computed again", error, target)

    def names(self) -> list[str]:
        """Names of all artifacts, finished or not."""
        return sorted(entry.name for entry in entries(self.runs) if entry.is_dir(follow_symlinks=True))

    def held(self, name: str) -> Artifact | None:
        """The artifact of that name, finished or partial, unchecked; None if there is none that can be listed."""
        return self.finished(name) or self._listed(self.runs / name, "partial.json", quiet=True)

    def finished(self, name: str) -> Artifact | None:
        """The finished artifact of that name, or None."""
        return self._listed(self.runs / name, "done.json", quiet=True)

    def describe(self, name: str) -> dict[str, Any]:
        """The spec of an artifact by name, its status, facts and bytes.

        The status is `done`, `partial`, `started`, `damaged`, or `unreadable` if that cannot be known here or now.
        """
        folder = self.runs / name
        sizes = sizes_in(folder)
        artifact, status = self._status(folder, sizes.keys())
        spec = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            content = parse_json(read_file(f"{folder}/spec.json"), _Spec)
            if name.endswith(spec_hash(content)[:16]):  # the name is the spec's hash
                spec = content
        return {
            "name": name,
            "status": status,
            "spec": spec,
            "facts": artifact.facts if artifact else {},
            "bytes": sum(sizes.values()),
        }

    def _status(self, folder: Path, seen: Collection[str]) -> tuple[Artifact | None, str]:
        listings = {"done": "done.json", "partial": "partial.json"}
        try:
            before = None
            while True:
                for word, listing in listings.items():
                    artifact = self._listed(folder, listing, quiet=True, seen=seen)
                    if artifact:
                        return artifact, word
                # Only what stays the same is what it seems; it may have been replaced while its files were looked for.
                now = [_read(folder / listing) for listing in listings.values()]
                if now == before:
                    return None, "damaged" if any(now) else "started"
                before = now
        except StoreError:
            return None, "unreadable"

    def _listed(self, folder: Path, listing: str, quiet: bool = False, seen: Collection[str] = ()) -> Artifact | None:
        """The artifact that a listing describes; one whose listing or files are unsound is set aside.

        Args:
            folder: the artifact's.
            listing: the name of its file.
            quiet: look once, and set nothing aside.
            seen: names of files that were in the folder a moment ago; they are not looked for.

        Raises:
            StoreError: they cannot be read here or now, which says nothing of them.
        """
        for pause in (None,) if quiet else (None, *_PATIENCE):
            if pause is not None:
                _refresh(folder, pause)
            failure: OSError | None = None
            missing: list[str] = []
            try:
                artifact, missing = find_listed(folder, listing, seen)
            except OSError as error:
                failure = error
                continue
            if not missing:
                return artifact
        if failure:
            raise unreadable(folder / listing, failure) from failure
        if not quiet:
            self.set_aside(CorruptArtifact(folder.name, f"missing or unreadable: {', '.join(missing)}"))
        return None


def _refresh(folder: Path, pause: float) -> None:
    """Wait, and have a network file system ask its server anew, which it does when a folder is opened."""
    time.sleep(pause)
    for path in (folder.parent, folder):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY))


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one that stands at the path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError as error:
        if not is_damage(error):
            raise unreadable(path, error) from error
        return None
