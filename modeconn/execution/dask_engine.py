"""A Dask cluster as an executor; the only file that knows Dask."""

import functools
import hashlib
import logging
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from modeconn.errors import ModeconnError, OptionError
from modeconn.execution.engine import EngineLost
from modeconn.execution.worker import UnfitWorker
from modeconn.reading import parse_json, read_file
from modeconn.versions import __version__

log = logging.getLogger("modeconn")
_LOOK_EVERY = 1.0  # seconds between two looks at how many workers there are
_WARN_EVERY = 60.0  # seconds between two warnings that there are no workers
_CONNECT = 5.0  # seconds for one attempt to reach the scheduler
_FIRST = 10.0  # seconds for all attempts at an address where no scheduler has answered yet
_GREETING = 1 << 24  # bytes, more than the message has with which a scheduler greets
_GREETED = b"pickle-protocol"  # a key in that message
_NO_SCHEDULER = "what answers at {} is no Dask scheduler; correct --dask or --dask-scheduler-file"
_SCHEDULER_LOST = "scheduler-connection-lost"  # Dask's word for why a future was cancelled


@dataclass(frozen=True)
class Dask:
    """Makes executors over the workers of a Dask scheduler: `executor=Dask("tcp://10.0.0.1:8786")`.

    Every worker process is given one job at a time. When the scheduler is lost, the next executor waits for it, or for
    another one with the same address or file. Jobs are sent by pickle and leave their results in the store, which must
    be a folder that all workers see.

    Attributes:
        address: of the scheduler.
        scheduler_file: instead, the file that `dask scheduler --scheduler-file` writes.
        gpus: of the resource `GPU`, how much a job takes; workers offer it with `dask worker --resources GPU=1`.
        patience: seconds to wait for a scheduler that was lost, or whose file is not there yet; for the first answer
            from an address, at most 10.

    Raises:
        OptionError: neither an address nor a file, or both; when it is called, what is no address.
    """

    address: str | None = None
    scheduler_file: str | Path | None = None
    gpus: int = 0
    patience: float = 60.0
    _answered: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.address is None) == (self.scheduler_file is None):
            raise OptionError("give the address of a Dask scheduler, or its file, and not both")

    def __call__(self) -> "DaskExecutor":
        """Connect.

        Raises:
            ModeconnError: Dask is not installed, or no scheduler answers.
        """
        return DaskExecutor(self._client(), self.gpus)

    def _client(self) -> Any:
        try:
            from distributed import Client
        except ImportError as error:
            raise ModeconnError("Dask is not installed; pip install 'modeconn[dask]'") from error
        where = f"in {self.scheduler_file}" if self.address is None else f"at {self.address}"
        # A scheduler starts anew within a minute; an address that was never right does not become so.
        patience = self.patience if self.address is None or self._answered else min(_FIRST, self.patience)
        end, waiting = time.monotonic() + patience, False
        while True:
            seconds = max(0.1, min(_CONNECT, end - time.monotonic()))
            try:
                address = self._address()
                _require_greeting(address, seconds)
                client = _connected(Client, address, seconds)
                self._answered.append(address)
                return client
            except OptionError:
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:  # the file may be half written
                if time.monotonic() >= end:
                    raise ModeconnError(
                        f"no Dask scheduler {where} after {patience:g} s ({type(error).__name__}: {error}). Start "
                        "one with `dask scheduler`, or correct --dask or --dask-scheduler-file; what is done is in the "
                        "store, and the same command goes on"
                    ) from error
            if not waiting:
                log.warning("waiting for a Dask scheduler %s", where)
                waiting = True
            time.sleep(0.2)

    def _address(self) -> str:
        # A client that is given what is no address is never quite closed, so it is looked at first.
        if self.scheduler_file is not None:
            return _checked(parse_json(read_file(self.scheduler_file), dict[str, Any])["address"])
        try:
            return _checked(self.address)
        except ValueError as error:
            raise OptionError(
                f"{self.address!r} is no address of a Dask scheduler ({error}); write tcp://HOST:PORT"
            ) from error


