"""Make what the tests of compatibility read: stores, results and names as version 0.1.0 (commit ef0a9a2) wrote them.

    git worktree add ../old ef0a9a2
    PYTHONPATH=../old:tests python tests/compatibility/make_old_store.py

It writes `made_by_0.1.0/` beside this file:

    whole.tar.gz         a store with two studies and two trainings, all of them finished
    interrupted.tar.gz   the same but one training, each stopped right after it had saved half of one
    diverged.tar.gz      a store with two studies whose trainings diverged
    training.json        the states of one of the trainings, and its metrics
    printed/             what commands on these stores printed: `studies.commands`
    instability/, ...    the tables and the summary of each study that they wrote, with its masks
    ticket/, pair/       an exported ticket, and the path between two states of the store
    json/                results about networks that exist: what `to_json` wrote, what `rows` gave, how it was printed
    names.json           the names of all jobs of many more studies
    made_on.json         the version, and how the processor rounds: see `studies.rounding`
"""

import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compatibility import studies

import modeconn

KEPT = ("*.csv", "*.json", "*.safetensors", "masks/*.safetensors")  # of a folder of results: no figures


def main() -> None:
    """Make all of it anew."""
    assert modeconn.__version__ == "0.1.0", f"this is not version 0.1.0: {modeconn.__file__}"
    torch.set_num_threads(1)
    shutil.rmtree(studies.MADE, ignore_errors=True)
    studies.MADE.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("data", "planned"):
            (folder / part).mkdir()
        _make_stores(folder, folder / "data")
        _make_results(folder)
        names = studies.names_of_jobs(folder / "planned")
    _write("names.json", json.dumps(names, indent=0))
    _make_json()
    made_on = {"modeconn": modeconn.__version__, "torch": torch.__version__, "rounding": studies.rounding()}
    _write("made_on.json", json.dumps(made_on, indent=1))


def _make_stores(folder: Path, data: Path) -> None:
    whole, interrupted = folder / "whole", folder / "interrupted"
    for study in studies.STUDIES.values():
        study(folder / study.store, data)
    finished = studies.run_training(whole, data, **studies.TRAINING)
    studies.run_training(whole, data, **studies.LATER)
    states = {str(iteration): state.name for iteration, state in finished.folders.items()}
    _write("training.json", json.dumps({"states": states, "metrics": finished.metrics}, indent=0))
    with _stopped_at_second_save(lambda job: job.kind == "cohort"):
        studies.STUDIES["instability"](interrupted, data, checkpoint_every=0)
    with _stopped_at_second_save(lambda job: job.kind == "state" and job.origin is not None):
        studies.STUDIES["lottery"](interrupted, data, checkpoint_every=0)
    with _stopped_at_second_save(lambda job: job.kind == "state"):
        studies.run_training(interrupted, data, **studies.LATER, checkpoint_every=0)
    for name in ("whole", "interrupted", "diverged"):
        _pack(folder / name)


@contextlib.contextmanager
def _stopped_at_second_save(wanted: Callable[[Any], bool]) -> Iterator[None]:
    """As if somebody pressed Ctrl-C right after a job had saved a second time how far it was."""
    from modeconn.execution import Store

    write, saves = Store.write, []

    def stop(store: Store, job: Any, files: Any, facts: Any, *, done: bool) -> None:
        write(store, job, files, facts, done=done)
        saves.extend([job] if not done and wanted(job) else [])
        if len(saves) == 2:
            raise KeyboardInterrupt

    Store.write = stop
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        Store.write = write
    raise AssertionError("it was not stopped")


def _make_results(folder: Path) -> None:
    """Results and output of commands, in a folder with the stores and with data sets in `data`."""
    from modeconn.cli import main as command  # where the old code has it

    os.environ["TZ"] = "UTC"
    time.tzset()
    with contextlib.chdir(folder):
        for name, arguments in studies.commands().items():
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert command(arguments) == 0
            _write(f"printed/{name}.txt", printed.getvalue().replace(str(folder), "."))
    for name in (*studies.STUDIES, "ticket", "pair"):
        for path in (path for pattern in KEPT for path in sorted((folder / name).glob(pattern))):
            _write(f"{name}/{path.relative_to(folder / name)}", path.read_bytes())


def _make_json() -> None:
    for name, result in studies.results():
        _write(f"json/{name}.json", result.to_json())
        _write(f"json/{name}.rows.json", json.dumps(result.rows()))
        _write(f"json/{name}.txt", str(result))


def _pack(store: Path) -> None:
    """Without the heartbeats, which name a machine."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return None if Path(entry.name).name == "running.json" else entry

    with tarfile.open(studies.MADE / f"{store.name}.tar.gz", "w:gz") as archive:
        archive.add(store, store.name, filter=anonymous)


def _write(name: str, content: str | bytes) -> None:
    path = studies.MADE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    main()
