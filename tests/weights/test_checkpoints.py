"""Checkpoints on disk: files of both kinds, Hugging Face folders, damage, and what would run code."""

import argparse
import datetime
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import prune

from modeconn.analysis.paths.linear import load_weights
from modeconn.errors import NetworkError
from modeconn.weights.checkpoints import network_of_folder
from modeconn.weights.names import match_names
from modeconn.weights.offline import offline
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights

pytestmark = pytest.mark.slow  # whole trainings and commands


def _state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "0.weight": torch.randn(64, 32, generator=generator),
        "0.bias": torch.randn(64, generator=generator).bfloat16(),
        "1.half": torch.randn(3, generator=generator).half(),
        "1.double": torch.randn(2, 2, generator=generator).double(),
        "1.phase": torch.randn(3, dtype=torch.complex64, generator=generator),
        "1.count": torch.tensor(7),
        "1.small": torch.arange(5, dtype=torch.int8),
        "1.bytes": torch.arange(5, dtype=torch.uint8),
        "1.on": torch.tensor([True, False]),
        "1.none": torch.zeros(0, 3),
    }


def _save_older(state: Any, path: Path) -> None:
    """As before PyTorch 1.6."""
    torch.save(state, path, _use_new_zipfile_serialization=False)


SAVERS: dict[str, Callable[[Any, Path], None]] = {"safetensors": save_file, "zip": torch.save, "older": _save_older}
each_format = pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())


def _same(weights: Weights, entries: dict[str, Tensor]) -> bool:
    return weights.layout.keys() == entries.keys() and all(
        weights.layout[name].is_meta
        and weights.layout[name].shape == tensor.shape
        and weights.layout[name].dtype == weights.read(name).dtype == tensor.dtype
        and torch.equal(weights.read(name).view(torch.uint8), tensor.view(torch.uint8))
        if tensor.dim() and tensor.numel()
        else torch.equal(weights.read(name), tensor)
        for name, tensor in entries.items()
    )


# --- files


@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "zip"])
def test_newer_types_are_read(save: Callable, tmp_path: Path) -> None:
    types = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
    state = {str(dtype): torch.arange(4.0).to(dtype) for dtype in types}
    save(state, tmp_path / "x")
    assert _same(weights_of(tmp_path / "x", "a"), state)


