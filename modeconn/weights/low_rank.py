"""A weight that is another one plus a product of two factors, W = W0 + scale B A (Hu et al. 2022)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank update of one weight, read when it is needed.

    Attributes:
        base: gives W0, which must not be written to.
        a: gives A, [rank, ...], over the inputs.
        b: gives B, [outputs, rank] or a convolution of kernel 1.
        scale: of the product.
        transposed: whether W0 is [inputs, outputs], as in `Conv1D` of GPT-2 and in embeddings.

    >>> update = LowRank(lambda: torch.zeros(2, 3), lambda: torch.ones(1, 3), lambda: torch.ones(2, 1), 0.5, False)
    >>> update.merged(update.a(), update.b())
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000]])
    """

    base: Callable[[], Tensor]
    a: Callable[[], Tensor]
    b: Callable[[], Tensor]
    scale: float
    transposed: bool

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        """W0 + scale B A for given factors, in at least float32 on W0's device."""
        base = self.base()
        wide = torch.promote_types(torch.promote_types(base.dtype, a.dtype), torch.float32)
        a, b = (factor.to(base.device, wide).flatten(1) for factor in (a, b))
        product = (b @ a).T if self.transposed else b @ a
        return base.to(wide) + self.scale * product.reshape(base.shape)
