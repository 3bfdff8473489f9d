"""The parts of a report on two networks in words, each a paragraph's lines."""

import math
from collections.abc import Sequence

from modeconn.analysis.compare.parts import Part
from modeconn.analysis.compare.removal import Attempt
from modeconn.analysis.compare.siblings import Siblings
from modeconn.analysis.compare.sums import Moves
from modeconn.result import count

_LISTED = 20  # differences, equal layers
_ROWS = 40  # of a table
_LAYERS = 24  # of more, blocks are shown


def listed(title: str, words: Sequence[str]) -> list[str]:
    """A list under a title; nothing of an empty one."""
    if not words:
        return []
    more = [f"  ... and {len(words) - _LISTED} more"] if len(words) > _LISTED else []
    return [f"{title}:", *(f"  {word}" for word in words[:_LISTED]), *more]


def siblings_in_words(siblings: Siblings, layers: Sequence[Part]) -> list[str]:
    """Whether the two are siblings, and the matrices and layers that stand apart."""
    if not layers:
        return []
    apart = listed("Not related", siblings.apart) if siblings.related else []
    equal = [layer.name for layer in layers if layer.equal]
    return [
        f"Common ancestor? {siblings}.",
        *apart,
        *listed(f"Equal, {len(equal)} of {count(len(layers), 'layer')}", equal),
    ]


def parts_in_words(layers: Sequence[Part], blocks: Sequence[Part], whole: Part) -> list[str]:
    """Distances by layer, or by block where layers are many."""
    if not layers:
        return []
    word, parts = ("layer", layers) if len(layers) <= _LAYERS else ("block", blocks)
    width = max(len(word), *(len(part.name) for part in parts[:_ROWS])) + 2
    more = [f"... and {len(parts) - _ROWS} more"] if len(parts) > _ROWS else []
    return [
        f"{word:{width}}{'weights':>14}{'rel. distance':>15}{'cosine':>10}{'same sign':>11}",
        *(_row(part, width) for part in parts[:_ROWS]),
        *more,
        _row(whole, width),
    ]


def moves_in_words(names: tuple[str, str], moves: Moves | None) -> list[str]:
    """How far and where the two moved from their ancestor."""
    if moves is None:
        return []
    (a, b), share = names, 100 / max(1, moves.entries)
    conflicts = f"{100 * moves.conflicts / moves.moved_both:.3g} %" if moves.moved_both else "none"
    still = [name for name, moved in ((a, moves.moved_a), (b, moves.moved_b)) if not moved]
    said = (
        f"From the ancestor {a} moved {share * moves.moved_a:.3g} % of its weights, by {moves.relative[0]:.3g} of "
        f"their norm, and {b} {share * moves.moved_b:.3g} %, by {moves.relative[1]:.3g}."
    )
    if still:
        return [said, f"The weights of {' and '.join(still)} are the ancestor's, so that there is nothing to compare."]
    return [
        said,
        f"Both moved {share * moves.moved_both:.3g} %, of these {conflicts} in opposite directions; the cosine of the "
        f"task vectors is {moves.cosine:.3g}.",
    ]


def attempts_in_words(names: tuple[str, str], attempts: Sequence[Attempt]) -> list[str]:
    """The average as it is, and after what was tried; and the two networks themselves."""
    if not attempts or (barrier := attempts[0].barrier) is None:
        return []
    unit, metric = (100, "error %") if barrier.metric == "error" else (1, barrier.metric)
    lines = [f"{'at the midpoint':24}{metric:>12}{'barrier':>12}"]
    for attempt in attempts:
        if attempt.barrier is None:
            lines.append(f"{attempt.way:24}failed: {attempt.failed}")
        else:
            cells = f"{unit * attempt.midpoint:>12.4g}{unit * attempt.height:>12.3g}"
            lines.append(
                f"{attempt.way:24}{cells}{'  removed' if attempt.removed and attempt is not attempts[0] else ''}"
            )
    ends = " and ".join(f"{name} {unit * value:.4g}" for name, value in zip(names, attempts[0].ends, strict=True))
    estimated = ", estimated from the examples drawn" if barrier.decided else ""
    lines.append(f"The two themselves: {ends}{estimated}.")
    if not math.isnan(barrier.ends.disagreement):
        lines.append(f"They label {100 * barrier.ends.disagreement:.3g} % differently.")
    return lines


def _row(part: Part, width: int) -> str:
    sums = part.sums
    signs = "" if math.isnan(sums.sign_agreement) else f"{100 * sums.sign_agreement:.1f} %"
    cells = f"{_number(sums.relative_distance):>15}{_number(sums.cosine):>10}{signs:>11}"
    return f"{part.name:{width}}{sums.entries:>14,}{cells}{'  equal' if part.equal else ''}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
