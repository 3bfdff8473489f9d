"""`fit_curve(a, b, train)`: a curve of low loss between two networks (Garipov et al. 2018)."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curves.controls import Controls
from modeconn.analysis.landscape.curves.curve import Curve
from modeconn.analysis.landscape.curves.curve_checkpoint import Saver
from modeconn.analysis.landscape.curves.curve_ends import open_ends
from modeconn.analysis.landscape.curves.feed import Feed
from modeconn.analysis.landscape.curves.shapes import KINDS
from modeconn.analysis.landscape.curves.training_loss import TrainingLoss
from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.evaluation.losses import Loss
from modeconn.options import require, whole_number
from modeconn.progress import Progress, Report, silent, with_progress
from modeconn.seeds import mix

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


@with_progress
def fit_curve(
    a: Source,
    b: Source,
    train: Any = None,
    *,
    kind: str = "bezier",
    bends: int = 1,
    epochs: int = 30,
    steps: int | None = None,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    optimizer: MakeOptimizer | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Curve:
    r"""Train a curve of low loss between two networks (Garipov et al. 2018, section 3).

    The curve has the networks as its ends, and control points between them, which start evenly on the segment. Each
    step draws t uniformly from [0, 1] and follows the gradient, with respect to the control points, of one batch's loss
    at the curve's weights \(\phi(t)\) (their equation 2), plus `weight_decay` / 2 times \(|\phi(t)|^2\). The network
    computes as in training: BatchNorm normalizes by the batch, and dropout draws. The learning rate stays for half of
    the steps, falls linearly to a hundredth until 90 % of them, and stays there.

    A curve of low loss shows that the networks are connected; that none was found does not show that they are not.
    Nothing of the caller's changes: weights, modes, gradients, buffers, random generators.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them.
        train: training data, as `modeconn.error_barrier` takes data. Examples of tensors and of a `Dataset` come in a
            new order in every epoch; a `DataLoader` is read anew under another seed, with its own order and
            augmentation; batches of other iterables come in a new order. None for stored runs, which know theirs; they
            come without augmentation.
        kind: `"bezier"`, of degree `bends` + 1, or `"polychain"`, which is linear between control points.
        bends: how many control points are trained.
        epochs: passes over the training data.
        steps: how many steps, in place of `epochs`.
        learning_rate, momentum: of SGD with Nesterov's momentum.
        weight_decay: of the weights at t.
        optimizer: a function that makes an optimizer of a list of parameters, in place of SGD; its own learning rate is
            the one that falls.
        loss: `loss(network, batch)`, a scalar tensor; None for what output and target suggest, as
            `modeconn.evaluation.losses.mean_loss` says.
        seed: of t, of the order of the data and of dropout.
        checkpoint: a file that the training is written to from time to time, and goes on from if it is there, to the
            same bits as without an interruption.
        report: called after every step with how far it is.
        progress: show that, at a terminal or in a notebook.
        **how: options of `modeconn.error_barrier`: `model`, `device`, `precision`, `batch_size` (128 by default),
            `data_dir`, `names`, `checkpoint_key`; and `evaluate`, which `Curve.barrier` takes by default.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is trained; equal networks; a
            checkpoint of another training; a loss that stops being finite.

    >>> from torch import nn
    >>> inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()
    >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    >>> curve = fit_curve(a, b, data, epochs=2)
    >>> bool((curve.state_at(0)["0.weight"] == a[0].weight).all()), curve.length_ratio >= 1
    (True, True)
    >>> curve.barrier(data, alphas=5).curve.loss.shape
    (5,)
    """
    settings = _checked(kind, bends, epochs, steps, seed, checkpoint, learning_rate, momentum, weight_decay)
    seed, learning_rate, momentum, weight_decay = (
        settings[name] for name in ("seed", "learning_rate", "momentum", "weight_decay")
    )
    with open_ends(a, b, train, how, loss, mix(seed, "dropout")) as ends:
        feed = Feed(ends.train, ends.batches, ends.device, ends.batch_size, mix(seed, "order"))
        total = int(epochs) * feed.per_epoch if steps is None else int(steps)
        controls = Controls.on_segment(ends.line, ends.objective, kind, settings["bends"])
        made = _optimizer(controls.trained, optimizer, learning_rate, momentum)
        if optimizer is not None:  # it has its own
            del settings["learning_rate"], settings["momentum"]
        settings |= {"steps": total, "batches_per_epoch": feed.per_epoch, "optimizer": _described(made)}
        saver = None if checkpoint is None else Saver(Path(checkpoint), settings | ends.identity())
        losses = _Fit(controls, ends.objective, made, weight_decay, seed, total).train(feed, saver, report)
        means = [math.fsum(part) / len(part) for part in _parts(losses, feed.per_epoch)]
        return ends.curve(kind, controls.bends(), means, settings)


@dataclass(frozen=True, eq=False)
class _Fit:
    """The training of a curve's control points."""

    controls: Controls
    objective: TrainingLoss
    optimizer: torch.optim.Optimizer
    weight_decay: float
    seed: int
    total: int

    def train(self, feed: Feed, saver: Saver | None, report: Report) -> list[float]:
        """Train all steps, or those that are left of an interrupted training; the loss of each step."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        losses = [] if saver is None else saver.restore(self.controls.trained, self.optimizer)
        batches = feed.batches(len(losses))
        for step in range(len(losses), self.total):
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * decay(step / self.total)
            losses.append(self._step(next(batches), step))
            if saver is not None:
                saver.save(losses, self.controls.trained, self.optimizer, last=step + 1 == self.total)
            report(Progress.counted(step + 1, self.total, "steps"))
        return losses

    def _step(self, batch: Any, step: int) -> float:
        t = float(torch.rand((), generator=torch.Generator().manual_seed(mix(self.seed, "t", step))))
        weights = self.controls.at(t)
        loss = self.objective(weights, batch, step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NetworkError(
                f"the training loss is {value} at step {step} of {self.total}; choose a smaller learning_rate, or see "
                "that the loss of both networks is finite on the training data"
            )
        squares = sum((weights[name].abs().square().sum() for name in self.objective.trained), torch.zeros(()))
        self.optimizer.zero_grad()
        (loss + self.weight_decay / 2 * squares).backward()
        self.optimizer.step()
        return value


def decay(done: float) -> float:
    """The factor of the learning rate when such a part of the training is done, as Garipov et al. (2018) chose it.

    >>> decay(0.25), round(decay(0.7), 3), round(decay(0.95), 3)
    (1.0, 0.505, 0.01)
    """
    if done <= 0.5:
        return 1.0
    return 1 - 0.99 * (done - 0.5) / 0.4 if done <= 0.9 else 0.01


def _optimizer(
    parameters: list[Tensor], make: MakeOptimizer | None, learning_rate: float, momentum: float
) -> torch.optim.Optimizer:
    if make is None:
        return torch.optim.SGD(parameters, learning_rate, momentum=momentum, nesterov=momentum > 0)
    if not callable(make):
        raise OptionError(
            f"optimizer= is a function of a list of parameters, such as torch.optim.Adam; got {type(make).__name__}"
        )
    made = make(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise OptionError(f"optimizer= must make a torch.optim.Optimizer of parameters; it gives {type(made).__name__}")
    if {id(one) for group in made.param_groups for one in group["params"]} != {id(one) for one in parameters}:
        raise OptionError("the optimizer that optimizer= makes must be of the parameters that it is given, and of all")
    needed = list(inspect.signature(made.step).parameters.values())
    if any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in needed):
        raise OptionError(
            f"optimizer= makes {type(made).__name__}, whose steps need a closure that computes the loss again; give an "
            "optimizer that steps by the gradient, such as torch.optim.Adam"
        )
    return made


def _described(optimizer: torch.optim.Optimizer) -> str:
    plain = {name: value for name, value in optimizer.defaults.items() if isinstance(value, Real | str | tuple)}
    return f"{type(optimizer).__name__} {plain}"


def _parts(losses: list[float], size: int) -> list[list[float]]:
    return [losses[start : start + size] for start in range(0, len(losses), size)]


def _checked(
    kind: str, bends: int, epochs: int, steps: int | None, seed: int, checkpoint: Any, *rates: float
) -> dict[str, Any]:
    """The settings of a training, once all are seen to be usable."""
    if kind not in KINDS:
        raise unknown("kind of curve", str(kind), KINDS)
    found: dict[str, Any] = {"kind": kind, "bends": whole_number(bends, 1, "a curve needs at least one of bends")}
    if steps is None:
        whole_number(epochs, 1, "epochs must be a whole number of at least 1")
    else:
        whole_number(steps, 1, "steps must be a whole number of at least 1")
    for name, value in zip(("learning_rate", "momentum", "weight_decay"), rates, strict=True):
        usable = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        least = "above 0" if name == "learning_rate" else "of at least 0"
        require(usable and (value > 0 or (value == 0 and name != "learning_rate")), f"{name} must be a number {least}")
        found[name] = float(value)
    require(isinstance(checkpoint, str | Path | None), "checkpoint must be the path of a file")
    return found | {"seed": whole_number(seed, 0, "seed must be a whole number, not negative")}
