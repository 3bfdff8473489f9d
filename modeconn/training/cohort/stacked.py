"""Several networks of one architecture as one batched network, so that small networks fill a processor together.

A convolution of M networks is one grouped convolution with M times as many channels in M times as many groups; a linear
layer becomes a batched matrix product; normalization and activation per channel, and pooling, stay as they are. A
network's output does not depend on the others but for rounding.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.evaluation.modes import evaluating

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, eq=False)
class Stacked:
    """Networks of one architecture side by side.

    Attributes:
        network: computes all of them: [batch, members * channels, height, width] to [batch, members * classes].
        members: how many.
        shapes: of the tensors of one network's state dict, by name.
        counters: BatchNorm's counters of batches, where nothing is computed from them: by how much each member's is
            ahead of the batched network's, by their names in the state dict.
    """

    network: nn.Module
    members: int
    shapes: Mapping[str, torch.Size]
    counters: dict[str, list[Tensor]]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [members, batch, classes].

        Args:
            images: [members, batch, channels, height, width]; or [batch, channels, height, width], the same for all.
        """
        if images.ndim == 4:
            images = images.expand(self.members, *images.shape)
        members, batch, channels, height, width = images.shape
        # One copy, which is in channels-last layout.
        wide = images.permute(1, 3, 4, 0, 2).reshape(batch, height, width, members * channels).permute(0, 3, 1, 2)
        return self.network(wide).view(batch, members, -1).transpose(0, 1)

    def part(self, name: str, tensor: Tensor, member: int) -> Tensor:
        """A member's part of a stacked tensor that belongs to an entry of the state dict; a view."""
        shape = self.shapes[name]
        return tensor if tensor.shape == shape else tensor.view(self.members, *shape)[member]

    @torch.no_grad()
    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put the members' state dicts in, in place.

        Raises:
            NetworkError: they disagree in what there is once for all of them and is computed with.
        """
        for name, tensor in self.network.state_dict().items():
            shared = tensor.shape == self.shapes[name] and self.members > 1
            if name in self.counters:
                self.counters[name] = [state[name] - states[0][name] for state in states]
            elif shared and any(not torch.equal(state[name], states[0][name]) for state in states):
                raise NetworkError(f"networks with different {name} cannot be stacked; train them one by one")
            for member, state in enumerate(states[:1] if shared else states):
                self.part(name, tensor, member).copy_(state[name])

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a member's state dict."""
        tensors = self.network.state_dict()
        found = {name: self.part(name, tensors[name], member).clone() for name in self.shapes}
        return found | {name: found[name] + ahead[member] for name, ahead in self.counters.items()}


def stack(network: nn.Module, members: int) -> Stacked:
    """A batched network for so many networks of an architecture; their weights are loaded afterwards.

    Args:
        network: of that architecture, which is left unchanged. Between its layers it may compute what treats every
            channel alike: activations, sums, pooling, flattening.
        members: how many networks.

    Raises:
        NetworkError: a layer that is not known here.
    """
    wide = copy.deepcopy(network)
    if len(list(network.parameters())) != len(list(network.named_parameters(remove_duplicate=False))):
        raise NetworkError("networks with tied weights cannot be stacked; train them one by one")
    for path, layer in list(wide.named_modules()):
        if next(layer.children(), None) is None:
            wide = _put(wide, path, _widen(path, layer, members))
        elif next(layer.parameters(recurse=False), None) is not None or layer._buffers:
            raise NetworkError(f"{path or 'the network'} ({type(layer).__name__}) cannot be stacked: unknown weights")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return Stacked(wide.to(memory_format=torch.channels_last), members, shapes, _counters(wide, members))


def _counters(network: nn.Module, members: int) -> dict[str, list[Tensor]]:
    """The counters of a batched network that nothing is computed from, as momentum is a number."""
    return {
        f"{path}.num_batches_tracked".lstrip("."): [layer.num_batches_tracked.new_zeros(())] * members
        for path, layer in network.named_modules()
        if isinstance(layer, _NORMS) and layer.momentum is not None and layer.num_batches_tracked is not None
    }


