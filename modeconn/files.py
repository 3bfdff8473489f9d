"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modeconn.errors import StoreError


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Write to a temporary name in the same folder, flush to the disk, rename."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{time.monotonic_ns()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left for {path}; what is finished is safe, free some and repeat") from error
        raise StoreError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
