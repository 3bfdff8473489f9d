"""What is read from a folder is read without the network, whatever library reads it."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from modeconn.errors import NetworkError

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def offline(what: str) -> Iterator[None]:
    """Refuse whatever this thread asks the network meanwhile, where it looks up a name; other threads go on.

    Options of libraries, such as Hugging Face's `local_files_only`, do not reach all that a configuration can ask for.

    >>> with offline("folder"):
    ...     socket.create_connection(("localhost", 80))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    modeconn.errors.NetworkError: folder: it asks localhost for something, and is read offline; ...
    """
    here = threading.get_ident()
    with _one_at_a_time:
        look_up = socket.getaddrinfo

        def refuse(host: Any, *arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == here:
                name = host.decode(errors="replace") if isinstance(host, bytes) else host
                raise NetworkError(
                    f"{what}: it asks {name} for something, and is read offline; see that it names no more than what "
                    "is in it, or give model="
                )
            return look_up(host, *arguments, **options)

        socket.getaddrinfo = refuse
        try:
            yield
        finally:
            socket.getaddrinfo = look_up
