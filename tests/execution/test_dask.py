"""A real Dask cluster on loopback, whose processes are killed: studies end as if nothing had been."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import drivers
from clusters import Cluster
from jobs_for_tests import (
    Add,
    Count,
    Fail,
    KillWorker,
    group_of,
    is_alive,
    notes,
    read_sum,
    state_of,
    wait_until,
    workers,
)
from modeconn.cli.main import main
from modeconn.data import load_data
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store, dask_engine, run_jobs
from modeconn.execution.dask_engine import Dask
from modeconn.execution.names import job_name

pytest.importorskip("distributed", reason="pip install 'modeconn[dask]' to test with a Dask cluster")
loopback = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    load_data("digits", folder)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, one of which has a GPU, as far as Dask knows."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), resources=("", "GPU=1"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory, data_dir):
    """The tables of the study that nothing disturbed, in this process alone."""
    folder = tmp_path_factory.mktemp("whole")
    drivers.study(folder, data_dir, workers=0)
    return tables(folder)


# Disasters


@pytest.mark.processes
def test_drivers_that_are_killed_and_drivers_that_work_at_once_lose_nothing(tmp_path, data_dir, cluster, whole_study):
    """Killed before anything is trained, in trainings, between two, while networks are evaluated and paths measured."""
    trainings, moments = ["state-*/partial.json", "state-*/done.json"], ["evaluation-*/done.json", "path-*/done.json"]
    with driving(tmp_path, data_dir, cluster, moments=["*", *trainings, *trainings, *moments]) as process:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, cluster.logs()
    said = json.loads(output)
    assert said["in_trainings"] > 0  # usually more than half
    studies = list(map(Path, said["studies"]))
    assert [tables(folder) for folder in studies] == [whole_study] * len(studies)
    assert not [path for folder in studies for path in (folder / "store" / "aside").glob("*")]


@pytest.mark.processes
@loopback
def test_a_worker_killed_in_a_training_costs_its_last_step(tmp_path, data_dir, cluster, whole_study):
    with ThreadPoolExecutor() as thread:
        done = thread.submit(drivers.study, tmp_path, data_dir, executor=Dask(scheduler_file=cluster.file))
        worker, name, saved = stopped_in_a_training(tmp_path / "store", cluster)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not is_alive(worker))
        # What was saved is gone on from: the next that is saved is further than the last was.
        assert reached(tmp_path / "store", name) == saved
        wait_until(lambda: reached(tmp_path / "store", name) != saved)
        assert reached(tmp_path / "store", name) > saved
        done.result()
    assert tables(tmp_path) == whole_study


@pytest.mark.processes
@loopback
def test_a_killed_scheduler_loses_nothing(tmp_path, data_dir, cluster, whole_study, caplog):
    with ThreadPoolExecutor() as thread:
        done = thread.submit(drivers.study, tmp_path, data_dir, executor=Dask(scheduler_file=cluster.file))
        worker, name, saved = stopped_in_a_training(tmp_path / "store", cluster)
        cluster.kill_scheduler(lambda: os.kill(worker, signal.SIGCONT))
        assert not done.done()
        stopped = reached(tmp_path / "store", name)  # its worker went on until it noticed
        assert stopped >= saved
        cluster.start()
        wait_until(lambda: reached(tmp_path / "store", name) != stopped or stopped == float("inf"))
        assert reached(tmp_path / "store", name) >= stopped
        done.result()
    assert tables(tmp_path) == whole_study
    assert "the Dask scheduler is lost; what was running is started again" in caplog.text


@pytest.mark.processes
@loopback
def test_a_job_that_always_kills_its_worker_fails_and_the_rest_is_done(tmp_path, cluster):
    store, log = Store(tmp_path / "store"), str(tmp_path / "log")
    killer = KillWorker(1, str(tmp_path / "killer"), times=1000)
    needs, bad = Add(2, (killer,), log), Fail(3, how="oddly")
    rest = [Count(5, log), Add(4, (Add(6, log=log),), log)]
    failures = run_jobs([needs, bad, *rest], store, Dask(scheduler_file=cluster.file))
    assert failures.keys() == {job_name(job) for job in (killer, needs, bad)}
    assert "lost its Dask worker" in str(failures[job_name(needs)])
    assert "no luck with 3" in str(failures[job_name(bad)])
    assert 1 < len(notes(killer.log)) < 10
    assert [read_sum(store, job) for job in rest] == [5, 10]


# Where jobs go


@pytest.mark.processes
@loopback
def test_a_job_that_needs_a_gpu_goes_where_one_is(tmp_path, cluster):
    store = Store(tmp_path / "store")
    jobs = [WhoAmI(number) for number in range(6)]
    wait_until(lambda: capacity_of(Dask(scheduler_file=cluster.file)) == 2)
    assert capacity_of(Dask(scheduler_file=cluster.file, gpus=1)) == 1
    assert run_jobs(jobs, store, Dask(scheduler_file=cluster.file, gpus=1)) == {}
    assert {store.require(job).facts["worker"] for job in jobs} == {"worker-1"}


@pytest.mark.processes
@loopback
def test_that_nobody_works_is_said_and_not_waited_for_in_silence(tmp_path, cluster, caplog):
    seen = []

    def give_up(progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    wait_until(lambda: capacity_of(Dask(scheduler_file=cluster.file)) == 2)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([Add(1)], Store(tmp_path), Dask(scheduler_file=cluster.file, gpus=8), report=give_up)
    assert "waiting for workers at tcp://127.0.0.1:" in caplog.text
    assert "none of the 2 there offers `--resources GPU=8`" in caplog.text


# The command line


@pytest.mark.parametrize(("command", "module"), [("instability", "analysis.instability"), ("lottery", "tickets")])
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--dask", "tcp://a:1"], Dask("tcp://a:1")),
        (["--dask-scheduler-file", "dask.json"], Dask(scheduler_file=Path("dask.json"))),
    ],
)
def test_a_command_computes_on_the_cluster_that_is_named(monkeypatch, command, module, options, asked):
    given = Asked()
    monkeypatch.setattr(f"modeconn.{module}.{command}.{command}", given)
    for more, number in ([], None), (["--workers", "7"], 7):
        with pytest.raises(Asked):
            main([command, "digits-conv", "--device", "cpu", *options, *more])
        assert (given.options["executor"], given.options["workers"]) == (asked, number)


def test_on_gpus_a_command_asks_for_one_for_each_job(monkeypatch):
    given = Asked()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    study = "modeconn.analysis.instability.instability.instability"
    monkeypatch.setattr(study, given)
    with pytest.raises(Asked):
        main(["instability", "--device", "cuda", "--dask", "tcp://a:1"])
    assert given.options["executor"] == Dask("tcp://a:1", gpus=1)


def test_one_cluster_is_named(capsys):
    assert main(["instability", "--dask", "tcp://a:1", "--dask-scheduler-file", "dask.json"]) == 2
    assert "not allowed with argument --dask" in capsys.readouterr().err


# Errors


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModeconnError, match=r"pip install 'modeconn\[dask\]'"):
        Dask("tcp://127.0.0.1:1")()


@loopback
def test_a_scheduler_that_is_not_there_is_named(tmp_path, caplog):
    with pytest.raises(ModeconnError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:1 after 0\.5 s"):
        Dask("tcp://127.0.0.1:1", patience=0.5)()
    contents = {"half": '{"addr', "other": "[]", "odd": '{"address": 3}', "wrong": '{"address": "tcp://a"}'}
    for file, content in contents.items():
        (tmp_path / file).write_text(content)
    for file in ("none", *contents):
        with pytest.raises(ModeconnError, match=rf"no Dask scheduler in .*{file} after 0\.1 s.*the same command"):
            Dask(scheduler_file=tmp_path / file, patience=0.1)()
        assert f"waiting for a Dask scheduler in {tmp_path / file}" in caplog.text


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1", "http://a:1", "tcp://a:b", "tcp://127.0.0.1:99999"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(OptionError, match=r"is no address of a Dask scheduler .*; write tcp://HOST:PORT"):
        Dask(address, patience=1e9)()


@pytest.mark.parametrize("given", [{}, {"address": "tcp://127.0.0.1:1", "scheduler_file": "file"}])
def test_one_scheduler_is_named(given):
    with pytest.raises(OptionError, match="address of a Dask scheduler, or its file"):
        Dask(**given)


@pytest.mark.processes
@loopback
def test_workers_with_other_versions_are_refused(tmp_path, cluster, monkeypatch):
    here = dask_engine._versions()
    monkeypatch.setattr(dask_engine, "_versions", lambda: here | {"torch": "1.0.0"})
    failures = run_jobs([Add(1)], Store(tmp_path), Dask(scheduler_file=cluster.file))
    said = str(failures[job_name(Add(1))])
    assert f"has modeconn {here['modeconn']} and torch {here['torch']}" in said
    assert "the study began with" in said
    assert "torch 1.0.0" in said


@pytest.mark.processes
@loopback
def test_a_worker_with_other_code_leaves_its_jobs_to_others(tmp_path, cluster, caplog):
    """A checkout keeps its version while its code changes, and with other code come other results."""
    shutil.copytree(Path(dask_engine.__file__).parents[1], tmp_path / "copy" / "modeconn")
    (tmp_path / "copy" / "modeconn" / "seeds.py").open("a").write("# changed\n")
    cluster.add_worker("unfit", tmp_path / "copy")
    try:
        wait_until(lambda: capacity_of(Dask(scheduler_file=cluster.file)) == 3)
        store, log = Store(tmp_path / "store"), str(tmp_path / "log")
        jobs = [Add(number, log=log, seconds=0.2) for number in range(12)]
        assert run_jobs(jobs, store, Dask(scheduler_file=cluster.file)) == {}
        assert [read_sum(store, job) for job in jobs] == list(range(12))
        assert caplog.text.count("its jobs go to other workers") == 1
        assert len(workers(log)) == 2
    finally:
        cluster.remove_last()
        wait_until(lambda: capacity_of(Dask(scheduler_file=cluster.file)) == 2)


def test_code_has_a_fingerprint_of_its_own(tmp_path, monkeypatch):
    before = dask_engine._code_fingerprint.__wrapped__()
    shutil.copytree(Path(dask_engine.__file__).parents[1], tmp_path / "modeconn")
    monkeypatch.setattr(dask_engine, "__file__", str(tmp_path / "modeconn" / "execution" / "dask_engine.py"))
    assert dask_engine._code_fingerprint.__wrapped__() == before
    (tmp_path / "modeconn" / "seeds.py").open("a").write("# changed\n")
    assert dask_engine._code_fingerprint.__wrapped__() != before


@loopback
@pytest.mark.parametrize(
    ("greeting", "error", "match"),
    [
        (b"", ModeconnError, r"after 0\.5 s \(TimeoutError: somebody is there who does not greet as a Dask"),
        (
            (9).to_bytes(8, "little"),
            ModeconnError,
            r"after 0\.5 s \(TimeoutError: somebody is there who does not greet",
        ),
        (b"HTTP/1.1 400 Bad Request", OptionError, r"what answers at tcp://127\.0\.0\.1:\d+ is no Dask scheduler"),
        (
            (3).to_bytes(8, "little") + b"abc",
            OptionError,
            r"what answers at tcp://127\.0\.0\.1:\d+ is no Dask scheduler",
        ),
    ],
)
def test_what_is_no_scheduler_is_not_waited_for_without_end(greeting, error, match):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        kept = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(greeting)

        thread.submit(answer)
        try:
            with pytest.raises(error, match=match):
                Dask(f"tcp://127.0.0.1:{server.getsockname()[1]}", patience=0.5)()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


@loopback
def test_an_address_where_none_ever_answered_is_given_less_patience_than_a_scheduler_that_was_lost(monkeypatch):
    monkeypatch.setattr(dask_engine, "_FIRST", 0.3)
    dask = Dask("tcp://127.0.0.1:1", patience=0.6)
    with pytest.raises(ModeconnError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:1 after 0\.3 s"):
        dask()
    dask._answered.append("tcp://127.0.0.1:1")
    with pytest.raises(ModeconnError, match=r"after 0\.6 s"):
        dask()


@pytest.mark.processes
@loopback
def test_a_command_ends_where_a_web_server_stands_for_a_scheduler(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever)
        began = time.monotonic()
        try:
            with pytest.raises(ModeconnError, match=r"no Dask scheduler at .* after 10 s .*correct --dask"):
                Dask(f"tcp://127.0.0.1:{server.server_port}")()
            assert time.monotonic() - began < 20
        finally:
            server.shutdown()


@pytest.mark.processes
@loopback
def test_a_worker_is_no_scheduler(cluster):
    with Dask(scheduler_file=cluster.file)() as executor:
        wait_until(lambda: executor.capacity() > 0)
        (worker, *_) = executor._able()
    with pytest.raises(OptionError, match=f"what answers at {worker} is no Dask scheduler"):
        Dask(worker)()


@pytest.mark.processes
@loopback
def test_code_that_a_worker_cannot_import_is_said(tmp_path, cluster, monkeypatch):
    (tmp_path / "only_here.py").write_text("from jobs_for_tests import Add\nclass Mine(Add):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import Mine

    failures = run_jobs([Mine(1)], Store(tmp_path / "store"), Dask(scheduler_file=cluster.file))
    assert "No module named 'only_here'" in str(failures[job_name(Mine(1))])


@pytest.mark.processes
@loopback
def test_a_store_that_a_worker_does_not_see_is_said(tmp_path, cluster):
    store = Store(tmp_path / "store")
    root, store.root = store.root, tmp_path / "elsewhere"  # the worker's view of it
    failures = run_jobs([Add(1)], store, Dask(scheduler_file=cluster.file))
    assert "lacks the store, which all must share" in str(failures[job_name(Add(1))])
    assert not store.root.exists()
    assert root.exists()


# Helpers


class Asked(BaseException):
    """A study that ends the command as soon as it is asked for, and keeps its options."""

    def __call__(self, *_, **options):
        self.options = options
        raise self


class WhoAmI(Add):
    """Leaves word of the worker it ran on."""

    def run(self, store: Store) -> None:
        from distributed import get_worker

        store.write(self, {}, {"worker": get_worker().name}, done=True)


@contextlib.contextmanager
def driving(folder: Path, data_dir: Path, cluster: Cluster, **options):
    """A process that drives the study; see `drivers.main`."""
    arguments = {"folder": str(folder), "data_dir": str(data_dir), "scheduler_file": str(cluster.file), **options}
    process = subprocess.Popen(
        [sys.executable, drivers.__file__, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        members = group_of(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not any(map(is_alive, members)))


def stopped_in_a_training(store: Path, cluster: Cluster) -> tuple[int, str, float]:
    """Stop the first worker (SIGSTOP) in the middle of a training: process, name of the training, iteration saved."""
    found: list[tuple[int, str, float]] = []
    wait_until(lambda: capacity_of(Dask(scheduler_file=cluster.file)) == 2)  # workers take seconds to start

    def look() -> bool:
        worker = cluster.worker(0)
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: state_of(worker) == "T")
        for name in locked_by(worker, store):
            if (store / "runs" / name / "partial.json").exists() and reached(store, name) < float("inf"):
                found.append((worker, name, reached(store, name)))
                return True
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.02)  # in which it gets on
        return False

    wait_until(look)
    return found[0]


def locked_by(process: int, store: Path) -> list[str]:
    """Names of trainings whose lock a process has open: what it computes."""
    names = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            path = link.readlink()
            if path.parent == store / "locks" and path.name.startswith("state-"):
                names.append(path.name)
    return names


def reached(store: Path, name: str) -> float:
    """The iteration that a training has saved; infinity when it is finished."""
    folder = store / "runs" / name
    while True:
        if (folder / "done.json").exists():
            return float("inf")
        with contextlib.suppress(OSError):  # it may be finished just now
            return json.loads((folder / "partial.json").read_bytes())["facts"]["iteration"]
        time.sleep(0.001)


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("instability.csv", "paths.csv")}


def capacity_of(engine: Dask) -> int:
    executor = engine()
    try:
        return executor.capacity()
    finally:
        executor.shutdown()
