"""modeconn: instability analysis, linear mode connectivity and lottery tickets.

The public names are imported on first use, so that `import modeconn` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modeconn.analysis.averaging import average as average
    from modeconn.analysis.barrier_result import Barrier as Barrier
    from modeconn.analysis.error_barrier import error_barrier as error_barrier
    from modeconn.analysis.features import feature_connectivity as feature_connectivity
    from modeconn.analysis.instability import instability as instability
    from modeconn.analysis.layerwise import layerwise_barrier as layerwise_barrier
    from modeconn.analysis.matrix import barrier_matrix as barrier_matrix
    from modeconn.analysis.result import InstabilityResult as InstabilityResult
    from modeconn.analysis.soup import soup as soup
    from modeconn.data import load_data as load_data
    from modeconn.errors import ModeconnError as ModeconnError
    from modeconn.pruning.lottery import lottery as lottery
    from modeconn.pruning.masks import Mask as Mask
    from modeconn.pruning.prune import prune as prune
    from modeconn.results import load_result as load_result
    from modeconn.tasks import Task as Task
    from modeconn.tasks import get_task as get_task
    from modeconn.training.fork import Run as Run
    from modeconn.training.fork import train as train

_HOMES = {
    "Barrier": "modeconn.analysis.barrier_result",
    "InstabilityResult": "modeconn.analysis.result",
    "Mask": "modeconn.pruning.masks",
    "ModeconnError": "modeconn.errors",
    "Run": "modeconn.training.fork",
    "Task": "modeconn.tasks",
    "average": "modeconn.analysis.averaging",
    "barrier_matrix": "modeconn.analysis.matrix",
    "error_barrier": "modeconn.analysis.error_barrier",
    "feature_connectivity": "modeconn.analysis.features",
    "get_task": "modeconn.tasks",
    "instability": "modeconn.analysis.instability",
    "layerwise_barrier": "modeconn.analysis.layerwise",
    "load_data": "modeconn.data",
    "load_result": "modeconn.results",
    "lottery": "modeconn.pruning.lottery",
    "prune": "modeconn.pruning.prune",
    "soup": "modeconn.analysis.soup",
    "train": "modeconn.training.fork",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modeconn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
