"""Results that were written into a folder, whichever command or function wrote them."""

import contextlib
from pathlib import Path
from typing import Any

from modeconn.analysis.averaging.durations_result import Durations
from modeconn.analysis.compare.pair_report import PairReport
from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.features_result import FeatureConnectivity
from modeconn.analysis.connectivity.layerwise_result import LayerwiseBarrier
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.analysis.instability.result import load_instability
from modeconn.analysis.landscape.curvature.adaptive import AdaptiveSharpness
from modeconn.analysis.landscape.curvature.flatness import Flatness
from modeconn.analysis.landscape.curvature.sharpness_result import Sharpness
from modeconn.analysis.landscape.curvature.sharpness_series import SharpnessSeries
from modeconn.analysis.landscape.curvature.spectrum import SpectralDensity
from modeconn.analysis.landscape.curves.curve_result import CurveResult
from modeconn.analysis.landscape.curves.tree_result import SpanningTree
from modeconn.analysis.landscape.ensembles_result import Ensembles
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.errors import DataError
from modeconn.reading import is_file, parse_json, read_file
from modeconn.result import JsonResult, Result
from modeconn.tickets.result import load_lottery
from modeconn.tickets.sweep_result import load_sweep

# In the order in which one of several in a folder is the result of the folder.
KINDS: tuple[type[JsonResult], ...] = (
    *(Durations, PairReport, BarrierMatrix, Barrier, LayerwiseBarrier, FeatureConnectivity, Plane, CurveResult),
    *(SpanningTree, Ensembles, SharpnessSeries, Sharpness, SpectralDensity, AdaptiveSharpness, Flatness),
)
_STUDIES = {"sweep.csv": load_sweep, "lottery.csv": load_lottery, "instability.csv": load_instability}


def load_result(folder: str | Path) -> Any:
    """The result that was saved in a folder, or in a JSON file by `to_json`.

    In a folder it is that of a study (instability, lottery tickets, a sweep over density); or of a measurement, as the
    commands write them (`modeconn barrier`, `compare`, ...): of several the main one, as the barrier beside its layers.

    Raises:
        DataError: it is not there, or its files are not those of a result.
    """
    if is_file(folder):
        return _loaded(Path(folder))
    for name, load in _STUDIES.items():
        if is_file(Path(folder) / name):
            return load(folder)
    found = load_measurements(folder)
    return next(iter(found.values())) if found else load_instability(folder)


def load_measurements(folder: str | Path) -> dict[str, Result]:
    """All results in JSON files of a folder, by their names without the ending, the main one first.

    Raises:
        DataError: there are such files, and none of them can be read.
    """
    found: dict[str, Result] = {}
    wrong: list[DataError] = []
    files: list[Path] = []
    with contextlib.suppress(OSError, ValueError):  # no folder, or a name that none can have
        files = [file for file in sorted(Path(folder).glob("*.json")) if file.name != "summary.json"]
    for file in files:
        try:
            found[file.stem] = _loaded(file)
        except DataError as error:  # a file of something else, perhaps
            wrong.append(error)
    if wrong and not found:
        raise wrong[0]
    return dict(sorted(found.items(), key=lambda item: [kind is type(item[1]) for kind in KINDS].index(True)))


def _loaded(file: Path) -> Result:
    try:
        content = parse_json(read_file(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    form = content.get("format") if isinstance(content, dict) else None
    for kind in KINDS:
        if form == kind._FORMAT:
            return kind.from_content(content)
    raise DataError(f"{file} is no result that modeconn wrote; its format is {form!r:.60}")
