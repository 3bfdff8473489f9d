"""The results as a table in Markdown, from the JSON alone, so that no number is typed by hand."""

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    *("row", "ours", "baseline", "times as fast", "target", "reached"),
    *("of matrix products", "of copies", "numbers apart", "rounds"),
)
# Without one of these, bfloat16 is computed in float32 and converted.
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}


def markdown(results: Mapping[str, Any]) -> str:
    """The table, and what the numbers come from."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row) for row in results["rows"])]
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", *notes(results)])


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row's."""
    rounds = f"{row['n']}" + (f", {row['noisy rounds among them']} noisy" if row["noisy rounds among them"] else "")
    rounds += f" ({row['thrown away']} thrown away)" if row["thrown away"] else ""
    if not row["n"]:
        return (row["name"], *("no quiet round",), *("",) * (len(COLUMNS) - 3), rounds)
    compared, floor = "ratio" in row, row.get("floor", {})
    return (
        row["name"],
        _range(row["value"], row["range"], row["unit"]),
        f"{_number(row['baseline value'])} ({row['baseline']})" if compared else "",
        _range(row["ratio"], row["ratio range"], "") if compared else "",
        "" if row["target"] is None else f"{'≥' if compared else '≤'} {_number(row['target'])}",
        {True: "yes", False: "no"}.get(row.get("reached"), ""),  # type: ignore[arg-type]
        f"{100 * floor['of matrix products']:.0f} %" if floor else "",
        f"{100 * floor['of copies']:.0f} %" if floor else "",
        ", ".join(f"{name} {value:.1g}" for name, value in row.get("differences", {}).items()),
        rounds,
    )


def notes(results: Mapping[str, Any]) -> list[str]:
    """On what machine, how, and what to be careful with."""
    machine, how = results["machine"], results["how"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("modeconn", "torch", "torchvision", "numpy", "python"))
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}); {versions}; {results['when']}. "
        f"Command: `{how['command']}`.",
        f"Medians, smallest to largest in brackets; a round counts if others used at most {100 * how['others']:g} % of "
        "the machine." + ("" if how["checked"] else " Not checked on this system: all rounds count."),
    ]
    if how["keep noisy"]:
        lines.append("**Noisy rounds count here: no result.**")
    if how["quick"]:
        lines.append("**Tiny pieces of work, to try the benchmark out: no result.**")
    if not _BFLOAT16 & set(machine["flags"]):
        lines.append("This processor has neither AVX512_BF16 nor AMX, so that bfloat16 is emulated, and slow.")
    return lines


def _range(value: float, ends: list[float], unit: str) -> str:
    low, high = map(_number, ends)
    return " ".join(part for part in (_number(value), unit, f"({low} to {high})") if part)


def _number(value: float) -> str:
    """Three digits, and those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
