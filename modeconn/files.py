"""Files that are written whole or not at all, and what the disk says of them."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from modeconn.errors import StoreError

# What the system says of a file that is not as it was left; all else, such as "permission denied", says nothing of it.
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_OTHERWISE = (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.EFBIG, errno.ENAMETOOLONG)

_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{16}|\d+-\d+)$|^\.writable-\d+-\d+$")  # the last two are modeconn 0.1's
_LONGEST = 200  # characters of a file's name that are in that of its temporary file
_OLD = 3600.0  # seconds after which what has not changed is nobody's, where files cannot be locked


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file under a temporary name in its folder, flush it to the disk, and rename it.

    Raises:
        OSError: it cannot be written, or is a device, a pipe or a folder, which nothing takes the place of.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the file's folder; what is written there takes the file's place, unless there is an error.

    In the same folder, because a rename is atomic within one file system only; that of the file itself, if the path is
    a symbolic link to one. Its name is random, as two containers that share a folder may share the numbers of
    processes too. It is locked while it is written, and what killed processes left of the same file is removed.

    Raises:
        OSError: at the path is something that is no regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "there is a device, a pipe or a folder of that name")
    path = path.resolve() if path.is_symlink() else path
    with _temporary_for(path) as temporary:
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    remove_abandoned(path.parent, path.name[:_LONGEST])


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Remove the temporary files in a folder whose writers have ended; of those for a file's name, if one is given."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(name):
                remove_if_abandoned(Path(entry.path))


def remove_if_abandoned(path: Path) -> bool:
    """Remove a file if it is a temporary one whose writer has ended; whether it was."""
    with _abandoned(path) as abandoned:
        if abandoned:
            path.unlink(missing_ok=True)
    return abandoned


def is_abandoned(path: Path) -> bool:
    """Whether a file is a temporary one of ours whose writer has ended, on whatever machine that was."""
    with _abandoned(path) as abandoned:
        return abandoned


@contextlib.contextmanager
def _temporary_for(path: Path) -> Iterator[Path]:
    """A new file beside another, under its lock."""
    while True:
        temporary = path.with_name(f"{path.name[:_LONGEST]}.tmp-{secrets.token_hex(8)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else it was taken for abandoned before it was locked
                yield temporary
                return
        finally:
            os.close(handle)


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether a file is a temporary one without a writer, whose lock ended with it; there comes none meanwhile.

    Where files cannot be locked, only time tells.
    """
    if not _TEMPORARY.search(path.name):
        yield False
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:
            free = time.time() - os.fstat(handle).st_mtime > _OLD
        yield free
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk's errors into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left for {path}; what is finished is safe, free some and repeat") from error
        raise StoreError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def is_gone(error: OSError) -> bool:
    """Whether a disk's error says that there is no such file."""
    return error.errno in _MISSING


def is_damage(error: OSError) -> bool:
    """Whether a disk's error says that a file is missing or something else than it was: not that it may not be read."""
    return error.errno in (*_MISSING, *_OTHERWISE)


def unreadable(path: Path, error: OSError) -> StoreError:
    """The error for what may be sound, and cannot be read here or now."""
    return StoreError(
        f"cannot read {path}: {error.strerror or error}; nothing there was changed. See that this user may read it and "
        "that its disk is there, and repeat the command"
    )


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if there is no such folder.

    Raises:
        StoreError: it cannot be read here or now.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if is_gone(error):
            return []
        raise unreadable(Path(folder), error) from error


def size_of(path: str | Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    with contextlib.suppress(OSError):
        if not os.path.isdir(path):
            return os.stat(path).st_size
    return sum(sizes_in(path).values())


def sizes_in(folder: str | Path) -> dict[str, int]:
    """Bytes of each file in a folder, and of each folder in it, whose name gets a slash; of all that can be read."""
    sizes = {}
    with contextlib.suppress(OSError), os.scandir(folder) as inside:  # what is being written changes under our eyes
        for entry in inside:
            if entry.is_file():
                sizes[entry.name] = entry.stat().st_size
            elif entry.is_dir(follow_symlinks=False):
                sizes[f"{entry.name}/"] = sum(sizes_in(entry.path).values())
    return sizes
