"""The files around the package say the same as the package."""

import pkgutil
import re
import tomllib
from pathlib import Path

import modeconn
from modeconn.execution.names import SCHEMA

ROOT = Path(__file__).parents[1]
PACKAGE = Path(modeconn.__file__).parent


def test_there_is_one_version():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == modeconn.__version__


def test_the_changelog_says_the_schema_of_stores_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^\| {re.escape(modeconn.__version__)} \| {SCHEMA} \|", changelog, re.M)
    assert changelog.index("## [Unreleased]") < changelog.index("## [0.1.0]")


def test_the_console_script_is_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["modeconn"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_links_between_the_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_dotted_names_in_pages_and_docstrings_lead_somewhere():
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *PACKAGE.rglob("*.py"),
    ]
    names = {name for page in pages for name in re.findall(r"\bmodeconn(?:\.[A-Za-z_]\w*)+", page.read_text())}
    assert len(names) > 100
    assert [name for name in sorted(names) if not _exists(name)] == []


def _exists(name: str) -> bool:
    try:
        return pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError):
        return False
