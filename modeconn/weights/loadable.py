"""State dicts by effective weights, in the names that the network itself loads."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.weight_norm import WeightNorm

from modeconn.weights.effective import plain_prefixes, unwrap
from modeconn.weights.state_dicts import qualified_name


@torch.no_grad()
def loadable(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Divide effective weights into the lengths and directions that weight normalization keeps of them.

    A weight w = g v / |v| (Salimans & Kingma 2016, equation 2) is given back as v = w and g = |w|, under the names that
    it has in the network, of `torch.nn.utils.weight_norm` or of the parametrization. Spectral normalization and masks
    hold no other weights than their own: what is computed by these keeps its effective name.

    Args:
        state: by effective names, as `average` makes it.
        network: one with these weights, perhaps normalized.

    >>> layer = parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    >>> found = loadable({"weight": torch.tensor([[3.0, 4.0]])}, layer)
    >>> layer.load_state_dict(found), layer.weight
    (<All keys matched successfully>, tensor([[3., 4.]], grad_fn=<WeightNormInterfaceBackward0>))
    """
    found = dict(state)
    network = unwrap(network)
    for own, prefix in plain_prefixes(network).items():
        module = network.get_submodule(own)
        for name, (length, direction), dim in _weight_norms(module):
            if (weight := found.pop(qualified_name(prefix, name), None)) is not None:
                g = torch.norm_except_dim(weight, 2, dim)
                found[qualified_name(prefix, length)] = g
                # No direction for a weight of length 0: any will do.
                found[qualified_name(prefix, direction)] = torch.where(g == 0, 1, weight)
    return found


def _weight_norms(module: nn.Module) -> list[tuple[str, tuple[str, str], int]]:
    """Of each weight of a module that is normalized, and nothing else: its name, those of g and v, and their dim."""
    found = []
    others = len(module._forward_pre_hooks)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and others == 1:
            found.append((hook.name, (f"{hook.name}_g", f"{hook.name}_v"), hook.dim))
    if parametrize.is_parametrized(module):
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if len(chain) == 1 and isinstance(chain[0], parametrizations._WeightNorm):
                prefix = f"parametrizations.{name}.original"
                found.append((name, (f"{prefix}0", f"{prefix}1"), chain[0].dim))
    return found
