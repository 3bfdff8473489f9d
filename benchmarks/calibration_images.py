"""How far a barrier with recalibrated BatchNorm depends on which training images its statistics are taken on.

    python -m benchmarks.calibration_images digits-conv --rewind-iters 0,40,120 --replicates 3 --alphas 11
    python -m benchmarks.calibration_images cifar10-resnet20 --iterations 150 --rewind-iters 0 --alphas 3 --test 1000

Trains pairs of copies as an instability study does, and measures the test barrier of each with several draws of so
many training images. Prints for every k and number of images the mean barrier; the standard deviation over draws, which
is the standard error that a study has from its one draw; how far the mean lies from that of most images; the standard
error from the test images being those that they are; and processor time. With 5 draws a standard deviation is known to
a third.
"""

import argparse
import time
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from torch import Tensor

from modeconn.analysis.instability.measurement import Measurement
from modeconn.analysis.paths.alphas import grid
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line, make_line
from modeconn.evaluation.batches import BATCH
from modeconn.execution import Store
from modeconn.execution.memory import keep_freed_memory
from modeconn.tasks import get_task
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import load_state
from modeconn.training.noise import Seeds
from modeconn.training.step_inputs import training_batch
from modeconn.training.task_training import TaskTraining, prepare
from modeconn.weights.sources import weights_of

Pair = tuple[Line, PathEvaluator]
_SEED = 1_000  # of the first draw; further ones follow


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration_images", description=__doc__.splitlines()[0]
    )
    parser.add_argument("task")
    parser.add_argument("--iterations", type=int, help="shorten the task")
    parser.add_argument("--rewind-iters", default="0")
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--alphas", type=int, default=11)
    parser.add_argument("--test", type=int, help="only the first so many test images, in whole batches")
    parser.add_argument("--images", default="100,250,500,1000,2500,5000,10000")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument(
        "--most", type=int, default=15_000, help="training images of all draws of a number, 2 draws at least"
    )
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--store", default="modeconn-store", help="where the networks are, or will be")
    options = parser.parse_args()
    keep_freed_memory()
    task = get_task(options.task)
    task = task.shortened(options.iterations) if options.iterations else task
    prepared = prepare(task, data_dir=options.data_dir, device="cpu")
    training, store = prepared.training, Store(options.store)
    assert isinstance(training, TaskTraining)
    available = prepared.examples["train"]
    images = sorted({min(int(number), available) for number in options.images.split(",")})
    print("k       images  draws  barrier  over draws  from most images  test images  processor time of a path")
    with training.computing():
        for k in map(int, options.rewind_iters.split(",")):
            pairs = [_pair(training, store, k, replicate) for replicate in range(options.replicates)]
            if options.test:
                few = list(islice(training.batches("test"), -(-options.test // BATCH)))
                pairs = [(line, replace(evaluator, data={"test": few})) for line, evaluator in pairs]
            found: dict[int, list[list[Measured]]] = {}
            for number in reversed(images):  # most first, which the others are compared with
                draws = range(max(2, min(options.draws, options.most // number)))
                sets = [_calibration(training, number, draw) for draw in draws]
                found[number] = [[_measure(pair, one, grid(options.alphas)) for one in sets] for pair in pairs]
                print(f"{k:<7} {number:6,} {len(draws):6} {_row(found[number], found[images[-1]])}", flush=True)


@dataclass(frozen=True)
class Measured:
    """One path with one draw of calibration images.

    Attributes:
        barrier: of the test error.
        error: its standard error over the test images, at the alpha of the maximum.
        seconds: of processor time.
    """

    barrier: float
    error: float
    seconds: float


def _row(measured: list[list[Measured]], most: list[list[Measured]]) -> str:
    """Of pairs and draws: means, and root mean squares over pairs; in points."""
    barriers, reference = (100 * np.array([[one.barrier for one in pair] for pair in of]) for of in (measured, most))
    over_draws = np.sqrt(barriers.var(1, ddof=1).mean())
    away = np.sqrt(np.mean((barriers.mean(1) - reference.mean(1)) ** 2))
    test = 100 * np.sqrt(np.mean([one.error**2 for pair in measured for one in pair]))
    seconds = np.mean([one.seconds for pair in measured for one in pair])
    return f"{barriers.mean():8.2f} {over_draws:11.2f} {away:17.2f} {test:12.2f} {seconds:15.2f} s"


def _pair(training: TaskTraining, store: Store, k: int, replicate: int) -> Pair:
    """Two copies of a replicate's network at k, trained unless the store has them."""
    (start,) = trunk(training, [k], seed=0, replicate=replicate)
    ends = fork(start, 2, seed=0, replicate=replicate)
    for job in (start, *ends):
        if not store.done(job):
            job.run(store)
    a, b = (weights_of(load_state(store.require(job)).model, job.label) for job in ends)
    evaluator = Measurement(("test",), calibration=2).evaluator(training)
    line = make_line(a, b, [name for name, _ in evaluator.network.named_parameters()])
    return line, evaluator


def _measure(pair: Pair, calibration: list[Tensor], alphas: tuple[float, ...]) -> Measured:
    """The barrier of a path whose networks all take their statistics on these images."""
    line, evaluator = pair[0], replace(pair[1], calibration=calibration)
    began = time.process_time()
    errors = np.stack([evaluator.measure_at(line, alpha)["test"].sums["error"] for alpha in alphas])
    seconds = time.process_time() - began
    means = errors.mean(1)
    over_ends = errors[means.argmax()] - (errors[0].astype(float) + errors[-1]) / 2
    barrier = barrier_heights(alphas, means.tolist()).barrier
    return Measured(barrier, over_ends.std() / np.sqrt(len(over_ends)), seconds)


def _calibration(training: TaskTraining, examples: int, draw: int) -> list[Tensor]:
    """So many training images as in a study, augmented and in batches as there, but of another draw."""
    data, count = training.data(), -(-examples // BATCH)
    size = -(-examples // count)
    task, seeds = replace(training.task, batch_size=size), Seeds.all(_SEED + draw)
    return [training_batch(task, data, seeds, i)[0][: examples - i * size] for i in range(count)]


if __name__ == "__main__":
    main()
