"""An instability study's answers in words, from its results at each k (`InstabilityResult.by_iteration`)."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modeconn.result import Row

_WORDS = {
    "interpolate": "with interpolated running statistics",
    "recalibrate": "with recalibrated running statistics",
    "none": "",
}
STATISTICS = (  # what the choices for BatchNorm are
    "The two choices differ in BatchNorm alone. Interpolated: running means and variances are averaged like weights,\n"
    "though activations between two networks vary less than either average says, so error can come from the\n"
    "statistics and not from the weights. Recalibrated: they are measured anew on training data at every point. A\n"
    "barrier that disappears after recalibration was caused by stale BatchNorm statistics, not by the weights."
)


def table(rows: Iterable[Row], total: int, answered: Collection[tuple[str, str]]) -> Iterator[str]:
    """Lines of a table, one for each BatchNorm choice and k.

    Args:
        rows: of one split.
        total: T, the iterations of a training.
        answered: the pairs of split and BatchNorm choice that were searched, or all.
    """
    rows = list(rows)
    several = {row["batchnorm"] for row in rows} != {"none"}
    aligned = any("aligned" in row for row in rows)
    title = f"{'BatchNorm':<12}" if several else ""
    after = f"{'aligned':>9}" if aligned else ""
    yield f"{title}{'k':>8}{'of T':>9}{'error':>8}{'mean':>8}{'std':>8}{after}{'95 % interval':>16}  stable"
    for row in rows:
        choice, k = row["batchnorm"], row["rewind_iter"]
        cells = "".join(f"{_points(row[column]):>8}" for column in ("error", "mean", "std"))
        cells += f"{_points(row['aligned']):>9}" if aligned else ""
        verdict = row["stable"] if (row["split"], choice) in answered else "not searched"
        yield (
            f"{choice:<12}" * several
            + f"{k:>8}{f'{100 * k / total:.3g} %':>9}{cells}{_between(row['interval']):>16}  {verdict}"
        )


def legend(replicates: str) -> Iterator[str]:
    """What the columns of the table are; `replicates` in words."""
    yield "k: iteration of the fork, and its share of the training T; error: of the copies (%); mean, std: of the error"
    yield f"barrier between two copies, in percentage points, and the 95 % interval of the mean over {replicates}."


def over_training(by_iteration: Mapping[int, Iterable[Row]], split: str) -> Iterator[str]:
    """Lines of a table of the mean instability over training: a line for each BatchNorm choice and k.

    Args:
        by_iteration: by the iteration of measurement, the results at each k.
        split: that is shown.
    """
    means = {
        (row["batchnorm"], row["rewind_iter"], iteration): _points(row["mean"])
        for iteration, rows in by_iteration.items()
        for row in rows
        if row["split"] == split
    }
    lines = dict.fromkeys((choice, k) for choice, k, iteration in means if iteration == max(by_iteration))
    several = {choice for choice, _ in lines} != {"none"}
    yield f"mean instability after so many iterations, on {split} data"
    yield ""
    title = f"{'BatchNorm':<12}" if several else ""
    yield f"{title}{'k':>8}" + "".join(f"{iteration:>9}" for iteration in by_iteration)
    for choice, k in lines:
        cells = "".join(f"{means.get((choice, k, iteration), ''):>9}" for iteration in by_iteration)
        yield f"{choice:<12}" * several + f"{k:>8}{cells}"


def answer(
    rows: Sequence[Row], stable_from: int | None, threshold: float, total: int, replicates: str
) -> Iterator[str]:
    """From where on the network is stable, and at which k the replicates do not decide that.

    Args:
        rows: of one split and BatchNorm choice.
        stable_from: k, by the mean; None if there is none.
        threshold: of instability.
        total: T, the iterations of a training.
        replicates: how many, in words.
    """
    below = f"below {100 * threshold:g} percentage points"
    # Undecided ones are stable by their mean or not; no copy of theirs diverged, as these have no interval.
    stable = {
        row["rewind_iter"]: row["mean"] < threshold if row["stable"] == "undecided" else row["stable"] == "yes"
        for row in rows
    }
    undecided = [row["rewind_iter"] for row in rows if row["stable"] == "undecided"]
    if stable_from is not None:
        by = ", by the mean," if any(k >= stable_from for k in undecided) else ""
        found = f"is{by} stable ({below}) from iteration {stable_from} ({100 * stable_from / total:.3g} % of training)"
    elif at := [k for k, is_stable in stable.items() if is_stable]:
        above = [k for k, is_stable in stable.items() if not is_stable and k > at[0]]
        found = f"does not stay stable: it is {below} at {_listed(at)}, above at {_listed(above)}"
    else:
        found = f"is stable ({below}) at no measured iteration"
    yield f"On {place(rows[0]['split'], rows[0]['batchnorm'])} the network {found}."
    if undecided:
        yield (
            f"Undecided at {_listed(undecided)}: the interval over {replicates} holds {100 * threshold:g} percentage "
            "points; more replicates make it narrower."
        )


def after_alignment(rows: Iterable[Row], threshold: float) -> Iterator[str]:
    """Whether the barrier at the smallest k is one of permutations.

    Args:
        rows: of all splits and BatchNorm choices, with the mean instability after alignment, and the mean share of
            units that it moves.
        threshold: of instability.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row["split"], row["batchnorm"]), row)
    for (split, choice), row in first.items():
        before, after = row["mean"], row["aligned"]
        if math.isnan(before) or before < threshold:
            continue
        verdict = (
            f"below {100 * threshold:g} percentage points: the barrier was one of permutations"
            if after < threshold
            else "so that the permutations found by weight matching are not all that is between them"
        )
        moved = f"{100 * row['moved']:.3g} % of the units change their place"
        yield (
            f"On {place(split, choice)} copies from k = {row['rewind_iter']} have a barrier of {_points(before)} "
            f"points, and of {_points(after)} after one is aligned to the other ({moved}), {verdict}."
        )