def check_stacks(network: nn.Module, images: Tensor) -> None:
    """Refuse a network whose outputs differ when it is stacked, as far as a few inputs show.

    Args:
        network: left unchanged.
        images: a few of its inputs, [batch, channels, height, width].

    Raises:
        NetworkError: it cannot be stacked, its copies then give other outputs than alone, or it draws random numbers
            outside of dropout layers.
    """
    states = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for _ in range(2)]
    for tensor in states[1].values():
        if tensor.is_floating_point():
            tensor.mul_(1.1)
    stacked = stack(network, members=2)
    alone = copy.deepcopy(network)
    stacked.load(states)
    with torch.no_grad(), evaluating(alone), evaluating(stacked.network):
        for member, state in enumerate(states):
            alone.load_state_dict(state)
            expected = alone(images)
            try:
                found = stacked(images)[member]
                rounding = 1e-4 * max(1.0, float(expected.abs().max()))
                same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=rounding)
            except RuntimeError:
                same = False
            if not same:
                raise NetworkError("the network treats channels differently, so it cannot be stacked; train one by one")
        for layer in alone.modules():
            layer.training = not isinstance(layer, nn.Dropout)
        before = _random_state(images.device)
        alone(images)
        if not torch.equal(_random_state(images.device), before):
            raise NetworkError("the network draws random numbers of its own, so it cannot be stacked; train one by one")


class StackedLinear(nn.Module):
    """Linear layers side by side: [batch, members * in] to [batch, members * out].

    Attributes:
        weight: [members, out, in].
        bias: [members, out], or None.
    """

    def __init__(self, layer: nn.Linear, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().repeat(members, 1, 1))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(members, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each member's own features by its weight: `y_m = x_m W_m^T + b_m`."""
        members, _, features = self.weight.shape
        parts = x.view(len(x), members, features).transpose(0, 1)  # [members, batch, in]
        weight = self.weight.transpose(1, 2)
        product = torch.bmm(parts, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], parts, weight)
        return product.transpose(0, 1).reshape(len(x), -1)


class StackedDropout(nn.Module):
    """Dropout with a generator of each member's own, `generators`, which are seeded before every step."""

    def __init__(self, layer: nn.Dropout, members: int) -> None:
        super().__init__()
        self.p = layer.p
        self.members = members
        self.generators: list[torch.Generator] = []

    def forward(self, x: Tensor) -> Tensor:
        """Zeros with probability p, the rest scaled by 1 / (1 - p); in evaluation, nothing."""
        if not self.training or self.p == 0:
            return x
        shape = (x.shape[0], x.shape[1] // self.members, *x.shape[2:])
        kept = [torch.empty(shape, device=x.device).bernoulli_(1 - self.p, generator=g) for g in self.generators]
        return x * torch.cat(kept, 1) / (1 - self.p)


def _conv(layer: Any, members: int) -> nn.Module:
    return nn.Conv2d(
        layer.in_channels * members,
        layer.out_channels * members,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups * members,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )


def _batchnorm(layer: Any, members: int) -> nn.Module:
    return type(layer)(layer.num_features * members, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)


def _groupnorm(layer: nn.GroupNorm, members: int) -> nn.Module:
    return nn.GroupNorm(layer.num_groups * members, layer.num_channels * members, layer.eps, layer.affine)


_WIDER: dict[type[nn.Module], Callable[[Any, int], nn.Module]] = {
    nn.Conv2d: _conv,
    nn.Linear: StackedLinear,
    nn.GroupNorm: _groupnorm,
    nn.Dropout: StackedDropout,
    **dict.fromkeys(_NORMS, _batchnorm),
}
# Whether they do treat channels alike is seen by `check_stacks`.
_WITHOUT_WEIGHTS = {f"torch.nn.modules.{kind}" for kind in ("activation", "pooling", "flatten", "padding")}


def _widen(path: str, layer: nn.Module, members: int) -> nn.Module:
    if type(layer) in _WIDER:
        wide = _WIDER[type(layer)](layer, members)
        return wide.to(next(layer.parameters(), torch.empty(0)).device).train(layer.training)
    known = type(layer) is nn.Identity or type(layer).__module__ in _WITHOUT_WEIGHTS
    if known and next(layer.parameters(), None) is None:
        return layer
    raise NetworkError(f"{path} ({type(layer).__name__}) cannot be stacked; train the networks one by one")


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _put(network: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    """The network with another layer at a path."""
    if not path:
        return layer
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
    return network
