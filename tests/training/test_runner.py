"""The runner of studies: records before it computes, says what failed, looks at the disk."""

from dataclasses import replace

import pytest

from jobs_for_tests import Add, Fail, write_sum
from modeconn import get_task
from modeconn.errors import ModeconnError, OptionError, StoreError
from modeconn.execution.names import job_name
from modeconn.execution.records import read_records
from modeconn.training.cohort.jobs import train_together
from modeconn.training.fork import fork, trunk
from modeconn.training.runner import Runner, open_runner
from modeconn.training.task_training import prepare

TASK = get_task("digits-conv", evaluate_every=4).shortened(8)


@pytest.fixture(scope="module")
def prepared(data_dir):
    return prepare(TASK, data_dir=data_dir, device="cpu")


@pytest.fixture
def runner(prepared, tmp_path) -> Runner:
    return open_runner("train", prepared, {}, store=tmp_path / "store", workers=0)


def test_jobs_are_computed_with_what_they_need(runner):
    first = Add(1)
    runner.compute([Add(2, (first,))])
    assert runner.store.done(first)
    assert runner.store.done(Add(2, (first,)))


def test_jobs_are_recorded_before_they_are_computed(runner):
    failing = Fail(1, (Add(1),))
    with pytest.raises(ModeconnError):
        runner.compute([failing])
    runner.compute([Add(3)])
    (record,) = read_records(runner.store)
    assert record.targets == (job_name(failing), job_name(Add(3)))
    assert record.jobs[job_name(failing)] == [job_name(Add(1))]


def test_what_failed_is_said_when_the_rest_is_done(runner):
    failing = Fail(1)
    with pytest.raises(ModeconnError) as error:
        runner.compute([failing, Add(2, (failing,)), Add(3)])
    expected = f"job {job_name(failing)} failed: .*no luck with 1; 1 job failed, 1 depending on it skipped; finished"
    assert error.match(expected)
    assert runner.store.done(Add(3))
    with pytest.raises(ModeconnError, match="no luck with 1; 1 job failed; finished work is kept"):
        runner.compute([failing])


def test_an_attempt_returns_what_failed(runner):
    failures = runner.attempt([Fail(1), Add(2)])
    assert [*failures] == [job_name(Fail(1))]
    assert runner.attempt([Add(2)]) == {}


@pytest.mark.parametrize("as_input", [False, True], ids=["a target", "an input"])
def test_trainings_are_told_to_the_tracker_once_each_row(as_input, prepared, tmp_path):
    told, reports = [], []
    runner = open_runner(
        "train",
        prepared,
        {},
        store=tmp_path / "store",
        workers=0,
        log=lambda metrics, step: told.append((step, *metrics)),
        report=reports.append,
    )
    (job,) = trunk(prepared.training, [8], seed=0, replicate=0)
    for _ in range(2):
        runner.compute([After(1, (job,))] if as_input else [job])
    assert len(told) == len(set(told)) == 4
    assert {step for step, *_ in told} == {4, 8}
    assert reports[0].done == 0


class After(Add):
    """Comes after its inputs, whatever they are."""

    def run(self, store):
        write_sum(store, self, self.number)


def states(prepared):
    """A state on the way and two at the end, of 3, 2 and 2 times the size of weights at most."""
    first, last = trunk(prepared.training, [4, 8], seed=0, replicate=0)
    return [first, last, *fork(first, 1, 0, 0)]


@pytest.mark.parametrize(("together", "times"), [(False, 3 + 2 + 2), (True, 3 + 2 + 2 + 1)])
def test_a_study_must_fit_on_the_disk(together, times, prepared, runner, monkeypatch):
    """What trains together is kept twice."""
    first, last, copy = states(prepared)
    wanted = [first, last, *(train_together([copy], "one") if together else [copy])]
    free = 10**9 * times
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    runner.check_room([*wanted, *wanted], 10**9)
    free -= 1
    with pytest.raises(StoreError, match=rf"up to {times}.0 GB in .*store, where {times}.0 GB are free; free some"):
        runner.check_room(wanted, 10**9)


def test_what_is_in_the_store_needs_no_room(prepared, runner, monkeypatch):
    first, *others = states(prepared)
    runner.compute([first])
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4 * 10**9}))
    runner.check_room([first, *others], 10**9)


def test_a_study_has_one_record_however_often_it_is_opened(prepared, tmp_path):
    others = {"kind": "lottery"}, {"asked": {"seed": 1}}, {"prepared": replace(prepared, training=longer(prepared))}
    for changes in ({}, {"command": "again"}, *others):
        options = {"kind": "train", "prepared": prepared, "asked": {"seed": 0}, "command": ""} | changes
        open_runner(**options, store=tmp_path, workers=0, out=tmp_path / "out").compute([Add(1)])
    records = read_records(open_runner("train", prepared, {}, store=tmp_path, workers=0).store)
    assert [record.kind for record in records] == ["train", "lottery", "train", "train"]
    assert records[0].command == "again"
    assert records[0].results == str(tmp_path / "out")
    assert {record.task for record in records} == {"digits-conv"}


def longer(prepared):
    return replace(prepared.training, task=TASK.shortened(9))


def test_what_cannot_be_is_refused_before_there_is_a_store(prepared, tmp_path):
    with pytest.raises(OptionError, match="workers must be a whole number"):
        open_runner("train", prepared, {}, store=tmp_path / "store", workers=-1, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="cannot write"):
        open_runner("train", prepared, {}, store=tmp_path / "store", workers=0, out="/dev/null/x")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_results_is_made(prepared, tmp_path):
    open_runner("train", prepared, {}, store=tmp_path / "store", workers=0, out=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_colors_of_a_quoted_message_are_left_out():
    assert str(ModeconnError("only \x1b[1mdo that\x1b[0m if")) == "only do that if"
