"""The file that the training of a curve is written to, and goes on from."""

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn.errors import DataError, OptionError
from modeconn.files import write_atomically, writing
from modeconn.reading import read_file
from modeconn.result import json_text

_FORMAT = "modeconn curve training 1"
_EVERY = 30.0  # seconds between two writes
_LARGEST = 1 << 36  # bytes


class Saver:
    """Writes the training of a curve to a file from time to time, whole or not at all.

    Args:
        path: the file.
        identity: what the training is known by; JSON.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path, self._identity = path, {name: json_text(value) for name, value in identity.items()}
        self._written = time.monotonic()

    def save(
        self, losses: Sequence[float], parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, *, last: bool
    ) -> None:
        """Write the training if it is the last time, or some time after the last.

        Raises:
            StoreError: the file cannot be written.
        """
        if not last and time.monotonic() - self._written < _EVERY:
            return
        content = {
            "format": _FORMAT,
            "identity": self._identity,
            "losses": torch.tensor(losses, dtype=torch.float64),
            "parameters": [parameter.detach() for parameter in parameters],
            "optimizer": optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with writing(self._path):
            write_atomically(self._path, buffer.getvalue())
        self._written = time.monotonic()

    def restore(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> list[float]:
        """Put parameters and optimizer to where the file left them; the losses until then, none if there is no file.

        Raises:
            DataError: the file cannot be read, or is something else.
            OptionError: it is of another training.
        """
        try:
            content = torch.load(io.BytesIO(read_file(self._path, _LARGEST)), map_location="cpu", weights_only=True)
            if content["format"] != _FORMAT:
                raise ValueError(f"it has the format {content['format']!r}")
            identity = dict(content["identity"])
        except FileNotFoundError:
            return []
        except Exception as error:  # whatever PyTorch says of a damaged file
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self._path} is no training of a curve that can be read: {reason}") from error
        self._refuse_another(identity)
        with torch.no_grad():
            for parameter, value in zip(parameters, content["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(content["optimizer"])
        found: list[float] = content["losses"].tolist()
        return found

    def _refuse_another(self, identity: Mapping[str, str]) -> None:
        names = [*self._identity, *(name for name in identity if name not in self._identity)]
        for name in names:
            there, here = identity.get(name), self._identity.get(name)
            if there != here:
                raise OptionError(
                    f"checkpoint {self._path} is of another training: its {name} is {there}, and here it is {here}; "
                    "name another file, or remove this one"
                )
