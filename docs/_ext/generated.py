"""Pages that are made when the site is built, in folders that git ignores."""

from collections.abc import Mapping
from pathlib import Path


def write_pages(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the pages into a folder, by their names, and remove those that are gone.

    What is unchanged is not written, so that Sphinx does not read it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.rst"):
        if path.stem not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def title(text: str, line: str) -> str:
    """A heading, underlined with a character."""
    return f"{text}\n{line * len(text)}\n"
