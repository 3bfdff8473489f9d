"""What the summary of a study of several variants of a task says, whatever is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeconn.tasks import Task
from modeconn.training.task_training import prepare
from modeconn.versions import machine, versions


def summary_of(
    task: Task,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    precision: str,
    device: str,
    data_dir: str | Path | None,
    command: str,
    **more: Any,
) -> dict[str, Any]:
    """Task, variants, what else is given, the data's note, the command, versions and the machine; JSON."""
    prepared = prepare(task, data_dir=data_dir, device=device, precision=precision, checkpoint_every=60.0)
    return {
        "task": task.name,
        "task_changes": task.changes(),
        "variants": {title: dict(fields) for title, fields in variants.items()},
        "iterations": task.iterations,
        **more,
        "precision": precision,
        "data_note": prepared.about["data_note"],
        "command": command,
        "versions": versions(),
        "machine": machine(),
    }
