"""Learning-rate schedules with warmup."""

import math

from modeconn.tasks import Task


def learning_rate(task: Task, iteration: int) -> float:
    """The learning rate of the step from `iteration` to `iteration + 1`.

    With the peak `p`, the final learning rate `f`, T iterations and the warmup `w(t) = min(1, (t + 1) / warmup)`:

        constant   w(t) p
        step       w(t) p gamma^n(t)                        n(t): how many milestones are <= t
        linear     w(t) (p + (f - p) t / T)
        cosine     w(t) (f + (p - f) (1 + cos(pi t / T)) / 2)

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
