"""An exported ticket is loaded from what is in its folder, and has the test error that the folder states."""

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import loops
import modeconn
from loops import DATA, train
from modeconn import load_data, load_result
from modeconn.errors import DataError
from modeconn.tickets.export import Ticket, export_ticket
from modeconn.tickets.network_file import network_text

pytestmark = pytest.mark.slow  # whole studies

OPTIONS: dict[str, Any] = {"levels": 2, "replicates": 1, "barriers": [], "fix": False, "device": "cpu", "workers": 0}
CONDITIONS = ("imp", "reinit", "sign", "rewind0", "snip")


def network_of(folder: Path) -> ModuleType:
    """The module `network.py` of a folder, which is on nobody's path."""
    spec = importlib.util.spec_from_file_location("network_of_a_ticket", folder / "network.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def error(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """In one batch, and evaluation mode, by hand."""
    with torch.no_grad():
        return int((network.eval()(inputs).argmax(1) != labels).sum()) / len(labels)


def digits_error(ticket: Ticket, data_dir: Path) -> float:
    files = network_of(ticket.folder)
    test = load_data("digits", data_dir).test
    images = files.scale(test.images.read(torch.arange(len(test))))
    return error(files.load("trained.safetensors"), images, test.labels)


def check_pruned(ticket: Ticket) -> None:
    files = network_of(ticket.folder)
    for name in ("weights.safetensors", "trained.safetensors"):
        network = files.load(name)
        assert all(torch.equal(value, network.state_dict()[k]) for k, value in load_file(ticket.folder / name).items())
        assert not any(network.get_parameter(name)[~kept].any() for name, kept in files.load_mask().items())


def exported(folder: Path, condition: str, level: int = 2) -> Ticket:
    out = folder / f"{condition}-{level}"
    return export_ticket(folder / "out", out, level=level, condition=condition, store=folder / "store")


def test_tickets_of_a_task_have_the_test_error_that_is_stated(tmp_path, data_dir):
    where = {"store": tmp_path / "store", "out": tmp_path / "out", "data_dir": data_dir}
    modeconn.lottery("digits-conv", **OPTIONS, **where, iterations=20, rewind_iter=2, conditions=CONDITIONS, seed=3)
    rows = {(row["condition"], row["level"]): row for row in load_result(tmp_path / "out").rows}
    for condition in CONDITIONS:
        ticket = exported(tmp_path, condition)
        about = json.loads((ticket.folder / "ticket.json").read_text())
        assert about["builder"]["function"] == "modeconn.models:build_network"
        assert about["test_error"] == rows[condition, 2]["test_error"] == digits_error(ticket, data_dir)
        assert f"Test error after training: {100 * about['test_error']:.2f} %" in str(ticket)
        check_pruned(ticket)


@pytest.mark.parametrize("retrain", ["rate", "finetune"])
def test_the_trained_network_is_found_however_it_was_retrained(tmp_path, data_dir, retrain):
    where = {"store": tmp_path / "store", "out": tmp_path / "out", "data_dir": data_dir}
    options = OPTIONS | {"conditions": ["imp"], "retrain": retrain, "iterations": 20, "rewind_iter": 2}
    modeconn.lottery("digits-conv", **options, **where)
    for level in (1, 2):
        ticket = exported(tmp_path, "imp", level)
        assert ticket.about["test_error"] == digits_error(ticket, data_dir)


IMPORTED = """
import torch

def make(classes, hidden=12):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, hidden), torch.nn.ReLU(),
                               torch.nn.Linear(hidden, classes))
"""


def test_the_ticket_of_an_imported_network_names_its_factory(tmp_path, data_dir, monkeypatch):
    (tmp_path / "nets_of_a_ticket.py").write_text(IMPORTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = modeconn.get_task("digits-conv", model="nets_of_a_ticket:make", normalize="0.5,0.5")
    where = {"store": tmp_path / "store", "out": tmp_path / "out", "data_dir": data_dir}
    modeconn.lottery(task, **OPTIONS, **where, iterations=20, rewind_iter=0, conditions=["imp"])
    ticket = exported(tmp_path, "imp")
    assert ticket.about["builder"] == {"function": "nets_of_a_ticket:make", "arguments": {"classes": 10}}
    assert "modeconn" not in (ticket.folder / "network.py").read_text()
    assert (ticket.about["mean"], ticket.about["std"]) == ([0.5], [0.5])
    assert ticket.about["test_error"] == digits_error(ticket, data_dir)
    check_pruned(ticket)


def masked(state: dict, start: int, stop: int, seed: int, mask: Any = None) -> dict:
    later = train({name: value for name, value in state.items() if name != "seen"}, 0, stop - start, seed)
    if mask is not None:
        mask.apply(later["model"])
    return {"model": later["model"]}


def own(tmp_path: Path, init: Any) -> Ticket:
    where = {"store": tmp_path / "store", "out": tmp_path / "out"}
    options = OPTIONS | {"data": DATA, "iterations": 20, "rewind_iter": 5, "conditions": ["imp"]}
    modeconn.lottery("mine", train=masked, init=init, **options, **where)
    return exported(tmp_path, "imp")


def test_the_ticket_of_an_own_loop_names_the_function_that_made_its_network(tmp_path):
    ticket = own(tmp_path, loops.init)
    assert ticket.about["builder"] == {"function": "loops:init", "arguments": {"seed": 0}}
    assert sys.modules["loops"] is loops
    files = network_of(ticket.folder)
    assert not hasattr(files, "scale")
    assert ticket.about["test_error"] == error(files.load("trained.safetensors"), *DATA["test"])
    check_pruned(ticket)


def test_a_network_whose_function_has_no_path_is_exported_without(tmp_path):
    ticket = own(tmp_path, lambda seed: loops.init(seed))
    assert ticket.about["builder"] is None
    assert not (ticket.folder / "network.py").exists()
    assert "network.load_state_dict(load_file(" in str(ticket)
    network = loops.init(0)
    network.load_state_dict(load_file(ticket.folder / "trained.safetensors"))
    assert ticket.about["test_error"] == error(network, *DATA["test"])


TITLE = '"""\nimport os\n"""\\'


@pytest.mark.parametrize(
    "builder",
    [
        {"function": "os:system; print", "arguments": {}},
        {"function": "os", "arguments": {}},
        {"function": "nets:make", "arguments": {"classes=1); print(": 2}},
    ],
)
def test_no_code_but_a_call_is_taken_from_a_summary(builder):
    given: dict[str, Any] = {"iteration": 0, "weights": "w", "mask": "m", "trained": None, "test_error": 0.0}
    with pytest.raises(DataError, match="names no function"):
        network_text(builder, title="", mean=None, std=None, **given)
    text = network_text({"function": "a:b", "arguments": {}}, title=TITLE, mean=None, std=None, **given)
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node).split()[1] for node in imported] == ["pathlib", "torch", "safetensors.torch", "a"]
