"""How often a lottery's trainings are evaluated for early stopping, and which of its test errors are in curves.csv."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from modeconn.tasks import PRESETS, Task, get_task
from modeconn.tickets import details
from modeconn.tickets.lottery import with_early_stopping


def interval(task: Task, validation: int) -> int:
    return with_early_stopping(replace(task, evaluate_every=0), None, validation).evaluate_every


@pytest.mark.parametrize("name", PRESETS)
def test_trainings_of_a_preset_in_full_length_are_evaluated_fifty_times(name):
    """At what they were evaluated at before, so that they have the names that they had."""
    task = get_task(name)
    assert interval(task, 143 if task.data == "digits" else 5000) == task.iterations // 50


@pytest.mark.parametrize("iterations", [5600, 10_000, 12_345, 50_000])
def test_long_trainings_of_lenet_are_evaluated_fifty_times(iterations):
    assert interval(get_task("mnist-lenet").shortened(iterations), 5000) == iterations // 50


@pytest.mark.parametrize("validation", [10, 143, 5000])
@pytest.mark.parametrize("batch_size", [16, 60, 128])
def test_evaluations_of_a_short_training_take_a_quarter_of_its_work_or_are_five(batch_size, validation):
    for iterations in (1, 4, 5, 9, 60, 333, 1000, 4321):
        every = interval(Task(batch_size=batch_size, iterations=iterations), validation)
        times = math.ceil(iterations / every)  # the last iteration is evaluated in any case
        assert every >= 1
        forward, training = validation * (iterations // every), 3 * batch_size * iterations
        assert forward <= training / 4 or every == max(1, iterations // 5)
        assert times >= min(iterations, 5)
        # One that is evaluated more often than that is as long as fifty evaluations allow.
        oftener = every - 1
        assert oftener < 1 or validation * iterations / oftener > training / 4 or iterations // 50 > oftener


def test_the_tasks_own_interval_is_taken_and_without_held_out_examples_none_is_set():
    task = get_task("digits-conv", evaluate_every=7).shortened(60)
    assert with_early_stopping(task, None, 143).evaluate_every == 7
    assert with_early_stopping(task, None, 0).evaluate_every == 7
    assert with_early_stopping(replace(task, evaluate_every=0), None, 0).evaluate_every == 0
    assert with_early_stopping(replace(task, evaluate_every=0), None, 143).evaluate_every == 6


def test_curves_do_not_tell_by_which_version_a_training_was_evaluated(monkeypatch):
    """Earlier ones have the test error wherever the validation loss was lower than before."""

    def one(iteration, split, loss):
        return {"iteration": iteration, "split": split, "loss": loss, "error": loss / 10}

    watched = [one(4, "validation", 3.0), one(8, "validation", 1.0), one(12, "validation", 2.0)]
    old = [watched[0], one(4, "test", 3.5), watched[1], one(8, "test", 1.5), watched[2]]
    new = [*watched, one(8, "test", 1.5)]
    without = [one(4, "train", 3.0), one(4, "test", 3.5), one(8, "train", 2.0), one(8, "test", 2.5)]
    place = {"replicate": 0, "rewind_iter": 0, "level": 1, "condition": "imp", "draw": 0}
    found = SimpleNamespace(copies=[None], **place)

    def curves(rows):
        monkeypatch.setattr(details, "read_metrics", lambda store, job: rows)
        return [{name: row[name] for name in old[0]} for row in details.curve_rows([found], None)]

    assert curves(old) == curves(new) == [watched[0], watched[1], one(8, "test", 1.5), watched[2]]
    assert curves(without) == without
