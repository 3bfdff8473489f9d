"""Conditions of a lottery-ticket study: whose weights subnetworks are rewound to, and under which mask."""

from dataclasses import dataclass
from typing import Any

from modeconn.pruning.prune import Pruning
from modeconn.seeds import mix
from modeconn.tickets.jobs import ControlJob, MaskJob
from modeconn.tickets.options import ALLOCATED, LotteryOptions, scored_by
from modeconn.tickets.signs import SignJob
from modeconn.training.jobs import TrainJob


@dataclass(frozen=True)
class Origins:
    """The networks of a replicate that its conditions start from, at one k.

    Attributes:
        options: of the study.
        replicate: which.
        how: by magnitude, as levels prune: where weights compete, and the rates of layers.
        state: the trunk at k.
        first: the trunk at 0, if anything starts from there.
        dense: the trained dense network.
        scored: the network that the criteria score.
    """

    options: LotteryOptions
    replicate: int
    how: Pruning
    state: TrainJob
    first: TrainJob
    dense: TrainJob
    scored: TrainJob


def condition_of(
    name: str, level: int, ticket: MaskJob, of: Origins, draw: int = 0
) -> tuple[Any, MaskJob | ControlJob]:
    """The state that a condition's weights are from, and its mask.

    Args:
        name: of the condition, other than `"imp"`.
        level: of pruning.
        ticket: its mask.
        of: the networks.
        draw: which of several initialisations, if it draws weights anew.
    """
    criterion, ablation = scored_by(name)
    if criterion:
        mask = _ablated(name, ablation, level, _scored(criterion, level, of), of)
        return (_anew(of, draw) if ablation == "reinit" else of.state), mask
    if name in ("random", "shuffle", "invert", *ALLOCATED):
        # Random masks are nested, like the ticket's; each shuffled one is drawn for itself.
        return of.state, _control(name, name, ticket, (level,) if name == "shuffle" else (), level, of)
    source: Any = {"reinit": _anew, "sign": _signed, "rewind0": lambda of, _: of.first}[name](of, draw)
    return source, ticket


def _scored(criterion: str, level: int, of: Origins) -> MaskJob:
    options, label = of.options, f"{_place(criterion, level, of)} mask"
    network = of.dense if criterion == "oneshot" else of.scored
    how = Pruning("magnitude" if criterion == "oneshot" else criterion, of.how.scope, of.how.rates)
    return MaskJob(network, None, how, options.fraction, options.per_class, level, label)


def _ablated(name: str, ablation: str | None, level: int, mask: MaskJob, of: Origins) -> MaskJob | ControlJob:
    """A scored mask, shuffled or inverted if asked."""
    if ablation == "shuffle":
        return _control("shuffle", name, mask, (level,), level, of)
    if ablation == "invert":
        return ControlJob("lowest", mask, 0, mask.source, f"{_place(name, level, of)} mask")
    return mask


def _control(control: str, name: str, like: MaskJob, parts: tuple[int, ...], level: int, of: Origins) -> ControlJob:
    seed = mix(of.options.seed, name, of.replicate, *parts)
    return ControlJob(control, like, seed, of.dense, f"{_place(name, level, of)} mask")


def _anew(of: Origins, draw: int) -> TrainJob:
    """Another initialisation."""
    which = (draw,) if draw else ()
    seed = mix(of.options.seed, "reinit", of.replicate, *which)
    label = " ".join(map(str, ("replicate", of.replicate, "anew", *which)))
    return TrainJob(of.state.training, seed, of.state.noise, 0, label=label)


def _signed(of: Origins, draw: int) -> SignJob:
    anew = _anew(of, draw)
    return SignJob(anew, of.state, f"{anew.label}, signs from {of.state.iteration}")


def _place(name: str, level: int, of: Origins) -> str:
    return f"replicate {of.replicate} level {level} {name}"
