"""A cohort as a job: several trajectories of one task, trained together."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from modeconn.errors import OptionError
from modeconn.execution import Artifact, Heartbeat, Job, Store
from modeconn.execution.names import job_name
from modeconn.training.cohort.stacked import check_stacks
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.jobs import TrainJob, files_of, load_train_result, mask_of
from modeconn.training.noise import Seeds
from modeconn.training.step_inputs import training_batch
from modeconn.training.task_training import Prepared, TaskTraining
from modeconn.training.trainer import TrainResult

# Members of a cohort of tickets. With more, each costs little less, while two cohorts occupy two workers.
_LARGEST = 8


@dataclass(frozen=True, eq=False, repr=False)
class CohortJob:
    """Trajectories trained together to their last iteration, which is one for all.

    Its artifact holds the files of every member's `TrainJob`, each behind that job's name. From it, a `TrainJob` with
    this cohort takes what is its own.

    Attributes:
        members: each as it would be alone, with the state that it joins from.
        label: for people.
        before: the same trajectories to an earlier iteration, to go on from; not part of the name.
    """

    members: tuple[TrainJob, ...]
    label: str = ""
    before: "CohortJob | None" = None

    kind = "cohort"

    @property
    def inputs(self) -> tuple[Job, ...]:
        """The members' inputs, each once, and the earlier cohort."""
        before = (self.before,) if self.before else ()
        return (*{job_name(job): job for member in self.members for job in member.inputs}.values(), *before)

    @property
    def cost(self) -> float:
        """The sum of the members' costs, as if each trained alone."""
        done = self.before.members[0].iteration if self.before else 0
        starts = [max(done, member.start.iteration if member.start else 0) for member in self.members]
        pairs = zip(self.members, starts, strict=True)
        return sum(member.training.cost(max(1, member.iteration - start)) for member, start in pairs)

    @cached_property
    def _spec(self) -> dict[str, Any]:
        starts = [member.start.iteration if member.start else 0 for member in self.members]
        return {"kind": self.kind, "members": [job_name(member) for member in self.members], "starts": starts}

    def spec(self) -> dict[str, Any]:
        """The members, and the iteration that each starts from."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        # Who runs a job needs the cohort before it, and not those that led there.
        return {**self.__dict__, "before": self.before and replace(self.before, before=None)}

    def run(self, store: Store) -> None:
        """Train from where the members are, saving at an interval."""
        training, stop = self._training, self.members[0].iteration
        progress = self._begin(store)
        heartbeat = Heartbeat(store, self)
        started = saved = time.monotonic()

        def on_chunk(now: list[TrainResult]) -> None:
            nonlocal saved
            at = min((one.state.iteration for one in now if one.diverged_at is None), default=stop)
            clock = time.monotonic()
            if at < stop and clock - saved >= training.checkpoint_every:
                self._save(store, now, prefix=f"{at}.")
                saved = clock
            heartbeat(at / stop)

        result = train_cohort_until(
            [_member(store, job, begin) for job, begin in zip(self.members, progress, strict=True)],
            progress,
            stop,
            task=training.task,
            data=training.data(),
            device=torch.device(training.device),
            precision=training.precision,
            on_chunk=on_chunk,
        )
        self._save(store, result, done=True, seconds=round(time.monotonic() - started, 3))

    @property
    def _training(self) -> TaskTraining:
        training = self.members[0].training
        assert isinstance(training, TaskTraining)
        return training

    def _begin(self, store: Store) -> list[TrainResult | None]:
        """The members' states so far: those of an interrupted run, or those that they join from."""
        partial = store.partial(self)
        if partial:
            names = [job_name(member) for member in self.members]
            return [load_train_result(_part(partial, name)) for name in names]
        if self.before:
            artifact = store.require(self.before)
            now = [load_train_result(_part(artifact, job_name(member))) for member in self.before.members]
            # A member that diverges leaves at the end of its chunk, and rounding may depend on who is there: had it
            # left where the earlier cohort ended, the others' bits would say where they were measured.
            if all(one.diverged_at is None for one in now):
                return [*now]
        return [load_train_result(store.require(member.start)) if member.start else None for member in self.members]

    def _save(
        self, store: Store, now: Sequence[TrainResult], prefix: str = "", done: bool = False, **more: Any
    ) -> None:
        files: dict[str, bytes] = {}
        facts: dict[str, Any] = {}
        for member, one in zip(self.members, now, strict=True):
            own = f"{prefix}{job_name(member)}."
            files |= {own + file: content for file, content in files_of(one, self._training.iterations).items()}
            facts[job_name(member)] = {
                "iteration": one.state.iteration,
                "diverged_at": one.diverged_at,
                "prefix": own,
            }
        store.write(self, files, {"members": facts, "label": self.label, **more}, done=done)


def train_together(jobs: Sequence[TrainJob], label: str, before: Sequence[TrainJob] = ()) -> list[TrainJob]:
    """The same states as members of one cohort, which goes on from what it gave for earlier ones, if any."""
    earlier = before[0].cohort if before else None
    assert earlier is None or isinstance(earlier, CohortJob)
    cohort = CohortJob(tuple(jobs), label, earlier)
    return [replace(job, cohort=cohort) for job in jobs]


def train_in_cohorts(jobs: Sequence[TrainJob], label: str) -> list[TrainJob]:
    """The same states as members of as few cohorts as their size allows, as even as can be; one state trains alone.

    Args:
        jobs: trainings that are the same but for initialisation, noise, mask and where they start.
        label: of the cohorts, for people.
    """
    cohorts = -(-len(jobs) // _LARGEST)
    bounds = [len(jobs) * i // cohorts for i in range(cohorts + 1)] if jobs else []
    found: list[TrainJob] = []
    for begin, end in itertools.pairwise(bounds):
        members = jobs[begin:end]
        found += train_together(members, f"{len(members)} {label}") if len(members) > 1 else members
    return found


def trains_together(prepared: Prepared, asked: str) -> bool:
    """Whether the networks of a study train together, as `"yes"`, `"no"` or `"auto"` asks.

    Raises:
        OptionError, NetworkError: `"yes"` for a training or a network that cannot.
    """
    training = prepared.training
    if asked == "no" or (
        asked == "auto" and not (isinstance(training, TaskTraining) and _is_faster_together(training))
    ):
        return False
    if not isinstance(training, TaskTraining):
        raise OptionError("a training loop of your own trains its copies one by one; leave together='auto'")
    data = training.data().to(torch.device(training.device))
    with training.computing():
        check_stacks(training.network(), training_batch(training.task, data, Seeds.all(0), 0)[0][:2])
    return True


def _is_faster_together(training: TaskTraining) -> bool:
    """Whether a cohort is at least 1.5 times faster, as `benchmarks` measured: small networks on a CPU."""
    task = training.task
    return torch.device(training.device).type == "cpu" and task.model == "digits-conv" and task.width <= 1


def _member(store: Store, job: TrainJob, begin: TrainResult | None) -> Member:
    """A member; where what came before it diverged, nothing is trained, and there may be no mask."""
    trained = begin is None or begin.diverged_at is None
    return Member(job.init_seed, job.noise, (mask_of(store, job) if trained else None) or {})


def _part(artifact: Artifact, member: str) -> Artifact:
    """An artifact as if it were one member's."""
    return replace(artifact, facts=artifact.facts["members"][member])
