"""One small result of every kind that draws itself, made by hand or measured on tiny networks."""

import functools
from typing import Any

import torch
from torch import nn

from modeconn import barrier_matrix, compare, error_barrier, feature_connectivity, layerwise_barrier, soup
from modeconn.analysis.averaging.durations import sweep_durations
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.tickets.matching import with_matching
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.sweep_result import SweepResult

ABOUT = {"task": "toy", "task_changes": "", "replicates": 2, "copies": 2, "threshold": 0.02, "iterations": 100}
ABOUT |= {"data_note": "", "diverged": []}

NAMES = (
    *("barrier", "barrier, aligned", "matrix", "layerwise", "features", "soup", "durations", "compare"),
    *("instability", "lottery", "lottery, several k", "sweep"),
)


def instability(ks: tuple[int, ...] = (0, 10, 100), scale: float = 1.0, **about: Any) -> InstabilityResult:
    """Two replicates whose barriers fall with k."""
    rows, paths = [], []
    for replicate in (0, 1):
        for k in ks:
            for split in ("test", "train"):
                height = scale * 0.3 / (1 + k) + 0.01 * replicate
                place = {"replicate": replicate, "rewind_iter": k, "copy_a": 1, "copy_b": 2}
                place |= {"split": split, "batchnorm": "none"}
                rows.append(place | {"barrier": height, "error_a": 0.1, "error_b": 0.1})
                paths += [
                    place | {"alpha": a, "error": 0.1 + height * (a == 0.5), "loss": 1.0} for a in (0.0, 0.5, 1.0)
                ]
    return InstabilityResult(rows, paths, ABOUT | about)


def lottery(ks: tuple[int, ...] = (0,), shift: float = 0.0, **about: Any) -> LotteryResult:
    """Two replicates of two conditions at two levels."""
    rows = []
    for k in ks:
        of_k = []
        for replicate in range(2):
            for level, condition in ((0, "dense"), (1, "imp"), (1, "random"), (2, "imp"), (2, "random")):
                error = 0.02 + 0.01 * replicate + shift + level * (0.05 if condition == "random" else 0.01) / (1 + k)
                row = {"replicate": replicate, "level": level, "condition": condition, "density": 0.5**level}
                of_k.append(row | {"rewind_iter": k, "test_error": error})
        rows += with_matching(of_k)
    several = {"by_rewind_iter": {str(k): {} for k in ks}} if len(ks) > 1 else {}
    return LotteryResult(rows, [], ABOUT | {"statistics_fix": "none"} | several | about)


def sweep(**about: Any) -> SweepResult:
    """One condition at two levels, stable from k = 2 and matching from k = 5, or at none."""
    rows = [
        {"condition": "imp", "level": level, "density": 0.5**level, "replicate": 0, "property": name}
        | {"rewind_iter": k if level == 1 else None, "measured": 2}
        for level in (1, 2)
        for name, k in (("stable", 2), ("matching", 5))
    ]
    return SweepResult(rows, ABOUT | {"replicates": 1, "candidates": [0, 2, 5]} | about)


def _network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def measured() -> dict[str, Any]:
    """Measurements between networks that exist."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator)
    data = inputs, (inputs[:, 0] > 0).long()
    networks = [_network(seed) for seed in range(3)]
    a, b, _ = networks
    return {
        "barrier": error_barrier(a, b, data, alphas=5, predictions=True),
        "barrier, aligned": error_barrier(a, b, data, alphas=5, align="weights"),
        "matrix": barrier_matrix(networks, data, alphas=3),
        "layerwise": layerwise_barrier(a, b, data, alphas=3),
        "features": feature_connectivity(a, b, data),
        "soup": soup(networks, data, alphas=3),
        "durations": sweep_durations(networks, data, [1, 3], model=a, test=(inputs[:9], data[1][:9])),
        "compare": compare(a, b, data),
    }


@functools.cache
def results() -> dict[str, Any]:
    """All of them, by the names of `NAMES`."""
    studies = {"instability": instability(), "lottery": lottery(), "lottery, several k": lottery((0, 2, 5))}
    return measured() | studies | {"sweep": sweep()}
