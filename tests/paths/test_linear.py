import math

import pytest
import torch
from torch import nn

from cases import NAMED, OWN
from modeconn.analysis.paths import linear as paths
from modeconn.analysis.paths.linear import Line, load_weights, make_line
from modeconn.errors import NetworkError
from modeconn.models import build_network
from modeconn.weights.sources import weights_of

SMALL = [case for case in (*NAMED, *OWN) if case.parameters < 300_000]


def two(case):
    a, b = (build_network(case.model, case.shape, case.classes, seed=s, norm=case.norm) for s in (0, 1))
    with torch.no_grad():
        for buffer in b.buffers():
            buffer.add_(1)
    return a, b


def line_between(a, b, parameters=None) -> Line:
    """From networks, or from state dicts whose every entry is a parameter."""
    names = [name for name, _ in a.named_parameters()] if isinstance(a, nn.Module) else list(a)
    return make_line(weights_of(a, "a"), weights_of(b, "b"), names if parameters is None else parameters)


class Holder(nn.Module):
    """Tensors by name and no code."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.clone())


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.model)
def test_ends_are_exact_and_the_middle_is_the_mean(case):
    a, b = two(case)
    scratch, _ = two(case)
    line = line_between(a, b)
    for alpha, end in ((0, a), (1, b)):
        line.load(scratch, alpha)
        for name, value in scratch.state_dict().items():
            assert torch.equal(value, end.state_dict()[name])
    line.load(scratch, 0.5)
    for name, value in scratch.state_dict().items():
        x, y = a.state_dict()[name], b.state_dict()[name]
        expected = (x.double() + y.double()) / 2 if x.is_floating_point() else x
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7, -0.5])
def test_the_path_back_is_the_path_there(alpha):
    (a, b), (there, back) = two(OWN[1]), two(OWN[1])
    line_between(a, b).load(there, alpha)
    line_between(b, a).load(back, 1 - alpha)
    for name, value in there.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, back.state_dict()[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "step"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_precision_is_interpolated_in_single(kind, step):
    """A third of the way from 1 to the next number is no number of the type; a network of single precision shows it."""
    a, b = (Holder(w=torch.tensor([value], dtype=kind)) for value in (1.0, 1.0 + step))
    line, scratch = line_between(a, b, ["w"]), Holder(w=torch.zeros(1))
    line.load(scratch, 1 / 3)
    assert scratch.w.item() == pytest.approx(1 + step / 3, rel=1e-7)
    half = Holder(w=torch.zeros(1, dtype=kind))
    line.load(half, 2 / 3)
    assert half.w.item() == 1 + step  # rounded once, at the end


@pytest.mark.parametrize("kind", [torch.float64, torch.complex64, torch.complex128])
def test_wider_types_are_interpolated_as_what_they_are(kind):
    a, b = (torch.randn(3, dtype=kind, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    line, scratch = line_between({"w": a}, {"w": b}), Holder(w=torch.zeros(3, dtype=kind))
    line.load(scratch, 0.3)
    double = torch.complex128 if kind.is_complex else torch.float64
    expected = 0.7 * a.to(double) + 0.3 * b.to(double)
    tolerance = 1e-7 if kind == torch.complex64 else 1e-15
    torch.testing.assert_close(scratch.w.to(double), expected, rtol=tolerance, atol=tolerance)


def test_ends_of_two_types_go_into_one_network():
    a, b = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}, {"w": torch.tensor([2.0], dtype=torch.float64)}
    scratch = Holder(w=torch.zeros(1, dtype=torch.float64))
    line_between(a, b).load(scratch, 0.1)
    assert scratch.w.item() == pytest.approx(1.1, rel=1e-15)


def test_integer_buffers_come_from_a_with_a_note_and_from_b_at_its_end():
    a, b = two(OWN[2])
    line = line_between(a, b)
    assert any("calls" in note and "not interpolated" in note for note in line.notes)
    scratch, _ = two(OWN[2])
    found = []
    for alpha in (0, 0.5, 0.99, 1):
        line.load(scratch, alpha)
        found.append(int(scratch.calls))
    assert found == [0, 0, 0, 1]


def test_what_does_not_differ_does_not_move_at_all():
    """0.7 x + 0.3 x need not be x to the last bit."""
    same = torch.randn(1000)
    line = line_between({"w": torch.zeros(1), "v": same}, {"w": torch.ones(1), "v": same.clone()})
    scratch = Holder(w=torch.zeros(1), v=torch.zeros(1000))
    line.load(scratch, 0.3)
    assert torch.equal(scratch.v, same)
    assert line.moving == {"w"}


def test_inputs_are_left_unchanged():
    networks = two(OWN[1])
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in networks]
    scratch, _ = two(OWN[1])
    line = line_between(*networks)
    for alpha in (0, 0.3, 1):
        line.load(scratch, alpha)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())


def test_the_distances_are_those_of_the_parameters_alone():
    a, b = two(OWN[1])
    p, q = (nn.utils.parameters_to_vector(net.parameters()).detach().double() for net in (a, b))
    distance = line_between(a, b).distance
    cosine = float(p @ q / (p.norm() * q.norm()))
    assert distance.l2 == pytest.approx(float((p - q).norm()), rel=1e-6)
    assert distance.cosine == pytest.approx(1 - cosine, rel=1e-6)
    assert distance.angular == pytest.approx(2 / math.pi * math.acos(cosine), rel=1e-6)


@pytest.mark.parametrize(("scale", "cosine", "angular"), [(1.0, 0, 0), (2.0, 0, 0), (-1.0, 2, 2), (0.0, None, None)])
def test_angles_of_parallel_opposite_and_vanishing_ends(scale, cosine, angular):
    w = torch.randn(50, generator=torch.Generator().manual_seed(0))
    distance = line_between({"w": w}, {"w": scale * w}).distance
    if cosine is None:
        assert math.isnan(distance.cosine)
        assert math.isnan(distance.angular)
    else:
        assert distance.cosine == pytest.approx(cosine, abs=1e-6)
        assert distance.angular == pytest.approx(angular, abs=1e-3)
    assert distance.l2 == pytest.approx(abs(1 - scale) * float(w.norm()), rel=1e-5)


def test_large_tensors_are_treated_in_pieces_to_the_same_result(monkeypatch):
    a, b = ({"w": torch.randn(37, 3).half(), "v": torch.randn(11)} for _ in range(2))
    whole, pieces = (Holder(w=torch.zeros(37, 3), v=torch.zeros(11)) for _ in range(2))
    line_between(a, b).load(whole, 0.3)
    monkeypatch.setattr(paths, "_PIECE", 7)
    monkeypatch.setattr(paths, "_GROUP", 16)
    line = line_between(a, b)
    line.load(pieces, 0.3)
    assert torch.equal(whole.w, pieces.w)
    assert torch.equal(whole.v, pieces.v)
    difference = torch.cat([(a[name].double() - b[name].double()).flatten() for name in a])
    assert line.distance.l2 == pytest.approx(float(difference.norm()), rel=1e-9)


def test_loading_weights_writes_in_place():
    a, b = two(OWN[0])
    places = [value.data_ptr() for value in b.state_dict().values()]
    load_weights(b, weights_of(a, "a"))
    assert [value.data_ptr() for value in b.state_dict().values()] == places
    assert all(torch.equal(value, a.state_dict()[name]) for name, value in b.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named_with_their_end(value):
    a, b = {"w": torch.zeros(2), "v": torch.zeros(1)}, {"w": torch.tensor([0.0, value]), "v": torch.zeros(1)}
    with pytest.raises(NetworkError, match=r"NaN or infinite: w in b$"):
        line_between(a, b)
    with pytest.raises(NetworkError, match=r"NaN or infinite: w in a$"):
        line_between(b, a)


def test_a_buffer_may_be_infinite_if_it_does_not_move():
    mask = torch.tensor([0.0, -math.inf])
    line = line_between({"w": torch.zeros(1), "mask": mask}, {"w": torch.ones(1), "mask": mask.clone()}, ["w"])
    scratch = Holder(w=torch.zeros(1), mask=torch.zeros(2))
    line.load(scratch, 0.5)
    assert torch.equal(scratch.mask, mask)
    with pytest.raises(NetworkError, match="mask in a"):
        line_between({"w": torch.zeros(1), "mask": mask}, {"w": torch.ones(1), "mask": torch.zeros(2)}, ["w"])


def test_networks_that_do_not_fit_are_told_apart_by_name():
    a = {"w": torch.zeros(2), "x": torch.zeros(1)}
    b = {"w": torch.zeros(3), "y": torch.zeros(1)}
    with pytest.raises(NetworkError, match=r"w is \[2\] in a and \[3\] in b; x is only in a; y is only in b"):
        line_between(a, b)
