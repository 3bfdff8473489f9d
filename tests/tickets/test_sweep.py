"""From which rewinding iterations on subnetworks are stable and matching, at each density."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tickets.test_conditions import OPTIONS, TASK, settings

from modeconn import get_task, load_result, lottery, sweep
from modeconn.cli.main import main
from modeconn.errors import DataError, OptionError
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.sweep import first_that_holds
from modeconn.tickets.sweep_result import load_sweep

KS = [0, 1, 2, 3, 4, 5]
# Made up: of each level the k from which replicates 0, 1 and 2 are stable, and match; 9 for never. Not monotone in it.
STABLE = {1: (2, 3, 4), 2: (0, 1, 1), 3: (4, 9, 9)}
MATCHING = {1: (1, 1, 5), 2: (3, 3, 3), 3: (9, 9, 9)}


@pytest.fixture
def asked(monkeypatch):
    """The k and levels that lotteries were asked for; these are made up."""
    asked = []

    def made_up(task, *, rewind_iter, levels, conditions, replicates, **options):
        asked.append((rewind_iter, levels))
        rows = [
            {"condition": name, "level": level, "replicate": r, "density": 0.5**level}
            | {"instability_test": 0.01 if rewind_iter >= STABLE[level][r] else 0.3}
            | {"matching_02": rewind_iter >= MATCHING[level][r] and name == "imp"}
            for name in conditions
            for level in range(1, levels + 1)
            for r in range(replicates)
        ]
        about = {"task": "made-up", "task_changes": "", "replicates": replicates, "iterations": 6, "data_note": "noted"}
        return LotteryResult(rows, [], about | {"versions": {}, "machine": {}})

    monkeypatch.setattr("modeconn.tickets.sweep.lottery", made_up)
    return asked


def test_each_level_is_searched_by_itself_for_every_replicate(asked, data_dir):
    result = sweep(TASK, data_dir=data_dir, levels=[1, 2, 3], ks=KS, replicates=3)
    for row in result.rows:
        which = STABLE if row["property"] == "stable" else MATCHING
        k = which[row["level"]][row["replicate"]] if row["property"] == "stable" or row["condition"] == "imp" else 9
        assert row["rewind_iter"] == (None if k == 9 else k)
        assert row["density"] == 0.5 ** row["level"]
        assert row["measured"] <= 3
    assert len(set(asked)) == len(asked)  # conditions, replicates and properties share them
    assert result.medians("imp", "stable")[1].tolist() == [3, 1, np.inf]
    assert result.medians("imp", "matching")[1].tolist() == [1, 3, np.inf]
    assert result.medians("random", "matching")[1].tolist() == [np.inf] * 3
    assert result.medians("imp", "stable")[0].tolist() == [0.5, 0.25, 0.125]


def test_text_figure_and_files_hold_the_medians(asked, tmp_path, data_dir):
    result = sweep(TASK, data_dir=data_dir, levels=[2, 1], ks="0,1,2,3,4,5", replicates=3, out=tmp_path)
    line = next(line.split() for line in str(result).splitlines() if line.startswith("imp"))
    assert line == ["imp", "1", "50.00", "3", "1"]
    assert "Data: noted" in str(result)
    lines = {line.get_label(): line for line in result.plot().lines}
    assert np.allclose(lines["IMP, stable"].get_ydata(), [3, 1])
    assert np.allclose(lines["IMP, matching"].get_ydata(), [1, 3])
    assert np.isnan(lines["random pruning, matching"].get_ydata()).all()
    loaded = load_result(tmp_path)
    assert loaded.rows == result.rows
    assert str(loaded) == str(result)
    assert "Files: " in str(loaded)
    picture = (tmp_path / "sweep.png").read_bytes()
    (tmp_path / "sweep.png").unlink()
    assert main(["plot", str(tmp_path)]) == 0  # draws it again
    assert (tmp_path / "sweep.png").read_bytes() == picture
    assert main(["plot", str(tmp_path), "--level", "1"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.csv", "summary.json", "sweep.png", "sweep.pdf"}
    with pytest.raises(DataError, match="no sweep of densities"):
        load_sweep(tmp_path / "nowhere")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True).map(sorted), st.integers(0, 1001))
def test_bisection_finds_the_first_by_so_many_questions_as_halving_takes(candidates, first):
    found, asked = first_that_holds(candidates, lambda k: k >= first)
    assert found == next((k for k in candidates if k >= first), None)
    assert len(set(asked)) == len(asked) <= len(candidates).bit_length()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "give at least one level of pruning"),
        ({"levels": [0]}, "at least 1; got 0"),
        ({"levels": 3}, "give levels of pruning in a list; got 3"),
        ({"levels": [1, 60], "rates": []}, "nothing would remain"),
        ({"ks": []}, "give at least one k"),
        ({"ks": 0.5}, "ks are whole numbers or text; got 0.5"),
        ({"ks": "auto"}, "'auto' is not an iteration"),
        ({"ks": [0, 6]}, "ks contain the last iteration, 6"),
        ({"ks": [7]}, "outside the training"),
        ({"conditions": ["rewind0"]}, "leave it out"),
        ({"conditions": ["inp"]}, "did you mean 'imp'"),
        ({"copies": 1}, "at least 2"),
        ({"rates": [("nowhere", 0.5)]}, "nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused(options, message, asked, data_dir):
    with pytest.raises(OptionError, match=message):
        sweep(TASK, data_dir=data_dir, **{"levels": [1], "ks": KS, "fraction": 0.6} | options)
    assert not asked


def test_epochs_are_candidates_too(asked, data_dir):
    one = TASK.iterations / 2
    task = replace(TASK, iterations=6, batch_size=1437 // 3 + 1)  # of 3 batches an epoch, without validation
    result = sweep(task, data_dir=data_dir, levels=[1], ks="0,1ep", validation=0)
    assert result.summary["candidates"] == (0, one)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["interpolate", "recalibrate"])
def test_real_lotteries_are_searched(choice, tmp_path, data_dir):
    task = get_task("digits-conv", width=0.25).shortened(6)
    common = {name: OPTIONS[name] for name in ("fraction", "alphas", "validation")} | {"batchnorm": choice}
    common |= {"conditions": ["imp"], "replicates": 1, "calibration": 100} | settings(tmp_path, data_dir)
    by_k = {
        k: lottery(task, levels=2, rewind_iter=k, barriers=("instability",), splits=("test",), **common) for k in (0, 3)
    }
    both = [next(r for r in by_k[0].rows if r["level"] == 2)[f"instability_test{way}"] for way in ("", "_fixed")]
    threshold = sum(both) / 2  # one choice finds it stable, and the other does not
    column = "instability_test" if choice == "interpolate" else "instability_test_fixed"
    found = sweep(task, levels=[1, 2], ks=[0, 3], threshold=threshold, **common)
    for row in found.rows:
        at = {
            k: next(r for r in one.rows if (r["level"], r["condition"]) == (row["level"], "imp"))
            for k, one in by_k.items()
        }
        stable = [k for k, r in at.items() if r[column] < threshold]
        holds = stable if row["property"] == "stable" else [k for k, r in at.items() if r["matching_02"]]
        if 0 not in holds or 3 in holds:  # where bisection's rule applies
            assert row["rewind_iter"] == (min(holds) if holds else None)


@pytest.mark.slow
def test_the_command_searches_and_writes(tmp_path, data_dir, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--iterations 20 --task.width 0.25 --levels 1,2 --ks 0,20% --fraction 0.5 --conditions imp --alphas 3"
    line = f"sweep digits-conv {small} --replicates 1 --validation 0 --workers 0 --data-dir {data_dir}"
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    assert "smallest k by bisection among 0, 4" in said
    (folder,) = (tmp_path / "modeconn-results").iterdir()
    assert folder.name.startswith("sweep-digits-conv-")
    assert {path.name for path in folder.iterdir()} == {"sweep.csv", "summary.json", "sweep.png", "sweep.pdf"}
    result = load_result(folder)
    assert str(result).replace(str(tmp_path) + "/", "") == said.strip()
    assert [(row["level"], row["property"]) for row in result.rows] == [
        (1, "stable"), (1, "matching"), (2, "stable"), (2, "matching"),
    ]  # fmt: skip
    assert result.summary["command"] == f"modeconn {line}"
