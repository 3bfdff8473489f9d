"""The picture and the printed report of docs/averaging.md.

python docs/averaging_picture.py
"""

import copy
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import compare
from modeconn.style import panels

_DIGITS = load_digits()
_INPUTS, _LABELS = torch.tensor(_DIGITS.data, dtype=torch.float32) / 16, torch.tensor(_DIGITS.target)
TRAIN, TEST = (_INPUTS[:1200], _LABELS[:1200]), (_INPUTS[1200:], _LABELS[1200:])


def main() -> None:
    """Compare two copies that parted after 5 iterations, and two networks of other initialisations."""
    trunk = train(network(2), 5, rate=0.2, seed=2)
    copies = [train(trunk, 250, rate=0.3, seed=seed) for seed in (102, 202)]
    others = [train(network(seed), 250, rate=0.3, seed=seed) for seed in (2, 3)]
    with panels(1, 2, 9, 3.4, sharey=True) as (figure, axes):
        for ax, pair, names in (
            (axes[0, 0], copies, ["copy 1", "copy 2"]),
            (axes[0, 1], others, ["seed 2", "seed 3"]),
        ):
            report = compare(*pair, TEST, calibration=TRAIN, ancestor=trunk if pair is copies else None, names=names)
            print(report, end="\n\n\n")
            report.plot(ax)
    figure.savefig(Path(__file__).with_name("averaging.png"), dpi=110)


def network(seed: int) -> nn.Module:
    """Six hidden layers of 24 units with BatchNorm."""
    torch.manual_seed(seed)
    hidden = [layer for inputs in (64, *[24] * 5) for layer in (nn.Linear(inputs, 24), nn.BatchNorm1d(24), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(24, 10))


def train(start: nn.Module, iterations: int, rate: float, seed: int) -> nn.Module:
    """A copy after so many iterations of SGD with momentum, in batches of 64 that the seed draws."""
    trained = copy.deepcopy(start).train()
    optimizer = torch.optim.SGD(trained.parameters(), rate, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = TRAIN
    for _ in range(iterations):
        batch = torch.randint(len(labels), (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return trained.eval()


if __name__ == "__main__":
    main()
