"""Time and memory of a product of the Hessian, or the Gauss-Newton matrix, with a vector, beside a gradient.

    python -m benchmarks.hessian

Each network's three passes over one batch are timed in turn, round by round, and the medians of the ratios of each
round are printed as a table. Memory is the peak during a pass, over what a fresh process had before it
(Linux).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from modeconn.analysis.landscape.curvature.hessian import curvature_of
from modeconn.models import build_network

SHAPES = {"lenet-300-100": (1, 28, 28), "resnet-20": (3, 32, 32), "vit-4": (3, 32, 32)}
PASSES = ("gradient", "hessian", "gauss-newton")


def pass_over(network: str, kind: str, batch: int) -> Callable[[], object]:
    """A function that computes a gradient, or a product with a vector, of a network in evaluation mode on a batch."""
    torch.manual_seed(0)
    norm = "layer" if network.startswith("vit") else "batch"
    model = build_network(network, SHAPES[network], 10, seed=0, norm=norm).eval()
    images, labels = torch.randn(batch, *SHAPES[network]), torch.randint(10, (batch,))
    parameters = list(model.parameters())
    if kind == "gradient":
        return lambda: torch.autograd.grad(cross_entropy(model(images), labels), parameters)
    curvature = curvature_of(model, [(images, labels)], kind=kind, size=batch)
    vector = torch.randn(curvature.dimension)
    return lambda: curvature.product(vector)


def ratios(network: str, batch: int, rounds: int) -> dict[str, float]:
    """The median over rounds of the time of each pass over that of the gradient."""
    passes = {kind: pass_over(network, kind, batch) for kind in PASSES}
    times: dict[str, list[float]] = {kind: [] for kind in PASSES}
    for _ in range(rounds + 1):  # the first one warms up
        for kind, compute in passes.items():
            began = time.process_time()
            compute()
            times[kind].append(time.process_time() - began)
    of = {kind: np.array(found[1:]) for kind, found in times.items()}
    return {kind: float(np.median(of[kind] / of["gradient"])) for kind in PASSES}


def peak(network: str, kind: str, batch: int) -> float:
    """The MB by which a process grows for a pass, measured in one of its own."""
    command = [sys.executable, "-m", "benchmarks.hessian", "--peak", network, kind, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _grown(network: str, kind: str, batch: int) -> float:
    """The MB by which this process grows for a pass; libraries are warm from a pass over few examples."""
    pass_over(network, kind, 2)()
    compute = pass_over(network, kind, batch)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which a process has of its parent, too
    before = _kilobytes("VmRSS")
    compute()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    """What Linux says of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        network, kind = options.peak
        print(_grown(network, kind, options.batch))
        return
    print(f"| network, batch of {options.batch} | Hessian | Gauss-Newton | memory: gradient | Hessian | Gauss-Newton |")
    print("|---|---|---|---|---|---|")
    for network in options.networks:
        times = ratios(network, options.batch, options.rounds)
        memory = {kind: peak(network, kind, options.batch) for kind in PASSES}
        cells = [f"{times[kind]:.1f} x" for kind in PASSES[1:]]
        cells += [f"{memory['gradient']:.0f} MB", *(f"{memory[kind]:.0f} MB" for kind in PASSES[1:])]
        print(f"| {network} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
