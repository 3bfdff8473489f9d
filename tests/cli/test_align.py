"""`modeconn align`, and `modeconn barrier --align`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modeconn import Barrier, align, error_barrier, load_alignment
from modeconn.cli.main import main


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def make_other() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))


def make_tied() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs[:, 0] > 0).long()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three networks in files, a in another order, data in an .npz, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for seed, name in enumerate("abc"):
        save_file(network(seed).state_dict(), f"{name}.safetensors")
    found = align(network(0), network(0), tries=1)
    order = found.symmetry.random(np.random.default_rng(0))
    save_file(replace(found, permutations=order).apply(network(0)).state_dict(), "a-shuffled.safetensors")
    inputs, labels = data()
    np.savez("test.npz", inputs=inputs.numpy(), targets=labels.numpy())
    return tmp_path


PAIR = ["a.safetensors", "b.safetensors", "--model", "test_align:make_net"]
DATA = ["--data", "test.npz"]


def test_the_second_network_is_written_in_the_order_of_the_first(folder, capsys):
    assert main(["align", *PAIR, "--out", "c.safetensors", "--save", "found.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "b.safetensors aligned to a.safetensors by weight matching: 1 group of 8 units" in out
    assert out.endswith("Weights: c.safetensors\nAlignment: found.safetensors\n")
    expected = align(network(0), network(1))
    written = load_file("c.safetensors")
    assert all(torch.equal(tensor, written[name]) for name, tensor in expected.apply(network(1)).state_dict().items())
    assert np.array_equal(load_alignment("found.safetensors").permutations[0], expected.permutations[0])


def test_a_network_in_another_order_comes_back_as_it_was(folder):
    command = ["align", "a.safetensors", "a-shuffled.safetensors", "--model", "test_align:make_net"]
    assert main([*command, "--tries", "2", "--double"]) == 0
    back, a = load_file("aligned.safetensors"), load_file("a.safetensors")
    assert all(torch.equal(tensor, back[name]) for name, tensor in a.items())


def test_the_groups_alone_are_printed_of_one_network_or_two(folder, capsys):
    for networks in (PAIR, [PAIR[0], *PAIR[2:]]):
        assert main(["align", *networks, "--groups"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[0].split() == ["group", "units", "in", "blocks", "of", "axes"]
        assert "0.weight[0], 0.bias[0], 2.weight[1]" in out
        assert not (folder / "aligned.safetensors").exists()


def test_a_saved_alignment_is_applied_to_another_file(folder, capsys):
    assert main(["align", *PAIR, "--save", "found.safetensors"]) == 0
    assert main(["align", "c.safetensors", "--apply", "found.safetensors", "--out", "moved.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "c.safetensors in the order of a.safetensors, as found.safetensors says\nWeights: moved.safetensors" in out
    expected = load_alignment("found.safetensors").apply(network(2)).state_dict()
    written = load_file("moved.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in expected.items())


def test_tied_tensors_are_written_once(folder):
    save_file({name: t.clone() for name, t in make_tied().state_dict().items() if name != "2.weight"}, "t.safetensors")
    torch.save(make_tied().state_dict(), "t.pt")
    assert main(["align", "t.pt", "t.pt", "--model", "test_align:make_tied"]) == 0
    assert sorted(load_file("aligned.safetensors")) == ["0.bias", "0.weight", "2.bias"]


def test_a_barrier_has_both_paths_in_its_files(folder, capsys):
    assert main(["barrier", *PAIR, *DATA, "--alphas", "3", "--align", "weights", "--out", "out"]) == 0
    assert "before alignment, and" in capsys.readouterr().out
    result = Barrier.from_json(folder / "out" / "barrier.json")
    expected = error_barrier(network(0), network(1), data(), alphas=3, align="weights")
    assert np.array_equal(result.loss, expected.loss)
    assert np.array_equal(result.unaligned.loss, expected.unaligned.loss)
    lines = (folder / "out" / "barrier.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["path"] + ["unaligned"] * 3 + ["aligned"] * 3


def test_a_saved_alignment_gives_the_same_barrier(folder, capsys):
    assert main(["align", *PAIR, "--save", "found.safetensors"]) == 0
    for how, out in (("weights", "one"), ("found.safetensors", "other")):
        assert main(["barrier", *PAIR, *DATA, "--alphas", "3", "--align", how, "--out", out]) == 0
    one, other = (Barrier.from_json(folder / out / "barrier.json") for out in ("one", "other"))
    assert np.array_equal(one.loss, other.loss)


def test_a_matrix_has_both_figures(folder):
    more = [*DATA, "--alphas", "3", "--align", "weights", "--out", "out"]
    assert main(["barrier", "c.safetensors", *PAIR, *more]) == 0
    files = {file.name for file in (folder / "out").iterdir()}
    assert {"matrix.json", "matrix.csv", "matrix.png", "matrix-unaligned.png"} <= files


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["align", PAIR[0], *PAIR[2:]], "give two networks"),
        (["align", *PAIR, "--method", "wieghts"], "unknown method of alignment 'wieghts'; did you mean 'weights'"),
        (["align", *PAIR, "--method", "activations"], "alignment by activations needs data; give --data"),
        (["align", *PAIR, "--tries", "0"], "at least one try"),
        (["align", *PAIR, "--apply", "c.safetensors"], "--apply takes one network"),
        (["align", PAIR[0], "--apply", "c.safetensors"], "c.safetensors is no alignment that can be read"),
        (["align", *PAIR[:2]], "give --model"),
        (["align", *PAIR[:2], "--model", "test_align:make_other"], "0.weight is"),
        (["align", *PAIR[:2], "--model", "resnet-20"], "the shape of network resnet-20 follows from"),
        (["align", *PAIR, "--out", "b.safetensors/c"], "cannot write"),
        (["barrier", *PAIR, *DATA, "--align", "wieghts"], "unknown method of alignment 'wieghts'"),
        (["barrier", *PAIR, *DATA, "--align", "c.safetensors"], "no alignment that can be read"),
        (["barrier", *PAIR, *DATA, "--align", "weights", "--features"], "--layerwise and --features compare networks"),
    ],
)
def test_bad_input_is_said_in_a_sentence(folder, capsys, command, said):
    assert main(command) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
