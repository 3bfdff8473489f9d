"""What tests of training compare and call."""

import torch

from modeconn.training.state import State


def same(a: State, b: State) -> bool:
    pairs = [(a.model, b.model), (a.optimizer, b.optimizer)]
    return a.iteration == b.iteration and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs
    )
