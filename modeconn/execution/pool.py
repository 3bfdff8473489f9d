"""Local executors: a pool of worker processes, and this process itself."""

import atexit
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import spawn
from multiprocessing.connection import Connection, wait
from typing import Any

from modeconn.errors import ModeconnError
from modeconn.execution.fork_server import WORKER, refuse_in_unguarded_script

# What a worker needs is imported once, in a server process that workers are forked from.
_PRELOAD = ["modeconn.analysis.instability.jobs", "modeconn.training.cohort.jobs"]
_SERVE = "import sys; sys.path[:] = {}; from modeconn.execution.fork_server import serve; serve({}, {}, {})"
_ATTEMPTS = 5  # servers in turn that end before they gave a worker
_ENDED = "the process that workers are forked from was lost"


class EngineLost(BrokenExecutor):
    """The whole engine is gone, by no fault of a job: what ran there is submitted again to a new executor."""


class WorkerPool(Executor):
    """A pool of worker processes, which end with this process however it ends.

    When a worker is lost the pool is broken, as those of the standard library are: its workers are ended, and calls
    that were under way fail. Unlike those it needs no semaphores, which outlive processes that are killed.

    Args:
        workers: how many; each starts when there is something to do for it.
        gpus: their names, as `visible_gpus` gives them; each worker sees one. Without, it sees what we see.

    Raises:
        ModeconnError: processes cannot be started.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        refuse_in_unguarded_script()
        start_server()
        self._max_workers = workers
        seen: Sequence[str | None] = gpus_of_workers(workers, gpus) or [None] * workers
        self._workers = [_Worker(gpu) for gpu in seen]
        self._free = self._workers[::-1]  # the one that was used last is used next
        self._threads = ThreadPoolExecutor(workers)  # each waits for one worker
        self._broken: BrokenExecutor | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Have a worker call the function, when one is free.

        Raises:
            BrokenExecutor: a worker was lost; `EngineLost`: the process that workers are forked from was.
        """
        if self._broken:
            raise self._broken
        return self._threads.submit(self._call, pickle.dumps((function, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Have the workers end when what was submitted is done."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for worker in self._workers:
                worker.close()
        else:
            threading.Thread(target=self.shutdown).start()

    def kill(self) -> None:
        """End the workers at once, in the middle of whatever they do."""
        self._break(BrokenProcessPool("the pool was ended"))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _call(self, content: bytes) -> Any:
        worker, begun = self._free.pop(), False
        try:
            worker.start()
            if self._broken:  # meanwhile, when there was no process yet that could be ended
                raise EOFError
            begun = True
            return worker.call(content)
        except (EOFError, OSError) as error:
            worker.close()
            to_blame = begun and _server.is_running()
            self._break(BrokenProcessPool("a worker was lost") if to_blame else EngineLost(_ENDED))
            raise self._broken or error from error
        finally:
            self._free.append(worker)

    def _break(self, error: BrokenExecutor) -> None:
        self._broken = self._broken or error
        for worker in self._workers:
            worker.kill()


class InProcess(Executor):
    """Runs every job in this process when it is submitted: for notebooks, debuggers and tests."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call the function now."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def process_pool(workers: int, gpus: Sequence[str] = ()) -> Executor:
    """A pool of that many processes, each with one of the GPUs; with 0 workers, this process."""
    return WorkerPool(workers, gpus) if workers else InProcess()


def visible_gpus(count: int, visible: str | None) -> tuple[str, ...]:
    """Names of the GPUs that this process sees; a process that is to see one alone has it in `CUDA_VISIBLE_DEVICES`.

    Args:
        count: how many this process sees.
        visible: this process's own `CUDA_VISIBLE_DEVICES`, in which they may have been chosen and numbered anew.

    >>> visible_gpus(2, None), visible_gpus(2, "3,1"), visible_gpus(1, "GPU-8f2a,GPU-77c0")
    (('0', '1'), ('3', '1'), ('GPU-8f2a',))
    """
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return tuple(named or map(str, range(count)))[:count]


def gpus_of_workers(workers: int, gpus: Sequence[str]) -> list[str]:
    """Assign a GPU to each worker, in turn; if there are fewer GPUs than workers, they are shared evenly.

    >>> gpus_of_workers(5, ["0", "1"])
    ['0', '1', '0', '1', '0']
    """
    return [gpus[worker % len(gpus)] for worker in range(workers)] if gpus else []


def start_server() -> None:
    """Start the server that workers are forked from, if it does not run; its imports go on beside the caller's.

    Raises:
        ModeconnError: it cannot be started, or ended again and again before it gave a worker.
    """
    with _server.lock:
        _server.start()


def default_workers() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A worker process, seen from here.

    Args:
        gpu: the one it sees, or None for all.
    """

    def __init__(self, gpu: str | None) -> None:
        self._gpu = gpu
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None
        self._process: int | None = None
        self._end: int | None = None  # a descriptor that is ready when it ends, where the kernel has such

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises:
            EOFError, OSError: it ended, or the server did.
            ModeconnError: it cannot become like this process, or none can be started.
        """
        if self._connection is not None:
            return
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        with theirs:
            _server.fork(theirs)
        about = spawn.get_preparation_data(WORKER)
        if not os.path.isfile(about.get("init_main_from_path", "")):  # a notebook, or code from standard input
            about.pop("init_main_from_path", None)
        self._connection.send((about | {"authkey": bytes(about["authkey"])}, self._gpu))
        self._process = self._receive()
        with contextlib.suppress(OSError):
            self._end = os.pidfd_open(self._process)
        _server.failures = 0

    def call(self, content: bytes) -> Any:
        """Have it make a pickled call; what that returned, or raise what it raised.

        Raises:
            EOFError, OSError: it ended meanwhile.
        """
        assert self._connection is not None
        self._connection.send_bytes(content)
        return self._receive()

    def close(self) -> None:
        """Let it end: nothing more is sent to it."""
        if self._connection is not None and self._socket is not None:
            self._connection.close()
            self._socket.close()
        if self._end is not None:
            os.close(self._end)
        self._connection = self._socket = self._process = self._end = None

    def kill(self) -> None:
        """End it at once, and whoever waits for it. From any thread."""
        process, connected = self._process, self._socket
        with contextlib.suppress(OSError):  # it ended, or is closed by the thread that waits for it
            if process is not None:
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if connected is not None:
                connected.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> Any:
        assert self._connection is not None
        watched: list[Any] = [self._connection, *([] if self._end is None else [self._end])]
        if self._connection not in wait(watched):  # processes of its own may hold the connection open
            raise EOFError
        result, error = pickle.loads(self._connection.recv_bytes())
        if error is not None:
            raise error
        return result


class _Server:
    """The server that the workers of this process are forked from.

    Attributes:
        lock: to be held by who starts it.
        failures: how many ended, one after the other, before they gave a worker.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs; see `start_server`."""
        if self.is_running():
            return
        self.stop()
        if self.failures == _ATTEMPTS:
            self.failures = 0
            raise ModeconnError(
                f"{_ENDED} {_ATTEMPTS} times before a worker was there (killed, or out of memory); workers=0 "
                "computes in one process"
            )
        self.failures += 1
        self._requests, theirs = socket.socketpair()
        code = _SERVE.format(sys.path, theirs.fileno(), os.getpid(), _PRELOAD)
        # It is in our process group and imports torch before it ignores Ctrl-C, so it is born with it blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
        except OSError as error:
            raise ModeconnError(f"processes for workers cannot be started ({error}); workers=0 needs none") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def fork(self, connection: socket.socket) -> None:
        """Have it fork a worker at the other end of a connection.

        Raises:
            OSError: it ended.
            ModeconnError: as `start_server`.
        """
        with self.lock:
            self.start()
            assert self._requests is not None
            socket.send_fds(self._requests, [b"w"], [connection.fileno()])

    def stop(self) -> None:
        """End it, and with it all workers."""
        if self._process is not None and self._requests is not None:
            self._requests.close()
            self._process.kill()
            self._process.wait()
            self._process = None


_server = _Server()


def _begin_anew() -> None:
    global _server
    _server = _Server()


os.register_at_fork(after_in_child=_begin_anew)  # what is forked from this process has a server of its own
atexit.register(lambda: _server.stop())
