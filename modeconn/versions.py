"""The version of modeconn, and those of the software that a result was computed with."""

import platform

__version__ = "0.2.0.dev0"


def versions() -> dict[str, str]:
    """Versions of all software that decides a result's last bits, by name."""
    import numpy
    import torch

    return {
        "modeconn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
