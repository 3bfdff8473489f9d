"""The site says what the code has: names, options, columns, keys; and its pages lead to each other."""

import csv
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from modeconn import Barrier, Run

pytest.importorskip("sphinx")
import command_line
import file_formats
import public_names
import repository
from column_meanings import MEANINGS
from imports import ROOMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {"gallery/index", "reference/names/index", "reference/commands/index"}
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "gallery"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    links = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert [target for target in links if not (page.parent / target).exists()] == []
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?/([^`>]+)>?`", text):  # what is generated, or a page
        named = target in GENERATED or target.removeprefix("gallery/") in repository.GALLERY
        assert named or (DOCS / f"{target}.md").exists(), target


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"^[\w/-]+$", "\n".join(re.findall(r"```\{toctree\}(.*?)```", _front(), re.S)), re.M)
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES}
    assert set(listed) == (pages | GENERATED) - {"index"}
    assert len(set(listed)) == len(listed)


def _front():
    return (DOCS / "index.md").read_text()


def test_the_table_of_rooms_has_every_room():
    page = (DOCS / "rooms.md").read_text()
    named = [name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([^`]+)`", row)]
    folders = {name.rstrip("/").replace("/", ".") for name in named} - {"cli"}
    assert folders == {".".join(room.split(".")[:2]) for room in ROOMS} - {"analysis"}


def test_a_page_that_is_a_file_elsewhere_says_so():
    for page, path in repository.PAGES.items():
        assert f"](../{path})" in (DOCS / f"{page}.md").read_text()


def test_links_out_of_the_pages_lead_to_pages_and_files():
    link = lambda target, here="docs", page="docs": repository._LINK.sub(  # noqa: E731
        lambda found: repository._rewritten(found, here, page), f"[x]({target})"
    )
    assert link("../figures/README.md#a") == "[x](ledger.md#a)"
    assert link("../CONTRIBUTING.md", "docs/start", "docs/start") == "[x](../CONTRIBUTING.md)"  # there is none of it
    assert link("../../CONTRIBUTING.md", "docs/start", "docs/start") == "[x](../contributing.md)"
    assert link("../examples/gallery/on_a_gpu.py") == "[x](gallery/on_a_gpu.rst)"
    assert link("store.md") == "[x](store.md)"
    assert link("https://example.org/a") == "[x](https://example.org/a)"
    assert link("lmc2020-figure-3/x.png", "figures") == "[x](../figures/lmc2020-figure-3/x.png)"
    assert link("studies/lottery-mnist-lenet", "figures") == "[x](../figures/studies/lottery-mnist-lenet/lottery.png)"


# --- the reference


def test_every_public_name_has_a_page_under_a_heading_of_its_own():
    pages = public_names.pages()
    assert set(pages) == {*public_names.public_names(), "index"}
    last = list(public_names.GROUPS.values())[-1]
    others = {name for name in public_names.public_names() if public_names.group_of(name) == last}
    assert not {name for name in others if "analysis" in public_names.modeconn._HOMES[name]}
    for name in public_names.public_names():
        assert f":doc:`{name}`" in pages["index"]


def test_docstrings_become_text_whose_code_is_code():
    assert public_names._marked("`a`, `b\n   c`s of |x| or y_") == r"``a``, ``b c``\ s of \|x\| or y\_"
    assert public_names._marked("as in `modeconn.train`") == "as in :py:obj:`modeconn.train`"
    lines = ["See `a`.", "", ">>> f('`a`')", "'`a`'", "", "Then `b`."]
    public_names._as_text(None, "function", "", None, None, lines)
    assert lines[:6] == ["See ``a``.", "", ">>> f('`a`')", "'`a`'", "", "Then ``b``."]


def test_every_command_has_a_page_with_all_its_options():
    commands = command_line.commands()
    assert {"instability", "lottery", "barrier", "compare", "runs"} <= set(commands)
    for name, (text, parser) in commands.items():
        page = command_line._page(name, parser)
        flags = [flag for action in parser._actions for flag in action.option_strings]
        assert [flag for flag in flags if flag not in page and flag not in ("-h", "--help")] == []
        assert text
        assert "%(" not in page


# --- files


def test_every_column_has_a_meaning_and_every_meaning_a_column():
    columns = {name for names in file_formats.csv_columns().values() for name in names}
    assert columns == set(MEANINGS)


def test_committed_studies_have_these_columns_and_the_page_has_these_files():
    known = file_formats.csv_columns()
    page = (DOCS / "reference" / "files.md").read_text()
    assert set(re.findall(r"\{columns\} (.*)", page)) == set(known)
    summaries = {name for name in file_formats.json_schemas() if name.startswith("summary.json")}
    assert set(re.findall(r"\{json-keys\} (.*)", page)) == summaries
    found = list((ROOT / "figures" / "studies").rglob("*.csv"))
    assert len(found) > 5
    for path in found:
        name = path.name
        if name == "paths.csv" and (path.parent / "lottery.csv").exists():
            name = "paths.csv of a lottery"
        with open(path, newline="") as file:
            assert set(next(csv.reader(file))) <= set(known[name])


def test_results_have_the_keys_of_the_table():
    content = json.loads((DOCS / "concepts" / "two_networks.json").read_text())
    keys = dict(file_formats.keys_of(file_formats.json_schemas()[content.pop("format")]))
    beside = set(content) - {key.partition(".")[0] for key in keys}
    page = (DOCS / "reference" / "files.md").read_text()
    assert beside == {key for key in beside if f"`{key}`" in page}  # for other readers
    needed = {key for key, words in keys.items() if "." not in key and "may be missing" not in words}
    assert needed <= set(content)
    assert keys["alphas"] == "list: number"
    assert keys["samples.NAME.counts.zlib"] == "text"
    assert keys["decided"] == "object, may be missing"


@pytest.mark.slow
def test_a_store_has_the_layout_of_its_page(runs: tuple[Run, Run]):
    rows = re.findall(r"^\| ((?:`[^|]*)) \|", (DOCS / "store.md").read_text().partition("**Names.**")[0], re.M)
    patterns = ["runs/*/*" if "safetensors" in row else row.strip("`").replace("NAME", "*") for row in rows]
    assert {"store.json", "runs/*/spec.json", "runs/*/done.json", "locks/*"} <= set(patterns)
    store = runs[0].folders[8].parents[1]
    paths = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    assert len(paths) > 5
    assert [path for path in paths if not any(fnmatch(path, pattern) for pattern in patterns)] == []


# --- the README and the gallery


def test_the_readme_prints_what_its_example_gave():
    result = Barrier.from_json(DOCS / "concepts" / "two_networks.json")
    assert f"```\n{result}\n```" in (ROOT / "README.md").read_text(), "print it again: docs/concepts/two_networks.json"


def test_the_gallery_has_an_order_and_every_script_a_title():
    scripts = {path.stem: path.read_text() for path in (ROOT / "examples" / "gallery").glob("*.py")}
    assert sorted(scripts) == sorted(repository.GALLERY)
    for name, text in scripts.items():
        title, line = text.splitlines()[1:3]
        assert line == "=" * len(title), name
        for picture in re.findall(r"figure:: (\S+)|thumbnail_path = '(\S+)'", text):
            path = DOCS / "gallery" / picture[0] if picture[0] else DOCS / picture[1]
            assert Path(*path.parts).resolve().exists(), f"{name}: {path}"


@pytest.mark.slow
@pytest.mark.processes
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "plot_gallery=0"]
    built = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", DOCS, tmp_path / "site"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "reference" / "names" / "error_barrier.html").read_text()
    assert "Entezari et al. 2022" in page
    ledger = (tmp_path / "site" / "ledger.html").read_text()
    pictures = re.findall(r'href="(_downloads/[^"]*digits-conv-paper\.png)"', ledger)
    assert pictures
    assert all((tmp_path / "site" / picture).exists() for picture in pictures)
    assert not re.search(r'(src|href)="https?://[^"]*\.(js|css|woff2?)', page)  # nothing is loaded from elsewhere
