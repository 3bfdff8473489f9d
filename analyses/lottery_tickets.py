"""Lottery tickets: Frankle & Carbin 2019, Figures 1 and 4, and Frankle et al. 2020, Figures 6 and 7.

    python analyses/lottery_tickets.py digits-conv
    python analyses/lottery_tickets.py mnist-lenet --data-dir DIR
    python analyses/lottery_tickets.py cifar10-resnet20 --data-dir DIR
    python analyses/lottery_tickets.py cifar10-resnet20-rewound-to-0 --data-dir DIR

Each writes `figures/lottery-NAME/`. The digits are no part of the papers; they are what `modeconn lottery` runs by
default. LeNet is trained in full and rewound to 0, where it is stable, at 15 levels, and pruned globally in all layers.
ResNet-20 is shortened to 800 of 63,000 iterations and pruned to 16.8 % in three levels instead of eight, one replicate,
to be feasible without a GPU.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from modeconn import lottery
from modeconn.cli.progress import progress_bar

FIGURES = Path(__file__).resolve().parent.parent / "figures"
_RESNET: dict[str, Any] = {
    "task": "cifar10-resnet20",
    "iterations": 800,
    "levels": 3,
    "fraction": 0.448,
    "replicates": 1,
    "conditions": ["imp"],
    "barriers": [],
    "alphas": 3,
    "fix": False,
    "splits": ["test"],
    "validation": 0,
}
STUDIES: dict[str, dict[str, Any]] = {
    "digits-conv": {},
    "mnist-lenet": {
        "levels": 15,
        "rewind_iter": "auto",
        "rewind_iters": "0",
        "replicates": 3,
        "conditions": ["imp", "reinit"],
        "rates": [],  # the output layer too, which the preset leaves out
    },
    "cifar10-resnet20": _RESNET | {"rewind_iters": "0,30%"},
    "cifar10-resnet20-rewound-to-0": _RESNET | {"rewind_iter": 0},
}


def main() -> None:
    """Run one study and write its figures, their data, and the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data-dir", help="folder of data sets")
    parser.add_argument("--store", default="modeconn-store", help="folder of all that is computed")
    options = parser.parse_args()
    with progress_bar() as report:
        result = lottery(
            **{"task": options.study, **STUDIES[options.study]},
            data_dir=options.data_dir,
            store=options.store,
            out=FIGURES / f"lottery-{options.study}",
            command=shlex.join(["python", f"analyses/{Path(__file__).name}", options.study]),
            report=report,
            say=print,
        )
    print(result)


if __name__ == "__main__":
    main()
