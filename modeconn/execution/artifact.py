"""An artifact: files that were written together, and the listing with their hashes that makes them count."""

import hashlib
import json
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from modeconn.errors import CorruptArtifact
from modeconn.files import is_damage, unreadable
from modeconn.reading import open_file, parse_json, read_file

SEAL = "sha256"  # the key of the hash that a JSON file has over itself


class _Facts(TypedDict, total=False):
    """What is shown of an artifact's facts, as far as it is there."""

    label: str
    prefix: str
    iteration: int
    diverged_at: int | None


class _Listing(TypedDict):
    """The content of done.json and partial.json."""

    files: dict[str, str]
    facts: _Facts


@dataclass(frozen=True)
class Artifact:
    """Files that were written together, with their hashes.

    Attributes:
        facts: what is known of it besides its files, such as where a run diverged, as JSON.
    """

    name: str
    folder: Path
    hashes: dict[str, str]
    facts: dict[str, Any]

    def read(self, file: str) -> bytes:
        """A file's bytes.

        Raises:
            CorruptArtifact: they are not those that were written.
            StoreError: they cannot be read here or now.
        """
        if file not in self.hashes:
            raise CorruptArtifact(self.name, f"it has no file {file}")
        try:
            with open_file(self.folder / file) as stream:
                content = stream.read()
        except OSError as error:
            if not is_damage(error):
                raise unreadable(self.folder / file, error) from error
            raise CorruptArtifact(self.name, f"{file} cannot be read ({error})") from error
        if hashlib.sha256(content).hexdigest() != self.hashes[file]:
            raise CorruptArtifact(self.name, f"{file} does not have the hash it was written with")
        return content

    def json(self, file: str) -> Any:
        """A JSON file's content."""
        try:
            return parse_json(self.read(file), bare=True)
        except ValueError as error:
            raise CorruptArtifact(self.name, f"{file} is no JSON that can be read ({error})") from error

    def verify(self) -> None:
        """Read and check every file."""
        for file in self.hashes:
            self.read(file)


def find_listed(folder: Path, listing: str, seen: Collection[str]) -> tuple[Artifact | None, list[str]]:
    """The artifact that a listing describes, None if there is no listing; and which files are missing or unreadable."""
    try:
        found = read_file(f"{folder}/{listing}")
        content = parse_json(found, _Listing)
        if strange := [name for name in content["files"] if not is_file_name(name)]:
            raise ValueError(f"it lists {strange[0]!r}, which no file in a folder is called")
        if not is_sealed(found, content):
            raise ValueError("it does not have the hash it was written with")
        artifact = Artifact(folder.name, folder, dict(content["files"]), dict(content["facts"]))
        return artifact, [name for name in artifact.hashes if name not in seen and not _is_there(f"{folder}/{name}")]
    except FileNotFoundError:
        return None, []
    except OSError as error:
        if not is_damage(error):
            raise
        return None, [f"{listing} ({error})"]
    except (ValueError, KeyError, TypeError) as error:
        return None, [f"{listing} ({error})"]


def is_file_name(name: str) -> bool:
    """Whether something in a folder can be called so: a file by another hand may name what is elsewhere."""
    return "/" not in name and "\0" not in name and name not in ("", ".", "..")


def sealed(content: dict[str, Any]) -> bytes:
    """JSON text of an object with a hash over all of it: facts, such as where a run diverged, are results too."""
    return dump(content | {SEAL: hashlib.sha256(dump(content)).hexdigest()})


def is_sealed(text: bytes, content: dict[str, Any]) -> bool:
    """Whether an object that was read from a JSON text has the hash that `sealed` gave it."""
    given = content.get(SEAL)
    # As it was written, the text without the hash is what was hashed, which saves writing it again.
    without = text.replace(f',\n "{SEAL}": "{given}"'.encode(), b"")
    if hashlib.sha256(without).hexdigest() == given:
        return True
    rest = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(dump(rest)).hexdigest() == given


def dump(content: dict[str, Any]) -> bytes:
    """JSON text as stores have it."""
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _is_there(file: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except OSError as error:
        if not is_damage(error):
            raise
        return False
