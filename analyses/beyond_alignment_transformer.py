"""Alignment of transformers: barriers between two initialisations of a vision transformer, aligned and not.

    modeconn reproduce beyond-alignment-transformer --network cifar10-vit --protocol short --data-dir DIR
    python analyses/beyond_alignment_transformer.py --network cifar10-vit --protocol short --data-dir DIR

Heads, what is inside them, hidden units and the residual stream are permuted. Permutations lower the barrier of
transformers without removing it (Theus et al. 2025, Table 1: by weights from 1.69 to 0.36 nats on CIFAR-10, of networks
twice as wide).
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.alignment_studies import TRANSFORMERS
from modeconn.reproduce.alignments import PLAIN
from modeconn.reproduce.drawing import figure_of_alignments
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row


def draw(results: Results) -> Drawing:
    """The barriers of error and of loss, without alignment and with each method."""
    return figure_of_alignments(rows(results))


def rows(results: Results) -> list[Row]:
    """A row for each pair and method."""
    return list(results["alignment"].rows)


def judge(results: Results) -> Verdict:
    """The barriers, and the error of the networks."""
    found = rows(results)
    said = []
    for row in found:
        way = "not aligned" if row["align"] == PLAIN else f"by {row['align']}"
        said.append(f"{way} {row['loss_barrier']:.3f} nats ({100 * row['barrier']:.2f} points of error)")
    single = f"the two networks err {100 * found[0]['error']:.1f} %"
    return Verdict("new", f"test loss barriers: {'; '.join(said)}; {single}")


FIGURE = Figure(
    paper="beyond",
    item="Alignment of transformers",
    shows="barriers between two initialisations of a vision transformer, aligned and not",
    networks={
        "cifar10-vit": Network(
            "loss barrier 1.69 nats, 0.36 by weights (6 layers, 8 heads, 256 channels)",
            source="notes",
            protocols=TRANSFORMERS["cifar10-vit"],
        ),
        SMOKE: Network("", source="", protocols=TRANSFORMERS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
