"""However two networks and their data are given to error_barrier, the numbers are those of two modules and a list."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from direct import direct
from modeconn import Barrier, Run, error_barrier, get_task, load_data, train
from modeconn.evaluation.batches import Batches
from networks import EXAMPLES, Network, at, by_name, each_network

ALPHAS = 3


@functools.cache
def _plain(case: Network) -> Barrier:
    return error_barrier(*_pair(case), case.batches(), evaluate=case.evaluate, alphas=ALPHAS)


@functools.cache
def _pair(case: Network) -> tuple[nn.Module, nn.Module]:
    return case.pair()


def _check(result: Barrier, case: Network) -> None:
    """Bit for bit what the two modules give."""
    expected = _plain(case)
    assert result.metrics == expected.metrics
    for name in expected.metrics:
        assert np.array_equal(result.samples[name].sums, expected.samples[name].sums)
    assert result.barrier == expected.barrier
    assert result.ends == expected.ends


# --- networks


@each_network
def test_a_model_and_two_state_dicts(case: Network) -> None:
    a, b = (case.plain(network).state_dict() for network in _pair(case))
    _check(_of(case, a, b, model=case.plain(_pair(case)[0])), case)


@each_network
def test_a_module_and_the_state_dict_of_another_as_its_trainer_saves_it(case: Network) -> None:
    """Masks and parametrizations included."""
    a, b = _pair(case)
    _check(_of(case, a, b.state_dict()), case)


@each_network
def test_a_function_that_makes_the_network_and_two_pytorch_files(case: Network, tmp_path: Path) -> None:
    for name, network in zip("ab", _pair(case), strict=True):
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    with torch.random.fork_rng(devices=[]):
        result = _of(case, tmp_path / "a.pt", str(tmp_path / "b.pt"), model=case.build)
    _check(result, case)
    assert result.names == ("a.pt", "b.pt")


def _state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


SAVE: dict[str, tuple[str, Callable[[nn.Module, Path], Any]]] = {
    "state dict": ("pt", lambda net, path: torch.save(net.state_dict(), path)),
    "old format": ("pth", lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)),
    "trainer": (
        "pth",
        lambda net, path: torch.save({"epoch": 3, "model_state_dict": _state(net), "optimizer": {"state": {}}}, path),
    ),
    "DataParallel": ("pt", lambda net, path: torch.save(nn.DataParallel(net).state_dict(), path)),
    "compile": ("pt", lambda net, path: torch.save(torch.compile(net).state_dict(), path)),
    "compiled DataParallel": (
        "pt",
        lambda net, path: torch.save(torch.compile(nn.DataParallel(net)).state_dict(), path),
    ),
    "Lightning": (
        "ckpt",
        lambda net, path: torch.save(
            {
                "epoch": 9,
                "global_step": 1000,
                "pytorch-lightning_version": "2.5.0",
                "state_dict": {f"net.{name}": tensor for name, tensor in _state(net).items()},
                "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
                "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
                "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
                "lr_schedulers": [],
                "hyper_parameters": {"width": 12},
            },
            path,
        ),
    ),
    "safetensors": ("safetensors", lambda net, path: save_file({n: t.clone() for n, t in _state(net).items()}, path)),
    "safetensors model": ("safetensors", lambda net, path: save_model(net, str(path))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batchnorm", "tied"])
@pytest.mark.parametrize(("end", "save"), SAVE.values(), ids=SAVE)
def test_checkpoints_of_every_kind(name: str, end: str, save: Callable[..., Any], tmp_path: Path) -> None:
    case = by_name(name)
    paths = [tmp_path / f"{letter}.{end}" for letter in "ab"]
    for network, path in zip(_pair(case), paths, strict=True):
        save(network, path)
    with torch.random.fork_rng(devices=[]):
        _check(_of(case, *paths, model=case.build), case)
    _check(_of(case, _pair(case)[0], paths[1]), case)
    _check(_of(case, paths[0], _pair(case)[1]), case)


def test_two_kinds_of_checkpoint_at_once(tmp_path: Path) -> None:
    case = by_name("batchnorm")
    a, b = _pair(case)
    SAVE["Lightning"][1](a, tmp_path / "a.ckpt")
    SAVE["safetensors"][1](b, tmp_path / "b.safetensors")
    result = _of(case, tmp_path / "a.ckpt", tmp_path / "b.safetensors", model=a)
    _check(result, case)
    assert any("a.ckpt: the prefix 'net.' was removed" in note for note in result.notes)


@pytest.mark.parametrize("name", ["batchnorm", "weight norm", "pruned"])
@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))],
    ids=["DataParallel", "compile", "both"],
)
def test_wrapped_modules(name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    case = by_name(name)
    a, b = _pair(case)
    _check(_of(case, wrap(a), wrap(b)), case)
    _check(_of(case, a, wrap(b)), case)
    _check(_of(case, wrap(a), b), case)


@pytest.mark.parametrize("name", ["gpt-2", "bert", "masked bert"])
@pytest.mark.parametrize("size", ["5GB", "3KB"], ids=["one file", "sharded"])
@pytest.mark.slow
def test_hugging_face_folders_know_their_network(name: str, size: str, tmp_path: Path) -> None:
    case = by_name(name)
    for letter, network in zip("ab", _pair(case), strict=True):
        network.save_pretrained(tmp_path / letter, max_shard_size=size)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 1 or size == "3KB"
    _check(_of(case, tmp_path / "a", str(tmp_path / "b")), case)
    _check(_of(case, _pair(case)[0], tmp_path / "b"), case)


def test_ends_of_different_types_are_compared_in_the_wider_one() -> None:
    case = by_name("mlp")
    a, b = _pair(case)
    for narrow in (torch.bfloat16, torch.float16):
        rounded = case.network(2).to(narrow)
        result, back = _of(case, a, rounded), _of(case, rounded, a)
        expected = _of(case, a, case.network(2).to(narrow).float())
        assert np.array_equal(result.loss, expected.loss)
        np.testing.assert_allclose(back.loss, expected.loss[::-1], rtol=1e-6)
        assert any("differ in type" in note and "float32" in note for note in result.notes)
    widened = case.network(2).double()
    assert np.array_equal(_of(case, a, widened).loss, _of(case, case.network(1).double(), widened).loss)
    assert next(a.parameters()).dtype == next(b.parameters()).dtype == torch.float32


def test_weights_are_not_rounded_to_the_type_of_the_network_they_are_put_into() -> None:
    case = by_name("mlp")
    a, b = _pair(case)
    narrow = case.network(3).half()
    _check(_of(case, a.state_dict(), b.state_dict(), model=narrow), case)
    assert next(narrow.parameters()).dtype == torch.float16


@pytest.mark.parametrize("name", ["batchnorm", "layernorm", "tied", "complex", "pruned", "gpt-2", "timm"])
@pytest.mark.slow
def test_ends_of_different_types_agree_with_ends_of_one_type(name: str) -> None:
    """Of any network: what is wider already holds all that the other one holds."""
    case = by_name(name)
    a, b = _pair(case)
    mixed = _of(case, a, case.plain(b).double())
    np.testing.assert_allclose(mixed.loss, _plain(case).loss, rtol=1e-5)


def _of(case: Network, a: Any, b: Any, **how: Any) -> Barrier:
    return error_barrier(a, b, case.batches(), evaluate=case.evaluate, alphas=ALPHAS, **how)


# --- stored runs


def test_stored_runs_and_their_folders_know_their_networks_and_data(runs: tuple[Run, Run], data_dir: Path) -> None:
    a, b = runs
    result = error_barrier(a, b, alphas=ALPHAS)
    data = load_data("digits", data_dir)
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.mean, data.std))
    images = (data.test.images.read(torch.arange(len(data.test.labels))).float() / 255 - mean) / std
    plain = error_barrier(a.network(), b.network(), (images, data.test.labels), alphas=ALPHAS)
    np.testing.assert_allclose(result.loss, plain.loss, rtol=1e-5)
    assert np.array_equal(result.error, plain.error)
    assert result.samples["error"].sums.shape == (ALPHAS, len(data.test.labels))
    for mixed in [
        (a.folders[8], b.folders[8]),
        (str(a.folders[8]), b),
        (a.network(), b),
        (a, b.weights()),
    ]:
        again = error_barrier(*mixed, alphas=ALPHAS, data_dir=data_dir)
        assert np.array_equal(again.samples["loss"].sums, result.samples["loss"].sums)
    assert error_barrier(a, b, "train", alphas=ALPHAS).samples["error"].sums.shape[1] == len(data.train.labels)


def test_runs_on_different_data_are_measured_on_the_firsts_and_this_is_said(
    runs: tuple[Run, Run], data_dir: Path, tmp_path: Path
) -> None:
    arrays = dict(np.load(data_dir / "digits.npz"))
    np.savez(tmp_path / "half.npz", **{**arrays, "train_images": arrays["train_images"] // 2})
    task = get_task("digits-conv", data=str(tmp_path / "half.npz"))
    other = train(task, iterations=8, workers=0, store=tmp_path / "store", data_dir=data_dir, device="cpu")
    note = "the stored runs were trained on different data; a's stand for all"
    assert note in error_barrier(runs[0], other, alphas=ALPHAS).notes
    assert note not in error_barrier(*runs, alphas=ALPHAS).notes


def test_stored_runs_know_their_calibration_data(runs: tuple[Run, Run]) -> None:
    plain, recalibrated, repaired = (
        error_barrier(*runs, alphas=ALPHAS, batchnorm=choice, device="cpu")
        for choice in ("interpolate", "recalibrate", "repair")
    )
    assert [result.batchnorm for result in (plain, recalibrated, repaired)] == ["interpolate", "recalibrate", "repair"]
    assert (plain.loss[[0, -1]] == repaired.loss[[0, -1]]).all()
    assert plain.loss[1] != repaired.loss[1] != recalibrated.loss[1]


# --- data


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Examples(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return _VECTORS[0][index], _VECTORS[1][index]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*_VECTORS, strict=True)


_VECTORS: Any = by_name("mlp").data
DATA: dict[str, Callable[[], Any]] = {
    "tensors": lambda: _VECTORS,
    "arrays": lambda: tuple(tensor.numpy() for tensor in _VECTORS),
    "dict of tensors": lambda: {"x": _VECTORS[0], "label": _VECTORS[1]},
    "Dataset": Examples,
    "TensorDataset": lambda: TensorDataset(*_VECTORS),
    "IterableDataset": Stream,
    "DataLoader": lambda: DataLoader(Examples(), batch_size=7),
    "DataLoader of a stream": lambda: DataLoader(Stream(), batch_size=7),
    "DataLoader of dicts": lambda: DataLoader([{"x": x, "y": y} for x, y in Examples()], batch_size=7),
    "list of tuples": lambda: by_name("mlp").batches(),
    "list of lists": lambda: [list(batch) for batch in by_name("mlp").batches()],
    "list of named tuples": lambda: [Pair(*batch) for batch in by_name("mlp").batches()],
    "list of dicts": lambda: [{"image": x, "target": y} for x, y in by_name("mlp").batches()],
    "list of arrays": lambda: [(x.numpy(), y.numpy()) for x, y in by_name("mlp").batches()],
    "inputs in a tuple": lambda: [((x,), y) for x, y in by_name("mlp").batches()],
    "labels in a column": lambda: [(x, y[:, None]) for x, y in by_name("mlp").batches()],
    "small integers": lambda: [(x, y.to(torch.uint8)) for x, y in by_name("mlp").batches()],
    "generator": lambda: iter(by_name("mlp").batches()),
    "zip": lambda: zip(_VECTORS[0].split(7), _VECTORS[1].split(7), strict=True),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_of_every_form(data: Callable[[], Any]) -> None:
    case = by_name("mlp")
    _check(error_barrier(*_pair(case), data(), alphas=ALPHAS, batch_size=7), case)


@pytest.mark.parametrize("name", ["bert", "gpt-2", "masked bert"])
def test_encodings_of_hugging_face(name: str) -> None:
    from transformers import BatchEncoding

    case = by_name(name)
    assert isinstance(case.data, dict)
    _check(error_barrier(*_pair(case), [BatchEncoding(batch) for batch in case.batches()], alphas=ALPHAS), case)
    _check(error_barrier(*_pair(case), BatchEncoding(case.data), alphas=ALPHAS, batch_size=7), case)
    examples = [at(case.data, index) for index in range(EXAMPLES)]
    _check(error_barrier(*_pair(case), DataLoader(examples, batch_size=7), alphas=ALPHAS), case)


def test_a_text_without_labels_is_its_own_target() -> None:
    case = by_name("gpt-2")
    batches = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in case.batches()]
    _check(error_barrier(*_pair(case), batches, evaluate="next-token", alphas=ALPHAS), case)
    with torch.no_grad():
        network: Any = case.network(1).eval()
        own = network(**case.data).loss  # Hugging Face's mean over the same positions
    assert _plain(case).loss[0] == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("keep", [2**31, 0], ids=["in memory", "read again"])
@pytest.mark.parametrize("generator", [None, 5])
def test_a_shuffling_loader_gives_what_an_unshuffled_one_gives(
    generator: int | None, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = by_name("mlp")
    monkeypatch.setitem(Batches.__init__.__kwdefaults__, "keep", keep)
    source = None if generator is None else torch.Generator().manual_seed(generator)
    loader = DataLoader(TensorDataset(*_VECTORS), batch_size=5, shuffle=True, generator=source)
    result, expected = error_barrier(*_pair(case), loader, alphas=ALPHAS), _plain(case)
    assert np.array_equal(result.error, expected.error)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    orders = [np.argsort(result.samples["loss"].sums[end]) for end in (0, -1)]
    expected_orders = [np.argsort(expected.samples["loss"].sums[end]) for end in (0, -1)]
    shuffled = orders[0][np.argsort(expected_orders[0])]
    assert not np.array_equal(shuffled, np.arange(EXAMPLES))
    assert np.array_equal(orders[1][np.argsort(expected_orders[1])], shuffled)  # the same order at both ends
    assert result.ends.disagreement == expected.ends.disagreement
    assert any("shuffles" in note for note in result.notes)


def test_a_last_batch_that_is_dropped_is_said() -> None:
    case = by_name("mlp")
    result = error_barrier(*_pair(case), DataLoader(Examples(), batch_size=7, drop_last=True), alphas=ALPHAS)
    sums, _ = direct(case, _pair(case)[0], case.batches()[:2])["loss"]
    assert np.array_equal(result.samples["loss"].sums[0], sums)
    assert any("drops its last" in note for note in result.notes)
