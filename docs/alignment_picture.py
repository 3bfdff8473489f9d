"""The picture of docs/alignment.md: what a group of units is, and what alignment does to it.

python docs/alignment_picture.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from modeconn import Alignment, align

_NAMES = {"2.weight": ("2", "0"), "4.weight": (None, "2")}  # of each matrix the groups of its rows and columns


def main() -> None:
    """Align a noisy network in another order of its units to the original, and draw two of its matrices."""
    torch.manual_seed(3)
    a = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    symmetry = align(a, a).symmetry
    order = symmetry.random(np.random.default_rng(1))
    b = Alignment(symmetry, order, "given", 0, 0, (), 0, ("a", "b"), (), {}).apply(a)
    with torch.no_grad():
        for tensor in b.parameters():
            tensor += 0.05 * torch.randn_like(tensor)
    found = align(a, b)
    here = {group.name: np.arange(group.size) for group in symmetry.groups}
    there = {group.name: moved for group, moved in zip(symmetry.groups, order, strict=True)}
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), height_ratios=(8, 3), layout="constrained")
    for column, (title, network, units) in enumerate(
        (("a", a, here), ("b", b, there), ("b, aligned to a", found.apply(b), here))
    ):
        for row, (name, groups) in enumerate(_NAMES.items()):
            _draw(axes[row, column], network.state_dict()[name].numpy(), name, groups, units)
        axes[0, column].set_title(title, pad=26)
    figure.savefig(Path(__file__).with_name("alignment.png"), dpi=110)


def _draw(ax: Axes, matrix: np.ndarray, name: str, groups: tuple, units: dict[str, np.ndarray]) -> None:
    """A matrix, and beside its rows and columns the colour of each unit."""
    ax.imshow(matrix, cmap="RdBu", vmin=-0.6, vmax=0.6)
    for group, across in zip(groups, (False, True), strict=True):
        if group is None:
            continue
        for place, unit in enumerate(units[group]):
            color = plt.get_cmap("tab10" if group == "2" else "Set2")(unit)
            corner = (place - 0.5, -1.7) if across else (-1.7, place - 0.5)
            ax.add_patch(plt.Rectangle(corner, 0.94, 0.94, color=color, clip_on=False))
    ax.set(xticks=[], yticks=[], xlim=(-0.5, matrix.shape[1] - 0.5), ylim=(matrix.shape[0] - 0.5, -0.5))
    ax.set_xlabel(name)
    ax.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
