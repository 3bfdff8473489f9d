"""`modeconn compare`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from trained import TEST, TRAIN, mlp, trained

from modeconn import load_result
from modeconn.cli.main import main


def make_net() -> nn.Module:
    return mlp(0)


def make_other() -> nn.Module:
    return nn.Linear(64, 10)


@pytest.fixture(scope="module")
def networks() -> dict[str, dict[str, torch.Tensor]]:
    c = trained(mlp(0), 0)
    made = {"c": c, "a": trained(c, 1, 50, 0.05), "b": trained(c, 2, 50, 0.05), "seed": trained(mlp(1), 1)}
    return {name: network.state_dict() for name, network in made.items()} | {"other": make_other().state_dict()}


@pytest.fixture
def folder(tmp_path, monkeypatch, networks) -> Path:
    """Networks and data in files, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for name, state in networks.items():
        save_file(state, f"{name}.safetensors")
    for name, (inputs, labels) in (("test", TEST), ("train", TRAIN)):
        np.savez(f"{name}.npz", inputs=inputs.numpy(), targets=labels.numpy())
    return tmp_path


PAIR = ["compare", "a.safetensors", "b.safetensors"]
SEEDS = ["compare", "c.safetensors", "seed.safetensors"]
DATA = ["--data", "test.npz", "--model", "test_compare:make_net"]


def test_files_alone_are_compared_without_a_model(folder, capsys):
    assert main([*PAIR, "--ancestor", "c.safetensors"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a.safetensors and b.safetensors: 6 tensors in common, 3,466 weights\n\nVerdict: unknown.")
    assert "Common ancestor? siblings: 3 of 3 matrices" in out
    assert "From the ancestor a.safetensors moved" in out
    assert list(folder.glob("modeconn-results*")) == []


def test_plot_draws_its_picture_again(folder, capsys):
    assert main([*PAIR, "--out", "out"]) == 0
    pictures = {path: path.read_bytes() for path in Path("out").glob("*.png")}
    for path in pictures:
        path.unlink()
    assert main(["plot", "out", "--level", "3"]) == 2
    assert "--level is for lottery tickets, and out holds none" in capsys.readouterr().err
    assert main(["plot", "out"]) == 0
    assert {path: path.read_bytes() for path in Path("out").glob("*.png")} == pictures != {}


def test_with_data_there_is_a_verdict_and_files(folder, capsys):
    assert main([*PAIR, *DATA, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "Verdict: average. The barrier at the midpoint is below 2 points (decided from" in out
    assert sorted(file.name for file in (folder / "out").iterdir()) == [
        f"compare.{end}" for end in ("csv", "json", "pdf", "png")
    ]
    result = load_result(folder / "out")
    assert str(result) in out
    assert result.verdict == "average"
    lines = (folder / "out" / "compare.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["name", *(row["name"] for row in result.rows())]


def test_what_removes_a_barrier_is_said(folder, capsys):
    command = [*SEEDS, *DATA, "--calibration", "train.npz", "--try-all"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Common ancestor? not siblings" in out
    assert [word for word in ("average ", "repair ", "align ", "align and repair ") if f"\n{word}" in out] == [
        "average ",
        "repair ",
        "align ",
        "align and repair ",
    ]
    assert "Verdict: average." not in out
    assert main([*SEEDS, *DATA, "--threshold", "99"]) == 0
    assert "Verdict: average. The barrier at the midpoint is below 99 points" in capsys.readouterr().out


def test_two_architectures_are_named_and_no_error(folder, capsys):
    command = ["compare", "a.safetensors", "other.safetensors", *DATA, "--out", "out"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Verdict: do not average." in out
    assert "  2.weight is only in a.safetensors\n" in out
    assert json.loads((folder / "out" / "compare.json").read_text())["verdict"] == "do not average"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (PAIR[:2], "give two networks; got 1"),
        ([*PAIR, "c.safetensors"], "give two networks; got 3"),
        ([*PAIR, *DATA[:2]], "give --model"),
        ([*PAIR, "--ancestor", "other.safetensors"], "the ancestor does not fit"),
        ([*PAIR, "--ancestor", "nowhere.safetensors"], "cannot read nowhere.safetensors"),
        ([*PAIR, *DATA, "--threshold", "0"], "--threshold is in percentage points, between 0 and 100; got 0"),
        ([*PAIR, "--normalize", "none"], "--normalize is for images"),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, command, said):
    assert main(command) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
