"""Stores that version 0.1.0 made are read and completed; `make_old_store.py` made them.

Floats depend on the processor's instructions and on PyTorch. Where a few steps of plain PyTorch give the bits that they
gave where the stores were made (`studies.rounding`), all must be equal byte for byte. Elsewhere, numbers that are
computed again may differ by 1e-5 if they are not whole; names, states, places and text may not, nor may what is only
read.
"""

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compatibility import studies

from modeconn import Barrier, load_result
from modeconn.cli.main import main
from modeconn.execution import Artifact, Store
from modeconn.training.jobs import BEST, METRICS

MADE = studies.MADE
STUDIES = studies.STUDIES
TABLES = {kind: tuple(path.name for path in (MADE / kind).glob("*.csv")) for kind in STUDIES}
TRAINING = json.loads((MADE / "training.json").read_bytes())


@pytest.fixture(scope="module")
def same_rounding() -> bool:
    """Whether floats that are computed here must be those that were computed there."""
    return studies.rounding() == json.loads((MADE / "made_on.json").read_bytes())["rounding"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The store of finished studies."""
    return studies.unpack("whole", tmp_path)


@pytest.fixture
def place(whole: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the stores, where commands are given; dates are those of Greenwich."""
    studies.unpack("diverged", tmp_path)
    (tmp_path / "data").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be computed."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an artifact is written")

    monkeypatch.setattr(Store, "write", refuse)


# --- what is finished is read


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.usefixtures("read_only")
def test_a_finished_study_is_read_and_nothing_is_computed(kind: str, tmp_path: Path, data_dir: Path):
    store = studies.unpack(STUDIES[kind].store, tmp_path)
    before = contents(store)
    STUDIES[kind](store, data_dir).save(tmp_path)
    assert contents(store) == before
    assert len(TABLES[kind]) == 2
    for table in TABLES[kind]:
        assert as_before(tmp_path / table, MADE / kind / table) == (MADE / kind / table).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No artists with labels")  # a figure without a curve, as all diverged
@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.usefixtures("read_only")
def test_the_command_of_a_finished_study_prints_and_writes_the_same(kind: str, place: Path, capsys):
    store = place / STUDIES[kind].store
    before = contents(store)
    assert main(studies.commands()[kind]) == 0
    assert contents(store) == before
    assert capsys.readouterr().out == printed(kind)
    masks = {f"masks/{path.name}" for path in (MADE / kind).glob("masks/*")}
    assert {f"masks/{path.name}" for path in (place / kind).glob("masks/*")} == masks
    for name in (*TABLES[kind], *masks):
        assert as_before(place / kind / name, MADE / kind / name) == (MADE / kind / name).read_bytes(), name
    new, old = (json.loads((folder / kind / "summary.json").read_bytes()) for folder in (place, MADE))
    for name, value in STUDIES[kind].later:
        new["command"] = new["command"].replace(f" --{name} {value}", "")
    if "rewind_iter_because" in old:  # said in other words since
        old["rewind_iter_because"] = old["rewind_iter_because"].replace("points of error", "percentage points")
    assert {key: new[key] for key in old} | {"versions": None} == old | {"versions": None}  # there is more by now


@pytest.mark.usefixtures("read_only")
def test_a_finished_training_is_read_and_nothing_is_computed(whole: Path, data_dir: Path):
    before = contents(whole)
    run = studies.run_training(whole, data_dir, **studies.TRAINING)
    assert contents(whole) == before
    assert {str(iteration): folder.name for iteration, folder in run.folders.items()} == TRAINING["states"]
    assert run.metrics == TRAINING["metrics"]


@pytest.mark.parametrize("command", ["runs", "runs-diverged", "verify", "show-state", "show-study", "clean"])
def test_commands_on_the_store_print_the_same(command: str, place: Path, capsys):
    assert main(studies.commands()[command]) == 0
    assert capsys.readouterr().out.replace(str(place), ".") == printed(command)


