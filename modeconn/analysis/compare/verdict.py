"""The verdict of a comparison in one sentence, with the numbers that it rests on."""

from dataclasses import replace

from modeconn.analysis.compare.pair_report import PairReport, Verdict
from modeconn.analysis.compare.removal import Attempt, Way
from modeconn.result import count

_VERDICTS: dict[Way, Verdict] = {
    "average": "average",
    "recalibrate": "average and recalibrate",
    "repair": "average and repair",
    "align": "align first",
    "align and recalibrate": "align first and recalibrate",
    "align and repair": "align first and repair",
}


def judge(report: PairReport) -> PairReport:
    """The report with its verdict and the reason for it."""
    verdict, reason = _judge(report)
    return replace(report, verdict=verdict, reason=reason)


def _judge(report: PairReport) -> tuple[Verdict, str]:
    if report.differences:
        differences = count(len(report.differences), "difference")
        such = ":" if len(report.differences) == 1 else ", such as"
        return "do not average", f"the two differ in more than weights: {differences}{such} {report.differences[0]}"
    if report.equal:
        return "average", "all tensors are equal, so the average is what both are"
    if not report.attempts:
        return "unknown", f"whether there is a barrier is not in files; {_ANCESTRY[report.siblings.answer]}; give data"
    plain = report.attempts[0]
    removing = next((attempt for attempt in report.attempts if attempt.removed), None)
    if removing is None:
        tried = ", ".join(f"{attempt.way} {_left(attempt)}" for attempt in report.attempts[1:])
        return "do not average", f"{_numbers(plain, report)}; nothing that was tried removes the barrier ({tried})"
    if removing is plain:
        return "average", _numbers(plain, report) + _better_alone(plain, report)
    after = f"{_value(removing.midpoint, removing)} after {_DONE[removing.way]} ({_left(removing)})"
    return _VERDICTS[removing.way], f"{_numbers(plain, report)}, but {after}{_better_alone(removing, report)}"


_ANCESTRY = {
    "siblings": "the two look like siblings, descendants of one network, which can often be averaged and not always",
    "siblings in part": "the two look like siblings in some matrices and not in others",
    "not siblings": "the two do not look like siblings, and as they are such networks can hardly ever be averaged",
    "too small to tell": "their matrices are too small to tell whether they are siblings",
}
_DONE: dict[Way, str] = {
    "average": "averaging",
    "recalibrate": "recalibration",
    "repair": "REPAIR",
    "align": "alignment",
    "align and recalibrate": "alignment and recalibration",
    "align and repair": "alignment and REPAIR",
}


def _numbers(plain: Attempt, report: PairReport) -> str:
    """The average, the two networks, and the barrier between them."""
    assert plain.barrier is not None
    (a, b), metric, decided = report.names, plain.barrier.metric, plain.barrier.decided
    ends = f"{a}'s {_value(plain.ends[0], plain)} and {b}'s {_value(plain.ends[1], plain)}"
    if decided:
        about = f"the barrier at the midpoint is below {100 * decided.threshold:g} points"
        drawn = f"decided from {decided.drawn} of {decided.examples} examples"
        return f"{about} ({drawn}, on which the average's {metric} is {_value(plain.midpoint, plain)}, {ends})"
    return f"the average's {metric} is {_value(plain.midpoint, plain)}, {ends} (a barrier of {_left(plain)})"


def _better_alone(attempt: Attempt, report: PairReport) -> str:
    """Which network alone is better than the average, though there is no barrier: the average of a good one and a bad.

    Nothing is said where the difference would be no barrier either.
    """
    barrier = attempt.barrier
    assert barrier is not None
    sign = -1 if barrier.metric in barrier.higher_is_better else 1
    best = min(attempt.ends, key=lambda end: sign * end)
    worse = sign * (attempt.midpoint - best)
    of_error = barrier.metric == "error"
    threshold = report.settings["threshold"] * (1 if of_error else abs(sum(attempt.ends) / 2))
    if not worse > threshold:
        return ""
    by = f"{100 * worse:.3g} points" if of_error else f"{worse:.4g}"
    return f"; {report.names[attempt.ends.index(best)]} alone is better than the average, by {by}"


def _value(value: float, attempt: Attempt) -> str:
    of_error = attempt.barrier is not None and attempt.barrier.metric == "error"
    return f"{100 * value:.3g} %" if of_error else f"{value:.4g}"


def _left(attempt: Attempt) -> str:
    """The barrier that is left."""
    if attempt.barrier is None:
        return "failed"
    return f"{100 * attempt.height:.3g} points" if attempt.barrier.metric == "error" else f"{attempt.height:.4g}"
