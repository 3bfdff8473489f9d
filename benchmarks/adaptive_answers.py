"""Whether `alphas="adaptive"` answers studies as their 31 alphas do, and what it saves.

    python -m benchmarks.adaptive_answers curves                  # replay the paths that figures/ holds
    python -m benchmarks.adaptive_answers study digits-conv --rounds 2
    python -m benchmarks.adaptive_answers study mnist-lenet --data-dir DIR --options "--iterations 600 --replicates 2"

`curves` chooses adaptive alphas on every path that a figure holds. Of a path only the errors of all examples are known,
so what the screened examples show is drawn twice: "alike", where an example that errs at some error of the network errs
at all higher ones, and "independent", where the examples that err at one alpha say nothing about another. Real paths
lie between. A path of 7 or 11 alphas is joined by straight lines.

`study` runs a study with either, each in an empty store, and compares what they answer and the processor time that the
whole command takes: its seconds vary with what else the machine does.
"""

import argparse
import csv
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeconn.analysis.instability.result import InstabilityResult, load_instability
from modeconn.analysis.paths.adaptive import LEAST, Screening, count_highest_alphas
from modeconn.analysis.paths.alphas import CANDIDATES, SHARE, grid
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.evaluation.measure import MetricSums
from modeconn.options import THRESHOLD

FIGURES = (
    "lmc2020-figure-2/cifar10-resnet20-short.csv",
    "lmc2020-figure-2/digits-conv-paper.csv",
    "lmc2020-figure-2/mnist-lenet-paper.csv",
    "lmc2020-figure-5/cifar10-resnet20-short.csv",
    "lmc2020-figure-5/digits-conv-paper.csv",
    "lmc2020-figure-5/mnist-lenet-short.csv",
    "studies/lmc2020-cifar10-resnet20/paths.csv",
    "studies/lmc2020-mnist-lenet/paths.csv",
)
_EXAMPLES = {
    "digits": {"test": 360, "train": 1_437},
    "mnist": {"test": 10_000, "train": 60_000},
    "cifar10": {"test": 10_000, "train": 50_000},
}
_TOLERANCE = 0.001  # of adaptive alphas in studies
_ALPHAS = (str(CANDIDATES), "adaptive")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive_answers", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    curves = commands.add_parser("curves", help="replay the paths of figures")
    curves.add_argument("--seed", type=int, default=0)
    study = commands.add_parser("study", help="run a study with either")
    study.add_argument("task")
    study.add_argument("--options", default="", help="of modeconn instability, in one text")
    study.add_argument("--data-dir", default="data")
    study.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.command == "curves":
        print("figure, split, examples of an example       paths  decisions  apart (points)  counted    times as fast")
        for name in FIGURES:
            show_curves(name, Path("figures") / name, np.random.default_rng(options.seed))
    else:
        compare_studies(options.task, shlex.split(options.options), options.data_dir, options.rounds)


@dataclass(frozen=True)
class Replayed:
    """What adaptive alphas make of a path whose errors are known at all candidates.

    Attributes:
        barrier: the highest error among those counted, over the mean of the ends.
        whole: the same among all candidates.
        counted: how many alphas between the ends are counted over all examples.
        times: as fast as all candidates between the ends, in passes over the data.
    """

    barrier: float
    whole: float
    counted: int
    times: float


