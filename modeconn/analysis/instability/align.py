"""The alignment of one trained network to another as a job: from the weights of two copies in the store."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeconn.analysis.alignment.alignment import Alignment, load_alignment
from modeconn.analysis.alignment.example import example_of
from modeconn.analysis.alignment.find import AlignOptions, find_alignment
from modeconn.analysis.alignment.network import graph_of
from modeconn.errors import ModeconnError, OptionError
from modeconn.evaluation.measure import device_of
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.protocol import Training
from modeconn.weights.sources import weights_of

ALIGNMENT = "alignment.safetensors"  # of an artifact that holds an alignment


@dataclass(frozen=True, eq=False, repr=False)
class AlignJob:
    """The permutation of b's units under which it is most like a. Its artifact holds it, unless one diverged.

    Attributes:
        a, b: the networks.
        method: of `modeconn.align`.
        split: of the data, of which a batch shows what the networks are called with.
    """

    a: TrainJob
    b: TrainJob
    method: str
    split: str
    cost: float
    label: str = ""

    kind = "alignment"

    @property
    def inputs(self) -> tuple[TrainJob, TrainJob]:
        """The two networks."""
        return self.a, self.b

    def spec(self) -> dict[str, Any]:
        """The two networks, and how they are aligned."""
        options = AlignOptions(self.method)
        how = {"method": options.method, "tries": options.tries, "seed": options.seed}
        return {"kind": self.kind, "a": job_name(self.a), "b": job_name(self.b), **how}

    def run(self, store: Store) -> None:
        """Align the networks, unless one diverged."""
        artifacts = [store.require(end) for end in self.inputs]
        facts = {"label": self.label, "torch": torch.__version__}
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, facts, done=True)
            return
        training = self.a.training
        with training.computing():
            network = training.network()
            device = device_of(network)
            a, b = ({name: t.to(device) for name, t in load_state(artifact).model.items()} for artifact in artifacts)
            found = find_alignment(
                network,
                (weights_of(a, "a"), weights_of(b, "b")),
                ("a", "b"),
                AlignOptions(self.method),
                example=_shown(training, self.split),
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / ALIGNMENT
            found.save(file)
            store.write(self, {ALIGNMENT: file.read_bytes()}, facts, done=True)


def read_alignment(store: Store, job: AlignJob) -> Alignment | None:
    """The alignment that a job found; None if one of its networks diverged.

    Raises:
        CorruptArtifact: it is not finished, or damaged.
    """
    artifact = store.require(job)
    if ALIGNMENT not in artifact.hashes:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ALIGNMENT
        file.write_bytes(artifact.read(ALIGNMENT))
        return load_alignment(file)


def check_alignable(training: Training, split: str) -> None:
    """See that a training's network has a graph that its symmetry is found in, before anything is trained.

    Raises:
        OptionError: it has none.
    """
    with training.computing():
        network = training.network()
        try:
            graph_of(network, example_of(network, _shown(training, split), device_of(network)))
        except ModeconnError as error:
            raise OptionError(f"copies of this network cannot be aligned, so leave align=: {error}") from error


def _shown(training: Training, split: str) -> Any:
    batch = next(iter(training.batches(split)))
    return tuple(batch) if isinstance(batch, list) else batch
