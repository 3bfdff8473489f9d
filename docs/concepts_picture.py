"""The pictures of docs/concepts, and the result that the README prints.

python docs/concepts_picture.py

The pictures are of two definitions of a barrier, and of how training amplifies a difference of rounding.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import error_barrier
from modeconn.style import COLORS, panels

_DIGITS = load_digits()
_INPUTS, _LABELS = torch.tensor(_DIGITS.data, dtype=torch.float32) / 16, torch.tensor(_DIGITS.target)
TRAIN, TEST = (_INPUTS[:1200], _LABELS[:1200]), (_INPUTS[1200:], _LABELS[1200:])
HERE = Path(__file__).parent / "concepts"


def main() -> None:
    """Draw both, and measure the README's example."""
    torch.set_num_threads(1)
    a, b = (train(with_batchnorm(seed), 300, seed)[-1] for seed in (1, 2))
    error_barrier(a, b, TEST).to_json(HERE / "two_networks.json")
    draw_definitions(HERE / "definitions.png")
    draw_rounding(HERE / "rounding.png")


def draw_definitions(path: Path) -> None:
    """The error between a network that trained for long and one that did not, with both barriers."""
    long, short = train(network(1), 400, seed=1)[-1], train(network(2), 40, seed=2)[-1]
    result = error_barrier(long, short, TEST, names=["long training", "short training"])
    error, alphas = 100 * result.error, result.alphas
    chord = error[0] + alphas * (error[-1] - error[0])
    mean = (error[0] + error[-1]) / 2
    top, over = int(np.argmax(error)), int(np.argmax(error - chord))
    with panels(1, 1, 5.6, 3.6) as (figure, axes):
        ax = axes[0, 0]
        ax.plot(alphas, error, color=COLORS["test"])
        ax.plot(alphas[[0, -1]], chord[[0, -1]], "--", color="grey", label="chord: between the ends' errors")
        ax.axhline(mean, linestyle=":", color="grey", label="mean of the ends' errors")
        for at, below, name, value, shift in (
            (top, mean, "barrier", result.barrier, -0.012),
            (over, chord[over], "chord barrier", result.chord_barrier, 0.012),
        ):
            x, side = alphas[at] + shift, "right" if shift < 0 else "left"
            ax.annotate("", (x, error[at]), (x, below), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
            ax.text(x + shift, 0.3 * error[at] + 0.7 * below, f"{name}\n{100 * value:.1f} points", va="center", ha=side)
        ax.set(xlabel="alpha, from long to short training", ylabel="test error (%)", xlim=(0, 1))
        ax.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def draw_rounding(path: Path) -> None:
    """The distance between two trainings that differ in last bits of weights, and between two seeds of data order."""
    start = network(0)
    nudged = copy.deepcopy(start)
    with torch.no_grad():
        nudged[0].weight.copy_(torch.nextafter(nudged[0].weight, torch.tensor(1.0)))
    runs = [train(start, 400, seed=1), train(nudged, 400, seed=1), train(start, 400, seed=2)]
    vectors = [torch.stack([nn.utils.parameters_to_vector(one.parameters()) for one in run]) for run in runs]
    with panels(1, 1, 5.6, 3.6) as (figure, axes):
        ax = axes[0, 0]
        for other, name, split in (
            (1, "last bits of the first layer at iteration 0", "test"),
            (2, "data order", "train"),
        ):
            distance = (vectors[0] - vectors[other]).double().norm(dim=1).detach()
            ax.plot(range(1, 401), distance, color=COLORS[split], label=name)
        ax.set(xlabel="iteration", ylabel="L2 distance of the weights", yscale="log")
        ax.legend(title="two trainings that differ in", loc="center right")
    figure.savefig(path, dpi=110)


def network(seed: int) -> nn.Sequential:
    """Two hidden layers of 32 units."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def with_batchnorm(seed: int) -> nn.Sequential:
    """A hidden layer of 64 units with BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def train(start: nn.Module, iterations: int, seed: int, rate: float = 0.1) -> list[nn.Module]:
    """Copies after every iteration of SGD with momentum, in batches of 64 that the seed draws."""
    trained, states = copy.deepcopy(start), []
    optimizer = torch.optim.SGD(trained.parameters(), rate, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = TRAIN
    for _ in range(iterations):
        batch = torch.randint(len(labels), (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        states.append(copy.deepcopy(trained))
    return states


if __name__ == "__main__":
    main()
