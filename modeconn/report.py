"""What people read: progress while a study runs, and its table and sentences at the end."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.errors import ModeconnError
from modeconn.result import count

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.barrier_result import Barrier
    from modeconn.tickets.result import LotteryResult

_WORDS = {
    "interpolate": "with interpolated running statistics",
    "recalibrate": "with recalibrated running statistics",
    "none": "",
}


def describe_study(result: InstabilityResult) -> str:
    """The table of instability over k, and in sentences from where on the network is stable."""
    summary, threshold = result.summary, result.summary["threshold"]
    choices = list(dict.fromkeys(choice for _, choice in result.choices))
    lines = []
    for split in dict.fromkeys(split for split, _ in result.choices):
        lines += [
            f"instability of {result.title}",
            f"on {split} data, points of error ({result.samples})",
            "",
            *_table(result, split, choices, threshold),
            "",
        ]
    found = result.stable_from(threshold)
    for split, by_choice in found.items():
        lines.append(f"On {split} data {_sentence(by_choice, threshold, summary['iterations'])}.")
    if by_k := summary.get("replicates_by_k"):  # older files have none
        shown = ", ".join(f"{k} ({n})" for k, n in by_k.items())
        lines += [
            "",
            f"Found by bisection over {len(summary['rewind_iters'])} iterations: these were measured, in so many",
        ]
        lines += [f"replicates as decided about them: {shown}."]
    if len(choices) > 1:
        lines += ["", _STATISTICS]
    for where in summary["diverged"]:
        place = ", ".join(f"{name} {where[name]}" for name in ("replicate", "copy"))
        lines.append(f"Diverged: {place}, k = {where['rewind_iter']}; its loss was not finite at {where['iteration']}.")
    if summary["data_note"]:
        lines += ["", f"Data: {summary['data_note']}"]
    if result.folder:
        lines += [
            "",
            f"Files: {result.folder}/ (instability.csv, paths.csv, summary.json, instability and paths .png .pdf)",
        ]
    return "\n".join(line.rstrip() for line in lines)


def describe_lottery(result: "LotteryResult") -> str:
    """The table of errors over density, why k was chosen, and down to which density each condition matches."""
    summary = result.summary
    lines = [
        f"lottery tickets of {result.title}",
        f"{result.samples}; errors and barriers in points; {summary['validation']} training examples held out",
        "",
    ]
    lines += [summary["rewind_iter_because"], "", *_lottery_table(result), ""]
    for condition, forms in summary["sparsest_matching"].items():
        lines.append(f"{condition}: {_matching_sentence(forms, summary['replicates'])}.")
    emptied = summary["emptied_layers"]
    if emptied:
        first = emptied[0]
        place = f"{first['layer']}, {first['condition']} at level {first['level']}, replicate {first['replicate']}"
        lines.append(f"Layers with nothing left: {len(emptied)}, first {place}.")
    for where in summary["diverged"]:
        place = ", ".join(f"{name} {where[name]}" for name in ("replicate", "level", "condition"))
        lines.append(f"Diverged: {place}; its loss was not finite at {where['diverged_at']}.")
    if summary["not_trained"]:
        lines.append(f"Not trained, as what they go on from diverged: {count(summary['not_trained'], 'subnetwork')}.")
    lines += ["", "Masks make networks sparse, not fast: pruned weights are zeros that are multiplied like any other."]
    if summary["data_note"]:
        lines += ["", f"Data: {summary['data_note']}"]
    if result.folder:
        files = sorted(f"{file.name}{'/' if file.is_dir() else ''}" for file in result.folder.iterdir())
        lines += ["", f"Files: {result.folder}/ ({', '.join(files)})"]
    return "\n".join(line.rstrip() for line in lines)


def _lottery_table(result: "LotteryResult") -> Iterator[str]:
    shown = [(column, head) for column, head in _LOTTERY_COLUMNS if _any(result, column)]
    yield f"{'level':>5}{'density %':>11}  {'condition':<11}" + "".join(f"{head:>12}" for _, head in shown)
    for level in sorted({row["level"] for row in result.rows}):
        for condition in ("dense", *result.conditions):
            rows = [row for row in result.rows if (row["level"], row["condition"]) == (level, condition)]
            if rows:
                density = 100 * np.mean([row["density"] for row in rows if not np.isnan(row["density"])] or [np.nan])
                cells = [_cell(column, [row[column] for row in rows]) for column, _ in shown]
                yield f"{level:>5}{density:>11.2f}  {condition:<11}" + "".join(f"{cell:>12}" for cell in cells)


_LOTTERY_COLUMNS = (
    ("test_error", "test error"),
    ("early_stop_iter", "early stop"),
    ("early_stop_error", "error there"),
    ("instability_test", "instability"),
    ("barrier_to_previous", "to previous"),
    ("barrier_to_dense", "to dense"),
    ("barrier_to_dense_fixed", "with fix"),
)


def _any(result: "LotteryResult", column: str) -> bool:
    return any(row[column] is not None and not np.isnan(row[column]) for row in result.rows)


def _cell(column: str, values: list[Any]) -> str:
    found = [value for value in values if value is not None and not np.isnan(value)]
    if not found:
        return "-"
    return f"{np.mean(found):.0f}" if column == "early_stop_iter" else f"{100 * np.mean(found):.2f}"


def _matching_sentence(forms: dict[str, Any], replicates: int) -> str:
    def where(found: dict[str, Any] | None) -> str:
        if found is None:
            return "at no level"
        place = f"{100 * found['density']:.3g} % (level {found['level']})"
        return f"down to {place}" if found["unbroken"] else f"last at {place}, not at all levels before"

    drop = f"loses less than 0.2 points {where(forms['matching_02'])}"
    if replicates == 1:
        return f"{drop}; one replicate has no deviation to match within"
    return f"matches within one standard deviation of the dense networks {where(forms['matching_std'])}, {drop}"


def describe_barrier(result: "Barrier") -> str:
    """A path in words: both barriers with their uncertainty, the ends, and what was decided."""
    a, b = result.names
    lines = [f"path from {a} to {b}, {len(result.alphas)} alphas", ""]
    if result.decided:
        lines += [f"{result.decided}.", ""]
    width = max(len(name) for name in result.metrics) + 2
    lines.append(f"{'':{width}}{a:>16.14}{b:>16.14}{'worst':>10}{'at alpha':>10}{'barrier':>10}{'chord':>10}")
    for name in result.metrics:
        unit = 100 if name == "error" else 1
        heights, worst = result.heights(name), result.worst(name)
        numbers = [*result.end_values(name), worst, heights.alpha_at_max, heights.barrier, heights.chord_barrier]
        cells = [f"{number if i == 3 else unit * number:.4g}" for i, number in enumerate(numbers)]
        label = f"{name} %" if unit == 100 else name
        lines.append(f"{label:{width}}{cells[0]:>16}{cells[1]:>16}" + "".join(f"{cell:>10}" for cell in cells[2:]))
    lines += ["", *_uncertainty(result), *_distances(result)]
    lines += ["", *(f"Note: {note}." for note in result.notes)] if result.notes else []
    return "\n".join(line.rstrip() for line in lines)


def _uncertainty(result: "Barrier") -> Iterator[str]:
    unit, word = (100, " points of error") if result.metric == "error" else (1, f" ({result.metric})")
    with contextlib.suppress(ModeconnError):  # one example, or a file without examples
        low, high = result.interval(0.95)
        yield f"Barrier{word}: 95 % interval {unit * low:.3g} to {unit * high:.3g} over examples,"
        yield f"cross-fitted {unit * result.cross_fitted():.3g} (a largest value is biased upwards)."


def _distances(result: "Barrier") -> Iterator[str]:
    ends = result.ends
    yield f"Distance of the ends: L2 {ends.l2:.4g}, cosine {ends.cosine:.4g}, angular {ends.angular:.4g}."
    if not np.isnan(ends.disagreement):
        share = (
            ""
            if np.isnan(ends.disagreement_over_possible)
            else f", {100 * ends.disagreement_over_possible:.3g} % of the most possible"
        )
        yield f"They label {100 * ends.disagreement:.3g} % differently{share}."


_STATISTICS = (
    "The two columns differ in BatchNorm alone. Interpolated: running means and variances are averaged like weights,\n"
    "though activations between two networks vary less than either average says, so error can come from the\n"
    "statistics and not from the weights. Recalibrated: they are measured anew on training data at every point. A\n"
    "barrier that recalibration removes was no ridge in the loss."
)


def _table(result: InstabilityResult, split: str, choices: list[str], threshold: float) -> Iterator[str]:
    total = result.summary["iterations"]
    if choices != ["none"]:
        yield " " * 18 + "".join(f"  {choice:^26}" for choice in choices)
    yield f"{'k':>8}{'of T':>10}" + "".join(f"  {'mean':>8}{'std':>8}{'stable':>10}" for _ in choices)
    stable = {choice: result.stable(split, choice, threshold) for choice in choices}
    mean, std = result.mean[split], result.std[split]
    for index, k in enumerate(result.rewind_iters):
        cells = [
            f"  {_points(mean[choice][index]):>8}{_points(std[choice][index]):>8}"
            f"{'yes' if stable[choice][index] else 'no':>10}"
            for choice in choices
        ]
        yield f"{k:>8}{f'{100 * k / total:.3g} %':>10}" + "".join(cells)


def _points(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f}"


def _sentence(by_choice: dict[str, int | None], threshold: float, total: int) -> str:
    parts = []
    for choice, k in by_choice.items():
        where = "at no measured iteration" if k is None else f"from iteration {k} ({100 * k / total:.3g} % of training)"
        parts.append(" ".join(filter(None, (where, _WORDS[choice]))))
    return f"the network is stable (below {100 * threshold:g} points) {', and '.join(parts)}"
