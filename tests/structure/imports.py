"""The import rule over every import statement of the package; `python tests/structure/imports.py` says what breaks it.

A room is a folder, or a file at the top of the package. It imports from itself and from the rooms that `ROOMS` names
for it, which stand above it there; files import each other in no circle. Imports inside functions and under
`TYPE_CHECKING` count like any other, and no file is an exception.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

GROUND = "errors files reading options seeds versions progress"
_LANDSCAPE = f"{GROUND} weights evaluation result style analysis.paths analysis.connectivity training.stored"
ROOMS = {  # room: the rooms that it may import from
    "errors": "",
    **dict.fromkeys(("files", "reading", "options", "seeds", "versions", "progress"), "errors"),
    **dict.fromkeys(("data", "models", "weights"), GROUND),
    "evaluation": f"{GROUND} data",
    **dict.fromkeys(("tasks", "notebook", "style", "execution"), GROUND),
    "result": f"{GROUND} notebook",
    "analysis": "",
    "analysis.paths": f"{GROUND} weights evaluation",
    "pruning": f"{GROUND} weights evaluation",
    "training": f"{GROUND} data models weights evaluation execution tasks",
    "analysis.alignment": f"{GROUND} weights evaluation result analysis.paths",
    "analysis.connectivity": f"{GROUND} data weights evaluation result style analysis.paths analysis.alignment "
    "training.stored",
    "analysis.averaging": f"{GROUND} weights evaluation notebook result style analysis.paths analysis.connectivity "
    "training.stored training.trajectory",
    "analysis.landscape": _LANDSCAPE,
    "analysis.landscape.curves": f"{_LANDSCAPE} analysis.landscape training.content",
    "analysis.landscape.planes": f"{_LANDSCAPE} analysis.landscape execution training.trajectory training.content",
    "analysis.landscape.curvature": f"{_LANDSCAPE} analysis.landscape training.trajectory",
    "analysis.compare": f"{GROUND} weights evaluation result style analysis.paths analysis.connectivity",
    "analysis.instability": f"{GROUND} weights evaluation tasks result style execution analysis.paths "
    "analysis.alignment analysis.landscape.curvature training",
    "tickets": f"{GROUND} data weights evaluation tasks result style execution analysis.instability pruning training",
    "saved": f"{GROUND} result analysis.averaging analysis.compare analysis.connectivity analysis.instability "
    "analysis.landscape analysis.landscape.curves analysis.landscape.planes analysis.landscape.curvature tickets",
    "reproduce": f"{GROUND} tasks result style execution analysis.connectivity analysis.averaging analysis.compare "
    "analysis.landscape analysis.landscape.curves analysis.landscape.planes analysis.landscape.curvature "
    "analysis.instability tickets training saved",
}
# What people call stands above everything, so it may import anything, and nothing imports it.
FRONT = {"cli", "__init__", "__main__"}


@dataclass(frozen=True)
class Import:
    """One module that a file imports."""

    file: str  # its module's name within the package: `analysis.paths.barrier`
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def read_imports(package: Path) -> list[Import]:
    """Every import of one of the package's own modules by another, wherever the statement stands."""
    files = {_module(file, package): file for file in sorted(package.rglob("*.py"))}
    found = [one for name, file in files.items() for one in _imports(name, file, set(files), package.name)]
    return list(dict.fromkeys(found))


def upward(imports: list[Import]) -> list[Import]:
    """Those that the rule does not allow."""
    return [found for found in imports if not _allowed(found)]


def circles(imports: list[Import]) -> list[list[str]]:
    """Groups of files in which each imports each other one, directly or by others."""
    files = sorted({name for found in imports for name in (found.file, found.target)})
    arrows = np.zeros((len(files), len(files)), dtype=bool)
    for found in imports:
        arrows[files.index(found.file), files.index(found.target)] = True
    _, group = connected_components(arrows, connection="strong")
    groups = [[name for name, of in zip(files, group, strict=True) if of == number] for number in sorted(set(group))]
    return [names for names in groups if len(names) > 1]


def _allowed(found: Import) -> bool:
    room = _room(found.file)
    if room in FRONT:
        return True
    allowed = {room, *ROOMS.get(room, "").split()}  # a room that the rule does not name may import nothing
    return _room(found.target) in allowed or found.target in allowed  # a whole room, or one file of it


def _room(module: str) -> str:
    """The room of a module: the longest beginning of its name that the rule names."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROOMS or name in FRONT), parts[0])


def _module(file: Path, package: Path) -> str:
    parts = file.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports(name: str, file: Path, modules: set[str], package: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, file, package)
            # `from room import file` imports the file, `from room.file import name` the room's file.
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target == package or target.startswith(f"{package}."):
                yield Import(name, node.lineno, _known(target.removeprefix(package).strip("."), modules))


def _absolute(node: ast.ImportFrom, name: str, file: Path, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = [package, *name.split(".")] if file.stem == "__init__" else [package, *name.split(".")[:-1]]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _known(target: str, modules: set[str]) -> str:
    """The longest beginning of a dotted name that is a module; the package's front if none is."""
    parts = target.split(".") if target else []
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in modules), "__init__")


def main() -> int:
    """Print what breaks the rule; the number of breaks."""
    package = Path(__file__).resolve().parents[2] / "modeconn"
    imports = read_imports(package)
    breaks, around = upward(imports), circles(imports)
    for found in breaks:
        print(found)
    for names in around:
        print("a circle of", ", ".join(names))
    files = len({found.file for found in imports})
    print(f"{len(imports)} imports in {files} files: {len(breaks)} upward, {len(around)} circles")
    return len(breaks) + len(around)


if __name__ == "__main__":
    sys.exit(main())
