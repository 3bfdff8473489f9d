"""The process that workers are forked from, and what a worker does: both end at once with the process they work for.

Not `multiprocessing`'s own: that one leaves named semaphores and folders behind when it is killed together with its
driver, and lives on for as long as one of its workers does.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

from modeconn.errors import ModeconnError
from modeconn.execution.memory import keep_freed_memory

WORKER = "modeconn worker"  # the name of the process, as `multiprocessing.current_process` gives it
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_LOOK_EVERY = 1.0  # seconds between two looks whether the driver is there, if something holds its socket open
_importing_main = False


def serve(descriptor: int, driver: int, preload: Sequence[str]) -> None:
    """Fork a worker for every connection that is sent, until the driver ends.

    Args:
        descriptor: of a socket to the driver.
        driver: its process.
        preload: modules that workers need, imported once.
    """
    # Ctrl-C reaches the whole foreground group; the driver alone decides what it means. It was blocked at our birth.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets workers that end
    for module in preload:
        with contextlib.suppress(Exception):  # what cannot be imported is said by the job that needs it
            import_module(module)
    requests = socket.socket(fileno=descriptor)
    requests.settimeout(_LOOK_EVERY)
    while os.getppid() == driver:
        try:
            word, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
        except TimeoutError:
            continue
        except OSError:
            break
        if not word:
            break
        if not os.fork():
            requests.close()
            _work(Connection(descriptors[0]))
        os.close(descriptors[0])
    os._exit(0)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, whatever it is doing then. On Linux only."""
    parent = os.getppid()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def refuse_in_unguarded_script() -> None:
    """Raise if this is a worker that imports the script it works for, and the script starts a study while it is.

    Raises:
        ModeconnError: what the script lacks.
    """
    if _importing_main:
        raise ModeconnError(
            "workers import the script that starts them, so what it does must stand under "
            "`if __name__ == '__main__':`; no workers are needed with workers=0"
        )


def _work(connection: Connection) -> None:
    """Be a worker: prepare, say so, then make every call that is sent and send what it returned or raised."""
    try:
        end_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        keep_freed_memory()
        _answer(connection, lambda: _prepare(*connection.recv()))
        while True:
            content = connection.recv_bytes()
            _answer(connection, lambda: _call(content))  # noqa: B023  # it is called at once
    except (EOFError, OSError):  # the driver needs us no longer
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _prepare(preparation: dict[str, Any], gpu: str | None) -> int:
    """Become like the driver: its folder, its paths and its script; the process's number."""
    global _importing_main
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it at its first use, which is in a job
    _importing_main = True
    spawn.prepare(preparation)
    _importing_main = False
    return os.getpid()


def _call(content: bytes) -> Any:
    function, args, kwargs = pickle.loads(content)
    return function(*args, **kwargs)


def _answer(connection: Connection, call: Callable[[], Any]) -> None:
    try:
        answer = pickle.dumps((call(), None))
    except (EOFError, ConnectionError):
        raise
    except BaseException as error:
        error.add_note(traceback.format_exc())  # where it happened, which the way between processes drops
        try:
            answer = pickle.dumps((None, error))
            pickle.loads(answer)
        except Exception:  # not every exception survives the way
            answer = pickle.dumps((None, ModeconnError(f"{type(error).__name__}: {error}")))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    connection.send_bytes(answer)
