"""The ledger: for every figure and table of the papers, what they found, what was found here, and whether it agrees."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.errors import DataError
from modeconn.reading import parse_json, read_file
from modeconn.reproduce.cost import trainings_of
from modeconn.reproduce.figure import DISAGREES, PAPERS, SMOKE, Figure, Network
from modeconn.reproduce.scripts import figure_names, load_figure
from modeconn.result import write_text
from modeconn.saved import load_result
from modeconn.tickets.sweep_result import SweepResult

_KEPT = ("paper", "short")  # protocols whose results count
_HEAD = """# The papers' figures and tables: what agrees

One row for each figure or table and network: what the paper found, what was found here, under which protocol and with
how many networks, whether the two agree, and if not, why that may be. They agree if every part of what the paper found
holds here, and disagree if one does not; "not reached" is what was not run, or cannot be told from the run. `paper` is
the paper's own length, network and number of replicates where nothing else is said; `short` is a stated part of it, so
that "disagrees" is about this length. Made from the JSON files beside the pictures by `modeconn reproduce --ledger`; a
row without a run says what it would cost. What a paper found is known from {sources}; where the table says so, check it
before quoting.
"""


class _About(TypedDict):
    """What the ledger reads of a figure's JSON."""

    found: str
    n: dict[str, str]
    verdict: str
    precision: NotRequired[str | None]  # files of before this choice lack it


def write_ledger(folder: str | Path) -> Path:
    """Write `README.md` into the folder of figures; its path.

    Raises:
        DataError: a JSON file that no figure wrote.
        StoreError: it cannot be written.
    """
    path = Path(folder) / "README.md"
    write_text(ledger(folder).rstrip(), path)
    return path


def ledger(folder: str | Path) -> str:
    """The ledger of a folder of figures, as Markdown.

    Raises:
        DataError: a JSON file that no figure wrote.
    """
    figures = {name: load_figure(name) for name in figure_names()}
    parts = [_HEAD.format(sources="the paper, from readers' notes of it (n) or from memory (m)")]
    for paper, title in PAPERS.items():
        rows = [
            row
            for name, figure in figures.items()
            if figure.paper == paper
            for network, of in figure.networks.items()
            for row in _rows(Path(folder), name, figure, network, of)
        ]
        if rows:
            parts += [f"## {title[0].upper()}{title[1:]}\n", "\n".join(_table(rows)), ""]
    if others := [_study(path.parent) for path in sorted(Path(folder).glob("studies/*/summary.json"))]:
        parts += ["## Other studies that are kept here\n", *others]
    return "\n".join(parts)


def _study(folder: Path) -> str:
    """A line on a study that is no figure of a paper, or that figures were drawn from."""
    result = load_result(folder)
    if isinstance(result, InstabilityResult):
        (split, choice), means = result.choices[0], result.mean
        found = ", ".join(
            f"{100 * mean:.2f} at {k}" for k, mean in zip(result.rewind_iters, means[split][choice], strict=True)
        )
        said = f"{split} instability in points: {found}"
    elif isinstance(result, SweepResult):
        medians = {name: result.medians(name, "stable") for name in result.conditions}
        found = "; ".join(
            f"{name} {', '.join(f'{k:g} at {100 * density:.3g} %' for density, k in zip(*both, strict=True))}"
            for name, both in medians.items()
        )
        said = f"median k from which subnetworks are stable ('inf' at none measured), by the weights left: {found}"
    else:
        first, last = result.rewind_iters[0], max(row["level"] for row in result.rows)
        ends = [row for row in result.at(first).rows if row["level"] in (0, last)]
        names = dict.fromkeys(row["condition"] for row in ends)
        errors = {name: [row["test_error"] for row in ends if row["condition"] == name] for name in names}
        shown = ", ".join(f"{name} {100 * float(np.mean(values)):.2f}" for name, values in errors.items())
        density = next(row["density"] for row in ends if row["level"] == last)
        said = f"test error in % at {100 * density:.3g} % of the weights, rewound to {first}: {shown}"
    link = f"[{folder.name}](studies/{folder.name})"
    return f"- {link}: {result.title}, {result.samples}; {said}. {result.summary['data_note']}".rstrip()


def _rows(folder: Path, name: str, figure: Figure, network: str, of: Network) -> Iterator[list[str]]:
    marks = {"notes": " (n)", "memory": " (m)"}
    shows = f"{figure.item}: {figure.shows}"
    claim = of.claim + marks.get(of.source, "") if of.claim else "-"
    paths = {protocol: folder / name / f"{network}-{protocol}.json" for protocol in _KEPT}
    found = {protocol: _read(path) for protocol, path in paths.items() if path.is_file()}
    longer = _KEPT[0] in of.protocols and _KEPT[0] not in found
    left = "; " + _joined(f"{_KEPT[0]}: not run", _trainings(of, _KEPT[0]), of.cost) if longer else ""
    for protocol, about in found.items():
        n = "; ".join(dict.fromkeys(about["n"].values()))
        link = f"[{protocol}]({name}/{network}-{protocol}.png)"
        other = f" in {about['precision']}" if about["precision"] else ""
        why = of.why.get(protocol, "") if about["verdict"] == DISAGREES else ""
        verdict = ": ".join(filter(None, (about["verdict"], why)))
        yield [shows, network, claim, about["found"], f"{link}{other}, {n}{left}", verdict]
    if not found and network != SMOKE:
        offered = next((known for known in reversed(_KEPT) if known in of.protocols), None)
        command = offered and f"`modeconn reproduce {name} --network {network} --protocol {offered}`"
        cost = _joined(command, offered and _trainings(of, offered), of.cost)
        yield [shows, network, claim, "not run", cost, "not reached"]


def _joined(*parts: str | None) -> str:
    return ", ".join(filter(None, parts))


def _trainings(of: Network, protocol: str) -> str:
    """How many there are, and how long where a protocol says it, since its task's own length may be another paper's."""
    studies = of.protocols[protocol].values()
    lengths = {study.options["iterations"] for study in studies if "iterations" in study.options}
    of_length = f" of {max(lengths):,} iterations" if lengths else ""
    return f"at most {sum(map(trainings_of, studies)):,} trainings{of_length}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_file(path), _About)
        return {name: content.get(name) for name in _About.__annotations__}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not the JSON of a figure ({error}); compute the figure again") from error


def _table(rows: list[list[str]]) -> Iterator[str]:
    yield "| what | network | the paper | here | protocol, n | verdict |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