def forks(summary: Mapping[str, Any]) -> Iterator[str]:
    """How copies go on from the fork, where it is not as in Algorithm 1."""
    if summary.get("copies_train") == "whole":
        yield f"Copies trained {summary['iterations']} iterations after the fork, on the schedule from its beginning."
    if summary.get("fork_optimizer") == "reset":
        yield "The optimizer's state was reset at the fork."
    if "perturb" in summary:
        yield f"Copies shared all SGD noise; all but the first were perturbed once, at k ({summary['perturb']})."


def warnings(
    rows: Iterable[Row], chance: Mapping[str, float], identical: Sequence[str], replicates: int
) -> Iterator[str]:
    """What a reader must know before "stable" means anything.

    Args:
        rows: of all splits and BatchNorm choices.
        chance: of each split the error of a network that learned nothing, if it is known.
        identical: pairs of copies that ended in the same weights.
        replicates: how many were asked for.
    """
    errors: dict[str, dict[int, float]] = {}  # split to k to the copies' largest error
    for row in rows:
        of_split = errors.setdefault(row["split"], {})
        of_split[row["rewind_iter"]] = np.fmax(of_split.get(row["rewind_iter"], math.nan), row["error"])
    for split, by_k in errors.items():
        near = {k: error for k, error in by_k.items() if error > 0.9 * chance.get(split, 2)}
        if near:  # nine tenths of what can be learned is not
            yield (
                f"copies from k = {_listed(near)} have a {split} error of {error_range(near.values())} %, near that of "
                f"a network that learned nothing ({100 * chance[split]:.3g} %): barriers mean little"
            )
    if identical:
        pairs = "1 pair of copies" if len(identical) == 1 else f"{len(identical)} pairs of copies"
        yield f"{pairs} ended in the same weights ({identical[0]}), so that the barrier is 0 by construction"
    if replicates == 1:
        yield "one replicate gives no interval; more (replicates=) tell how far another initialisation may differ"


def place(split: str, choice: str) -> str:
    """A split and a BatchNorm choice."""
    return " ".join(filter(None, (f"{split} data", _WORDS[choice])))


def error_range(errors: Iterable[float]) -> str:
    """The least and the largest error in percent, once if they look the same; "-" if none is known."""
    known = [error for error in errors if not math.isnan(error)]
    if not known:
        return "-"
    return " to ".join(dict.fromkeys(f"{100 * error:.3g}" for error in (min(known), max(known))))


def _points(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _between(interval: Sequence[float]) -> str:
    return "-" if any(map(math.isnan, interval)) else " to ".join(map(_points, interval))


def _listed(ks: Iterable[int]) -> str:
    return ", ".join(map(str, ks))
