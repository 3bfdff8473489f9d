"""No import points upward, and no files import each other in a circle; planted ones are found."""

from pathlib import Path

import pytest

import modeconn
from imports import ROOMS, Import, circles, read_imports, upward

PACKAGE = Path(modeconn.__file__).parent
NUMPY = {"numpy", "numpy.typing", "math", "dataclasses", "functools", "itertools", "collections.abc", "typing"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two files that keep the rule."""
    root = tmp_path / "modeconn"
    for name, text in {
        "errors.py": "",
        "analysis/paths/linear.py": "from modeconn.errors import NetworkError\n",
        "analysis/connectivity/curve.py": "from modeconn.analysis.paths.linear import Line\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_import_of_the_package_keeps_the_rule():
    imports = read_imports(PACKAGE)
    assert len(imports) > 500
    assert [str(found) for found in upward(imports)] == []
    assert circles(imports) == []


def test_the_rule_itself_has_one_direction():
    """Every room is named after those that it may import from."""
    rooms = list(ROOMS)
    for room, below in ROOMS.items():
        for name in below.split():
            of_file = name if name in ROOMS else name.rpartition(".")[0]
            assert rooms.index(of_file) < rooms.index(room), f"{room} before {name}"


def test_what_keeps_the_rule_is_not_found(package):
    assert len(read_imports(package)) == 2
    assert upward(read_imports(package)) == circles(read_imports(package)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from modeconn.analysis.connectivity.curve import walk",
        "import modeconn.analysis.connectivity.curve",
        "from modeconn.analysis.connectivity import curve",
        "from ..connectivity import curve",
        "def load():\n    from modeconn.analysis.connectivity.curve import walk",
        "if TYPE_CHECKING:\n    from modeconn.analysis.connectivity.curve import walk",
    ],
)
def test_a_planted_import_is_found_upward_and_as_a_circle(package, statement):
    file = package / "analysis/paths/linear.py"
    file.write_text(f"{file.read_text()}{statement}\n")
    curve = "analysis.connectivity.curve"
    assert [found.target for found in upward(read_imports(package))] == [curve]
    assert circles(read_imports(package)) == [[curve, "analysis.paths.linear"]]


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("errors.py", "tasks"),  # a file at the top
        ("analysis/connectivity/curve.py", "training.trainer"),  # of training, `stored` alone
        ("pruning/masks.py", "execution.store"),
        ("somewhere/new.py", "errors"),  # a room that the rule does not name
        ("analysis/__init__.py", "analysis.paths.linear"),  # whoever imports from a room runs this first
        ("analysis/helpers.py", "analysis.connectivity.curve"),
        ("training/fork.py", "__init__"),  # the package's own front
    ],
)
def test_rooms_import_only_what_the_rule_names(package, file, target):
    for name in (file, f"{target.replace('.', '/')}.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    line = "from modeconn import train" if target == "__init__" else f"import modeconn.{target}"
    (package / file).write_text(f"{line}\n")
    name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    assert upward(read_imports(package)) == [Import(name, 1, target)]


@pytest.mark.parametrize("file", ["barrier", "confidence", "sequential"])
def test_the_definitions_need_numpy_alone(file):
    """And each other, and the errors: so they can be read, and copied, without PyTorch."""
    import ast

    tree = ast.parse((PACKAGE / "analysis" / "paths" / f"{file}.py").read_text())
    imports = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    ours = {"modeconn.errors", *(f"modeconn.analysis.paths.{name}" for name in ("barrier", "confidence", "sequential"))}
    assert imports <= NUMPY | ours
