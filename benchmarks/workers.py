"""How much faster are N workers than one? Trains copies of ResNet-20 on as many processes, each on one thread.

    python benchmarks/workers.py --data-dir DIR --workers 2 --iterations 100

Every measurement trains the same copies from the same initialisation in a new store. Before it, each process trains one
other copy, so that what is imported and loaded once is not counted. Prints seconds with one worker and with N in turn,
several times, and the ratio of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from modeconn.execution import Store, process_pool, run_jobs
from modeconn.execution.engine import Lent
from modeconn.tasks import get_task
from modeconn.training.fork import fork, trunk
from modeconn.training.task_training import Prepared, prepare


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--copies", type=int, default=4, help="a multiple of the workers")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    task = get_task(options.task).shortened(options.iterations)
    prepared = prepare(task, data_dir=options.data_dir, device="cpu")
    counts = (1, options.workers)
    seconds: dict[int, list[float]] = {workers: [] for workers in counts}
    for _ in range(options.repeats):
        for workers in counts:
            seconds[workers].append(_train(prepared, workers, options.copies))
            print(f"{workers} workers: {seconds[workers][-1]:.1f} s", flush=True)
    one, many = (statistics.median(seconds[workers]) for workers in counts)
    print(f"{options.workers} workers are {one / many:.2f} times as fast as one")


def _train(prepared: Prepared, workers: int, copies: int) -> float:
    """Seconds to train so many copies from iteration 0, once every process has computed something."""
    with tempfile.TemporaryDirectory() as folder, process_pool(workers) as pool:
        store = Store(folder)

        def run(seed: int, count: int) -> float:
            (start,) = trunk(prepared.training, [0], seed, replicate=0)
            assert not run_jobs([start], store, lambda: Lent(pool), workers)
            began = time.perf_counter()
            assert not run_jobs(fork(start, count, seed, 0), store, lambda: Lent(pool), workers)
            return time.perf_counter() - began

        run(seed=1, count=workers)
        return run(seed=0, count=copies)


if __name__ == "__main__":
    main()
