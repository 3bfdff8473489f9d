"""Where the time of a command goes: what is counted, and that nothing is counted twice. Nothing is timed."""

import importlib
import itertools
from types import SimpleNamespace

import pytest

from benchmarks import large_study, phase_clock, phases
from modeconn.execution import Store
from modeconn.execution.maintenance import find_garbage


@pytest.fixture
def clock(monkeypatch) -> phase_clock.Clock:
    """Every look at the clock is a second after the one before, and half of it was the processor's."""
    seconds, halves = itertools.count(), itertools.count()
    times = SimpleNamespace(monotonic=lambda: next(seconds), process_time=lambda: next(halves) / 2)
    monkeypatch.setattr(phase_clock, "time", times)
    return phase_clock.Clock()


def test_a_phase_within_another_is_taken_out_of_it(clock) -> None:
    inner = clock.around(lambda word: f"inner {word}", lambda word: None)

    def twice() -> None:
        inner("a")
        with pytest.raises(TypeError):
            clock.around("fails", lambda: None + 1)()

    clock.around("outer", twice)()
    # Looks: outer, inner, inner, fails, fails, outer.
    assert clock.spent == {"inner a": [1, 0.5], "fails": [1, 0.5], "outer": [3, 1.5]}


def test_every_function_that_begins_a_phase_is_there() -> None:
    for name, functions in phase_clock._PHASES.items():
        for place in functions:
            owner = importlib.import_module(name)
            for word in place.split("."):
                owner = getattr(owner, word)
            assert callable(owner), f"{name}.{place}"


def record(kind: str, process: int, cpu: float, spent: dict, **more) -> dict:
    return {"kind": kind, "process": process, "cpu": cpu, "spent": spent, **more}


MEASURED = {
    "seconds": 20.0,
    "ended": 120.0,
    "used": 9.5,
    "records": [
        record("command", 1, 5.0, {"imports": [4, 3], phase_clock.JOBS: [10, 1]}, ended=119.0),
        record("server", 2, 4.0, {"imports": [3, 2.5]}),
        record("job", 3, 2.0, {"trains": [2, 1.5]}, job="state", began=105.0, ended=108.0),
        record("job", 3, 6.0, {"trains": [4, 3.5]}, job="state", began=108.0, ended=113.0),
        record("job", 4, 1.0, {"measures ends": [1, 0.5]}, job="evaluation", began=112.0, ended=114.0),
        record("job", 5, 1.0, {"measures ends": [1, 0.5]}, job="evaluation", began=114.0, ended=115.0),
    ],
}


def test_phases_add_up_to_the_whole() -> None:
    rows = {row["phase"]: row for row in phases.rows(MEASURED)}
    assert sum(row["command"] for row in rows.values()) == MEASURED["seconds"]
    assert sum(row["cpu"] for row in rows.values()) == 9.5 + 6 + 1 + 1  # the command with its server, and each worker
    assert rows["imports"] == {"phase": "imports", "command": 4, "server": 3, "job": 0, "cpu": 5.5}
    assert (rows["trains"]["job"], rows["trains"]["cpu"]) == (6, 5)
    assert rows["workers have no job"]["job"] == 2 * 10 - (3 + 5 + 2 + 1)  # two at once, while the command waited
    assert (rows["Python ends"]["command"], rows["Python ends"]["cpu"]) == (1, 0.5)
    assert rows["anything else"]["command"] == 20 - 4 - 10 - 1


def test_the_table_has_every_phase() -> None:
    machine = {"cpu": "some", "cores": 2, "flags": ["avx2"], "modeconn": "m", "torch": "t"}
    about = {"command": "instability", "when": "now", "machine": machine, "others": 0.25, "seconds": 20.0}
    text = phases.markdown(about | {"jobs": {"state": 2}, "phases": phases.rows(MEASURED)})
    assert "| imports | 4.00 | 3.00 |  | 5.50 |" in text
    assert "| all | 20.00 |  |  | 17.50 |" in text
    assert "jobs: 2 state. some, 2 cores (avx2)" in text
    assert "others used 25 % of the machine" in text


@pytest.mark.processes
def test_a_command_is_counted_in_all_of_its_processes(data_dir) -> None:
    small = ["--iterations", "2", "--replicates", "1", "--alphas", "3", "--rewind-iters", "0", "--splits", "test"]
    measured = phases.measure(["instability", *small, "--workers", "1", "--data-dir", str(data_dir)])
    kinds = [one["kind"] for one in measured["records"]]
    assert (kinds.count("command"), kinds.count("server")) == (1, 1)
    rows = {row["phase"]: row for row in phases.rows(measured)}
    assert rows["imports"]["command"] > 0 < rows["imports"]["server"]
    for phase in ("trains cohorts", "measures ends", "measures paths", "writes files", "loads data"):
        assert rows[phase]["job"] > 0, phase
    for phase in ("plans and checks", "collects", "draws figures", "saves figures (png)", "saves figures (pdf)"):
        assert rows[phase]["command"] > 0, phase
    assert min(row["command"] for row in rows.values()) > -1e-6


# A large study.


def test_a_large_study_is_planned_and_its_store_can_be_read(tmp_path) -> None:
    planned = large_study.planning(0, replicates=1)()
    made = large_study.filled_store(0, replicates=1, folder=str(tmp_path))()
    assert planned["jobs"] == made["work"] == 170  # 10 of them cohorts
    store = Store(tmp_path / "store", create=False)
    assert all(store.describe(name)["status"] == "done" for name in store.names())
    assert len(store.names()) == 170
    assert not find_garbage(store).artifacts  # a record refers to all of them
