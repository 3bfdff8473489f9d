"""`soup(networks, data)`: the average of those networks that can be averaged (Wortsman et al. 2022)."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Unpack

from modeconn.analysis.alignment.find import AlignOptions
from modeconn.analysis.connectivity.aligning import aligned_to_first
from modeconn.analysis.connectivity.averaging import listed, mean_of, notes_on_integers, original_of
from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.curve import count_examples, main_metric, report_points, resolve_higher_is_better
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.connectivity.soup_result import Soup, Step
from modeconn.analysis.paths.alphas import choose_alphas
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.analysis.paths.linear import all_finite, make_line
from modeconn.errors import DataError, NetworkError, OptionError, unknown
from modeconn.evaluation.measure import MetricSums
from modeconn.progress import Report, silent, with_progress
from modeconn.weights.loadable import loadable
from modeconn.weights.state_dicts import Weights, state_tensors

KINDS = ("uniform", "greedy")
_DEFINITIONS = ("barrier", "chord_barrier")


@with_progress
def soup(
    networks: Sequence[Source],
    data: Any = None,
    kind: str = "greedy",
    *,
    gate: float | None = 0.02,
    definition: str = "chord_barrier",
    alphas: int | Sequence[float] = 5,
    align: str | None = None,
    higher_is_better: bool | Collection[str] = (),
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Soup:
    """Average those networks that can be averaged: a model soup (Wortsman et al. 2022, sections 2 and 3).

    Networks are ranked by the metric (the error, or else the first). A uniform soup is the average of all of them; a
    greedy soup (their recipe 1) starts from the best, and each next network joins if the average of the ingredients
    with it is no worse on `data`. So a greedy soup is never worse there than its best ingredient.

    The barrier is the gate: a network joins only if the barrier on the straight path from the best network (uniform),
    or from the soup so far (greedy), is at most `gate`. It is measured over the chord between the ends: the other
    definition would also keep out every network that is worse than the best by more than twice the gate, however
    straight the path.

    `data` decide which networks join, so they must be held out: neither what the networks were trained on, nor the test
    set on which the soup's error will be reported.

    Running statistics of BatchNorm are measured anew on `calibration` data for every network and every average, the
    result included, unless you choose otherwise. One network is in memory besides yours; networks in files are read
    again for every average.

    Args:
        networks: as `modeconn.error_barrier` takes them; one is enough.
        data: held-out data, as `modeconn.error_barrier` takes them. Of stored runs, `"test"` and `"train"` are known.
        kind: `"greedy"`, or `"uniform"`, which needs no held-out data to choose by.
        gate: the highest barrier with which a network joins, in the unit of the metric (0.02 is 2 points of error);
            None for no gate.
        definition: of the barrier: `"chord_barrier"` (Entezari et al. 2022) or `"barrier"` (Frankle et al. 2020).
        alphas: the points of paths that barriers are measured on: how many, ends included, or a list of them.
        align: the method of `modeconn.align` by which every network is first aligned to the first; None to take them
            as they are.
        higher_is_better: as `modeconn.error_barrier` takes it.
        report: called after every measurement with how far it is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: options of `modeconn.error_barrier`. `batchnorm` is `"recalibrate"` (needs `calibration`) or
            `"interpolate"`.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is measured.

    >>> import torch
    >>> from torch import nn
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> networks = [nn.Linear(4, 2) for _ in range(3)]
    >>> result = soup(networks, data, "greedy", gate=None)
    >>> result.value <= min(result.values.values())
    True
    >>> keys = networks[0].load_state_dict(result.state)
    """
    sources = listed(networks)
    options: OptionKeywords = {"batchnorm": "recalibrate", **how}
    points = _checked(kind, gate, definition, alphas, data, options)
    if align is not None:
        AlignOptions(align)
    refuse_factors(options.get("adapter", "products"), "a soup")
    with open_comparison(sources, data, ComparisonOptions(**options)) as comparison:
        _check_finite(comparison)
        if align is not None:
            comparison = aligned_to_first(comparison, align, ComparisonOptions(**options))
        # 1. Measure each network alone, and rank them: best first, NaN last.
        inner = len(set(points) - {0.0, 1.0}) + (kind == "greedy")
        point_done = report_points(report, len(sources) + (len(sources) - 1) * inner + 1)
        ends = []
        for network in comparison.networks:
            ends.append(comparison.measure_end(network))
            point_done()
        metric = main_metric(ends[0])
        better, comparison = resolve_higher_is_better(higher_is_better, comparison, ends[0])
        sign = -1 if metric in better else 1
        recipe = _Recipe(comparison, ends, metric, sign, kind, gate, definition, points, point_done)
        own = [recipe.value(end) for end in ends]
        order = sorted(range(len(own)), key=lambda i: (math.isnan(own[i]), sign * own[i]))
        # 2. Choose the members, and measure their average.
        members, steps = recipe.choose(order)
        chosen = [comparison.networks[index] for index in members]
        measured = comparison.measure_end(mean_of(chosen))
        point_done()
    notes = [*comparison.notes, *notes_on_integers(chosen)]
    if kind == "greedy" and isinstance(data, str) and data == "test":
        notes.append("its members were chosen on test data, so its error there is too low for an estimate")
    notes += [f"{metric} of {comparison.names[i]} is not finite" for i in order if not math.isfinite(own[i])]
    state = {name: tensor.detach() for name, tensor in state_tensors(comparison.evaluator.network).items()}
    model = options.get("model")
    original = original_of(sources, None if isinstance(model, str) else model)  # a stored run's names are its network's
    return Soup(
        state=state if original is None else loadable(state, original),
        members=tuple(comparison.names[index] for index in members),
        steps=tuple(steps),
        outcomes={comparison.names[index]: _means(ends[index]) for index in order},
        of_soup=_means(measured),
        metric=metric,
        kind=kind,
        gate=gate,
        higher_is_better=better,
        batchnorm=comparison.evaluator.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=comparison.settings
        | {"alphas": list(points), "definition": definition}
        | count_examples(measured, comparison.evaluator.meter),
    )


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How networks are chosen, once each has been measured alone."""

    comparison: Comparison
    ends: Sequence[MetricSums]
    metric: str
    sign: int  # -1 where higher is better
    kind: str
    gate: float | None
    definition: str
    points: Sequence[float]
    point_done: Callable[[], None]

    def choose(self, order: Sequence[int]) -> tuple[list[int], list[Step]]:
        """The members, best first, and what was done with each network; `order` is their rank."""
        comparison, best = self.comparison, order[0]
        members = [best]
        base, at_base = comparison.networks[best], self.ends[best]
        steps = [Step(0, comparison.names[best], self.value(at_base), math.nan, True, "best")]
        for number, index in enumerate(order[1:], start=1):
            # The average with one more network lies on the path from the soup to it.
            share = 1 / (len(members) + 1) if self.kind == "greedy" else None
            path = self._measure_path(base, at_base, index, share)
            value = math.nan if share is None else self.value(path[share])
            barrier = self._barrier(path)
            reason = self._judge(barrier, value, self.value(at_base))
            steps.append(Step(number, comparison.names[index], value, barrier, reason == "joins", reason))
            if reason == "joins":
                members.append(index)
                if share is not None:
                    base, at_base = mean_of([comparison.networks[member] for member in members]), path[share]
        return members, steps

    def value(self, measured: MetricSums) -> float:
        """The metric by which networks are chosen."""
        if self.metric not in measured.sums:
            raise DataError(f"evaluate gives {self.metric!r} for one network and not for another")
        return measured.mean(self.metric)

    def _measure_path(
        self, base: Weights, at_base: MetricSums, index: int, share: float | None
    ) -> dict[float, MetricSums]:
        """The points of the path from the base to a network, by alpha; `share` among them, if that is asked for."""
        path = {0.0: at_base, 1.0: self.ends[index]}
        inner = {*self.points, *([] if share is None else [share])} - path.keys()
        if inner:
            line = make_line(base, self.comparison.networks[index], self.comparison.parameters)
            for alpha in inner:
                path[alpha] = self.comparison.measure_at(line, alpha)
                self.point_done()
            if share in self.points:
                self.point_done()  # for both
        return dict(sorted(path.items()))

    def _barrier(self, path: Mapping[float, MetricSums]) -> float:
        if self.gate is None:
            return math.nan
        values = [self.sign * self.value(measured) for measured in path.values()]
        return float(getattr(barrier_heights(list(path), values), self.definition))

    def _judge(self, barrier: float, value: float, so_far: float) -> str:
        # NaN is worse than any.
        if self.gate is not None and not barrier <= self.gate:
            return "barrier"
        if self.kind == "greedy" and not self.sign * value <= self.sign * so_far:
            return "worse"
        return "joins"