class DaskExecutor(Executor):
    """The workers that a Dask client reaches; see `Dask`."""

    def __init__(self, client: Any, gpus: int) -> None:
        self._client = client
        self._gpus = gpus
        self._versions = _versions()
        self._unfit: set[str] = set()  # addresses of workers that cannot take part
        self._workers = 0
        self._look_at = self._warn_at = 0.0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Have a worker call the function; what it returns is not sent back.

        Raises:
            EngineLost: the scheduler is.
        """
        if self._client.status != "running":
            raise EngineLost("the Dask scheduler is lost")
        content = pickle.dumps((function, args, kwargs))  # as bytes, in which Dask does not look for its own futures
        future: Future[Any] = Future()
        self._send(content, future)
        return future

    def capacity(self) -> int:
        """The number of jobs that can run at once: that of the workers that have what a job takes."""
        now = time.monotonic()
        if self._client.status != "running":
            return 1  # so that a job is submitted, which finds out
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            try:
                self._workers = self._count(now)
            except OSError:
                return 1
        return self._workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler, which forgets what has not begun; what runs is finished by its worker."""
        self._client.close(timeout=2)

    def _send(self, content: bytes, future: "Future[Any]") -> None:
        """Have a pickled call made by a worker that is not known to be unfit."""
        resources = {"GPU": self._gpus} if self._gpus else None
        workers = self._able() if self._unfit else None
        task = self._client.submit(
            _at_worker, self._versions, content, pure=False, resources=resources, workers=workers
        )
        task.add_done_callback(partial(self._pass_on, content, future))

    def _pass_on(self, content: bytes, future: "Future[Any]", task: Any) -> None:
        """End a future as its Dask task ended; one whose worker is unfit is sent to another, while there is one."""
        error = _error_of(task)
        if error is None:
            future.set_result(None)  # what the call returned would have to be fetched
            return
        unfit = getattr(error, "worker", None) if isinstance(error, UnfitWorker) else None
        try:
            if unfit is not None:
                if unfit not in self._unfit:
                    log.warning("%s; its jobs go to other workers", error)
                self._unfit.add(unfit)
                if self._able():
                    self._send(content, future)
                    return
        except Exception as failure:  # the scheduler is lost meanwhile, say
            error = EngineLost(f"the Dask scheduler is lost ({failure})")
        future.set_exception(error)

    def _able(self) -> list[str]:
        """Addresses of the workers that have what a job takes, and are not known to be unfit."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        able = (name for name, worker in workers.items() if worker.get("resources", {}).get("GPU", 0) >= self._gpus)
        return [name for name in able if name not in self._unfit]

    def _count(self, now: float) -> int:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        able = len(self._able())
        if not able and now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY
            lacking = f"; none of the {len(workers)} there offers `--resources GPU={self._gpus}`" if workers else ""
            address = self._client.scheduler.address
            log.warning("waiting for workers at %s%s; start some with `dask worker`", address, lacking)
        return able


def _connected(client: Any, address: str, seconds: float) -> Any:
    """A client of the scheduler at an address.

    Raises:
        OSError: nobody answers.
        OptionError: a worker or a nanny does.
    """
    try:
        return client(address, timeout=seconds, set_as_default=False)
    except TypeError as error:  # what they raise when they are asked as a scheduler is
        raise OptionError(_NO_SCHEDULER.format(address)) from error


def _checked(address: Any) -> str:
    """Check that an address is one, and return it.

    Raises:
        ValueError: it is not.
    """
    from distributed.comm.addressing import get_address_host_port

    if not isinstance(address, str):
        raise ValueError(f"{address!r} is no text")
    if not address.startswith("inproc://"):  # a cluster of threads in this process, which has no ports
        _, port = get_address_host_port(address)
        if not 0 < port < 2**16:
            raise ValueError(f"there is no port {port}")
    return address


def _require_greeting(address: str, seconds: float) -> None:
    """See that what is at an address greets as a Dask scheduler does: a client would wait for that for ever.

    Raises:
        OSError: nobody is there, or says nothing.
        OptionError: it is something else.
    """
    from distributed.comm.addressing import get_address_host_port

    if not address.startswith("tcp://"):
        return
    with socket.create_connection(get_address_host_port(address), seconds) as connection:
        end = time.monotonic() + seconds
        length = int.from_bytes(_receive(connection, 8, end), "little")
        if length > _GREETING or _GREETED not in _receive(connection, length, end):
            raise OptionError(_NO_SCHEDULER.format(address))


def _receive(connection: socket.socket, size: int, end: float) -> bytes:
    """Receive so many bytes until a time on the monotonic clock."""
    received = b""
    while len(received) < size:
        try:
            connection.settimeout(max(0.001, end - time.monotonic()))
            more = connection.recv(size - len(received))
        except TimeoutError as error:
            raise TimeoutError("somebody is there who does not greet as a Dask scheduler does") from error
        if not more:
            raise OSError("the connection was closed")
        received += more
    return received


def _at_worker(expected: dict[str, str], content: bytes) -> None:
    """Run a pickled call at a worker, if its versions and its code are those of the study.

    Raises:
        UnfitWorker: they are not, the call cannot be loaded there, or the store is not there.
    """
    from distributed import get_worker

    try:
        function, args, kwargs = _loaded(expected, content)
        function(*args, **kwargs)
    except UnfitWorker as error:
        error.worker = get_worker().address  # type: ignore[attr-defined]  # which is sent with it
        raise


def _loaded(expected: dict[str, str], content: bytes) -> Any:
    here, host = _versions(), socket.gethostname()
    if here != expected:
        raise UnfitWorker(
            f"the Dask worker on {host} has {_said(here)}, and the study began with {_said(expected)}; "
            "install the same there, and repeat the command"
        )
    try:
        return pickle.loads(content)
    except Exception as error:
        raise UnfitWorker(
            f"the Dask worker on {host} cannot load a job ({type(error).__name__}: {error}); its code must be "
            "importable there, by PYTHONPATH if it is not installed"
        ) from error


def _error_of(task: Any) -> Exception | None:
    """What a Dask task raised, as an exception that does not need Dask."""
    if task.status == "finished":
        return None
    try:
        task.result(timeout=10)
    except ModeconnError as error:
        return error
    except CancelledError as error:
        lost = getattr(error, "reason", "") == _SCHEDULER_LOST
        return EngineLost("the Dask scheduler is lost") if lost else CancelledError(*error.args)
    except Exception as error:
        return _explained(error)
    return None


def _explained(error: Exception) -> ModeconnError:
    """Explain an error of Dask itself."""
    if type(error).__name__ == "KilledWorker":
        return ModeconnError(
            "the job lost its Dask worker again and again (killed, out of memory, or over the cluster's limits); the "
            f"workers' logs may say why ({error})"
        )
    return ModeconnError(
        f"Dask could not run the job ({type(error).__name__}: {error}); scheduler and workers need the environment of "
        "this process, modeconn included"
    )


def _versions() -> dict[str, str]:
    """Versions of what decides the results; builds of one version of PyTorch, such as `+cu130`, go together."""
    torch = metadata.version("torch").partition("+")[0]
    return {"modeconn": __version__, "torch": torch, "code": _code_fingerprint()}


@functools.cache
def _code_fingerprint() -> str:
    """The beginning of a sha256 over modeconn's files: a checkout keeps its version while its code changes."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _said(versions: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())
