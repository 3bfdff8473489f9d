"""Training losses of anyone's network on anyone's batch, for gradients."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.forward import call
from modeconn.evaluation.meters import kind_of_target
from modeconn.evaluation.scores import IGNORED
from modeconn.evaluation.structures import describe_batch

Loss = Callable[[nn.Module, Any], Tensor]


def mean_loss(network: nn.Module, batch: Any, loss: Loss | None = None, temperature: float = 1.0) -> Tensor:
    """Compute the mean loss over a batch, with its graph for gradients.

    Args:
        network: in whatever mode it is.
        batch: as `modeconn.evaluation.forward.call` takes it; it may be written to.
        loss: `loss(network, batch)`, a scalar tensor. If None: what the network itself returns as `loss`, if it takes
            `labels` and the batch is a mapping with them, as Hugging Face's do; else what output and target suggest, as
            `modeconn.evaluation.meters.kind_of_target` tells: cross-entropy in nats with labels that are whole numbers
            (-100 does not count), one-hot or soft; binary cross-entropy with labels of 0 and 1; or the mean squared
            error with other floating-point targets.
        temperature: what logits are divided by before our own cross-entropy.

    Raises:
        OptionError: a loss that is no such tensor, or a target for which there is none.
        DataError: no target, labels out of range, or the network fails on the batch.

    >>> labels = torch.tensor([0, 1])
    >>> torch.allclose(mean_loss(nn.Identity(), (torch.zeros(2, 4), labels)), torch.tensor(4.0).log())
    True
    """
    if loss is not None:
        value = loss(network, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shown = describe_batch(value)
            raise OptionError(f"loss(network, batch) must give a tensor with one number; it gives {shown}")
        return value.reshape(())
    own = _loss_of_network(network, batch)
    return _loss_on_target(network, batch, temperature) if own is None else own


def computes_loss(network: nn.Module, batch: Any) -> bool:
    """Whether a network is given the `labels` of a batch, to compute its loss itself."""
    return (
        isinstance(batch, Mapping) and "labels" in batch and "labels" in inspect.signature(network.forward).parameters
    )


def _loss_of_network(network: nn.Module, batch: Any) -> Tensor | None:
    """The loss that the network itself computes from `labels`; None if it computes none."""
    if not computes_loss(network, batch):
        return None
    output = network(**batch)
    value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return value.mean() if isinstance(value, Tensor) else None


def _loss_on_target(network: nn.Module, batch: Any, temperature: float) -> Tensor:
    """Cross-entropy, binary cross-entropy or mean squared error, as the target suggests."""
    output, target = call(network, batch, advice="say with loss= what the loss is")
    if target is None:
        raise DataError(f"a batch has no target: {describe_batch(batch)}; say with loss= what the loss is")
    target = torch.as_tensor(target, device=output.device)
    kind = kind_of_target(output, target)
    if kind == "classification" and target.shape == output.shape:
        return cross_entropy(output / temperature, target.to(output))
    if kind in ("classification", "tokens"):
        logits, labels = output.flatten(0, -2), target.flatten().long()
        counted = labels[labels != IGNORED]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < logits.shape[1]:
            raise DataError(f"a label is not one of the network's {logits.shape[1]} classes, numbered from 0")
        total = cross_entropy(logits / temperature, labels, ignore_index=IGNORED, reduction="sum")
        return total / max(counted.numel(), 1)  # 0, and not NaN, where no label counts
    if kind == "multi-label":
        return binary_cross_entropy_with_logits(output / temperature, target.reshape(output.shape).to(output))
    if kind == "regression":
        return mse_loss(output, target.reshape(output.shape))
    raise OptionError(
        f"cannot tell what the loss is: the network gives {describe_batch(output)} and the target is "
        f"{describe_batch(target)}; give loss=, a function (network, batch) that gives a scalar tensor"
    )
