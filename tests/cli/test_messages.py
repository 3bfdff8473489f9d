"""Messages name Python's arguments, and every argument that a command has is said by its option there."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeconn
from modeconn.cli.main import _parser
from modeconn.cli.options import as_options, flags_of

PACKAGE = Path(modeconn.__file__).parent
# Arguments of functions that no command offers, or words of others' that are written alike.
PYTHON_ONLY = {
    *("example", "examples", "executor", "forward", "inplace", "input_shape", "k", "layers", "loss", "mask", "names"),
    *("output", "pad", "products", "reference", "skip", "specification", "train"),
    *("fan_in_fan_out", "init_lora_weights"),  # of PEFT
}
# These are of other programs, of a command alone, or its own words.
SPEAKS_OF_OPTIONS = {"versions.py", "execution/dask_engine.py", "reproduce/ledger.py"}


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in _parser([])._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def texts() -> Iterator[tuple[str, str]]:
    """Every piece of text in the package besides docstrings, HTML, and the command line's own, with its place."""
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        if place.startswith("cli/") or place == "notebook.py":
            continue
        tree = ast.parse(file.read_text())
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
                yield f"{place}:{node.lineno}", node.value


def test_every_argument_in_a_message_is_an_option_of_a_command_or_of_python_alone():
    known = PYTHON_ONLY.union(*map(flags_of, commands().values()))
    named = {word: place for place, text in texts() for word in re.findall(r"(?<![\w.{'-])([a-z][a-z_]*)=(?!=)", text)}
    assert {word: place for word, place in named.items() if word not in known} == {}
    assert {"model", "data", "batch_size", "rewind_iter"} <= named.keys()


def test_only_the_command_line_speaks_of_options():
    found = [place for place, text in texts() if re.search(r"(?<![\w-])--[a-z]{2,}", text)]
    assert [place for place in found if place.partition(":")[0] not in SPEAKS_OF_OPTIONS] == []


@pytest.mark.parametrize("command", sorted(commands()))
def test_all_arguments_of_a_command_become_its_options(command):
    flags = flags_of(commands()[command])
    said = as_options(" ".join(f"{name}=" for name in flags), flags).split()
    assert said == list(flags.values())
    for name in (name for name in flags if "_" in name):
        assert as_options(f"so {name} is that", flags) == f"so {flags[name]} is that"
        for other in (f"./{name}/x", f"{name}.pt", f"'{name}'", f"my_{name}"):  # files, names in quotes, longer words
            assert as_options(other, flags) == other


def test_a_field_of_a_task_is_its_option_unless_the_study_has_one_of_that_name():
    flags = flags_of(commands()["lottery"])
    assert flags["batch_size"] == "--task.batch-size"
    assert flags["iterations"] == "--iterations"
    assert flags["seed"] == "--seed"


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ('choose batchnorm="interpolate"', "choose --batchnorm interpolate"),
        ("retrain='rate' goes on", "--retrain rate goes on"),
        ("say higher_is_better=False", "say --higher-is-better none"),
        ("measure with predictions=True", "measure with --predictions"),
        ("give rewind_iter=K, or rewind_iters=.", "give --rewind-iter K, or --rewind-iters."),
        ("a barrier of alphas must be", "a barrier of alphas must be"),
        ("alphas must be a count", "--alphas must be a count"),
    ],
)
def test_values_go_with_their_options(python, shell):
    flags = flags_of(commands()["barrier"]) | flags_of(commands()["lottery"])
    assert as_options(python, flags) == shell
