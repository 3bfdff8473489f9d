"""The adapter that the documentation shows for submitit, with its executors that need no Slurm."""

import importlib.util
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs_for_tests import Add, Fail, note, notes, read_sum, workers
from modeconn.analysis.instability.instability import instability
from modeconn.execution import Store, choose_engine, run_jobs
from modeconn.execution.names import job_name

pytestmark = pytest.mark.processes
submitit = pytest.importorskip("submitit", reason="pip install submitit to test its adapter")
EXAMPLE = Path(__file__).parents[2] / "examples" / "submitit_executor.py"


@pytest.fixture(scope="module")
def adapter():
    spec = importlib.util.spec_from_file_location("submitit_executor", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SubmititExecutor


@dataclass(frozen=True)
class KilledOnce(Add):
    """Kills its process, which is not the one that made it, the first time it runs."""

    maker: int = 0

    def run(self, store: Store) -> None:
        assert os.getpid() != self.maker
        note(self.log, "tried")
        if notes(self.log).count("tried") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(store)


def test_a_study_on_submitit_in_this_process(tmp_path, data_dir, adapter):
    study = {"iterations": 8, "rewind_iters": "0,4", "replicates": 1, "alphas": 3, "device": "cpu"}
    plain = instability(**study, workers=0, store=tmp_path / "plain", data_dir=data_dir)
    executor = adapter(submitit.AutoExecutor(folder=tmp_path / "logs", cluster="debug"))
    given = instability(**study, executor=executor, workers=2, store=tmp_path / "given", data_dir=data_dir)
    assert (given.rows, given.paths) == (plain.rows, plain.paths)


def test_a_killed_job_runs_again_and_a_failed_one_does_not(tmp_path, adapter, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    # For so many seconds it looks for a result after a job's end; the folder is on this machine.
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    store, log = Store(tmp_path / "store"), str(tmp_path / "log")
    killed, bad = KilledOnce(1, log=log, maker=os.getpid()), Fail(2)
    engine = choose_engine(adapter(executor), workers=2)
    failures = run_jobs([killed, bad], store, engine.make, engine.slots)
    assert failures.keys() == {job_name(bad)}
    assert "no luck with 2" in str(failures[job_name(bad)])
    assert read_sum(store, killed) == 1
    assert notes(log) == ["tried", "tried", "1"]
    assert os.getpid() not in workers(log)
