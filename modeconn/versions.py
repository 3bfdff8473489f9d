"""Versions: modeconn's own, and those that a result was computed with."""

import platform

__version__ = "0.2.0.dev0"


def versions() -> dict[str, str]:
    """Of what decides a result's last bits, by name."""
    import numpy
    import torch

    return {
        "modeconn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
