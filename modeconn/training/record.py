"""The record that a study of trainings keeps in its store."""

from pathlib import Path
from typing import Any

from modeconn.execution import Store
from modeconn.execution.records import Recorder
from modeconn.training.task_training import Prepared


def start_record(
    store: Store, kind: str, prepared: Prepared, options: dict[str, Any], command: str, out: str | Path | None
) -> Recorder:
    """What keeps the record of a study: of one kind, of a training, with these options."""
    training = prepared.training
    asked = {"training": training.spec(), "measured": training.measured_spec(), "options": options}
    return Recorder(store, kind, prepared.about["task"], asked, command, out)
