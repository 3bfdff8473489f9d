"""Whole networks up to scales and rotations: `rescale` and `align_residual`."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES, flattened, mlp, randomized
from torch import nn

from modeconn import ModeconnError, align, align_residual, error_barrier, rescale


def test_networks_that_differ_by_scales_and_an_order_are_found_equal() -> None:
    torch.manual_seed(0)
    network, x = randomized(mlp()), torch.randn(40, 3, 4, dtype=torch.float64)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for written, read in ((other[1], other[3]), (other[3], other[5])):
            scale, order = torch.rand(len(written.bias)).double() * 4 + 0.2, torch.randperm(len(written.bias))
            written.weight.copy_((scale[:, None] * written.weight)[order])
            written.bias.copy_((scale * written.bias)[order])
            read.weight.copy_((read.weight / scale)[:, order])
    a, b = rescale(network, x[:4]), rescale(other, x[:4])
    assert torch.allclose(a(x), network(x), atol=1e-12)
    aligned = align(a, b, example=x[:4]).apply(b)
    for name, tensor in a.state_dict().items():
        assert torch.allclose(tensor, aligned.state_dict()[name], atol=1e-9)
    data = (x, network(x).argmax(1))
    assert error_barrier(a, aligned, data).distance < 1e-8


def test_what_cannot_be_rescaled_is_said() -> None:
    with pytest.raises(ModeconnError, match=r"no units of Sequential can be rescaled \(0: batch_norm"):
        rescale(flattened())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_a_rotation_is_at_least_as_good_as_permutations(name: str) -> None:
    torch.manual_seed(0)
    a, b = (ARCHITECTURES[name].make().double().eval() for _ in range(2))
    example = ARCHITECTURES[name].example()
    example = example.double() if example.is_floating_point() else example
    found = align_residual(a, b, example, tries=1)
    assert found.score > found.permuted >= found.before
    tolerance = 1e-5 if ARCHITECTURES[name].rough else 1e-9
    for given, made in ((a, found.a), (b, found.b)):
        assert type(made) is type(given)
        assert torch.allclose(given(example), made(example), atol=tolerance)
    assert "rotation of its residual stream" in str(found)
    with torch.no_grad():
        middle = copy.deepcopy(found.a)
        middle.load_state_dict({n: (t + found.b.state_dict()[n]) / 2 for n, t in found.a.state_dict().items()})
    assert middle(example).isfinite().all()


def test_a_rotated_network_is_found_again() -> None:
    torch.manual_seed(0)
    a = ARCHITECTURES["gpt2"].make().double().eval()
    b = copy.deepcopy(a)
    found = align_residual(a, b, ARCHITECTURES["gpt2"].example(), tries=1)
    assert found.score == pytest.approx(found.before)
    assert isinstance(found.a, nn.Module)


def test_a_network_without_a_stream_that_rotates_is_refused() -> None:
    with pytest.raises(ModeconnError, match="residual stream"):
        align_residual(mlp(), mlp(), torch.randn(2, 3, 4))
