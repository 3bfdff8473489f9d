"""What a GPU does: images per second of trainings, alone and in cohorts, and seconds of a path.

    python -m benchmarks.gpu --data-dir DIR --json gpu.json      # DIR holds cifar10.npz and mnist.npz

Each number is a median: over chunks of a training, the first left out, in which steps are recorded; over paths. The
paper's curve is extrapolated from them, and says so.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.search_cost import iterations as iterations_of_study
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import make_line
from modeconn.data import load_data
from modeconn.evaluation.compute import computing
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.tasks import get_task
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.noise import Noise
from modeconn.training.splits import SplitBatches
from modeconn.training.trainer import CHUNK, build_task_network, train_until
from modeconn.weights.sources import weights_of

TASKS = ("cifar10-resnet20", "mnist-lenet")
CURVE, REPLICATES, COPIES = "cifar10-resnet20", 3, 3
CURVE_K = (0, *(32_000 >> i for i in reversed(range(11))))  # 12 values: 0, and doubling up to 32,000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON."""
    options = parse(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu measures a GPU, and PyTorch sees none here; nothing was measured")
    device = torch.device("cuda", 0)
    rows: list[dict[str, Any]] = []
    for precision in options.precisions:
        for task in TASKS:
            for members in options.members:
                speed = images_per_second(task, members, precision, options.iterations, options.data_dir, device)
                rows.append({"task": task, "precision": precision, "members": members, "images/s": speed})
                print(json.dumps(rows[-1]), flush=True)
        path = statistics.median(path_seconds(CURVE, precision, options.data_dir, device) for _ in range(3))
        rows.append({"path": CURVE, "precision": precision, "seconds": path})
        fastest = max(row["images/s"] for row in rows if (row.get("task"), row["precision"]) == (CURVE, precision))
        curve = curve_seconds(fastest, path)
        rows.append({"curve": CURVE, "precision": precision, "extrapolated seconds": curve})
        print(json.dumps(rows[-2]), json.dumps(rows[-1]), sep="\n", flush=True)
    gpu = {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    options.json.write_text(
        json.dumps({"machine": describe() | gpu, "options": vars(options), "rows": rows}, default=str)
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What a GPU does.")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="folder with cifar10.npz and mnist.npz")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help="where the numbers go")
    parser.add_argument("--iterations", type=int, default=1000, metavar="N", help="of each training (default: 1000)")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16], help="trained together (default: 1 4 16)")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "tf32", "float32"])
    options = parser.parse_args(arguments)
    if options.iterations < 3 * CHUNK:
        parser.error(f"--iterations must be at least {3 * CHUNK}: the first {CHUNK} are not counted")
    return options


def images_per_second(
    name: str, members: int, precision: str, iterations: int, data_dir: str, device: torch.device
) -> float:
    """Of all networks together; one trains alone, several in a cohort."""
    task = get_task(name)
    options: dict[str, Any] = {
        "task": task,
        "data": load_data(task.data, data_dir),
        "device": device,
        "precision": precision,
        "on_chunk": lambda progress: marks.append(time.perf_counter()),  # the chunk's losses were looked at: it is over
    }
    marks: list[float] = []
    if members == 1:
        train_until(None, iterations, noise=Noise.of(0), init_seed=0, **options)
    else:
        cohort = [Member(seed, Noise.of(seed)) for seed in range(members)]
        train_cohort_until(cohort, [None] * members, iterations, **options)
    return rate(marks, members * task.batch_size * CHUNK)


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
