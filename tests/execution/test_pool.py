"""A pool of workers leaves nothing behind, however its driver, its workers or their server end."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jobs_for_tests import Count, group_of, is_alive, note, notes, read_sum, wait_until, workers
from modeconn.errors import ModeconnError
from modeconn.execution import Store, pool, process_pool, run_jobs

pytestmark = pytest.mark.processes
PATHS = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
ENVIRONMENT = os.environ | {"PYTHONPATH": PATHS}
DRIVER = """
import multiprocessing
import test_pool
from modeconn.execution import process_pool

if __name__ == "__main__":
    multiprocessing.current_process()._config["semprefix"] = "/" + {semaphores!r}
    pool = process_pool(2)
    work = [pool.submit(getattr(test_pool, {function!r}), {log!r}) for _ in range(2)]
    print("works", flush=True)
    [one.result() for one in work]
    pool.shutdown()
"""


def hold_the_interpreter(log: str) -> None:
    """Work for minutes without giving other threads of the process a turn."""
    note(log, "begun")
    ctypes.PyDLL(None).sleep(600)


def fork_and_end(log: str) -> None:
    """Leave a process behind that has all that is open here, and be killed."""
    if not os.fork():
        note(log, "left")
        time.sleep(600)
    wait_until(lambda: notes(log))
    os.kill(os.getpid(), signal.SIGKILL)


def raise_what_cannot_be_sent(_: str) -> None:
    class Local(Exception):
        pass

    raise Local("only here")


@contextlib.contextmanager
def driver(function: str, log: str, tmp_path: Path):
    """A process that has two workers do something, in a group of its own, once both have begun."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(function=function, log=log, semaphores=semaphores(tmp_path)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(notes(log)) == 2 or process.poll() is not None)
        yield process
    finally:
        for one in group_of(process.pid):
            os.kill(one, signal.SIGKILL)
        process.communicate()


def semaphores(tmp_path: Path) -> str:
    """How the names of a driver's semaphores begin: other tests make and leave some, too."""
    return f"{os.getpid()}-{tmp_path.name}"


def left_over(tmp_path: Path) -> list[Path]:
    """Named semaphores of a driver, and folders of `multiprocessing`."""
    return [*Path("/dev/shm").glob(f"sem.{semaphores(tmp_path)}*"), *tmp_path.glob("pymp-*")]


@pytest.mark.parametrize("whole_group", [False, True])
def test_workers_that_hold_the_interpreter_end_with_a_killed_driver(tmp_path, log, whole_group):
    with driver("hold_the_interpreter", log, tmp_path) as process:
        members = group_of(process.pid)
        assert len(members) == 4  # with the server that workers are forked from
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(map(is_alive, members)), seconds=20)
    assert left_over(tmp_path) == []


def test_a_server_that_is_killed_again_and_again_blames_no_job(tmp_path, log, caplog):
    store, killed = Store(tmp_path / "store"), []

    def kill(progress) -> None:
        found = pool._server._process
        if len(killed) < 5 and found and found.pid not in killed and len(notes(log)) > len(killed) * 3:
            os.kill(found.pid, signal.SIGKILL)
            killed.append(found.pid)

    jobs = [Count(40, log, seconds=0.05), Count(41, log, seconds=0.05)]
    assert run_jobs(jobs, store, lambda: process_pool(2), 2, kill) == {}
    assert [read_sum(store, job) for job in jobs] == [40, 41]
    assert len(killed) == 5
    assert "the process that workers are forked from was lost; what was running is started again" in caplog.text
    assert not any(map(is_alive, workers(log) - set(pids_of_workers())))


def test_servers_that_cannot_live_are_not_started_for_ever(monkeypatch):
    monkeypatch.setattr(pool, "_SERVE", "import sys; sys.exit(1)  # {} {} {} {}")
    monkeypatch.setattr(pool, "_server", pool._Server())
    try:  # the fifth is lost when a pool is made, or, if it lives that long, when a worker is asked for
        failures = run_jobs([Count(1)], Store(Path(tempfile.mkdtemp()) / "store"), lambda: process_pool(1), 1)
    except ModeconnError as error:
        failures = {"": error}
    assert len(failures) == 1
    assert "lost 5 times before a worker was there" in str(next(iter(failures.values())))


def test_a_lost_worker_is_noticed_though_its_own_processes_live(log):
    with process_pool(1) as workers_, pytest.raises(pool.BrokenProcessPool):
        workers_.submit(fork_and_end, log).result(timeout=60)
    for process in workers(log):
        os.kill(process, signal.SIGKILL)


def test_an_error_says_where_it_was_raised_whatever_it_is():
    with process_pool(1) as one:
        error = one.submit(int, "no number").exception(timeout=60)
        assert isinstance(error, ValueError)
        assert "in _call" in error.__notes__[0]
        error = one.submit(raise_what_cannot_be_sent, "").exception(timeout=60)
        assert (type(error), str(error)) == (ModeconnError, "Local: only here")
        assert one.submit(len, "still there").result(timeout=60) == 11


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from modeconn.execution import process_pool\nprocess_pool(1).submit(int).result()\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "must stand under `if __name__ == '__main__':`; no workers are needed with workers=0" in done.stderr


def test_nothing_runs_on_when_a_driver_has_ended():
    code = "from modeconn.execution import process_pool, pool\nwith process_pool(1) as one: one.submit(int).result()\n"
    code += "print(pool._server._process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert not is_alive(int(done.stdout)), done.stderr


def pids_of_workers() -> list[int]:
    server = pool._server._process
    return [int(word) for word in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
