import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from modeconn.errors import StoreError
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights
from modeconn.weights.tensor_files import DTYPES
from modeconn.weights.writing import stream_weights, write_weights


def weights(**tensors: Tensor) -> Weights:
    layout = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    return Weights(layout, tensors.__getitem__, "here")


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.flatten().view(torch.uint8).tolist() == b.flatten().view(torch.uint8).tolist()
    )


def test_tensors_of_every_type_come_back_to_the_bit(tmp_path):
    """Read by safetensors itself; odd lengths, no elements, no dims, and tensors that are not contiguous."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"{kind}.{name}": torch.randint(0, 2, shape, generator=draw).to(dtype)
        for kind, dtype in DTYPES.items()
        for name, shape in (("odd", (3, 5)), ("none", (0, 2)), ("number", ()))
    }
    tensors["transposed"] = torch.randn(4, 3, generator=draw).T
    stream_weights(weights(**tensors), tmp_path / "x.safetensors", {"about": "this"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(same_bytes(tensor.contiguous(), found[name]) for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "about": "this"}


def test_every_tensor_begins_at_a_multiple_of_its_elements_size(tmp_path):
    stream_weights(weights(a=torch.ones(3, dtype=torch.bool), b=torch.ones(3)), tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    assert content.index(torch.ones(3).numpy().tobytes()) % 4 == 0


def test_tied_tensors_are_written_once_and_read_as_tied(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    stream_weights(weights_of(network, "a"), tmp_path / "x.safetensors")
    write_weights(network.state_dict(), tmp_path / "y.safetensors")
    assert load_file(tmp_path / "x.safetensors").keys() == load_file(tmp_path / "y.safetensors").keys()
    again = weights_of(tmp_path / "x.safetensors", "x")
    assert torch.equal(again.read("1.weight"), network[0].weight)


def test_one_tensor_at_a_time_is_held(tmp_path):
    """Each is let go before the next is read."""
    given: list[weakref.ref[Tensor]] = []

    def read(name: str) -> Tensor:
        assert all(tensor() is None for tensor in given)
        tensor = torch.ones(4)
        given.append(weakref.ref(tensor))
        return tensor

    layout = {name: torch.empty(4, device="meta") for name in "abc"}
    stream_weights(Weights(layout, read, "here"), tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors").keys() == set("abc")


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(StoreError, match=r"w is torch\.complex128, which safetensors files do not have"):
        stream_weights(weights(w=torch.ones(2, dtype=torch.complex128)), tmp_path / "x.safetensors")

    def read(name: str) -> Tensor:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        stream_weights(Weights({"w": torch.empty(2, device="meta")}, read, "here"), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