def _checked(
    kind: str, gate: float | None, definition: str, alphas: Any, data: Any, options: OptionKeywords
) -> tuple[float, ...]:
    """The points that barriers are measured on, none without a gate, once all options are seen to be usable."""
    if kind not in KINDS:
        raise unknown("kind of soup", str(kind), KINDS)
    if definition not in _DEFINITIONS:
        raise unknown("definition", str(definition), _DEFINITIONS)
    if gate is not None and (not isinstance(gate, Real) or isinstance(gate, bool) or not 0 <= float(gate) < math.inf):
        raise OptionError(f"gate must be a number of at least 0, or None for no gate; got {gate!r}")
    chosen = choose_alphas(alphas)
    if chosen.adaptive:
        raise OptionError("a soup's barriers are measured on a fixed grid; give alphas= a count or a list")
    if options.get("batchnorm") == "repair":
        raise OptionError(
            'batchnorm="repair" is defined between two networks and not for an average of many; choose "recalibrate" '
            'or "interpolate"'
        )
    if kind == "greedy" and data is None:
        raise OptionError(
            "a greedy soup chooses its members on data=, which must be held out: give data that are neither training "
            "nor test data"
        )
    return () if gate is None else chosen.points


def _check_finite(comparison: Comparison) -> None:
    bad = [
        f"{name} in {called}"
        for called, network in zip(comparison.names, comparison.networks, strict=True)
        for name in comparison.parameters
        if not all_finite(network.read(name))
    ]
    if bad:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(bad)}")


def _means(measured: MetricSums) -> dict[str, float]:
    return {name: measured.mean(name) for name in measured.sums}
