"""Frankle et al. 2020, Figures 2 and 3: error along the path, and instability over the rewinding iteration.

    python analyses/lmc2020_figures_2_and_3.py digits-conv
    python analyses/lmc2020_figures_2_and_3.py mnist-lenet --data-dir DIR
    python analyses/lmc2020_figures_2_and_3.py cifar10-resnet20 --data-dir DIR

Each writes `figures/lmc2020-NAME/`. The digits are no part of the paper. LeNet is trained in full, at k = 0, where the
paper's Figure 3 finds it stable. ResNet-20 is shortened to 3,000 of 63,000 iterations, in bfloat16, one replicate, test
split: enough to see an unstable and a far more stable k on a computer without a GPU.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from modeconn import instability
from modeconn.cli.progress import progress_bar

FIGURES = Path(__file__).resolve().parent.parent / "figures"
STUDIES: dict[str, dict[str, Any]] = {
    "digits-conv": {},
    "mnist-lenet": {"rewind_iters": "0", "copies": 3},
    "cifar10-resnet20": {
        "rewind_iters": "0,30%",
        "iterations": 3000,
        "replicates": 1,
        "splits": ["test"],
        "precision": "bfloat16",
    },
}


def main() -> None:
    """Run one study and write its figures, their data, and the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data-dir", help="folder of data sets")
    parser.add_argument("--store", default="modeconn-store", help="folder of all that is computed")
    options = parser.parse_args()
    with progress_bar() as report:
        result = instability(
            options.study,
            **STUDIES[options.study],
            data_dir=options.data_dir,
            store=options.store,
            out=FIGURES / f"lmc2020-{options.study}",
            command=shlex.join(["python", f"analyses/{Path(__file__).name}", options.study]),
            report=report,
        )
    print(result)


if __name__ == "__main__":
    main()
