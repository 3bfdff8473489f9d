import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

import modeconn
from modeconn import tasks
from modeconn.data import augment
from modeconn.models import layers
from modeconn.training.noise import Seeds

PACKAGE = Path(modeconn.__file__).parent
# A room may import from those below it and from itself; the files at the top are for all.
BELOW = {
    "data": set(),
    "models": set(),
    "execution": set(),
    "evaluation": {"models"},
    "training": {"data", "models", "execution", "evaluation"},
    "analysis": {"models", "execution", "evaluation"},
    "plots": {"analysis", "execution", "pruning"},
    "pruning": {"data", "models", "execution", "evaluation", "training", "analysis"},
}
TOP = {"errors", "tasks"}
KNOW_TRAINING = {"collect.py", "instability.py", "jobs.py", "stored.py", "study.py"}  # the study of instability


def test_every_public_name_is_there_and_no_other():
    for name in modeconn.__all__:
        assert getattr(modeconn, name) is not None
    assert len(modeconn.__all__) <= 20
    with pytest.raises(AttributeError, match="nobody"):
        _ = modeconn.nobody


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*/*.py")), ids=lambda f: f"{f.parent.name}/{f.name}")
def test_imports_point_one_way(file):
    room = file.parent.name
    allowed = {room, *BELOW[room], *TOP}
    if room == "analysis" and file.name in KNOW_TRAINING:
        allowed |= {"training", "data"}
    found = set()
    for node in ast.parse(file.read_text()).body:  # at the top of the file: what it needs to exist
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("modeconn."):
            found.add(node.module.split(".")[1])
    assert found <= allowed
    if room == "analysis":
        assert ("training" in found) == (file.name in KNOW_TRAINING)


@pytest.mark.parametrize(
    ("file", "ours"), [("barrier", set()), ("statistics", {"modeconn.analysis.paths.barrier", "modeconn.errors"})]
)
def test_the_barrier_and_its_statistics_need_numpy_alone(file, ours):
    tree = ast.parse((PACKAGE / "analysis" / f"{file}.py").read_text())
    imports = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert imports <= {"numpy", "numpy.typing", "dataclasses", "collections.abc"} | ours


def test_every_module_imports():
    for file in PACKAGE.rglob("*.py"):
        if file.name != "__main__.py":
            name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
            importlib.import_module(name)


def test_what_a_task_offers_is_what_there_is():
    """`tasks` spells names out, because help must not import torch; the rooms have them too."""
    assert set(tasks.NORMS) == set(layers.NORMS)
    assert set(tasks.INITS) == set(layers.INITS)
    assert set(tasks.AUGMENTATIONS) == set(augment._DRAWS)
    assert set(tasks.NOISE_SOURCES) == {entry.name for entry in dataclasses.fields(Seeds)}
