"""Arrays in an `.npz` of anyone's: each checked against its header and the file before it is read."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from modeconn.errors import DataError
from modeconn.reading import open_file, require_room

_KINDS = "biufcSU"  # of dtypes that are read: numbers and texts


def names_in_npz(path: str | Path) -> list[str]:
    """Names of the arrays in an `.npz`.

    Raises:
        DataError: it is missing, or is no `.npz`.
    """
    return list(read_npz(path, ()))


def read_npz(path: str | Path, wanted: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of an `.npz`, in the machine's byte order.

    Nothing is unpickled, and nothing allocated before a header is shown to fit its file: a shape must be that of the
    bytes there are, and packed arrays may unpack to 256 MB, or to 200 times the file's size if that is more.

    Args:
        path: the file.
        wanted: names of the arrays to read; all if None. Others are listed, and empty.

    Raises:
        DataError: it is missing, damaged, encrypted or no `.npz`, or has an array that cannot be read; says which.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise ValueError("two of its arrays have one name")
            size = file.seek(0, 2)
            chosen = set(names if wanted is None else wanted)
            parts = [member for name, member in zip(names, members, strict=True) if name in chosen]
            require_room(sum(part.file_size for part in parts), size)
            empty = np.empty(0)
            return {
                name: _read(archive, member, name) if name in chosen else empty
                for name, member in zip(names, members, strict=True)
            }
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile, zlib, lzma and NumPy's parser raise a dozen kinds on what is damaged
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read, it is damaged or no .npz ({reason}); write it again") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream, name)
        if dtype.kind not in _KINDS or dtype.subdtype:
            raise ValueError(f"{name} is of {dtype}, neither numbers nor text")
        if min(shape, default=0) < 0:
            raise ValueError(f"{name} has the shape {list(shape)}")
        size = math.prod(shape) * dtype.itemsize
        if size > member.file_size:
            raise ValueError(f"{name} has {member.file_size:,} bytes, and by its header {size:,}")
        values = np.empty(math.prod(shape), dtype)
        content, read = values.view(np.uint8).data if size else memoryview(b""), 0
        while read < size and (more := stream.readinto(content[read:])):  # type: ignore[attr-defined]
            read += more
        if read < size or stream.read(1):  # to the end, where zipfile compares the checksum
            raise ValueError(f"{name} has other than the {size:,} bytes of its header")
    return values.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), copy=False)


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the format")
    return readers[version](stream)
