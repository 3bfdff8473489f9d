import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

import modeconn
from modeconn import style, tasks
from modeconn.data import augment
from modeconn.models import MODEL_NAMES, build_network, layers
from modeconn.pruning import criteria
from modeconn.tickets import options as tickets
from modeconn.training.noise import Seeds

PACKAGE = Path(modeconn.__file__).parent


def test_every_public_name_is_there_and_no_other():
    for name in modeconn.__all__:
        assert getattr(modeconn, name) is not None
    assert len(modeconn.__all__) <= 36
    with pytest.raises(AttributeError, match="nobody"):
        _ = modeconn.nobody


def test_type_checkers_see_each_public_name_where_it_is():
    """The block for type checkers and the table of homes are two lists of the same."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == modeconn._HOMES


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


def test_what_a_lottery_study_offers_is_what_there_is():
    """`tickets.options` spells the criteria out for the same reason; random masks are a control there."""
    assert {*tickets.CRITERIA, "random"} == set(criteria.CRITERIA)
    assert set(tickets.CONDITIONS) <= set(style.CONDITIONS)  # each is drawn as itself


def test_every_named_network_can_be_built():
    named = [name for name in MODEL_NAMES if not name.startswith(("imagenet", "package"))]
    assert len(named) >= 9
    for name in named:
        norm = "layer" if name.startswith("vit") else "batch"
        assert build_network(name, (3, 32, 32), 10, seed=0, width=0.1, norm=norm)
    assert {task.model for task in tasks.PRESETS.values()} <= set(MODEL_NAMES)
