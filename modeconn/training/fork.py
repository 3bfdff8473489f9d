"""Trunk, fork and copies as jobs; and `train`, the trunk alone."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from modeconn.errors import ModeconnError
from modeconn.options import whole_number
from modeconn.progress import Report, silent, with_progress
from modeconn.seeds import mix
from modeconn.tasks import NOISE_SOURCES, Task, get_task, parse_iterations
from modeconn.training.jobs import RewindJob, TrainJob, read_metrics
from modeconn.training.noise import Noise
from modeconn.training.perturb import PerturbJob
from modeconn.training.perturbation import Perturbation
from modeconn.training.protocol import Training
from modeconn.training.runner import open_runner
from modeconn.training.stored import Run
from modeconn.training.task_training import prepare
from modeconn.training.trackers import Log


def trunk(training: Training, iterations: Iterable[int], seed: int, replicate: int) -> Iterator[TrainJob]:
    """The states of a replicate's trunk at ascending iterations, each going on from the one before.

    A loop of the user's own, which draws its noise anew whenever it is called, comes to each from the initialisation
    under the trunk's seed, so that no state depends on which others are asked for. None costs more than a copy from 0.
    """
    job: TrainJob | None = None
    noise = Noise.of(mix(seed, "noise", replicate, 0))
    for iteration in iterations:
        label = f"replicate {replicate} trunk to {iteration}"
        before = None if training.noise_per_call else job
        job = TrainJob(training, mix(seed, "init", replicate), noise, iteration, before, label)
        yield job


def fork(
    start: TrainJob | RewindJob,
    copies: int,
    seed: int,
    replicate: int,
    sources: Iterable[str] = NOISE_SOURCES,
    level: int = 0,
) -> list[TrainJob]:
    """Copies of a state, trained to the end under noise of their own; optimizer state is carried on.

    Args:
        start: the trunk's state at k, or a subnetwork rewound to it.
        copies: how many.
        seed: of the study.
        replicate: the trunk's.
        sources: the sources of noise that differ between copies. One that the training does not draw from goes with
            the order, whatever is asked of it, so that equal bits have one name.
        level: of pruning; its noise is independent of that under which its mask was found.
    """
    training, k = start.training, start.iteration
    if k == training.iterations and isinstance(start, TrainJob):
        return [start] * copies  # nothing is left to train
    sources = _differing(training, sources)
    ends = []
    for copy in range(1, copies + 1):
        of_level = ("level", level) if level else ()
        noise = start.noise.fork(k, mix(seed, "noise", replicate, copy, *of_level), sources)
        label = f"{start.label if level else f'replicate {replicate}'} copy {copy} from {k}"
        ends.append(TrainJob(training, start.init_seed, noise, training.iterations, start, label, start.origin))
    return ends


def fork_perturbed(
    start: TrainJob,
    init: TrainJob,
    copies: int,
    how: Perturbation,
    seed: int,
    replicate: int,
    sources: Iterable[str] = NOISE_SOURCES,
) -> list[TrainJob]:
    """Copies of a state that are trained to the end under its own noise, all but the first perturbed once.

    Args:
        start: the trunk's state at k.
        init: the trunk's initialisation.
        copies: how many; the first is the trunk itself.
        how: what is changed of the others at k.
        seed: of the study.
        replicate: the trunk's.
        sources: of a perturbed batch, the sources of noise by which it differs; as in `fork`.
    """
    training, k = start.training, start.iteration
    sources = _differing(training, sources)
    label = f"replicate {replicate} copy 1 from {k}, as the trunk"
    left = k < training.iterations  # else the trunk's state is the copy
    ends = [replace(start, iteration=training.iterations, start=start, label=label) if left else start]
    for copy in range(2, copies + 1):
        own = mix(seed, "perturb", replicate, copy)
        label = f"replicate {replicate} copy {copy} from {k}, {how.kind} perturbed"
        if how.kind == "batch":
            noise = start.noise.fork(k, own, sources).fork(k + 1, start.noise.at(k).order, sources)
            ends.append(replace(ends[0], noise=noise, label=label) if left else start)
        else:
            reference = replace(init, init_seed=own, label=f"{label}, reference") if how.kind == "weight" else init
            begin = PerturbJob(start, reference, how, own, f"{label}, its beginning")
            ends.append(replace(start, iteration=training.iterations, start=begin, label=label, origin=begin))
    return ends


def _differing(training: Training, sources: Iterable[str]) -> list[str]:
    """The sources of noise that differ between copies; those that are not drawn from go with the order."""
    unused = set(NOISE_SOURCES) - set(training.noise_sources)
    drawn = [source for source in sources if source not in unused]
    return [*drawn, *unused] if "order" in drawn else drawn


@with_progress
def train(
    task: str | Task = "digits-conv",
    *,
    save_at: str | int | Iterable[str | int] = (),
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    workers: int = 1,
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    checkpoint_every: float = 60.0,
    command: str = "",
    log: Log | None = None,
    report: Report = silent,
    progress: bool = False,
) -> Run:
    """Train one network, and save its states.

    It is the trunk of replicate 0 of the study with the same task (its `evaluate_every` included) and seed, and
    shares its states with it.

    Args:
        task: a preset's name, or a `Task`; its `evaluate_every` says how often metrics are recorded.
        save_at: iterations (or epochs, `"2ep"`, or percentages, `"3%"`) to save states at, besides the last.
        iterations: shortens (or lengthens) the task and its schedule in proportion.
        seed: of the initialisation and the noise.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: `"float32"`, `"bfloat16"` or, on a GPU, `"tf32"`.
        workers: 1 for a process of its own, 0 for this process.
        store: folder of all that is computed.
        data_dir: folder of data sets.
        checkpoint_every: seconds between two saves of the running training.
        command: noted in the store.
        log: called with `(metrics, step)`.
        report: called about twice a second with how far the training is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

    Raises:
        ModeconnError: a bad option, data set or network, before anything is computed; or a training that failed.
    """
    seed = whole_number(seed, 0, "the seed must be a whole number, not negative")
    task = get_task(task)
    if iterations is not None:
        task = task.shortened(iterations)
    prepared = prepare(task, data_dir=data_dir, device=device, precision=precision, checkpoint_every=checkpoint_every)
    saved = {*parse_iterations(save_at, task.iterations, prepared.per_epoch), task.iterations}
    jobs = list(trunk(prepared.training, sorted(saved), seed, replicate=0))
    asked = {"saved": sorted(saved), "seed": seed}
    runner = open_runner(
        "train", prepared, asked, store=store, workers=workers, command=command, log=log, report=report
    )
    runner.announce(jobs)
    failures = runner.attempt(jobs)
    if failures:
        error = next(iter(failures.values()))
        raise (error if isinstance(error, ModeconnError) else ModeconnError(f"training failed: {error}")) from error
    kept = runner.store
    reached = {kept.require(job).facts["iteration"]: job for job in reversed(jobs)}
    return Run(
        folders={iteration: kept.folder(job) for iteration, job in sorted(reached.items())},
        metrics=read_metrics(kept, jobs[-1]),
        diverged_at=kept.require(jobs[-1]).facts["diverged_at"],
        training=prepared.training,
        _jobs=reached,
        _store=kept,
    )