def test_a_ticket_is_exported_with_the_same_bytes(place: Path, capsys):
    shutil.copytree(MADE / "lottery", place / "lottery")
    assert main(studies.commands()["export"]) == 0
    assert capsys.readouterr().out == printed("export")
    new, old = files(place / "ticket"), files(MADE / "ticket")
    about, written = json.loads(old.pop("ticket.json")), json.loads(new.pop("ticket.json"))
    about["files"].insert(2, "trained.safetensors")  # what builds the network was not noted then
    assert about.items() <= written.items()  # there is more by now
    assert new.items() > old.items()
    assert sorted(new) == sorted(set(about["files"]) - {"ticket.json"})
    row = next(row for row in load_result(place / "lottery").rows if row["ticket"] == about["state"])
    assert written["test_error"] == row["test_error"]


def test_the_path_between_two_states_of_the_store_is_the_same(place: Path, capsys, same_rounding: bool):
    assert main(studies.commands()["barrier"]) == 0
    text = capsys.readouterr().out
    new, old = (Barrier.from_json(folder / "pair" / "barrier.json") for folder in (place, MADE))
    assert new.names == old.names
    assert new.notes == old.notes
    if same_rounding:
        assert text == printed("barrier")
        assert new.rows() == old.rows()
    studies.assert_close(new.rows(), old.rows())


@pytest.mark.parametrize("kind", STUDIES)
def test_a_folder_of_results_is_read_and_written_again_with_the_same_bytes(kind: str, tmp_path: Path):
    load_result(MADE / kind).save(tmp_path)
    for name in (*TABLES[kind], "summary.json"):
        assert as_before(tmp_path / name, MADE / kind / name) == (MADE / kind / name).read_bytes()


# --- what is missing is computed


@pytest.mark.slow
def test_what_was_removed_from_a_study_is_computed_under_the_same_names(whole, data_dir, tmp_path, same_rounding):
    """Of k = 8 all that the second replicate needs, with the cohort; of k = 0 an end, a measurement, and a path."""
    before = artifacts(whole)
    removed = remove(
        whole,
        "instability",
        "4 copies from 8",
        "replicate 1 trunk to 8",
        ".*replicate 1 copy . from 8.*",
        "replicate 0 copy 1 from 0",
        "end of replicate 0 copy 2 from 0",
        "path .* replicate 0 copy 2 from 0, recalibrated",
    )
    assert {name.partition("-")[0] for name in removed} == {"state", "cohort", "evaluation", "path"}
    assert len(removed) == 13
    complete("instability", whole, data_dir, tmp_path, same_rounding)
    compare(artifacts(whole), before, same_rounding)


@pytest.mark.slow
def test_what_was_removed_of_tickets_is_computed_under_the_same_names(whole, data_dir, tmp_path, same_rounding):
    """The trunk's state at k, the network that the second mask is found on, that mask, and all that is under it."""
    before = artifacts(whole)
    removed = remove(whole, "lottery", "replicate 0 trunk to 8", "replicate 0 level 1 imp copy 1 from 8", ".*level 2.*")
    assert {name.partition("-")[0] for name in removed} == {"state", "mask", "evaluation", "path"}
    complete("lottery", whole, data_dir, tmp_path, same_rounding)
    compare(artifacts(whole), before, same_rounding)


def test_a_state_that_was_removed_is_trained_under_the_same_name(whole: Path, data_dir: Path, same_rounding: bool):
    before = artifacts(whole)
    shutil.rmtree(whole / "runs" / TRAINING["states"]["8"])
    studies.run_training(whole, data_dir, **studies.TRAINING)
    compare(artifacts(whole), before, same_rounding)


@pytest.mark.slow
def test_what_was_interrupted_goes_on_under_the_same_names(tmp_path, data_dir, same_rounding, monkeypatch):
    """From the middle of a cohort, of a training under a mask, and of a trunk."""
    store = studies.unpack("interrupted", tmp_path)
    halves = {path.parent.name for path in store.glob("runs/*/partial.json")}
    assert sorted(name.partition("-")[0] for name in halves) == ["cohort", "state", "state"]
    assert not any((store / "runs" / name / "done.json").exists() for name in halves)
    gone_on = found_partial(monkeypatch)
    for kind in ("instability", "lottery"):
        complete(kind, store, data_dir, tmp_path, same_rounding)
    for training in (studies.TRAINING, studies.LATER):
        studies.run_training(store, data_dir, **training)
    assert gone_on == halves
    compare(artifacts(store), artifacts(studies.unpack("whole", tmp_path)), same_rounding)


# ---


