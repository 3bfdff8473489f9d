import math

import numpy as np
import pytest
import torch
from torch import nn

from modeconn.analysis.landscape.ensembles import ensembles
from modeconn.analysis.landscape.ensembles_result import Ensembles
from modeconn.errors import ModeconnError


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(examples: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(examples, 4, generator=draw), torch.randint(0, 3, (examples,), generator=draw)


GROUPS = {"seeds": [network(seed) for seed in range(3)], "others": [network(seed) for seed in (5, 6)]}


@pytest.fixture(scope="module")
def result() -> Ensembles:
    return ensembles(GROUPS, data(), batchnorm="interpolate", batch_size=40)


def test_predictions_are_averaged_as_plain_probabilities_are(result):
    inputs, labels = data()
    for group, networks in GROUPS.items():
        for number in range(1, len(networks) + 1):
            with torch.no_grad():
                mean = torch.stack([one.eval()(inputs).double().softmax(1) for one in networks[:number]]).mean(0)
            found = next(one for one in result.prefixes if (one.group, one.members) == (group, number))
            assert found.ensemble_error == float((mean.argmax(1) != labels).double().mean())
            assert found.ensemble_loss == pytest.approx(float(-mean.log()[range(90), labels].mean()), rel=1e-5)


def test_weights_are_averaged_as_plain_tensors_are(result):
    inputs, labels = data()
    states = [one.state_dict() for one in GROUPS["seeds"]]
    averaged = network(0)
    averaged.load_state_dict(
        {name: sum(state[name] for state in states) / 3 if states[0][name].is_floating_point() else states[0][name]
         for name in states[0]}
    )  # fmt: skip
    with torch.no_grad():
        loss = nn.functional.cross_entropy(averaged.eval()(inputs), labels)
    assert result.whole("seeds").averaged_loss == pytest.approx(float(loss), rel=1e-5)


def test_diversity_is_the_disagreement_over_the_error(result):
    inputs, labels = data()
    with torch.no_grad():
        reference, other = (one.eval()(inputs).argmax(1) for one in (GROUPS["seeds"][0], GROUPS["others"][1]))
    expected = float((reference != other).double().mean() / (other != labels).double().mean())
    assert result.members[-1].diversity == pytest.approx(expected)
    assert result.members[0].diversity == 0
    for member in result.members[1:]:  # whatever the networks are
        assert abs(member.error - result.members[0].error) - 1e-9 <= member.disagreement <= member.possible + 1e-9


def test_statistics_of_every_network_and_average_are_measured_anew():
    found = ensembles(GROUPS, data(), calibration=data(200), batch_size=200)
    same = ensembles(
        {"twice": [GROUPS["seeds"][0]] * 2}, data(), calibration=data(200), batch_size=200, names=["one", "two"]
    )
    assert found.batchnorm == "recalibrate"
    one, two = same.prefixes
    assert two.averaged_loss == pytest.approx(one.ensemble_loss, rel=1e-6) == pytest.approx(two.ensemble_loss)
    assert found.prefixes[0].ensemble_loss == pytest.approx(one.ensemble_loss, rel=1e-6)


def test_a_file_holds_the_result(result, tmp_path):
    result.to_json(tmp_path / "x.json")
    again = Ensembles.from_json(tmp_path / "x.json")
    assert again.members == result.members
    assert again.prefixes == result.prefixes
    assert str(again) == str(result)
    assert list(result.to_frame()["members"]) == [1, 2, 3, 1, 2]


def test_the_picture_has_a_line_for_each_group_and_kind(result):
    figure = result.plot()
    left, right = figure.axes
    assert len([line for line in left.lines if len(line.get_xdata())]) == 4
    assert np.allclose(left.lines[0].get_ydata(), [100 * one.ensemble_error for one in result.prefixes[:3]])
    assert sum(len(line.get_xdata()) for line in right.lines) == 4  # all but the reference


def test_networks_are_called_by_their_files_or_else_by_their_groups(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for seed in (0, 1):
            torch.save(network(seed).state_dict(), tmp_path / folder / f"net-{seed}.pt")
    first, second = ([tmp_path / folder / f"net-{seed}.pt" for seed in (0, 1)] for folder in ("one", "two"))
    options = {"model": network(0), "batchnorm": "interpolate"}
    found = ensembles({"seeds": iter(first)}, data(), **options)
    assert [member.name for member in found.members] == ["net-0.pt", "net-1.pt"]
    found = ensembles({1: first, "b": second}, data(), **options)
    assert [member.name for member in found.members] == ["1 1", "1 2", "b 1", "b 2"]
    assert found.groups == ("1", "b")
    assert str(Ensembles.from_json(found.to_json())) == str(found)


def test_a_network_without_errors_has_no_diversity():
    from modeconn.analysis.landscape.ensembles_result import Member

    assert math.isnan(Member("a", "a", 0.0, 0.0, 0.0, 0.0).diversity)


@pytest.mark.parametrize(
    ("groups", "options", "said"),
    [
        ({}, {}, "give groups of networks by name"),
        ([network(0), network(1)], {}, "give groups of networks by name"),
        ({"a": [network(0)]}, {}, "group 'a' must be a list of at least two networks"),
        ({"a": network(0)}, {}, "group 'a' must be a list of at least two networks"),
        ({"a": 3}, {}, "group 'a' must be a list of at least two networks"),
        (GROUPS, {}, 'batchnorm="recalibrate" needs calibration='),
        (GROUPS, {"batchnorm": "repair"}, "no path to repair"),
        (GROUPS, {"batchnorm": "interpolate", "evaluate": "regression"}, "an ensemble averages predicted probab"),
    ],
)
def test_bad_input_is_said_in_a_sentence(groups, options, said):
    with pytest.raises(ModeconnError, match=said):
        ensembles(groups, data(), **options)
