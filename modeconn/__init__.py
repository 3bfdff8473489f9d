"""modeconn: instability analysis, linear mode connectivity and lottery tickets.

The public names are imported on first use, so that `import modeconn` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeconn.versions import __version__

if TYPE_CHECKING:
    from modeconn.analysis.alignment.alignment import Alignment as Alignment
    from modeconn.analysis.alignment.alignment import load_alignment as load_alignment
    from modeconn.analysis.alignment.beyond import align_residual as align_residual
    from modeconn.analysis.alignment.beyond import rescale as rescale
    from modeconn.analysis.averaging.average import average as average
    from modeconn.analysis.averaging.recalibrate import recalibrate as recalibrate
    from modeconn.analysis.compare.compare import compare as compare
    from modeconn.analysis.connectivity.align import align as align
    from modeconn.analysis.connectivity.align_many import align_many as align_many
    from modeconn.analysis.connectivity.barrier_result import Barrier as Barrier
    from modeconn.analysis.connectivity.error_barrier import error_barrier as error_barrier
    from modeconn.analysis.connectivity.features import feature_connectivity as feature_connectivity
    from modeconn.analysis.connectivity.layerwise import layerwise_barrier as layerwise_barrier
    from modeconn.analysis.connectivity.matrix import barrier_matrix as barrier_matrix
    from modeconn.analysis.connectivity.soup import soup as soup
    from modeconn.analysis.instability.instability import instability as instability
    from modeconn.analysis.instability.result import InstabilityResult as InstabilityResult
    from modeconn.analysis.landscape.curvature.sharpness import sharpness as sharpness
    from modeconn.analysis.landscape.curves.curve import load_curve as load_curve
    from modeconn.analysis.landscape.curves.curve_fit import fit_curve as fit_curve
    from modeconn.analysis.landscape.curves.neb import neb as neb
    from modeconn.analysis.landscape.planes.directions import directions as directions
    from modeconn.analysis.landscape.planes.plane import plane as plane
    from modeconn.analysis.landscape.planes.trajectory_plane import trajectory_plane as trajectory_plane
    from modeconn.data import load_data as load_data
    from modeconn.errors import ModeconnError as ModeconnError
    from modeconn.pruning.masks import Mask as Mask
    from modeconn.pruning.prune import prune as prune
    from modeconn.saved import load_result as load_result
    from modeconn.tasks import Task as Task
    from modeconn.tasks import get_task as get_task
    from modeconn.tickets.lottery import lottery as lottery
    from modeconn.tickets.sweep import sweep as sweep
    from modeconn.training.fork import train as train
    from modeconn.training.stored import Run as Run

_HOMES = {
    "Alignment": "modeconn.analysis.alignment.alignment",
    "Barrier": "modeconn.analysis.connectivity.barrier_result",
    "InstabilityResult": "modeconn.analysis.instability.result",
    "Mask": "modeconn.pruning.masks",
    "ModeconnError": "modeconn.errors",
    "Run": "modeconn.training.stored",
    "Task": "modeconn.tasks",
    "align": "modeconn.analysis.connectivity.align",
    "align_many": "modeconn.analysis.connectivity.align_many",
    "align_residual": "modeconn.analysis.alignment.beyond",
    "average": "modeconn.analysis.averaging.average",
    "barrier_matrix": "modeconn.analysis.connectivity.matrix",
    "compare": "modeconn.analysis.compare.compare",
    "directions": "modeconn.analysis.landscape.planes.directions",
    "error_barrier": "modeconn.analysis.connectivity.error_barrier",
    "feature_connectivity": "modeconn.analysis.connectivity.features",
    "fit_curve": "modeconn.analysis.landscape.curves.curve_fit",
    "get_task": "modeconn.tasks",
    "instability": "modeconn.analysis.instability.instability",
    "layerwise_barrier": "modeconn.analysis.connectivity.layerwise",
    "load_alignment": "modeconn.analysis.alignment.alignment",
    "load_curve": "modeconn.analysis.landscape.curves.curve",
    "load_data": "modeconn.data",
    "load_result": "modeconn.saved",
    "lottery": "modeconn.tickets.lottery",
    "neb": "modeconn.analysis.landscape.curves.neb",
    "plane": "modeconn.analysis.landscape.planes.plane",
    "prune": "modeconn.pruning.prune",
    "recalibrate": "modeconn.analysis.averaging.recalibrate",
    "rescale": "modeconn.analysis.alignment.beyond",
    "sharpness": "modeconn.analysis.landscape.curvature.sharpness",
    "soup": "modeconn.analysis.connectivity.soup",
    "sweep": "modeconn.tickets.sweep",
    "train": "modeconn.training.fork",
    "trajectory_plane": "modeconn.analysis.landscape.planes.trajectory_plane",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modeconn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
