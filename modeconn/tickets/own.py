"""A lottery-ticket study of a training loop of the user's own: what it needs, and what it cannot be asked."""

from collections.abc import Callable, Sequence
from typing import Any

from modeconn.analysis.instability.curves import read_curve
from modeconn.errors import OptionError
from modeconn.evaluation.losses import Loss
from modeconn.execution import Store
from modeconn.pruning.masks import Mask
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import PLAIN, Subnetwork
from modeconn.training.own_loop import InitFunction, TrainFunction, mask_parameter, prepare_own
from modeconn.training.runner import Runner
from modeconn.training.task_training import Prepared


def prepare_own_lottery(
    name: str,
    options: LotteryOptions,
    train: TrainFunction,
    init: InitFunction | None,
    data: Any,
    *,
    iterations: int | None,
    evaluate: str | Callable[..., Any],
    loss: Loss | None,
    device: str,
    precision: str,
    elsewhere: bool,
) -> Prepared:
    """Check that a training loop can be handed masks, and that options are about what it knows; try its network.

    Args:
        name, train, init, data, iterations, evaluate, loss, device, precision: as in `modeconn.lottery`.
        options: of the study.
        elsewhere: whether other processes compute, so that all must be sent to them.

    Raises:
        ModeconnError: says which part is missing or wrong.
    """
    if mask_parameter(train) is None:
        raise OptionError(
            "lottery calls train(state, start, stop, seed, mask=...), and train has no parameter named mask; give it "
            "one, None for the dense network, and call mask.apply(network) after every optimizer step"
        )
    for refused, why in (
        (
            bool(options.validation),
            "validation= holds out examples of a task's data, and a loop of your own has its own; keep the best "
            "network inside of train, and leave validation= out",
        ),
        (
            options.retrain == "finetune",
            'retrain="finetune" trains at the last learning rate, which is inside of your loop; choose "rate"',
        ),
        (
            "curves" in options.details,
            'details="curves" keeps what was recorded during training, and a loop of your own keeps that itself; leave '
            "it out",
        ),
    ):
        if refused:
            raise OptionError(why)
    return prepare_own(
        name,
        train,
        init,
        data,
        iterations=iterations,
        evaluate=evaluate,
        device=device,
        precision=precision,
        elsewhere=elsewhere,
        loss=loss,
        as_mask=Mask,
    )


def compute_first(runner: Runner, subnetworks: Sequence[Subnetwork]) -> None:
    """Compute the first dense network and the first ticket, so that a fault of the loop shows early.

    Raises:
        ModeconnError: jobs that failed, such as a training that lets pruned weights grow back; or a loop that ignores
            its seed.
    """
    runner.recorder.add([job for found in subnetworks for job in found.jobs])
    dense, *others = subnetworks
    runner.compute(list(dense.jobs))
    _check_seed(dense, runner.store)
    if others:
        runner.compute(list(others[0].jobs))


def _check_seed(dense: Subnetwork, store: Store) -> None:
    for path in dense.instability.get(PLAIN, ()):
        curve = read_curve(store, path)
        if curve and curve.l2_distance == 0:
            raise OptionError(
                "train gave the same weights for two seeds, so there is no noise to be stable to; have its argument "
                "seed decide the data order, augmentation and dropout"
            )
