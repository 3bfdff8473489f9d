"""modeconn: instability analysis, linear mode connectivity and lottery tickets.

The public names are imported on first use, so that `import modeconn` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modeconn.analysis.instability import instability as instability
    from modeconn.analysis.result import InstabilityResult as InstabilityResult
    from modeconn.analysis.result import load_result as load_result
    from modeconn.data import load_data as load_data
    from modeconn.errors import ModeconnError as ModeconnError
    from modeconn.tasks import Task as Task
    from modeconn.tasks import get_task as get_task
    from modeconn.training.fork import Run as Run
    from modeconn.training.fork import train as train

_HOMES = {
    "InstabilityResult": "modeconn.analysis.result",
    "ModeconnError": "modeconn.errors",
    "Run": "modeconn.training.fork",
    "Task": "modeconn.tasks",
    "get_task": "modeconn.tasks",
    "instability": "modeconn.analysis.instability",
    "load_data": "modeconn.data",
    "load_result": "modeconn.analysis.result",
    "train": "modeconn.training.fork",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modeconn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
