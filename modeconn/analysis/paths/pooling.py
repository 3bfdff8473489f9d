"""Means and variances of more values than fit in memory at once."""

import torch
from torch import Tensor


class Pool:
    """Count, mean and sum of squared deviations per channel, merged batch by batch (Chan et al. 1983).

    >>> pool = Pool()
    >>> pool.add(torch.tensor([1.0]), torch.tensor([2.0]), 2)  # the values 0 and 2
    >>> pool.add(torch.tensor([7.0]), torch.tensor([0.0]), 1)
    >>> pool.mean, pool.variance
    (tensor([3.]), tensor([8.6667]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, mean: Tensor, squares: Tensor, n: int) -> None:
        """Merge `n > 0` further values per channel, given by their mean and sum of squared deviations from it."""
        total = self.count + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.squares = self.squares + squares + delta**2 * (self.count * n / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Population variance per channel."""
        return self.squares / self.count