def printed(command: str) -> str:
    """What a command prints: what it printed then, or, of what is said in other words since, `printed_since/`."""
    since = MADE.parent / "printed_since" / f"{command}.txt"
    return (since if since.exists() else MADE / "printed" / f"{command}.txt").read_text()


def as_before(new: Path, old: Path) -> bytes:
    """A file without what was added to it since: the columns of a table that come after those that it had."""
    if new.suffix != ".csv":
        return new.read_bytes()
    columns = old.read_text().partition("\n")[0].count(",") + 1
    return "".join(f"{','.join(line.split(',')[:columns])}\n" for line in new.read_text().splitlines()).encode()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents(store: Path) -> dict[str, tuple[int, int]]:
    """When each file of the artifacts was written, and its size; and what is set aside."""
    paths = [*store.glob("runs/*/*"), *store.glob("aside/*")]
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def artifacts(store: Path) -> dict[str, dict[str, str]]:
    """The finished artifacts by name, with the hashes of their files; none is unfinished or set aside."""
    found = {name: Store(store).finished(name) for name in Store(store).names()}
    assert not list(store.glob("aside/*"))
    return {name: hashes(artifact) for name, artifact in found.items() if artifact}


def hashes(artifact: Artifact) -> dict[str, str]:
    """Of an artifact's files; of metrics with held-out examples, the rows that both versions have, instead.

    Version 0.1.0 wrote the test error wherever the validation loss was lower than before. By now it is written at the
    end of the training, where that loss is lowest; before the end, the weights there are kept.
    """
    found = dict(artifact.hashes)
    spec = json.loads((artifact.folder / "spec.json").read_bytes())
    for file in [name for name in found if name.endswith(METRICS)]:
        recorded = [json.loads(line) for line in artifact.read(file).splitlines()]
        validation = [row for row in recorded if row["split"] == "validation"]
        if not validation:
            continue
        at = min(validation, key=lambda row: row["loss"])["iteration"]
        test = [row for row in recorded if (row["split"], row["iteration"]) == ("test", at)]
        kept = found.pop(file.replace(METRICS, BEST), None)
        ended = artifact.facts["diverged_at"] is not None or spec["iteration"] == spec["task"]["iterations"]
        if ended:
            assert test
            assert not kept
        elif artifact.facts["iteration"] != at:
            assert bool(test) != bool(kept)
        found[file] = json.dumps([*validation, *(test if ended else [])])
    return found


def compare(new: dict[str, dict[str, str]], old: dict[str, dict[str, str]], same_rounding: bool) -> None:
    assert {name: sorted(hashes) for name, hashes in new.items()} == {name: sorted(old[name]) for name in old}
    if same_rounding:
        assert new == old


def remove(store: Path, kind: str, *labels: str) -> list[str]:
    """Remove the artifacts of a study that have one of these labels, regular expressions; their names."""
    (record,) = store.glob(f"studies/{kind}-*.json")
    jobs = json.loads(record.read_bytes())["jobs"]
    names = [name for name in jobs if re.fullmatch("|".join(labels), Store(store).describe(name)["facts"]["label"])]
    for name in names:
        shutil.rmtree(store / "runs" / name)
    return names


def found_partial(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of jobs that go on from what an interrupted computation left, as far as they have come up to then."""
    found, partial = set(), Store.partial

    def noted(store: Store, job: Any) -> Any:
        artifact = partial(store, job)
        found.update([artifact.name] if artifact else [])
        return artifact

    monkeypatch.setattr(Store, "partial", noted)
    return found


def complete(kind: str, store: Path, data: Path, folder: Path, same_rounding: bool) -> None:
    """Compute what is missing of a study, and compare its tables with those that were made when nothing was."""
    (folder / kind).mkdir()
    STUDIES[kind](store, data).save(folder / kind)
    for name in TABLES[kind]:
        new, old = (path / kind / name for path in (folder, MADE))
        if same_rounding:
            assert as_before(new, old) == old.read_bytes()
        new.write_bytes(as_before(new, old))
        studies.assert_close(rows(new), rows(old))


def rows(table: Path) -> list[dict[str, Any]]:
    """Numbers with a point as floats, all else as text."""
    with table.open(newline="") as lines:
        return [{name: number_or_text(field) for name, field in row.items()} for row in csv.DictReader(lines)]


def number_or_text(field: str) -> float | str:
    return float(field) if re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", field) else field
