import pytest
import torch

from cases import NAMED, OWN
from modeconn.analysis.paths import make_line
from modeconn.errors import NetworkError
from modeconn.models import build_network

SMALL = [case for case in (*NAMED, *OWN) if case.parameters < 300_000]


def two(case):
    a, b = (build_network(case.model, case.shape, case.classes, seed=s, norm=case.norm) for s in (0, 1))
    with torch.no_grad():
        for buffer in b.buffers():
            buffer.add_(1)
    return a, b


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.model)
def test_ends_are_exact_and_the_middle_is_the_mean(case):
    a, b = two(case)
    scratch, _ = two(case)
    line = make_line(a.state_dict(), b.state_dict())
    for alpha, end in ((0, a), (1, b)):
        line.load(scratch, alpha)
        for name, value in scratch.named_parameters():
            assert torch.equal(value, end.get_parameter(name))
    line.load(scratch, 0.5)
    for name, value in scratch.state_dict().items():
        x, y = a.state_dict()[name], b.state_dict()[name]
        expected = (x.double() + y.double()) / 2 if x.is_floating_point() else x
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7])
def test_the_path_back_is_the_path_there(alpha):
    a, b = (network.state_dict() for network in two(OWN[1]))
    there, back = make_line(a, b).at(alpha), make_line(b, a).at(1 - alpha)
    for name in a:
        if a[name].is_floating_point():
            torch.testing.assert_close(there[name], back[name], rtol=1e-6, atol=1e-7)


def test_half_precision_is_interpolated_in_single():
    a, b = {"w": torch.tensor([1.0]).half()}, {"w": torch.tensor([1.001]).half()}
    assert make_line(a, b).at(0.5)["w"].dtype == torch.float32


def test_integer_buffers_come_from_a_with_a_note():
    a, b = two(OWN[2])
    line = make_line(a.state_dict(), b.state_dict())
    assert any("calls" in note for note in line.notes)
    assert all(int(line.at(alpha)["calls"]) == 0 for alpha in (0, 0.5, 1))


def test_inputs_are_left_unchanged():
    a, b = (network.state_dict() for network in two(OWN[1]))
    before = [{name: value.clone() for name, value in state.items()} for state in (a, b)]
    scratch, _ = two(OWN[1])
    line = make_line(a, b)
    for alpha in (0, 0.3, 1):
        line.load(scratch, alpha)
    assert all(torch.equal(state[n], old[n]) for state, old in zip((a, b), before, strict=True) for n in state)


def test_the_distance_is_that_of_the_parameters_alone():
    a, b = two(OWN[1])
    expected = torch.cat([(p - q).flatten() for p, q in zip(a.parameters(), b.parameters(), strict=True)]).norm()
    assert make_line(a.state_dict(), b.state_dict()).distance(a) == pytest.approx(expected.item())


def test_networks_that_do_not_fit_are_told_apart_by_name():
    a = {"w": torch.zeros(2), "x": torch.zeros(1)}
    b = {"w": torch.zeros(3), "y": torch.zeros(1)}
    with pytest.raises(NetworkError, match=r"w is \[2\] in a and \[3\] in b; x is only in a; y is only in b"):
        make_line(a, b)
