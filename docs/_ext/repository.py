"""Pages that are files of the repository, links to its files, and how the gallery runs its scripts.

Links between pages are relative paths that also work where the repository is browsed. What lies outside of `docs/`
leads to its page here if it has one, or else to a copy of the file.
"""

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
# Pages whose text is a file elsewhere; the file in docs/ only says which.
PAGES = {
    "ledger": "figures/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "benchmarks": "benchmarks/README.md",
}
_BY_FILE = {path: page for page, path in PAGES.items()} | {"README.md": "index"}
# The gallery's scripts in the order in which they are read.
GALLERY = (
    "first_study",
    "two_networks",
    "average_these_two",
    "many_networks",
    "align_two",
    "plane_of_three",
    "own_training_loop",
    "trainers",
    "lottery_tickets",
    "reproduce_a_figure",
    "on_a_cluster",
    "on_a_gpu",
)
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the build."""
    app.connect("source-read", _read_page)
    app.connect("doctree-resolved", _show_pictures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put the repository's file in the place of its page, and make links out of docs/ lead to what is built."""
    if app.env.doc2path(docname).suffix != ".md":
        return
    path = PAGES.get(docname)
    if path is not None:
        app.env.note_dependency(str(ROOT / path))
        content[0] = (ROOT / path).read_text()
    here = posixpath.dirname(path or f"docs/{docname}")
    page = posixpath.dirname(f"docs/{docname}")
    content[0] = _outside_of_code(content[0], lambda text: _LINK.sub(lambda link: _rewritten(link, here, page), text))


def _outside_of_code(text: str, change: Any) -> str:
    """A page with what is outside of fenced code changed."""
    parts = re.split(r"(^```.*?^```$|^~~~.*?^~~~$)", text, flags=re.M | re.S)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def _rewritten(link: re.Match[str], here: str, page: str) -> str:
    """A link of a file in folder `here`, as it must stand on a page in folder `page`."""
    opening, target, closing = link.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path or target.startswith("mailto:"):
        return link[0]
    full = posixpath.normpath(posixpath.join(here, path))
    if (ROOT / full).is_dir():
        full = _best_file(full)
    if full in _BY_FILE:
        full = f"docs/{_BY_FILE[full]}.md"
    elif posixpath.dirname(full) == "examples/gallery" and full.endswith(".py"):
        full = f"docs/gallery/{Path(full).stem}.rst"
    return opening + posixpath.relpath(full, page) + (f"#{anchor}" if anchor else "") + closing


def _best_file(folder: str) -> str:
    """The file of a folder that stands for it: a page, a study's picture, or its summary."""
    for name in ("README.md", "instability.png", "lottery.png", "summary.json", "about.json"):
        if (ROOT / folder / name).exists():
            return f"{folder}/{name}"
    raise FileNotFoundError(f"{folder} has no file to link to")


def _show_pictures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let links to files show them, instead of saving them."""
    if app.builder.format != "html":
        return
    up = "../" * docname.count("/")
    for node in list(doctree.findall(addnodes.download_reference)):
        if "filename" in node:
            shown = nodes.reference("", "", *node.children, internal=True, refuri=f"{up}_downloads/{node['filename']}")
            node.replace_self(shown)


# --- the gallery


class GalleryOrder:
    """The order of `GALLERY`, as sphinx-gallery asks for it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        """What files are sorted by."""
        return GALLERY.index(name.removesuffix(".py"))


def fresh_store(conf: dict[str, Any], name: str, when: str) -> None:
    """Remove what a script of the gallery left in its folder, so that every build computes anew."""
    for folder in ("modeconn-store", "modeconn-results"):
        shutil.rmtree(ROOT / "examples" / "gallery" / folder, ignore_errors=True)
