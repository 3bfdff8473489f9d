"""The picture of docs/curves.md.

python docs/curves_picture.py
"""

from pathlib import Path

from averaging_picture import TEST, TRAIN, network, train

from modeconn import fit_curve, neb
from modeconn.style import panels


def main() -> None:
    """A Bezier curve and an elastic band between two initialisations of six layers with BatchNorm."""
    a, b = (train(network(seed), 250, rate=0.3, seed=seed) for seed in (2, 3))
    curve = fit_curve(a, b, TRAIN, epochs=60, learning_rate=0.05, names=["seed 2", "seed 3"])
    band = neb(a, b, TRAIN, names=["seed 2", "seed 3"])
    with panels(1, 2, 9, 3.4, sharey=True) as (figure, axes):
        for ax, found in zip(axes[0], (curve, band), strict=True):
            found.barrier(TEST).plot(ax, "error")
    figure.savefig(Path(__file__).with_name("curves.png"), dpi=110)


if __name__ == "__main__":
    main()
