import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn.tasks import PRESETS, SCHEDULES, Task
from modeconn.training.schedule import learning_rate

STEP = {"schedule": "step", "milestones": (40, 80), "gamma": 0.1}
LINEAR = {"schedule": "linear", "final_learning_rate": 0.2}
COSINE = {"schedule": "cosine", "final_learning_rate": 0.2}
HALF_ROOT = math.sqrt(0.5)  # cos(45 degrees)

# Every task here has peak 1 and T = 100; the values are worked out by hand.
BY_HAND = [
    ({"schedule": "constant"}, {0: 1, 50: 1, 99: 1}),
    ({"schedule": "constant", "final_learning_rate": 0.5}, {0: 1, 99: 1}),
    (STEP, {0: 1, 39: 1, 40: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}),
    (STEP | {"gamma": 0.5, "milestones": (10, 20, 30)}, {9: 1, 10: 0.5, 20: 0.25, 30: 0.125}),
    (STEP | {"milestones": (80, 40)}, {39: 1, 40: 0.1, 80: 0.01}),
    (STEP | {"milestones": (40, 40)}, {39: 1, 40: 0.01}),
    (STEP | {"milestones": (100, 400)}, {0: 1, 99: 1}),
    (LINEAR, {0: 1, 25: 0.8, 50: 0.6, 75: 0.4, 99: 0.208, 100: 0.2}),
    (LINEAR | {"final_learning_rate": 0.0}, {0: 1, 50: 0.5, 99: 0.01, 100: 0}),
    (LINEAR | {"final_learning_rate": 3.0}, {0: 1, 50: 2, 100: 3}),
    (COSINE, {0: 1, 25: 0.6 + 0.4 * HALF_ROOT, 50: 0.6, 75: 0.6 - 0.4 * HALF_ROOT, 100: 0.2}),
    # Warmup: the first step has 1/20 of the rate, the twentieth all of it.
    ({"warmup": 20}, {0: 0.05, 9: 0.5, 18: 0.95, 19: 1, 20: 1, 99: 1}),
    ({"warmup": 1}, {0: 1, 1: 1}),
    ({"warmup": 200}, {0: 0.005, 99: 0.5}),
    # Warmup past milestones multiplies what the steps leave.
    (STEP | {"warmup": 60}, {0: 1 / 60, 39: 40 / 60, 40: 41 / 600, 58: 59 / 600, 59: 0.1, 79: 0.1, 80: 0.01}),
    (LINEAR | {"warmup": 50}, {0: 0.02, 24: 0.5 * 0.808, 49: 0.608, 50: 0.6, 100: 0.2}),
    (COSINE | {"warmup": 50}, {0: 0.02, 25: 0.52 * (0.6 + 0.4 * HALF_ROOT), 50: 0.6, 100: 0.2}),
]


@pytest.mark.parametrize(("options", "rates"), BY_HAND)
def test_the_rates_are_those_worked_out_by_hand(options, rates):
    task = Task(learning_rate=1.0, iterations=100, **options)
    assert {t: learning_rate(task, t) for t in rates} == pytest.approx(rates, rel=1e-12, abs=1e-15)


def test_the_schedule_of_resnet20_with_warmup():
    task = PRESETS["cifar10-resnet20-warmup"]
    rates = {0: 1e-6, 14_999: 0.015, 29_999: 0.03, 31_999: 0.03, 32_000: 3e-3, 48_000: 3e-4, 62_999: 3e-4}
    assert {t: learning_rate(task, t) for t in rates} == pytest.approx(rates, rel=1e-12)


def test_the_schedule_of_inception_v3():
    task = PRESETS["imagenet-inception-v3"]
    rates = [learning_rate(task, t) for t in (0, task.iterations // 2, task.iterations)]
    assert rates == pytest.approx([0.03, 0.0175, 0.005])


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(peak=st.floats(1e-5, 10), scale=st.floats(0.01, 100), t=st.integers(0, 99))
def test_the_rates_are_in_the_units_of_the_peak(schedule, peak, scale, t):
    def rate(unit):
        task = Task(schedule=schedule, milestones=(30, 60), warmup=10, iterations=100)
        task = replace(task, learning_rate=peak * unit, final_learning_rate=peak * unit / 7)
        return learning_rate(task, t)

    assert rate(scale) == pytest.approx(scale * rate(1.0), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_rises_after_warmup_or_falls_below_zero(schedule):
    task = Task(schedule=schedule, milestones=(30, 60), warmup=10, iterations=100)
    rates = [learning_rate(task, t) for t in range(100)]
    assert all(after <= before for before, after in pairwise(rates[9:]))
    assert all(0 < rate <= task.learning_rate for rate in rates)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_shortened_training_follows_the_same_curve(schedule):
    task = Task(schedule=schedule, milestones=(3000, 6000), iterations=10_000, final_learning_rate=0.01)
    short = task.shortened(100)
    for t in range(100):
        assert learning_rate(short, t) == pytest.approx(learning_rate(task, 100 * t))