@each_format
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin", "", ".weights"])
def test_a_file_is_read_by_its_content_whatever_its_name(save: Callable, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"network{suffix}"
    save(_state(), path)
    for source in (path, str(path)):
        assert _same(weights_of(source, "a"), _state())


def test_a_lightning_checkpoint_is_read_by_its_state_dict(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    saved = {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5",
        "state_dict": {f"model.{name}": tensor for name, tensor in net.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [torch.optim.Adam(net.parameters()).state_dict()],
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(saved, tmp_path / "last.ckpt")
    weights = match_names(weights_of(tmp_path / "last.ckpt", "a"), net, "a")
    assert _same(weights, net.state_dict())
    assert weights.notes == (
        "its state dict is the one under 'state_dict'",
        "the prefix 'model.' was removed from its names",
    )


@each_format
def test_masks_in_a_file_are_applied(save: Callable, tmp_path: Path) -> None:
    net = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    save(net.state_dict(), tmp_path / "file")
    weights = weights_of(tmp_path / "file", "a")
    assert _same(weights, plain_copy(net).state_dict())
    assert weights.notes == ("pruned, the masks are applied to 1 tensors: weight",)


def test_a_tied_tensor_that_safetensors_wrote_once_is_found_under_its_other_name(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    save_model(net, str(tmp_path / "tied.safetensors"))
    weights = weights_of(tmp_path / "tied.safetensors", "a")
    assert _same(weights, net.state_dict())
    assert len(weights.aliases) == 1
    untied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert _same(match_names(weights, untied, "a"), net.state_dict())


def test_tensors_that_share_memory_in_a_pytorch_file_are_known_to(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    torch.save({"a": tensor, "b": tensor, "c": tensor.clone()}, tmp_path / "x.pt")
    assert weights_of(tmp_path / "x.pt", "a").aliases == {"b": "a"}


def test_writing_to_a_tensor_that_was_read_does_not_change_the_file(tmp_path: Path) -> None:
    for name, save in SAVERS.items():
        save(_state(), tmp_path / name)
        before = (tmp_path / name).read_bytes()
        weights_of(tmp_path / name, "a").read("0.weight").zero_()
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("how", ["overwritten", "replaced", "removed"])
@each_format
def test_a_file_that_changes_while_it_is_read_is_refused(save: Callable, how: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(_state(), path)
    weights = weights_of(path, "a")
    weights.read("0.bias")
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        save(_state(), tmp_path / "new")
        (tmp_path / "new").replace(path)
    else:
        content = path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    with pytest.raises(NetworkError, match=r"last\.ckpt was changed or removed while it was being read"):
        weights.read("0.bias")


@pytest.mark.processes
def test_no_data_is_read_for_the_layout_and_memory_is_released_tensor_by_tensor(tmp_path: Path) -> None:
    """In a fresh process, by the kernel's own count: 24 tensors of 8 MiB, of which two are held."""
    save_file({f"t{i}": torch.full((2**21,), float(i)) for i in range(24)}, tmp_path / "x.safetensors")
    code = f"""
from modeconn.weights.sources import weights_of

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

path = {str(tmp_path / "x.safetensors")!r}
weights_of(path, "a").read("t0").sum()
before = resident()
weights = weights_of(path, "a")
opened = resident() - before
tensor, sums, peak = None, [], 0.0
for name in weights.layout:
    last, tensor = tensor, weights.read(name)
    sums.append(float(tensor.sum()) / tensor.numel())
    peak = max(peak, resident() - before)
print(opened, peak, sorted(sums) == list(map(float, range(24))))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's account of a process's memory")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    opened, peak, right = out.split()
    assert right == "True"
    assert float(opened) < 4
    assert 12 < float(peak) < 24  # two tensors


# --- what cannot be read


def test_a_missing_file_is_named_and_nothing_is_downloaded() -> None:
    for source in ("nowhere/x.pt", "google-bert/bert-base-uncased"):
        with pytest.raises(NetworkError, match=f"a: cannot read {source}: No such file.*not downloaded"):
            weights_of(source, "a")


@each_format
def test_a_file_cut_off_anywhere_is_refused(save: Callable, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    save(_state(), path)
    whole = path.read_bytes()
    for length in {0, 1, 2, 7, 8, 9, 40, 200, 700, len(whole) // 2, len(whole) - 100, len(whole) - 1}:
        for suffix in (".ckpt", ".safetensors"):
            cut = (tmp_path / "cut").with_suffix(suffix)
            cut.write_bytes(whole[:length])
            with pytest.raises(NetworkError, match=r"cut\.\w+ (is|was|has|holds)") as caught:
                weights_of(cut, "a")
            assert "refused" not in str(caught.value)


def test_an_empty_file_is_said_to_be_empty_and_another_kind_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x.pt").touch()
    with pytest.raises(NetworkError, match=r"x\.pt is empty; known kinds: \.safetensors, or \.pt"):
        weights_of(tmp_path / "x.pt", "a")
    for content in (b"\x89HDF\r\n\x1a\n" + bytes(99), b"GGUF" + bytes(99), b"just text, and more of it"):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(NetworkError, match=r"x\.bin is not a checkpoint of a kind.*known kinds: \.safetensors"):
            weights_of(tmp_path / "x.bin", "a")


@pytest.mark.parametrize("length", [0x4B50 + 2**16, 0x80 + 2**8, 0x0280])
def test_safetensors_whose_header_length_begins_like_another_format_are_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path)
    whole = path.read_bytes()
    header = whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + whole[8 + len(header) :])
    assert path.read_bytes()[:1] in b"\x80P"
    assert _same(weights_of(path, "a"), {"w": torch.ones(2)})


def test_safetensors_with_a_broken_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(_state(), path)
    whole = path.read_bytes()
    header = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()
    for broken in (
        struct.pack("<Q", 2**62) + whole[8:],
        whole[:8] + b"{" + b"\xff" * 40 + whole[49:],
        whole + b"more",
        struct.pack("<Q", len(header)) + header + bytes(4),
    ):
        path.write_bytes(broken)
        with pytest.raises(NetworkError, match=r"x\.safetensors is damaged, or is not a safetensors file"):
            weights_of(path, "a")


def test_files_without_tensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(NetworkError, match="has no tensors in it"):
        weights_of(tmp_path / "x.safetensors", "a")
    torch.save({"epoch": 1}, tmp_path / "x.pt")
    with pytest.raises(NetworkError, match=r"no tensors by name in it.*its keys are 'epoch'"):
        weights_of(tmp_path / "x.pt", "a")
    torch.save([torch.ones(2)], tmp_path / "x.pt")
    with pytest.raises(NetworkError, match="holds a list, not a state dict"):
        weights_of(tmp_path / "x.pt", "a")


def test_zip_archives_of_others_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.zeros(3))
    with pytest.raises(NetworkError, match=r"x\.npz is damaged, or was not written by torch\.save"):
        weights_of(tmp_path / "x.npz", "a")


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def _pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def _save_protocol_4(value: Any, path: Path) -> None:
    torch.save(value, path, pickle_protocol=4)


@pytest.mark.parametrize(
    "save", [torch.save, _save_protocol_4, _save_older, _pickle], ids=["zip", "protocol 4", "older", "pickle"]
)
@pytest.mark.parametrize("place", ["top", "state_dict", "beside"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(save: Callable, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "pwned"
    value = {
        "top": Creates(trace),
        "state_dict": {"state_dict": {"w": Creates(trace)}},
        "beside": {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": Creates(trace)},
    }[place]
    for name in ("x.pt", "x.ckpt", "x.bin", "x.safetensors", "pytorch_model.bin"):
        save(value, tmp_path / name)
        for source in (tmp_path / name, tmp_path) if name == "pytorch_model.bin" else (tmp_path / name,):
            with pytest.raises(NetworkError) as caught:
                weights_of(source, "a")
            said = str(caught.value)
            assert "is refused: to read it, Python would have to call" in said
            assert "io.open" in said
            assert "nothing was run" in said
            assert "torch.save(network.state_dict()" in said
            assert "safetensors.torch.save_file" in said
    assert not trace.exists()
    with open(tmp_path / "x.pt", "rb") as file:  # the test itself: it would have run
        (torch.load(file, weights_only=False) if save is not _pickle else pickle.load(file))
    assert trace.exists()


@pytest.mark.parametrize("save", [torch.save, _save_older], ids=["zip", "older"])
@pytest.mark.parametrize("value", [nn.Linear(2, 2), Net(), {"model": Net()}], ids=["Linear", "Net", "inside"])
def test_a_whole_pickled_module_is_refused_as_such(save: Callable, value: Any, tmp_path: Path) -> None:
    save(value, tmp_path / "x.pt")
    with pytest.raises(NetworkError, match=r"x\.pt holds a whole pickled module and is refused.*linear\.Linear"):
        weights_of(tmp_path / "x.pt", "a")


def test_a_torchscript_archive_is_refused_as_such(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(NetworkError, match=r"x\.pt is a TorchScript archive, a program; save the state dict"):
        weights_of(tmp_path / "x.pt", "a")


def test_what_the_caller_has_declared_safe_is_read(tmp_path: Path) -> None:
    saved = {"state_dict": {"w": torch.ones(2)}, "accuracy": np.float64(0.5)}
    torch.save(saved, tmp_path / "x.pt")
    with torch.serialization.safe_globals([np.dtype]), pytest.raises(NetworkError, match=r"is refused.*numpy.*scalar"):
        weights_of(tmp_path / "x.pt", "a")  # half of what NumPy's numbers need
    allowed = [type(np.dtype("f8")), np.dtype, np._core.multiarray.scalar]
    with torch.serialization.safe_globals(allowed):
        assert _same(weights_of(tmp_path / "x.pt", "a"), {"w": torch.ones(2)})


BESIDE = {
    "a NumPy number": np.float64(91.2),
    "a NumPy array": np.arange(3),
    "an array of objects": np.array([1, "a"], dtype=object),
    "arguments": argparse.Namespace(lr=0.1, out=Path("/x")),
    "a path": Path("/x"),
    "a date": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "a mapping": defaultdict(list, {"loss": [0.5]}),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_scripts_keep_beside_weights_is_passed_over(tmp_path: Path, beside: Any) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": [beside, beside]}, tmp_path / "x.pt")
    assert _same(weights_of(tmp_path / "x.pt", "a"), {"w": torch.ones(2)})


def test_what_is_passed_over_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise AssertionError("it was made")

    torch.save({"state_dict": {"w": torch.ones(2)}, "x": argparse.Namespace(lr=0.1)}, tmp_path / "x.pt")
    monkeypatch.setattr("argparse.Namespace.__init__", make)
    assert _same(weights_of(tmp_path / "x.pt", "a"), {"w": torch.ones(2)})


def test_a_packed_file_is_read_and_a_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed archive cannot be mapped: the bytes at a tensor's place are not its values."""
    state = {"w": torch.arange(1000.0)}
    torch.save(state, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert _same(weights_of(tmp_path / "packed.pt", "a"), state)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb, bomb.open("x/data/0", "w", force_zip64=True) as part:
        part.write(bytes(3 << 20))
    monkeypatch.setattr("modeconn.reading.UNPACKED", 1 << 20)
    with pytest.raises(NetworkError, match="200 times as many"):
        weights_of(tmp_path / "bomb.pt", "a")


# --- Hugging Face folders


def _shard(state: dict[str, Tensor], folder: Path, kind: str) -> None:
    """Two files and their index, of either kind."""
    stem, suffix, save = {
        "safetensors": ("model", "safetensors", save_file),
        "bin": ("pytorch_model", "bin", torch.save),
    }[kind]
    homes = {name: f"{stem}-{1 + i % 2:05}-of-00002.{suffix}" for i, name in enumerate(state)}
    for home in set(homes.values()):
        save({name: tensor for name, tensor in state.items() if homes[name] == home}, folder / home)  # type: ignore[operator]
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_is_read_whole_or_in_shards(kind: str, tmp_path: Path) -> None:
    _shard(_state(), tmp_path, kind)
    assert _same(weights_of(tmp_path, "a"), _state())
    name, save = ("model.safetensors", save_file) if kind == "safetensors" else ("pytorch_model.bin", torch.save)
    other = {"w": torch.ones(2)}
    save(other, tmp_path / name)  # type: ignore[operator]
    assert _same(weights_of(str(tmp_path), "a"), other)


def test_tensors_of_a_safetensors_file_or_of_shards_stand_in_order(tmp_path: Path) -> None:
    names = [f"layers.{layer}.{kind}" for layer in range(12) for kind in ("bias", "count", "weight")]
    tensors = {name: torch.tensor([1]) if "count" in name else torch.ones(1) for name in reversed(names)}
    save_file(tensors, tmp_path / "model-1.safetensors")
    assert list(weights_of(tmp_path / "model-1.safetensors", "a").layout) == names
    index = {"weight_map": dict.fromkeys(sorted(names), "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(weights_of(tmp_path, "a").layout) == names


def test_masks_in_shards_are_applied_across_files(tmp_path: Path) -> None:
    net = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    state = {name: net.state_dict()[name] for name in ("weight_orig", "weight_mask", "bias")}
    _shard(state, tmp_path, "safetensors")
    assert _same(weights_of(tmp_path, "a"), plain_copy(net).state_dict())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _shard(_state(), tmp_path, "safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"model-00002-of-00002\.safetensors of 2 files are missing"):
        weights_of(tmp_path, "a")


def test_a_shard_that_is_cut_off_or_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    _shard(_state(), tmp_path, "safetensors")
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"0.weight": torch.ones(2)}, shard)
    with pytest.raises(NetworkError, match=r"lists tensors that its files do not have: 1\.half, 1\.on, 1\.phase"):
        weights_of(tmp_path, "a")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(NetworkError, match=r"model-00001-of-00002\.safetensors is damaged"):
        weights_of(tmp_path, "a")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ("{", "cannot read"),
        ("[]", "must be an object"),
        ("[" * 100_000, "levels deep"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"w": 3}}', "has no weight_map"),
        ('{"weight_map": {"w": "../secret.safetensors"}}', "names files outside its folder: ../secret.safetensors"),
        ('{"weight_map": {"w": "/etc/passwd"}}', "names files outside its folder: /etc/passwd"),
    ],
)
def test_a_broken_index_is_refused(index: str, match: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(NetworkError, match=match):
        weights_of(folder, "a")


def test_a_folder_without_weights_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"none of model\.safetensors, .*pytorch_model\.bin\.index\.json is in"):
        weights_of(tmp_path, "a")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot read"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "not a checkpoint of a kind"),
        (lambda path: path.write_bytes(bytes(8) + b"{"), "is damaged"),
        (lambda path: save_file({}, path), "has no tensors"),
        (lambda path: torch.save([1], path), "holds a list"),
        (lambda path: torch.save(nn.ReLU(), path), "is refused"),
        (lambda path: path.mkdir(), "is in the folder"),
        (lambda path: (path.mkdir(), (path / "model.safetensors.index.json").write_text("{}")), "has no weight_map"),
        (lambda path: (path.mkdir(), (path / "model.safetensors.index.json").write_text("{")), "cannot read"),
        (lambda path: (path.mkdir(), (path / "model.safetensors").touch()), "is empty"),
    ],
)
@pytest.mark.parametrize("origin", ["x.gguf", "a"])
def test_a_name_is_said_once(make: Callable, said: str, origin: str, tmp_path: Path) -> None:
    """A network is called by its file's name unless two have the same, and the message names the file anyway."""
    make(tmp_path / "x.gguf")
    with pytest.raises(NetworkError, match=said) as caught:
        weights_of(tmp_path / "x.gguf", origin)
    assert str(caught.value).count("x.gguf") == 1
    assert str(caught.value).startswith("a: ") == (origin == "a")


# --- networks of folders


def _gpt2(folder: Path, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "bos_token_id": 0}
    config = transformers.GPT2Config(**sizes, eos_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net: Any = transformers.GPT2LMHeadModel(config).to(options.pop("dtype", torch.float32))
    net.save_pretrained(folder, **options)
    return net.eval()


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "3KB"}], ids=["one file", "shards"])
def test_a_folder_gives_its_network_and_its_weights(options: dict[str, Any], tmp_path: Path) -> None:
    net = _gpt2(tmp_path, **options)
    assert (tmp_path / "model.safetensors").exists() == (not options)
    state = torch.get_rng_state()
    scratch = network_of_folder(tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert type(scratch) is type(net)
    assert not any(module.training for module in scratch.modules())
    weights = match_names(weights_of(tmp_path, "a"), scratch, "a")
    assert weights.notes == (
        "lm_head.weight is missing and read from transformer.wte.weight, to which the network ties it",
    )
    assert _same(weights, net.state_dict())
    scratch.load_state_dict({name: weights.read(name) for name in weights.layout})
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(scratch(tokens).logits, net(tokens).logits)


def test_a_network_of_a_folder_has_the_type_of_its_configuration(tmp_path: Path) -> None:
    _gpt2(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in network_of_folder(tmp_path).parameters()} == {torch.bfloat16}


def test_old_gpt2_files_without_prefix_and_with_buffers_fit(tmp_path: Path) -> None:
    """As on the hub: no `transformer.` before names, and a causal mask in each block."""
    net = _gpt2(tmp_path)
    own = {
        name.removeprefix("transformer."): t.clone() for name, t in net.state_dict().items() if "lm_head" not in name
    }
    save_file(own | {"h.0.attn.bias": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    weights = match_names(weights_of(tmp_path, "a"), network_of_folder(tmp_path), "a")
    assert _same(weights, net.state_dict())
    assert weights.notes[0] == "the prefix 'transformer.' was added to its names"


def test_a_tiny_bert_with_tied_weights_and_biases_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=16, max_position_embeddings=16)
    with torch.random.fork_rng(devices=[]):
        net = transformers.BertForMaskedLM(config).eval()
    net.save_pretrained(tmp_path)
    weights = match_names(weights_of(tmp_path, "a"), network_of_folder(tmp_path), "a")
    assert _same(weights, net.state_dict())
    assert len(weights.notes) == 2
    replica = plain_copy(net)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(replica(tokens).logits, net(tokens).logits)
    decoder: Any = replica.cls.predictions.decoder
    embeddings: Any = replica.bert.embeddings
    assert decoder.weight is embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (None, r"needs a config\.json, or give model=: cannot read"),
        ("{", "cannot read"),
        ("{}", "names 0 architectures, not one; give model="),
        ('{"architectures": ["A", "B"]}', "names 2 architectures"),
        (
            '{"architectures": ["NoSuchModel"]}',
            "cannot build NoSuchModel: it is not in transformers.*is not run; give model=",
        ),
        (
            '{"architectures": ["GPT2LMHeadModel"], "model_type": "nothing"}',
            "cannot build GPT2LMHeadModel",
        ),
        ('{"architectures": ["A"], "quantization_config": {"bits": 4}}', "its weights are quantised; dequantise"),
    ],
)
def test_folders_whose_network_cannot_be_built_are_refused(config: str | None, match: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(NetworkError, match=match):
        network_of_folder(tmp_path)
    with pytest.raises(NetworkError) as caught:
        network_of_folder(tmp_path)
    assert str(caught.value).count(tmp_path.name) == 1


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    trace = tmp_path / "pwned"
    (tmp_path / "mine.py").write_text(f"open({str(trace)!r}, 'w')\nclass Mine: pass\nclass MyConfig: pass\n")
    settings = {
        "model_type": "mine",
        "auto_map": {"AutoModel": "mine.Mine", "AutoConfig": "mine.MyConfig"},
    }
    for architecture in ("Mine", "GPT2LMHeadModel"):
        (tmp_path / "config.json").write_text(json.dumps(settings | {"architectures": [architecture]}))
        with pytest.raises(NetworkError, match="give model="):
            network_of_folder(tmp_path)
    assert not trace.exists()


_asked: list[str] = []  # by an audit hook, which stays as long as the process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "built"),
    [
        ({"use_timm_backbone": False, "use_pretrained_backbone": True, "backbone": "somebody/their-repository"}, False),
        ({"use_timm_backbone": True, "use_pretrained_backbone": True, "backbone": "resnet18"}, True),
    ],
)
def test_what_a_configuration_names_is_not_asked_for(settings: dict[str, Any], built: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    if not _asked:
        _asked.append("")
        watched = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect")
        sys.addaudithook(lambda event, found: _asked.append(str(found)) if event in watched else None)
    del _asked[1:]
    (tmp_path / "config.json").write_text(
        json.dumps(settings | {"architectures": ["DetrForObjectDetection"], "model_type": "detr"})
    )
    if built:
        assert sum(parameter.numel() for parameter in network_of_folder(tmp_path).parameters()) > 1e7
    else:
        with pytest.raises(NetworkError, match=rf"{re.escape(str(tmp_path))}: it asks huggingface\.co for"):
            network_of_folder(tmp_path)
    assert _asked == [""]


def test_other_threads_may_ask_the_network_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = lambda *asked: [asked]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with offline("folder"), ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: socket.getaddrinfo("there", 80)).result() == [("there", 80)]
        with pytest.raises(NetworkError, match="it asks here for something"):
            socket.getaddrinfo(b"here", 80)
    assert socket.getaddrinfo is look_up


def test_without_transformers_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NetworkError, match="pip install transformers, or give model="):
        network_of_folder(tmp_path)


# --- several state dicts in one file


@pytest.mark.parametrize(("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_averaged_weights_beside_the_plain_ones_are_told_of_and_chosen(
    tmp_path: Path, plain: str, averaged: str
) -> None:
    torch.save({plain: {"w": torch.ones(2)}, averaged: {"w": torch.zeros(2)}, "epoch": 3}, tmp_path / "x.pt")
    found = weights_of(tmp_path / "x.pt", "a")
    assert _same(found, {"w": torch.ones(2)})
    assert f"and not {averaged!r}, which checkpoint_key= chooses" in found.notes[0]
    assert _same(weights_of(tmp_path / "x.pt", "a", averaged), {"w": torch.zeros(2)})
    with pytest.raises(NetworkError, match=f"no state dict under 'ema'; those it has are under '{plain}'"):
        weights_of(tmp_path / "x.pt", "a", "ema")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 2**31), ("vocab_size", 2**31), ("hidden_size", 10**9), ("num_labels", 10**9)],
)
def test_a_configuration_of_a_far_larger_network_than_its_weights_is_not_built(
    tmp_path: Path, name: str, value: int
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 50,
    }
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    assert network_of_folder(tmp_path).num_labels == 2
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(NetworkError, match="and its weights"):
        network_of_folder(tmp_path)


def test_weights_in_files_may_be_sparse_and_are_not_nested(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    torch.save({"weight": dense.to_sparse(), "bias": torch.zeros(2)}, tmp_path / "x.pt")
    network = nn.Linear(2, 2)
    load_weights(network, weights_of(tmp_path / "x.pt", "a"))
    assert torch.equal(network.weight, dense)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(NetworkError, match=r"nested tensors as weights \(w\)"):
        weights_of({"w": nested}, "a")
