"""All that is to be known about a GPU, in ten minutes: tests, speeds, workers, a study, and the paper's curve.

    python -m benchmarks.gpu --json gpu.json

Stages come in the order of what they are worth, and each gives rows that are printed and written as soon as they are
there. A stage that fails or has no time left says so, and the next one goes on. Images are noise in the shapes of
CIFAR-10 and MNIST unless `--data-dir` has them, as speed does not depend on what they show.

Speeds are medians: over chunks of a training, the first left out, in which steps are recorded; over paths. The
paper's curve is extrapolated from them, and says so.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.search_cost import iterations as iterations_of_study
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import make_line
from modeconn.data import load_data
from modeconn.evaluation.compute import computing
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.tasks import get_task
from modeconn.training import trainer
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.noise import Noise
from modeconn.training.splits import SplitBatches
from modeconn.training.trainer import CHUNK, build_task_network, train_until
from modeconn.weights.sources import weights_of

TASKS = ("cifar10-resnet20", "mnist-lenet")
CURVE, REPLICATES, COPIES = "cifar10-resnet20", 3, 3
CURVE_K = (0, *(32_000 >> i for i in reversed(range(11))))  # 12 values: 0, and doubling up to 32,000
TESTS = ("tests/training/test_cuda_graphs.py", "tests/models")
_TESTS_END, _TRAINING_ENDS = 150, 15  # seconds after which the tests, and one training, have had enough
_NOISE = {"cifar10": (32, 32, 3), "mnist": (28, 28)}
Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A part of the script.

    Attributes:
        name: of its rows.
        least: seconds; with less left it is not begun.
        measure: gives the rows, one by one, until a time of `time.perf_counter`.
    """

    name: str
    least: float
    measure: Callable[[float], Iterable[Row]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON."""
    options = parse(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu measures a GPU, and PyTorch sees none here; nothing was measured")
    end = time.perf_counter() + options.seconds
    device = torch.device("cuda", 0)
    machine = describe() | {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        options.json.write_text(json.dumps({"machine": machine, "options": vars(options), "rows": rows}, default=str))

    with tempfile.TemporaryDirectory() as folder:
        if options.data_dir is None:
            options.data_dir = noise_images(Path(folder, "data"))
        run_stages(stages(options, device, Path(folder), rows), end, keep)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What a GPU does.")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with cifar10.npz and mnist.npz (default: noise)")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help="where the numbers go")
    parser.add_argument("--seconds", type=float, default=540, metavar="S", help="for all of it (default: 540)")
    parser.add_argument("--iterations", type=int, default=1000, metavar="N", help="of each training (default: 1000)")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16], help="trained together (default: 1 4 16)")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "tf32", "float32"])
    options = parser.parse_args(arguments)
    if options.iterations < 3 * CHUNK:
        parser.error(f"--iterations must be at least {3 * CHUNK}: the first {CHUNK} are not counted")
    return options


def stages(options: argparse.Namespace, device: torch.device, folder: Path, rows: list[Row]) -> list[Stage]:
    """All of them, the most valuable first; the extrapolation reads the rows that there are."""
    first, *others = options.precisions
    of_precision = lambda precision: [  # noqa: E731
        Stage("images/s", 10, lambda end: _speeds(precision, options, device, end)),
        Stage("path", 10, lambda end: _paths(precision, options, device)),
        Stage("curve", 0, lambda end: _curve(precision, rows)),
    ]
    return [
        Stage("tests", 20, lambda end: _tests(min(end, time.perf_counter() + _TESTS_END))),
        *of_precision(first),
        Stage("without CUDA graphs", 10, lambda end: _without_graphs(first, options, device, end)),
        Stage("workers", 60, lambda end: _workers(first, options, device, folder, end)),
        Stage("study", 60, lambda end: _whole_study(first, options, device, folder, rows, end)),
        *(stage for precision in others for stage in of_precision(precision)),
    ]


def run_stages(todo: Iterable[Stage], end: float, keep: Callable[[Row], None]) -> None:
    """One after the other until a time of `time.perf_counter`; what fails or has no time left is a row, too."""
    for stage in todo:
        begin = time.perf_counter()
        if end - begin < stage.least:
            keep({"stage": stage.name, "left out": f"{max(0, end - begin):.0f} s left"})
            continue
        try:
            for row in stage.measure(end):
                keep({"stage": stage.name, **row})
        except Exception as error:  # whatever it is, the other stages are worth having
            keep({"stage": stage.name, "failed": f"{type(error).__name__}: {error}"})
        keep({"stage": stage.name, "took": round(time.perf_counter() - begin, 1)})


# Stages.


def _tests(end: float) -> Iterator[Row]:
    returned, output, _ = run_command([sys.executable, "-m", "pytest", "-q", *TESTS], end)
    yield {"returned": returned, "says": output.strip().splitlines()[-1:]}


def _speeds(precision: str, options: argparse.Namespace, device: torch.device, end: float) -> Iterator[Row]:
    for task in TASKS:
        for members in options.members:
            speed = images_per_second(task, members, precision, options.iterations, options.data_dir, device, end)
            yield {"task": task, "precision": precision, "members": members, "images/s": speed}


def _without_graphs(precision: str, options: argparse.Namespace, device: torch.device, end: float) -> Iterator[Row]:
    with mock.patch.object(trainer, "record_steps", return_value=None):
        for task in TASKS:
            speed = images_per_second(task, 1, precision, options.iterations, options.data_dir, device, end)
            yield {"task": task, "precision": precision, "images/s": speed}


def _paths(precision: str, options: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    seconds = statistics.median(path_seconds(CURVE, precision, options.data_dir, device) for _ in range(3))
    yield {"task": CURVE, "precision": precision, "seconds": seconds}


def _curve(precision: str, rows: list[Row]) -> Iterator[Row]:
    def found(stage: str, value: str) -> list[float]:
        wanted = {"stage": stage, "task": CURVE, "precision": precision}
        return [row[value] for row in rows if value in row and wanted.items() <= row.items()]

    seconds = curve_seconds(max(found("images/s", "images/s")), *found("path", "seconds"))
    yield {"task": CURVE, "precision": precision, "extrapolated seconds": seconds}


def _workers(
    precision: str, options: argparse.Namespace, device: torch.device, folder: Path, end: float
) -> Iterator[Row]:
    """Six networks from their initialisation, by one worker and by three, in turn."""
    for turn in range(4):
        workers = (1, 3)[turn % 2]
        more = [*f"--iterations 600 --rewind-iters 0 --replicates 3 --alphas 3 --workers {workers}".split()]
        yield {"workers": workers, **study(more, precision, options.data_dir, device, folder / f"workers{turn}", end)}


def _whole_study(
    precision: str, options: argparse.Namespace, device: torch.device, folder: Path, rows: list[Row], end: float
) -> Iterator[Row]:
    """One replicate of ResNet-20 in 3,000 iterations, by as many workers as were faster."""
    found = [row for row in rows if row["stage"] == "workers" and row.get("returned") == 0]
    workers = min(found, key=lambda row: row["seconds"])["workers"] if found else 1
    more = [*f"--iterations 3000 --replicates 1 --workers {workers}".split()]
    yield {"workers": workers, **study(more, precision, options.data_dir, device, folder / "study", end)}


# Measurements.


def study(more: Sequence[str], precision: str, data_dir: str, device: torch.device, folder: Path, end: float) -> Row:
    """Seconds of `modeconn instability` on ResNet-20, what it returned (None: it was ended), and what it has done."""
    command = [sys.executable, "-m", "modeconn", "instability", CURVE, "--precision", precision, "--data-dir", data_dir]
    places = ["--device", str(device), "--store", str(folder / "store"), "--out", str(folder / "out")]
    returned, output, seconds = run_command([*command, *places, *more], end)
    done = sum(1 for _ in folder.rglob("done.json"))
    row = {"options": " ".join(more), "returned": returned, "seconds": seconds, "artifacts": done}
    return row if returned == 0 else row | {"says": output.strip().splitlines()[-3:]}


def run_command(command: Sequence[str], end: float) -> tuple[int | None, str, float]:
    """What a command returned, what it said and its seconds; with all of its processes it is ended at a time."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=max(0, end - begin))
            returned: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            (output, _), returned = process.communicate(), None
    return returned, output, time.perf_counter() - begin


class _Enough(Exception):
    """A training was seen for as long as it may take."""


def images_per_second(
    name: str,
    members: int,
    precision: str,
    iterations: int,
    data_dir: str,
    device: torch.device,
    end: float = float("inf"),
) -> float:
    """Of all networks together; one trains alone, several in a cohort. Fewer iterations where time is up."""
    task = get_task(name)
    end = min(end, time.perf_counter() + _TRAINING_ENDS)
    marks: list[float] = []

    def on_chunk(progress: Any) -> None:  # the chunk's losses were looked at: it is over
        marks.append(time.perf_counter())
        if marks[-1] > end and len(marks) > 2:
            raise _Enough

    options: dict[str, Any] = {
        "task": task,
        "data": load_data(task.data, data_dir),
        "device": device,
        "precision": precision,
        "on_chunk": on_chunk,
    }
    try:
        if members == 1:
            train_until(None, iterations, noise=Noise.of(0), init_seed=0, **options)
        else:
            cohort = [Member(seed, Noise.of(seed)) for seed in range(members)]
            train_cohort_until(cohort, [None] * members, iterations, **options)
    except _Enough:
        pass
    return rate(marks, members * task.batch_size * CHUNK)


def noise_images(folder: Path) -> str:
    """Write CIFAR-10's and MNIST's shapes, full of noise, and give the folder's name."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, shape in _NOISE.items():
        arrays: dict[str, Any] = {}
        for split, n in (("train", 50_000 if name == "cifar10" else 60_000), ("test", 10_000)):
            arrays[f"{split}_images"] = draw.integers(0, 256, (n, *shape), dtype=np.uint8)
            arrays[f"{split}_labels"] = draw.integers(0, 10, n)
        np.savez(folder / f"{name}.npz", **arrays)
    return str(folder)


def rate(marks: Sequence[float], work: float) -> float:
    """Work per second, from when the chunks ended: the median chunk's.

    >>> rate([9.0, 10.0, 11.0, 16.0], work=50.0)
    50.0
    """
    return work / statistics.median(after - before for before, after in pairwise(marks))


def path_seconds(name: str, precision: str, data_dir: str, device: torch.device, alphas: int = 31) -> float:
    """Of a path between two initialisations, on the train and the test split; one point before is not counted."""
    task = get_task(name)
    with computing(device, precision):
        data = load_data(task.data, data_dir).to(device)
        a, b, network = (build_task_network(task, data, seed).to(device) for seed in range(3))
        splits = {split: SplitBatches(data, split) for split in ("train", "test")}
        scratch = PathEvaluator(network, CLASSIFICATION, splits, precision=precision)
        line = make_line(weights_of(a, "a"), weights_of(b, "b"), [name for name, _ in network.named_parameters()])
        scratch.measure_at(line, 0.5)
        begin = time.perf_counter()
        for index in range(alphas):
            scratch.measure_at(line, index / (alphas - 1))
        return time.perf_counter() - begin


def curve_seconds(speed: float, path: float) -> float:
    """Of the paper's whole curve: its images at a speed, and a path for every pair of copies. An extrapolation."""
    task = get_task(CURVE)
    trained = iterations_of_study(dict.fromkeys(CURVE_K, REPLICATES), task.iterations, COPIES)
    paths = len(CURVE_K) * REPLICATES * (COPIES * (COPIES - 1) // 2)
    return trained * task.batch_size / speed + paths * path


if __name__ == "__main__":
    main()
