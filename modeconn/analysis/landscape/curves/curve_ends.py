"""The two networks that a curve joins, opened for training between them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.averaging import original_of
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison, open_comparison
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.architecture import architecture_of
from modeconn.analysis.landscape.curves.curve import Curve
from modeconn.analysis.landscape.curves.training_loss import TrainingLoss, training_loss
from modeconn.analysis.paths.linear import Line
from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.batches import fingerprint_batches
from modeconn.evaluation.compute import computing
from modeconn.evaluation.losses import Loss, mean_loss
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.options import require
from modeconn.training.content import content_hash
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.state_dicts import Weights

BATCH_SIZE = 128  # of training data that are not in batches


@dataclass(frozen=True, eq=False)
class OpenEnds:
    """Two networks with other weights, and the training loss between them.

    Attributes:
        comparison: the two, and the training data.
        line: the segment between them.
        objective: the training loss at any weights.
        train: the training data as they were given, or those of a stored run.
        original: the module whose names a curve's weights get, if there is one.
        stored: the first stored run among the two.
        options: as they were chosen.
    """

    comparison: Comparison
    line: Line
    objective: TrainingLoss
    train: Any
    original: nn.Module | None
    stored: Any
    options: ComparisonOptions

    @property
    def batches(self) -> Any:
        """The training data as batches."""
        return self.comparison.evaluator.data[SPLIT]

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return device_of(self.objective.network)

    @property
    def batch_size(self) -> int:
        """Of training data that are not in batches."""
        return self.options.batch_size

    def identity(self) -> dict[str, Any]:
        """What a training between these networks on these data is known by, beside its own settings; JSON.

        Reads the data once: those that are alike at their beginning alone are others.

        Raises:
            OptionError: the network or `loss=` refers to something that has no content to be told by.
        """
        ends = [[end.read(name) for name in end.layout] for end in (self.line.a, self.line.b)]
        loss = self.objective.loss
        return {
            "a": fingerprint_batches([ends[0]]),
            "b": fingerprint_batches([ends[1]]),
            "network": content_hash(architecture_of(self.objective.network), "the network"),
            "trained parameters": list(self.objective.trained),
            "training data": fingerprint_batches(self.batches),
            "batch_size": self.batch_size,
            "loss": None if loss is None else content_hash(loss, "loss="),
            "precision": self.options.precision,
            "device": self.device.type,
        }

    def curve(
        self, kind: str, bends: Sequence[Mapping[str, Tensor]], losses: Sequence[float], settings: Mapping[str, Any]
    ) -> Curve:
        """The curve with these weights between the ends; what they do not name is that of `a`."""
        ends = [_tensors(end) for end in (self.line.a, self.line.b)]
        aliases = self.line.a.aliases
        inner = [
            {name: bend.get(aliases.get(name, name), tensor) for name, tensor in ends[0].items()} for bend in bends
        ]
        comparison = self.comparison
        known = self.train is self.batches  # those of a stored run, which has others to measure statistics on
        # Those of a measurement are on running statistics, which training does not use.
        notes = [note for note in comparison.notes if not note.startswith("running statistics of ")]
        if running_statistics_layers(self.objective.network):
            notes.append("BatchNorm normalizes by each batch while the curve is trained")
        return Curve(
            kind=kind,
            points=(ends[0], *inner, ends[1]),
            parameters=comparison.parameters,
            names=(comparison.names[0], comparison.names[1]),
            losses=tuple(losses),
            notes=tuple(dict.fromkeys((*notes, *self.line.notes))),
            settings=dict(settings)
            | {"batch_size": self.batch_size}
            | {name: comparison.settings[name] for name in ("precision", "device", "versions")},
            network=plain_copy(comparison.evaluator.network),
            original=self.original,
            stored=self.stored,
            train=self.batches if isinstance(self.train, Iterator) else None if known else self.train,
            evaluate=self.options.evaluate,
        )


@contextlib.contextmanager
def open_ends(
    a: Source, b: Source, train: Any, how: OptionKeywords, loss: Loss | None, seed: int
) -> Iterator[OpenEnds]:
    """Open two networks and their training data. Inside, random generators, precision and threads are ours.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them.
        train: training data; None for those of a stored run.
        how: options of `modeconn.error_barrier`.
        loss: the training loss, if it is given.
        seed: of dropout.

    Raises:
        ModeconnError: what does not fit, before anything is computed; equal networks.
    """
    require(loss is None or callable(loss), f"loss= is a function of (network, batch); got {loss!r}")
    given: dict[str, Any] = {"batch_size": BATCH_SIZE, **how}
    asked = ComparisonOptions(**given)
    refuse_factors(asked.adapter, "a curve")
    # Of a loss that is given, no metric need be known for training.
    trained = {**given, "evaluate": _measuring(loss)} if loss is not None and asked.evaluate == "auto" else given
    options = ComparisonOptions(**trained | {"batchnorm": "interpolate", "calibration": None})
    stored = _stored((a, b), options)
    if stored is None and (train is None or isinstance(train, str)):
        raise OptionError(
            "give train: a DataLoader, a Dataset, a tuple of tensors (inputs, targets), or an iterable of batches; "
            "only stored runs know their own training data"
        )
    with open_comparison([a, b], "train" if train is None else train, options) as comparison:
        line = comparison.line(0, 1)
        if not line.moving.intersection(comparison.parameters):
            raise NetworkError(
                f"{comparison.names[0]} and {comparison.names[1]} have equal weights; a curve is trained between two "
                "networks that differ"
            )
        device = device_of(comparison.evaluator.network)
        with computing(device, options.precision), torch.inference_mode(False), torch.enable_grad():
            yield OpenEnds(
                comparison,
                line,
                training_loss(comparison, loss, seed),
                comparison.evaluator.data[SPLIT] if train is None or isinstance(train, str) else train,
                original_of((a, b), None if isinstance(options.model, str) else options.model),
                stored,
                asked,
            )


def _measuring(loss: Loss) -> Callable[[nn.Module, Any], dict[str, tuple[float, int]]]:
    return lambda network, batch: {"loss": (float(mean_loss(network, batch, loss)), 1)}


def _stored(sources: Sequence[Source], options: ComparisonOptions) -> Any:
    """The first stored run among networks."""
    from modeconn.training.stored import find_stored

    for source in sources:
        if not isinstance(source, nn.Module | Mapping):
            found = find_stored(source, options.data_dir, options.model)
            if found is not None:
                return found
    return None


def _tensors(weights: Weights) -> dict[str, Tensor]:
    """All tensors of a network, in memory of their own; tied ones are one."""
    found: dict[str, Tensor] = {}
    for name in weights.layout:
        first = weights.aliases.get(name, name)
        found[name] = found[first] if first in found else weights.read(name).detach().clone()
    return found
