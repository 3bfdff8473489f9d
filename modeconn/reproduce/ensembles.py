"""Groups of networks of one task (seeds, checkpoints of one run, points on a curve) as ensembles and as averages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.landscape.curves.curve_fit import fit_curve
from modeconn.analysis.landscape.ensembles import ensembles
from modeconn.execution import Job
from modeconn.progress import Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row, count
from modeconn.tasks import Task, parse_iterations
from modeconn.training.fork import train, trunk
from modeconn.training.task_training import prepare


@dataclass(frozen=True, eq=False)
class EnsembleStudy(Result):
    """Ensembles and averages of groups of networks.

    Attributes:
        rows: one for each network: its error (a fraction), loss (nats) and diversity, and those of the ensemble and of
            the average of its group up to it.
        summary: task, groups and how it was computed; JSON.
    """

    rows: list[Row]
    summary: dict[str, Any]

    @property
    def samples(self) -> str:
        """How many networks there are in a group, in words."""
        return f"{count(self.summary['members'], 'network')} in each group"


def compare_groups(
    task: Task,
    *,
    members: int = 5,
    step: str = "8%",
    curve: Mapping[str, Any],
    batchnorm: str = "recalibrate",
    precision: str = "float32",
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> EnsembleStudy:
    """Train networks of several seeds, and compare them with checkpoints of one of them and with points on a curve.

    Args:
        task: what is trained.
        members: networks in each group.
        step: between the last checkpoints of the first seed.
        curve: options of `modeconn.fit_curve` between the first two seeds.
        batchnorm: what is done to running statistics.
        precision, device, store, data_dir, workers, command, report: as of `modeconn.train`; a training is one process.
    """
    where: dict[str, Any] = {"precision": precision, "device": device, "data_dir": data_dir}
    own_process = 1 if workers is None else min(workers, 1)
    stored: dict[str, Any] = {"store": store, "workers": own_process, "command": command, "report": report}
    saved = _saved(members, step)
    seeds = [train(task, seed=seed, save_at=saved, **stored, **where) for seed in range(members)]
    checkpoints = [folder for _, folder in sorted(seeds[0].folders.items())][-members:]
    fitted = fit_curve(seeds[0], seeds[1], "train", **curve, **where, report=report)
    times = [place / (members - 1) for place in range(members)]
    groups: dict[str, list[Any]] = {
        "seeds": seeds,
        "checkpoints of one run": checkpoints[::-1],
        "points on a curve": [fitted.state_at(t) for t in times],
    }
    found = ensembles(groups, "test", batchnorm=batchnorm, names=_names(members), report=report, **where)
    summary = summary_of(
        task, {}, precision=precision, device=device, data_dir=data_dir, command=command, members=members, step=step,
        curve={**fitted.settings, "length_ratio": fitted.length_ratio}, batchnorm=found.batchnorm,
        reference=found.reference,
    )  # fmt: skip
    return EnsembleStudy(found.rows(), summary)


def planned_members(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """The trainings of such a study, none of which is computed; curves are not kept in a store."""
    prepared = prepare(task, precision=options.get("precision", "float32"), checkpoint_every=60.0, **where)
    members = options.get("members", 5)
    saved = parse_iterations(_saved(members, options.get("step", "8%")), task.iterations, prepared.per_epoch)
    return [job for seed in range(members) for job in trunk(prepared.training, saved, seed, replicate=0)]


def _saved(members: int, step: str) -> list[str]:
    """When the first seed is saved: the end, and one step before each."""
    return [f"{100 - place * float(step.removesuffix('%')):g}%" for place in reversed(range(members))]


def _names(members: int) -> list[str]:
    seeds = [f"seed {seed}" for seed in range(members)]
    return [
        *seeds,
        *(f"checkpoint {-n}" for n in range(members)),
        *(f"t = {n / (members - 1):g}" for n in range(members)),
    ]
