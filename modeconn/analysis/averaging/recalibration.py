"""Result of `recalibrate`: the network, which layers were measured anew, and its error before and after."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modeconn.result import count, note_lines

_SHOWN = 8  # names of layers in words
_LOWER = ("error", "loss", "perplexity")  # is better


@dataclass(frozen=True, eq=False)
class Recalibration:
    """Running statistics that were measured anew.

    Attributes:
        network: with them: a copy, or the caller's own if that was asked for.
        recalibrated: the layers that have new statistics, by name.
        left: the layers that keep their old ones, by name, and why: `"skipped"`, `"frozen"` or `"not reached"` (no
            example came to it, or it does not normalize by PyTorch's functions).
        examples: how many the statistics are over: the lengths of the batches' first tensors.
        batches: in how many batches.
        before, after: metric to value on the held-out data; empty if none were given.
        standard_error: of the difference after - before, over the examples, for each metric.
        measured_as: what was measured, in words.
        notes: what was decided.
    """

    network: nn.Module = field(repr=False)
    recalibrated: tuple[str, ...]
    left: Mapping[str, str]
    examples: int
    batches: int
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    standard_error: Mapping[str, float] = field(default_factory=dict)
    measured_as: str = ""
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> tuple[str, ...]:
        """The metrics among error, loss and perplexity that are higher than before by over two standard errors."""
        return tuple(
            name
            for name in self.before
            if name in _LOWER and self.after[name] > self.before[name] + 2 * self.standard_error.get(name, 0.0)
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each metric: before, after, and the standard error of the difference."""
        return [
            {
                "metric": name,
                "before": value,
                "after": self.after[name],
                "standard_error": self.standard_error.get(name, float("nan")),
            }
            for name, value in self.before.items()
        ]

    def __str__(self) -> str:
        layers = count(len(self.recalibrated) + len(self.left), "layer")
        batches = "1 batch" if self.batches == 1 else f"{self.batches:,} batches"
        over = f", over {self.examples:,} examples in {batches}" if self.batches else ""
        lines = [f"running statistics of {len(self.recalibrated)} of {layers} measured anew{over}"]
        for reason in dict.fromkeys(self.left.values()):
            names = [called(name) for name, why in self.left.items() if why == reason]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"Left as they were ({reason}): {', '.join(names[:_SHOWN])}{more}.")
        lines += [self._shown(row) for row in self.rows()]
        if self.worse:
            lines.append(f"Worse than before: {', '.join(self.worse)}. The old statistics are the better ones here.")
        return "\n".join([*lines, *note_lines(self.notes)])

    def _shown(self, row: Mapping[str, Any]) -> str:
        scale, unit, points = (100, " %", " points") if row["metric"] == "error" else (1, "", "")
        change, spread = scale * (row["after"] - row["before"]), scale * row["standard_error"]
        values = f"{scale * row['before']:.4g}{unit} before, {scale * row['after']:.4g}{unit} after"
        return f"{row['metric']}: {values} ({change:+.2g} +- {spread:.2g}{points})"


def called(name: str) -> str:
    """What a layer is called in words, by its name within the network."""
    return name or "the network itself"
