"""Training and evaluation mode, and BatchNorm layers."""

import pytest
from torch import nn

from cases import with_batchnorm
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.models import build_network


def test_evaluation_mode_ends_where_it_began():
    network = with_batchnorm(10)
    network[1].eval()
    modes = [module.training for module in network.modules()]
    with pytest.raises(KeyError), evaluating(network):  # noqa: PT012
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert [module.training for module in network.modules()] == modes


def test_layers_with_running_statistics_are_of_any_kind():
    assert len(running_statistics_layers(build_network("resnet-20", (3, 32, 32), 10, seed=0))) == 21
    assert not running_statistics_layers(build_network("resnet-20", (3, 32, 32), 10, seed=0, norm="group"))
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    tracked, of_instances = nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)
    network = nn.Sequential(untracked, nn.InstanceNorm1d(3), tracked, of_instances)
    assert running_statistics_layers(network) == {tracked: "2", of_instances: "3"}
