"""The commands on a store: runs, and what can be done with them: show, verify, clean. Imports no torch."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

from modeconn.cli.options import add_command, add_store
from modeconn.errors import CorruptArtifact, ModeconnError, StoreError, unknown
from modeconn.execution.artifact import Artifact
from modeconn.execution.maintenance import (
    UNREADABLE,
    find_damage,
    find_garbage,
    inputs_in,
    is_busy,
    last_heartbeat,
    remove,
)
from modeconn.execution.records import StudyRecord, read_records
from modeconn.execution.store import Store
from modeconn.files import size_of
from modeconn.reading import parse_json, read_file

_WORDS = re.compile(r"\d+|\D+")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the store that is listed, and what else can be done with it."""
    add_store(parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    one = add_command(actions, show, "what a run or a study is: spec, files, inputs, who refers to it, last metrics")
    sound = add_command(actions, verify, "check the hash of everything in the store; status 1 if something is damaged")
    cleaning = add_command(actions, clean, "remove temporary files, damaged ones, and what no study refers to")
    for action in (one, sound, cleaning):
        add_store(action, default=argparse.SUPPRESS)  # any other would undo a --store before the action
    one.add_argument("name", metavar="NAME", help="of a run or a study, or the beginning of a name that no other has")
    cleaning.add_argument("--yes", action="store_true", help="do not ask")


def runs(options: argparse.Namespace) -> None:
    """List the studies and runs of a store with their state and size."""
    store = Store(options.store, create=False)
    records = read_records(store)
    found = {name: _describe(store, name) for name in store.names()}
    asked = {name for record in records for name in record.jobs}
    busy = _busy(store, found, asked.union(found))
    if records:
        _print_studies(records, found, busy)
    if not found:
        print("No run has begun here.")
        return
    if records:
        print()
    _print_runs(store, found, busy)


def show(options: argparse.Namespace) -> None:
    """Print what a run or a study is."""
    store = Store(options.store, create=False)
    records = {record.name: record for record in read_records(store)}
    name = _full_name(options.name, [*records, *store.names()])
    lines = _study_lines(store, records[name]) if name in records else _run_lines(store, name, records)
    for line in lines:
        print(line)


def verify(options: argparse.Namespace) -> None:
    """Check the hash of everything in a store, of the records of its studies too.

    Raises:
        StoreError: something is damaged, or cannot be read.
    """
    store = Store(options.store, create=False)
    names, size = store.names(), 0
    read_records(store, strict=True)
    damaged, unreadable = 0, 0
    for name in names:
        reason = find_damage(store, name)
        size += size_of(store.runs / name)
        if reason is not None:
            unreadable += reason == UNREADABLE
            damaged += reason != UNREADABLE
            print(f"{name}  {reason}")
    if damaged:
        raise StoreError(
            f"{damaged} of {len(names)} artifacts are damaged; nothing damaged is used: the command of the study "
            "sets it aside and computes it again"
        )
    if unreadable:
        raise StoreError(f"{unreadable} of {len(names)} artifacts cannot be read; see that this user may read them")
    print(f"{len(names)} artifacts, {_size(size)}: all have the hashes they were written with")


def clean(options: argparse.Namespace) -> None:
    """Remove what no study needs, if the user agrees."""
    store = Store(options.store, create=False)
    unneeded = find_garbage(store)
    kinds = (
        ("temporary files", unneeded.temporary),
        ("artifacts set aside as damaged", unneeded.aside),
        ("artifacts that no study refers to", unneeded.artifacts),
    )
    for text, sizes in kinds:
        if sizes:
            print(f"{text}: {len(sizes)}, {_size(sum(sizes.values()))}")
            for one in sizes:
                print(f"  {one if isinstance(one, str) else one.relative_to(store.root)}")
    for name in unneeded.busy:
        print(f"kept, as a process is working on it: {name}")
    if store.names() and not unneeded.studies:
        print("No study is recorded here, so all artifacts are kept. The command of a study records it.")
    if not any(sizes for _, sizes in kinds):
        print("There is nothing to remove.")
    elif options.yes or _agreed(f"Remove these {_size(unneeded.size)}?"):
        print(f"{_size(remove(store, unneeded))} removed.")


def _print_studies(records: list[StudyRecord], found: dict[str, dict[str, Any]], busy: set[str]) -> None:
    width = max(len(record.name) for record in records) + 2
    print(f"{'study':<{width}}{'state':<12}{'done':>14}{'size':>10}  {'began':<18}results")
    for record in records:
        done = sum(1 for name in record.jobs if name in found and found[name]["status"] == "done")
        size = sum(found[name]["bytes"] for name in record.jobs if name in found)
        counts = f"{done} of {len(record.jobs)}"
        row = f"{record.name:<{width}}{_study_state(record, found, busy):<12}{counts:>14}{_size(size):>10}"
        print(f"{row}  {_date(record.began):<18}{record.results or ''}".rstrip())


def _print_runs(store: Store, found: dict[str, dict[str, Any]], busy: set[str]) -> None:
    print(f"{'run':<28}{'state':<15}{'model':<16}{'state at':>12}{'size':>10}  what")
    for name, run in sorted(found.items(), key=_sort_key):
        state = f"{_run_state(store, run, name in busy):<15}"
        row = f"{name:<28}{state}{run['model']:<16}{run['reached']:>12}{_size(run['bytes']):>10}"
        print(f"{row}  {run['facts'].get('label', '')}".rstrip())


def _describe(store: Store, name: str) -> dict[str, Any]:
    """A run as the store describes it, with two columns of the list for its spec, as all specs fill memory."""
    run = store.describe(name)
    spec = run.pop("spec")
    task = spec.get("task", {})
    reached = f"{spec.get('iteration', '')}/{task.get('iterations', '')}" if task else ""
    return run | {"model": task.get("model", ""), "reached": reached}


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ModeconnError("nothing is removed, as there is no terminal to ask on; --yes removes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _full_name(given: str, names: list[str]) -> str:
    found = [name for name in names if name.startswith(given)]
    if given in names:
        return given
    if not found:
        raise (
            unknown("run or study", given, names)
            if len(names) < 10
            else StoreError(f"the store has no run or study {given}; modeconn runs lists what it has")
        )
    if len(found) > 1:
        raise StoreError(f"{len(found)} names begin with {given}: {', '.join(found[:5])}{', ...' * (len(found) > 5)}")
    return found[0]


def _sort_key(item: tuple[str, dict[str, Any]]) -> tuple[str, list[tuple[int, str]], str]:
    """The place of a run in the list: by kind, then by label, whose numbers are compared as numbers."""
    name, run = item
    words = _WORDS.findall(run["facts"].get("label", ""))
    return name.rpartition("-")[0], [(int(word), "") if word.isdecimal() else (0, word) for word in words], name


def _busy(store: Store, found: dict[str, dict[str, Any]], names: Iterable[str]) -> set[str]:
    """Names of the runs that some process is computing. They join `found`, as a run leaves no files at first."""
    unfinished = (name for name in names if name not in found or found[name]["status"] != "done")
    busy = {name for name in unfinished if is_busy(store, name)}
    found.update({name: _describe(store, name) for name in busy.difference(found)})
    return busy


def _run_state(store: Store, run: dict[str, Any], busy: bool) -> str:
    if busy:
        heartbeat = last_heartbeat(store, run["name"])
        return f"running {100 * heartbeat['fraction']:.0f} %" if heartbeat else "running"
    return "diverged" if run["facts"].get("diverged_at") is not None else str(run["status"])


def _study_state(record: StudyRecord, found: dict[str, dict[str, Any]], busy: set[str]) -> str:
    if not busy.isdisjoint(record.jobs):
        return "running"
    return "done" if all(name in found and found[name]["status"] == "done" for name in record.targets) else "unfinished"


def _study_lines(store: Store, record: StudyRecord) -> Iterator[str]:
    there = set(store.names())
    found = {name: _describe(store, name) for name in record.jobs if name in there}
    busy = _busy(store, found, record.jobs)
    yield f"{record.name}  {_study_state(record, found, busy)}"
    yield f"  kind: {record.kind}"
    yield f"  task: {record.task}"
    yield f"  command: {record.command or 'none; a script asked for it'}"
    yield f"  began: {_date(record.began)}"
    yield f"  results: {record.results or 'nowhere'}"
    done = {name for name, run in found.items() if run["status"] == "done"}
    yield f"  done: {len(done)} of {len(record.jobs)} jobs, {_size(sum(run['bytes'] for run in found.values()))}"
    left = [name for name in record.jobs if name not in done]
    if left:
        yield "not done:"
    for name in left:
        yield f"  {name}  {_run_state(store, found[name], name in busy) if name in found else 'not begun'}".rstrip()


def _run_lines(store: Store, name: str, records: dict[str, StudyRecord]) -> Iterator[str]:
    run = store.describe(name)
    yield f"{name}  {_run_state(store, run, is_busy(store, name))}"
    if label := run["facts"].get("label"):
        yield f"  {label}"
    yield f"  {store.runs / name}"
    if is_busy(store, name) and (heartbeat := last_heartbeat(store, name)):
        yield f"  process {heartbeat['pid']} on {heartbeat['host']}, last heard of {_date(heartbeat['time'])}"
    yield from ("", "spec", *_json_lines({key: value for key, value in run["spec"].items() if key != "schema"}))
    facts = {key: value for key, value in run["facts"].items() if key not in ("label", "prefix")}
    yield from ("", "facts", *_json_lines(facts)) if facts else ()
    yield from ("", "files")
    for file in sorted((store.runs / name).glob("*")):
        yield f"  {file.name:<32}{_size(file.stat().st_size):>10}"
    inputs = dict.fromkeys(inputs_in(run["spec"]))
    for record in records.values():
        inputs.update(dict.fromkeys(record.jobs.get(name, ())))
    yield from ("", "made from", *(f"  {source}" for source in inputs)) if inputs else ()
    yield from ("", "needed by", *(f"  {user}" for user in _users(store, name, records)))
    yield from _metrics(store.held(name))


def _users(store: Store, name: str, records: dict[str, StudyRecord]) -> list[str]:
    """Studies and artifacts that refer to an artifact."""
    found = {record.name: None for record in records.values() if name in record.jobs}
    for record in records.values():
        found.update({job: None for job, sources in record.jobs.items() if name in sources})
    for other in store.names():
        # A spec that does not have the name in its text need not be parsed.
        with contextlib.suppress(OSError):
            if name.encode() in read_file(f"{store.runs}/{other}/spec.json"):
                found.update({other: None} if name in inputs_in(store.describe(other)["spec"]) else {})
    return list(found) or ["nothing"]


def _metrics(artifact: Artifact | None) -> Iterator[str]:
    """The last metrics of each split of a training, or loss and error of a measurement."""
    for file in artifact.hashes if artifact else ():
        if artifact and file.endswith("metrics.jsonl"):
            rows = _lines(artifact, file)
            last = {row["split"]: row for row in rows}
            if last:
                yield from ("", "last metrics")
            for split, row in last.items():
                place = f"  {split} at iteration {row['iteration']}"
                yield f"{place}: loss {row['loss']:.4f}, error {100 * row['error']:.2f} %"
        elif artifact and file == "counts.json":
            yield from ("", "measured")
            for split, counts in _checked(artifact, file, artifact.read(file), dict[str, _Counts]).items():
                examples = max(1, counts["examples"])
                loss, error = counts["loss_sum"] / examples, 100 * counts["errors"] / examples
                yield f"  {split}: loss {loss:.4f}, error {error:.2f} % of {counts['examples']} examples"


class _Row(TypedDict):
    """A line of metrics."""

    split: str
    iteration: int
    loss: float
    error: float


class _Counts(TypedDict):
    """Counts of a measurement on one split."""

    loss_sum: float
    errors: int
    examples: int


def _lines(artifact: Artifact, file: str) -> list[_Row]:
    return [_checked(artifact, file, line, _Row) for line in artifact.read(file).splitlines()]


def _checked(artifact: Artifact, file: str, content: bytes, kind: Any) -> Any:
    try:
        return parse_json(content, kind, bare=True)
    except ValueError as error:
        raise CorruptArtifact(artifact.name, f"{file} cannot be read ({error})") from error


def _json_lines(content: dict[str, Any], indent: int = 2) -> Iterator[str]:
    """Nested JSON, one line for each value."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield f"{' ' * indent}{key}:"
            yield from _json_lines(value, indent + 2)
        elif isinstance(value, list):
            yield f"{' ' * indent}{key}: {', '.join(map(_text, value)) or 'none'}"
        else:
            yield f"{' ' * indent}{key}: {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_text(inner)}' for key, inner in value.items())})"
    return "none" if value in (None, "") else f"{value}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a heartbeat may say anything
        return "at no known time"
