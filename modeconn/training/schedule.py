"""The learning rate of every iteration."""

import math

from modeconn.tasks import Task


def learning_rate(task: Task, iteration: int) -> float:
    """The learning rate of the step from `iteration` to `iteration + 1`.

    The schedule is multiplied by a linear warmup, `(iteration + 1) / warmup` until it reaches 1. The linear and
    cosine schedules go from the peak at iteration 0 to the final learning rate at T.

    >>> task = Task(schedule="step", milestones=(10, 20), learning_rate=1.0, iterations=30)
    >>> [round(learning_rate(task, t), 3) for t in (0, 9, 10, 20)]
    [1.0, 1.0, 0.1, 0.01]
    """
    warmup = min(1.0, (iteration + 1) / task.warmup) if task.warmup else 1.0
    return warmup * _scheduled(task, iteration)


def _scheduled(task: Task, iteration: int) -> float:
    peak, final = task.learning_rate, task.final_learning_rate
    done = iteration / task.iterations
    if task.schedule == "step":
        return peak * task.gamma ** sum(iteration >= milestone for milestone in task.milestones)
    if task.schedule == "linear":
        return peak + (final - peak) * done
    if task.schedule == "cosine":
        return final + (peak - final) * (1 + math.cos(math.pi * done)) / 2
    return peak
