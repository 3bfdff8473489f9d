"""Axis groups of torchvision's convolutional networks are those of an independent dependency graph (Torch-Pruning)."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from modeconn.analysis.alignment.network import graph_of

tp = pytest.importorskip("torch_pruning")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "vgg11_bn": torchvision.models.vgg11_bn,
    "densenet121": torchvision.models.densenet121,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_groups_are_those_of_a_dependency_graph(name: str) -> None:
    """For each group: the layers whose outputs, and those whose inputs, have its units."""
    network, example = NETWORKS[name]().eval(), torch.randn(2, 3, 64, 64)
    symmetry = graph_of(network, ((example,), {})).symmetry
    ours = set()
    for number in range(len(symmetry.groups)):
        layers = {
            (tensor.rpartition(".")[0], axis.axis)
            for tensor, axes in symmetry.tensors.items()
            for axis in axes
            if number in axis.groups and tensor.endswith("weight")
        }
        ours.add(frozenset(layers))
    theirs = _dependencies(network, example)
    assert len(ours) > 5
    assert ours == theirs


def _dependencies(network: nn.Module, example: torch.Tensor) -> set[frozenset[tuple[str, int]]]:
    """The same as Torch-Pruning finds it: 0 for a layer's outputs, 1 for its inputs; norms have outputs alone."""
    names = {module: name for name, module in network.named_modules()}
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=example)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    found = set()
    for group in graph.get_all_groups(ignored_layers=[last], root_module_types=[nn.Conv2d, nn.Linear]):
        layers = set()
        for dependency, _ in group:
            module = dependency.target.module
            if module not in names or not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                continue
            inputs = graph.is_in_channel_pruning_fn(dependency.handler)
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            layers.add((names[module], int(inputs and not isinstance(module, nn.BatchNorm2d) and not depthwise)))
        found.add(frozenset(layers))
    return found
