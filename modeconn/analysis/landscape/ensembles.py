"""`ensembles(groups, data)`: averaged predictions beside averaged weights, and how diverse the members are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.averaging import mean_of
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison, open_comparison
from modeconn.analysis.connectivity.curve import report_points
from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.ensembles_result import Ensembles, Member, Prefix
from modeconn.errors import OptionError
from modeconn.evaluation.disagreement import compare_outcomes
from modeconn.evaluation.measure import MetricSums
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.predictions import Rows, rows_of
from modeconn.evaluation.scores import BatchSums, score_classification
from modeconn.progress import Report, silent, with_progress
from modeconn.weights.state_dicts import Weights


@with_progress
def ensembles(
    groups: Mapping[str, Sequence[Source]],
    data: Any = None,
    *,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Ensembles:
    """Compare, for groups of networks, the ensemble of their predictions with the network of their averaged weights.

    The ensemble of m members has the probabilities (p_1 + ... + p_m) / m; their average has the weights
    (theta_1 + ... + theta_m) / m. Networks that are linearly connected can have both; of those that are not, only the
    ensemble is any good. A group of the last checkpoints of one run gives a snapshot ensemble (Huang et al. 2017) and
    stochastic weight averaging (Izmailov et al. 2018); points on a curve between two networks one along it (Garipov et
    al. 2018); several seeds a deep ensemble.

    Each network's *diversity* is the fraction of examples that it labels otherwise than the reference, over its own
    error (Fort et al. 2019, section 4.2): 0 for the same predictions. The reference is the first network of the first
    group.

    Args:
        groups: name to networks of one architecture, as `modeconn.error_barrier` takes them; in each group at least
            two, in the order in which they join.
        data: held-out data, as `modeconn.error_barrier` takes them.
        report: called after every measurement with how far it is.
        progress: show a bar.
        **how: options of `modeconn.error_barrier`; `batchnorm` is `"recalibrate"` (the default; needs `calibration`
            where there is BatchNorm) or `"interpolate"`.

    Raises:
        ModeconnError: as `modeconn.error_barrier`; groups without names or with one network; data without classes.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> seeds = [nn.Linear(4, 2) for _ in range(3)]
    >>> result = ensembles({"seeds": seeds}, data)
    >>> result.members[0].disagreement, len(result.prefixes)
    (0.0, 3)
    """
    options: OptionKeywords = {"batchnorm": "recalibrate", **how}
    if options["batchnorm"] == "repair":
        raise OptionError('there is no path to repair between the members of an ensemble; choose "recalibrate"')
    groups = _listed(groups)
    sources = [network for of_group in groups.values() for network in of_group]
    if options.get("names") is None:
        options["names"] = _names(groups)
    points = sum(2 * len(members) - 1 for members in groups.values())
    point_done = report_points(report, points)
    members: list[Member] = []
    prefixes: list[Prefix] = []
    with open_comparison(sources, data, ComparisonOptions(**options)) as comparison:
        rows = _rows(comparison.evaluator.meter)
        reference: MetricSums | None = None
        place = 0
        for group, of_group in groups.items():
            mixture: list[Tensor] = []
            for number in range(1, len(of_group) + 1):
                own, together = _measured(comparison, comparison.networks[place], rows, mixture, number)
                point_done()
                reference = own if reference is None else reference
                members.append(_member(group, comparison.names[place], own, reference))
                averaged = own
                if number > 1:
                    averaged = comparison.measure_end(mean_of(comparison.networks[place + 1 - number : place + 1]))
                    point_done()
                prefixes.append(_prefix(group, number, together, averaged))
                place += 1
        notes = comparison.notes
    return Ensembles(
        members=tuple(members),
        prefixes=tuple(prefixes),
        reference=members[0].name,
        batchnorm=comparison.evaluator.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=comparison.settings | {"examples": len(together["error"])},
    )


def _listed(groups: Mapping[str, Iterable[Source]]) -> dict[str, list[Source]]:
    """The networks of each group by its name.

    Raises:
        OptionError: no groups by name, or one that is too small to average.
    """
    if not isinstance(groups, Mapping) or not groups:
        raise OptionError('give groups of networks by name, such as {"seeds": [a, b, c]}')
    found: dict[str, list[Source]] = {}
    for name, members in groups.items():
        alone = isinstance(members, str | nn.Module | Mapping) or not isinstance(members, Iterable)
        if alone or len(listed := list(members)) < 2:
            raise OptionError(f"group {name!r} must be a list of at least two networks")
        found[str(name)] = listed
    return found


def _names(groups: Mapping[str, Sequence[Source]]) -> list[str]:
    """Names of networks that tell them apart: those of their files, or else each one's group and its place there."""
    sources = [network for of_group in groups.values() for network in of_group]
    files = [Path(source).name for source in sources if isinstance(source, str | Path)]
    if len(set(files)) == len(sources):
        return list(names_of(sources, None))
    return [f"{group} {number}" for group, of_group in groups.items() for number in range(1, len(of_group) + 1)]


def _rows(meter: Meter) -> Rows:
    """How probabilities are read from the output of a network.

    Raises:
        OptionError: what is measured are no classes.
    """
    try:
        return rows_of(meter)
    except OptionError:
        raise OptionError(
            f"an ensemble averages predicted probabilities of classes or tokens, and what is measured here is "
            f'{meter.about or meter.name}; say evaluate="classification" if it holds logits of classes'
        ) from None


def _measured(
    comparison: Comparison, network: Weights, rows: Rows, mixture: list[Tensor], members: int
) -> tuple[MetricSums, dict[str, Tensor]]:
    """Measure a network, and in the same pass over the data the ensemble that it completes.

    Args:
        comparison: what is measured.
        network: the next member.
        rows: how probabilities are read from an output.
        mixture: the sum of the members' probabilities on each batch, float64 [batch, classes]; this one's are added.
        members: how many they are with this one.

    Returns:
        The network's own outcomes; error and loss of the ensemble, [n] each.
    """
    meter = comparison.evaluator.meter
    found: list[BatchSums] = []

    def measure(network: nn.Module, batch: Any) -> BatchSums:
        output, target = meter.read(network, batch)  # type: ignore[misc]  # rows_of has seen that there is one
        logs, labels = rows(output, target)
        probabilities = logs.double().exp_().cpu()
        if members == 1:
            mixture.append(probabilities)
        else:
            mixture[len(found)] += probabilities
        found.append(score_classification((mixture[len(found)] / members).log_(), labels.cpu()))
        return meter.score(output, target)  # type: ignore[misc]

    sums = replace(comparison.evaluator, meter=replace(meter, measure=measure)).measure_end(network)[SPLIT]
    return sums, {name: torch.cat([batch.sums[name] for batch in found]) for name in ("error", "loss")}


def _member(group: str, name: str, own: MetricSums, reference: MetricSums) -> Member:
    outcomes = compare_outcomes(own, reference)
    return Member(
        group=group,
        name=name,
        error=own.mean("error"),
        loss=own.mean("loss"),
        disagreement=outcomes.disagreement,
        possible=outcomes.possible,
    )


def _prefix(group: str, members: int, together: Mapping[str, Tensor], averaged: MetricSums) -> Prefix:
    error, loss = (float(together[name].double().mean()) for name in ("error", "loss"))
    return Prefix(
        group=group,
        members=members,
        ensemble_error=error,
        ensemble_loss=loss,
        averaged_error=averaged.mean("error"),
        averaged_loss=averaged.mean("loss"),
    )