def replay(errors: np.ndarray, examples: int, alike: bool, generator: np.random.Generator) -> Replayed:
    """Choose adaptive alphas as studies do.

    Args:
        errors: fraction of examples that are wrong at each candidate, float64 [CANDIDATES].
        examples: how many there are.
        alike: whether examples that err at one alpha err at all where more do; else they are drawn anew at each.
        generator: draws the examples.
    """
    alphas = grid(CANDIDATES)
    wrong = np.rint(errors * examples).astype(int)
    places = generator.permutation(examples) if alike else None

    def measured(index: int) -> MetricSums:
        order = generator.permutation(examples) if places is None else places
        part = (order[: examples // round(1 / SHARE)] < wrong[index]).astype(np.float64)
        return MetricSums({"error": part}, {"error": np.ones_like(part)})

    screened = {alpha: {"": measured(index)} for index, alpha in enumerate(alphas)}
    screening = Screening(_Stored(screened), SHARE, examples) if examples >= LEAST else None  # type: ignore[arg-type]
    known = dict(zip(alphas, errors.tolist(), strict=True))
    values = {alpha: known[alpha] for alpha in (0.0, 1.0)}
    count_highest_alphas(screening, None, "", "error", values, known.__getitem__, tolerance=_TOLERANCE)  # type: ignore[arg-type]
    points = sorted(values)
    counted, passes = len(points) - 2, CANDIDATES * SHARE if screening else 0.0
    return Replayed(
        barrier_heights(points, [values[alpha] for alpha in points]).barrier,
        barrier_heights(alphas, errors.tolist()).barrier,
        counted,
        (CANDIDATES - 2) / (counted + passes),
    )


@dataclass(frozen=True)
class _Stored:
    """In place of an evaluator: gives what is known at each alpha."""

    by_alpha: dict[float, dict[str, MetricSums]]

    def measure_at(self, line: object, alpha: float) -> dict[str, MetricSums]:
        return self.by_alpha[alpha]


def show_curves(name: str, file: Path, generator: np.random.Generator) -> None:
    """Print a row for each split and way of drawing examples."""
    data = next(data for data in _EXAMPLES if data in name)
    for split, curves in _curves(file).items():
        examples = _EXAMPLES[data][split]
        for alike in (True, False):
            found = [replay(curve, examples, alike, generator) for curve in curves]
            same = sum((one.barrier < THRESHOLD) == (one.whole < THRESHOLD) for one in found)
            apart = 100 * max(abs(one.barrier - one.whole) for one in found)
            counted = [one.counted for one in found]
            shown = f"{name.removesuffix('.csv')}, {split}, {'alike' if alike else 'independent'}"
            print(f"{shown:70} {len(found):3} {same:3} same {apart:8.3f} {np.mean(counted):6.1f} ", end="")
            print(f"(at most {max(counted)}) {1 / np.mean([1 / one.times for one in found]):6.2f}")


def _curves(file: Path) -> dict[str, list[np.ndarray]]:
    """The errors at all candidates of every path of a file, by split."""
    paths: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    with file.open() as rows:
        for row in csv.DictReader(rows):
            which = tuple(value for column, value in row.items() if column not in ("alpha", "error", "loss"))
            paths.setdefault((row["split"], *which), []).append((float(row["alpha"]), float(row["error"])))
    found: dict[str, list[np.ndarray]] = {}
    for (split, *_), points in paths.items():
        alphas, errors = np.array(sorted(points)).T
        found.setdefault(split, []).append(np.interp(grid(CANDIDATES), alphas, errors))
    return found


def compare_studies(task: str, options: Sequence[str], data_dir: str, rounds: int) -> None:
    """Print what both studies answer at every k, and the processor time of each, in alternation."""
    seconds: dict[str, list[float]] = {alphas: [] for alphas in _ALPHAS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for alphas in _ALPHAS:
                out, store = (f"{folder}/{kind}-{alphas}-{number}" for kind in ("out", "store"))
                command = [sys.executable, "-m", "modeconn", "instability", task, *options, "--alphas", alphas]
                command += ["--store", store, "--out", out, "--data-dir", data_dir, "--workers", "0"]
                before = _children()
                subprocess.run(
                    command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
                seconds[alphas].append(_children() - before)
        whole, adaptive = (load_instability(f"{folder}/out-{alphas}-0") for alphas in _ALPHAS)
        print("\n".join(answers(whole, adaptive)))
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    for alphas, found in seconds.items():
        print(f"--alphas {alphas}: {np.median(found):.1f} s of processor time ({min(found):.1f} to {max(found):.1f})")
    print(
        f"the whole study {np.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), n = {rounds}"
    )


def answers(whole: InstabilityResult, adaptive: InstabilityResult) -> Iterator[str]:
    """A line for each split, BatchNorm choice and k: instability by either, and whether each says that it is stable."""
    yield "split, BatchNorm, k: instability in points by all alphas and by adaptive ones, most that a pair is apart;"
    yield "the half-width is that of the 95 % interval over replicates"
    for split, choice in whole.choices:
        of_both = [result.mean[split][choice] for result in (whole, adaptive)]
        stable = [result.stable(split, choice) for result in (whole, adaptive)]
        for index, k in enumerate(whole.rewind_iters):
            pairs = [
                np.array([row["barrier"] for row in result.rows if _place(row) == (split, choice, k)])
                for result in (whole, adaptive)
            ]
            apart = 100 * np.abs(pairs[0] - pairs[1]).max()
            same = "same" if stable[0][index] == stable[1][index] else "OTHER"
            low, high = 100 * whole.interval[split][choice][index]
            means = " ".join(f"{100 * mean[index]:8.3f}" for mean in of_both)
            half_width = f"half-width {(high - low) / 2:.2f}"
            yield f"{split:5} {choice:11} {k:6} {means} {apart:7.3f}   {same} decision, {half_width}"


def _place(row: dict[str, object]) -> tuple[object, ...]:
    return row["split"], row["batchnorm"], row["rewind_iter"]


def _children() -> float:
    """Seconds of processor time of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
