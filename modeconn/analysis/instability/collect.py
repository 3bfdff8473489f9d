"""The result of an instability study whose jobs are done."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modeconn.analysis.instability.align import read_alignment
from modeconn.analysis.instability.curvature import read_curvature
from modeconn.analysis.instability.curves import read_curve
from modeconn.analysis.instability.ends import read_ends
from modeconn.analysis.instability.jobs import EvaluateJob
from modeconn.analysis.instability.measurement import COUNTS, read_counts
from modeconn.analysis.instability.plan import Pair, Study
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.analysis.instability.rows import identical_pair
from modeconn.analysis.instability.tables import ALIGNED_COLUMNS, END_COLUMNS
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.result import Row
from modeconn.training.runner import summarize
from modeconn.training.splits import SplitSums

_log = logging.getLogger("modeconn")


def collect(
    study: Study, pairs: list[Pair], store: Store, command: str, how: Mapping[str, Any] = MappingProxyType({})
) -> InstabilityResult:
    """Collect the result of a study whose jobs are all in the store.

    Args:
        study: the plan.
        pairs: those that were measured.
        store: where they are.
        command: noted in the summary.
        how: what else the summary says of how they were computed.
    """
    total = study.prepared.training.iterations
    rows: list[Row] = []
    paths: list[Row] = []
    diverged: dict[str, Row] = {}
    same: dict[str, None] = {}
    notes: dict[str, None] = {}
    computed_with: set[str] = set()
    for pair in pairs:
        place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter}
        place |= {"copy_a": pair.copies[0], "copy_b": pair.copies[1]}
        at = {"iteration": pair.iteration}
        for choice, measurement in pair.measurements.items():
            ends = [store.require(end).facts for end in measurement.ends]
            computed_with |= {facts["torch"] for facts in ends}
            found = _divergences(pair, measurement.ends, [facts["diverged_at"] for facts in ends])
            if pair.iteration < total:  # what the last iteration, which comes first, told of a copy is told once
                told = {_copy_of(where) for where in diverged.values()}
                found = {name: where for name, where in found.items() if _copy_of(where) not in told}
            diverged |= found
            curve = read_curve(store, measurement)
            if curve is None:
                missing = dict.fromkeys(END_COLUMNS, math.nan) if pair.ends else {}
                missing |= dict.fromkeys(ALIGNED_COLUMNS, math.nan) if pair.alignment else {}
                rows += [
                    place | _missing(split) | {"batchnorm": choice} | at | missing for split in study.options.splits
                ]
                continue
            notes |= dict.fromkeys(curve.notes)
            if curve.l2_distance == 0 and pair.rewind_iter < pair.iteration == total:
                same[identical_pair(pair.replicate, pair.rewind_iter, pair.copies)] = None
            for split in study.options.splits:
                counts = curve.counts[split]
                row = _row(curve.alphas[split], counts, split, curve.l2_distance)
                more = _aligned(store, pair, choice, split) | _ends(store, pair, choice, split)
                rows.append(place | row | {"batchnorm": choice} | at | more)
                paths += [
                    place | {"split": split, "batchnorm": choice, "alpha": a, "error": c.error, "loss": c.loss} | at
                    for a, c in zip(curve.alphas[split], counts, strict=True)
                ]
    if same:
        _log.warning(
            "%d pairs of copies ended in the same weights (distance 0), so their barrier is 0 by construction: "
            "the noise that differed (%s) has no effect on this task. First: %s",
            len(same), ", ".join(study.options.noise), next(iter(same)),
        )  # fmt: skip
    for where in diverged.values():
        _log.warning("a run diverged (its loss was not finite): %s", where)
    options, asked = study.options, study.options.asked()
    later: dict[str, Any] = {"measured_at": [*study.measured_at, total]} if study.measured_at else {}
    later |= {"measures": list(options.measures)} if options.measures else {}
    later |= {name: asked[name] for name in ("copies_train", "fork_optimizer", "perturb", "align") if name in asked}
    if options.curvature:
        later["curvature_examples"] = min(options.curvature_examples, study.prepared.examples["train"])
    summary: dict[str, Any] = summarize(study.prepared, command) | {
        "rewind_iters": list(study.rewind_iters),
        "replicates_by_k": _replicates_by_k(pairs) if options.search else None,
        "threshold": options.threshold,
        "replicates": options.replicates,
        "copies": options.copies,
        "alphas": options.alphas if isinstance(options.alphas, str) else list(options.points),
        "batchnorm": list(study.batchnorm),
        "splits": list(options.splits),
        "noise": list(options.noise),
        "together": study.together,
        "seed": options.seed,
        "chance": study.prepared.chance,
        "diverged": list(diverged.values()),
        "identical_pairs": list(same),
        "notes": list(notes),
        "computed_with_torch": sorted(computed_with),
        **later,
        **how,
    }
    more = {"trunk": _trunk_rows(store, pairs, options.splits), "curvature": _curvature_rows(store, pairs)}
    result = InstabilityResult(rows, paths, summary, **more)
    answers = {"stable_from": result.stable_from(options.threshold), "results": result.by_iteration(options.threshold)}
    return InstabilityResult(rows, paths, summary | answers, **more)


def _replicates_by_k(pairs: Iterable[Pair]) -> dict[int, int]:
    """How many replicates a search measured at each k."""
    found: dict[int, int] = {}
    for pair in pairs:
        found[pair.rewind_iter] = max(found.get(pair.rewind_iter, 0), pair.replicate + 1)
    return dict(sorted(found.items()))


def _divergences(pair: Pair, ends: tuple[EvaluateJob, EvaluateJob], iterations: list[int | None]) -> dict[str, Row]:
    """Where the copies of a pair diverged, by name of the run."""
    place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter}
    return {
        job_name(end.end): place | {"copy": copy, "iteration": iteration}
        for copy, end, iteration in zip(pair.copies, ends, iterations, strict=True)
        if iteration is not None
    }


def _copy_of(where: Row) -> tuple[int, int, int]:
    return where["replicate"], where["rewind_iter"], where["copy"]


def _row(alphas: Sequence[float], curve: list[SplitSums], split: str, distance: float) -> Row:
    heights = barrier_heights(alphas, [counts.error for counts in curve])
    return {
        "split": split,
        "barrier": heights.barrier,
        "chord_barrier": heights.chord_barrier,
        "alpha_at_max": heights.alpha_at_max,
        "error_a": curve[0].error,
        "error_b": curve[-1].error,
        "loss_barrier": barrier_heights(alphas, [counts.loss for counts in curve]).barrier,
        "l2_distance": distance,
    }


def _aligned(store: Store, pair: Pair, choice: str, split: str) -> Row:
    """The barriers after the second copy is aligned to the first, if that was asked for; neither has diverged."""
    if pair.alignment is None:
        return {}
    alignment, curve = read_alignment(store, pair.alignment), read_curve(store, pair.aligned[choice])
    assert alignment is not None
    assert curve is not None
    row = _row(curve.alphas[split], curve.counts[split], split, curve.l2_distance)
    columns = ("barrier", "chord_barrier", "loss_barrier", "l2_distance")
    return {**{f"{name}_aligned": row[name] for name in columns}, "moved": alignment.moved}


def _ends(store: Store, pair: Pair, choice: str, split: str) -> Row:
    """How the two copies differ, if that was measured; neither has diverged."""
    if not pair.ends:
        return {}
    read = (read_ends(store, job) for job in (pair.ends[choice], *pair.from_init))
    ends, a, b = (distances for distances in read if distances is not None)
    outcomes = ends.outcomes[split]
    values = (ends.cosine, outcomes.disagreement, outcomes.possible, outcomes.loss_l2, a.l2, b.l2)
    return dict(zip(END_COLUMNS, values, strict=True))


def _trunk_rows(store: Store, pairs: Iterable[Pair], splits: Iterable[str]) -> list[Row]:
    """A row for each replicate, k and split with the network at k, if that was measured."""
    trunks = {(pair.replicate, pair.rewind_iter): pair.trunk for pair in pairs if pair.trunk}
    rows: list[Row] = []
    for (replicate, k), jobs in trunks.items():
        evaluation, distances = store.require(jobs.evaluation), read_ends(store, jobs.from_init)
        diverged = evaluation.facts["diverged_at"] is not None
        counts = {} if diverged else read_counts(evaluation.json(COUNTS))
        rows += [
            {
                "replicate": replicate,
                "rewind_iter": k,
                "split": split,
                "error": counts[split].error if counts else math.nan,
                "loss": counts[split].loss if counts else math.nan,
                "l2_from_init": distances.l2 if distances else math.nan,
            }
            for split in splits
        ]
    return rows


def _curvature_rows(store: Store, pairs: Iterable[Pair]) -> list[Row]:
    """A row for each network at k, and for each copy where it is measured, if curvature was asked for."""
    found: dict[tuple[int, int, int, int], Row] = {}
    for pair in pairs:
        for copy, job in zip((0, *pair.copies), pair.curvature, strict=bool(pair.curvature)):
            place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter, "copy": copy}
            place["iteration"] = pair.iteration if copy else pair.rewind_iter
            found[tuple(place.values())] = place | read_curvature(store, job)  # type: ignore[index]
    return [found[key] for key in sorted(found)]


def _missing(split: str) -> Row:
    measured = ("barrier", "chord_barrier", "alpha_at_max", "error_a", "error_b", "loss_barrier", "l2_distance")
    return {"split": split, **dict.fromkeys(measured, math.nan)}
