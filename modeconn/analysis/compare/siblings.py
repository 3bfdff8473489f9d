"""Whether two networks look like siblings, descendants of one network: the matrices of both, each against chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from modeconn.analysis.compare.likeness import LEAST, RELATED
from modeconn.analysis.compare.tensors import TensorDistance

_MOST, _FEW = 0.5, 0.05  # shares of entries in related matrices: from here on siblings, below here not

Answer = Literal["siblings", "siblings in part", "not siblings", "too small to tell"]


@dataclass(frozen=True)
class Siblings:
    """Whether two networks have a common ancestor, and what that rests on.

    Attributes:
        answer: in words.
        matrices, related: how many were compared, and how many of them are related (`Likeness.related`) or equal.
        share: of the entries of all that were compared, those in related ones.
        cosine, mean, deviation, score: medians over the matrices; see `Likeness`.
        least: the smallest score.
        apart: the matrices that are not related.
    """

    answer: Answer
    matrices: int
    related: int
    share: float
    cosine: float
    mean: float
    deviation: float
    score: float
    least: float
    apart: tuple[str, ...]

    def __str__(self) -> str:
        if not self.matrices:
            return f"too small to tell: no floating-point matrix has {LEAST} rows and {LEAST} columns"
        of = f"{self.related} of {self.matrices} matrices"
        return (
            f"{self.answer}: {of} ({100 * self.share:.3g} % of their entries) are equal, or more alike than with their "
            f"units in a random order by {RELATED:g} standard deviations or more;\ncosine {self.cosine:.3f}, in a "
            f"random order {self.mean:.3f} ± {self.deviation:.3f} (medians), {self.score:.3g} standard deviations "
            f"above, {self.least:.3g} at least"
        )


def judge_siblings(tensors: Sequence[TensorDistance]) -> Siblings:
    """Judge by the matrices; vectors do not count, as the scales and biases of norms begin equal in all networks."""
    compared = [(tensor, tensor.likeness) for tensor in tensors if tensor.likeness is not None]
    if not compared:
        nan = float("nan")
        return Siblings("too small to tell", 0, 0, nan, nan, nan, nan, nan, nan, ())
    # In some matrices, such as small ones of low rank, no order stands out by that much, though they be equal.
    related = {tensor.name: tensor.sums.entries for tensor, found in compared if found.related or tensor.equal}
    apart = tuple(tensor.name for tensor, _ in compared if tensor.name not in related)
    share = sum(related.values()) / sum(tensor.sums.entries for tensor, _ in compared)
    answer: Answer = "siblings" if share >= _MOST else "not siblings" if share < _FEW else "siblings in part"
    return Siblings(
        answer,
        matrices=len(compared),
        related=len(related),
        share=share,
        cosine=median(found.cosine for _, found in compared),
        mean=median(found.mean for _, found in compared),
        deviation=median(found.deviation for _, found in compared),
        score=median(found.score for _, found in compared),
        least=min(found.score for _, found in compared),
        apart=apart,
    )
