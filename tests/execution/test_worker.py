"""What happens to one job where it is computed: once, beside whatever else is there, with errors that travel."""

import pickle
from dataclasses import dataclass

import pytest

from jobs_for_tests import Add, Fail, notes, read_sum
from modeconn.errors import CorruptArtifact, ModeconnError, StoreError
from modeconn.execution import Store
from modeconn.execution.worker import run_job


@dataclass(frozen=True)
class Raise(Add):
    """Raises what its class says."""

    error = KeyboardInterrupt()
    label = ""

    def run(self, store: Store) -> None:
        raise self.error


def test_a_job_is_computed_unless_it_is_done(store, log):
    job = Add(1, log=log)
    for _ in range(2):
        run_job(job, store.root)
        assert read_sum(store, job) == 1
    assert notes(log) == ["1"]


@pytest.mark.parametrize("how", ["plainly", "oddly", "by leaving"])
def test_an_error_says_whose_it_is_and_can_be_sent_to_the_driver(store, how):
    with pytest.raises(ModeconnError, match=r"^failure 7: \w+: no luck with 7") as caught:
        run_job(Fail(7, how=how), store.root)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_job_without_a_label_is_called_by_its_name(store, monkeypatch):
    monkeypatch.setattr(Raise, "error", ValueError("odd"))
    with pytest.raises(ModeconnError, match=r"^sum-[0-9a-f]{16}: ValueError: odd"):
        run_job(Raise(1), store.root)


@pytest.mark.parametrize("error", [CorruptArtifact("sum-0", "torn"), StoreError("full"), KeyboardInterrupt()])
def test_what_the_driver_understands_is_passed_on(store, monkeypatch, error):
    monkeypatch.setattr(Raise, "error", error)
    with pytest.raises(type(error)) as caught:
        run_job(Raise(1), store.root)
    assert caught.value is error


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(StoreError, match=r"the worker on .* lacks the store, which all must share: no store"):
        run_job(Add(1), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_job_that_failed_leaves_the_lock_to_others(store):
    job = Fail(1)
    for _ in range(2):
        with pytest.raises(ModeconnError, match="no luck"):
            run_job(job, store.root)
    with store.lock(job):
        assert store.done(job) is None
