"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modeconn.errors import StoreError


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file under a temporary name in its folder, flush it to the disk, and rename it."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the file's folder; what was written there takes the file's place, unless there is an error.

    In the same folder, because a rename is atomic within one file system only.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{time.monotonic_ns()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk's errors into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left for {path}; what is finished is safe, free some and repeat") from error
        raise StoreError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
