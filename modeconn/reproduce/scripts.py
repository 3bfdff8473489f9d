"""The scripts of `analyses/`, one for each figure, wherever they are installed."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from modeconn.errors import ModeconnError, unknown
from modeconn.reproduce.figure import Figure

_BESIDE = Path(__file__).resolve().parents[2]  # the folder that the package is in


def figure_names() -> list[str]:
    """The names of all figures, as `modeconn reproduce` takes them: `lmc2020-figure-3`.

    >>> "lmc2020-figure-3" in figure_names()
    True
    """
    return sorted(_scripts())


def load_figure(name: str) -> Figure:
    """A figure by its name.

    Raises:
        OptionError: there is none of that name; near ones are suggested.
    """
    scripts = _scripts()
    name = name.replace("_", "-").removesuffix(".py")
    if name not in scripts:
        raise unknown("figure", name, scripts)
    figure: Figure = _load(scripts[name]).FIGURE
    return figure


def figure_of(script: str) -> str:
    """The name of the figure that a script is for.

    >>> figure_of("analyses/lmc2020_figure_3.py")
    'lmc2020-figure-3'
    """
    return Path(script).stem.replace("_", "-")


def _scripts() -> Mapping[str, Path]:
    for folder in (_BESIDE / "modeconn_analyses", _BESIDE / "analyses"):  # of a wheel, of a checkout
        if found := {figure_of(path.name): path for path in sorted(folder.glob("*.py"))}:
            return found
    raise ModeconnError("the scripts of the papers' figures were not installed with modeconn; install it again")


def _load(path: Path) -> ModuleType:
    name = f"modeconn_analyses_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
