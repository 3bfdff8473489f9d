"""Lottery-ticket studies at several rewinding iterations: what they share, their tables, files and figures."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from modeconn import get_task, load_result, lottery
from modeconn.cli.main import main
from modeconn.errors import DataError, OptionError
from modeconn.execution.names import job_name
from modeconn.tickets.export import export_ticket
from modeconn.tickets.figures import rewinding_figure
from modeconn.tickets.lottery import with_early_stopping
from modeconn.tickets.matching import with_matching
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.tickets.result import LotteryResult
from modeconn.training.task_training import prepare

KS = [0, 2, 5]
TASK = replace(get_task("digits-conv", evaluate_every=4), iterations=8)
SMALL = {"levels": 2, "fraction": 0.4, "replicates": 2, "conditions": ["imp", "reinit"], "alphas": 3}


def settings(store, data_dir):
    return {"workers": 0, "store": store, "data_dir": data_dir, "device": "cpu", "calibration": 100}


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_dir):
    """A folder with the results of a study in `out`, and its store."""
    folder = tmp_path_factory.mktemp("rewinding")
    lottery(TASK, **SMALL, rewind_iter="0,2,5", **settings(folder / "store", data_dir), out=folder / "out")
    return folder


@pytest.fixture(scope="module")
def result(place):
    return load_result(place / "out")


def made_up():
    """Test errors of two replicates at two levels and three k, from a formula; instability of one condition."""
    rows = []
    for k in KS:
        of_k = []
        for replicate in range(2):
            for level, condition in ((0, "dense"), (1, "imp"), (1, "random"), (2, "imp"), (2, "random")):
                error = (
                    0.02 + 0.01 * replicate + (0 if level == 0 else (0.1 if condition == "random" else 0.05) / (1 + k))
                )
                instability = math.nan if condition == "random" else 0.3 / (1 + k)
                of_k.append(
                    {"replicate": replicate, "level": level, "condition": condition, "density": 0.5**level}
                    | {"rewind_iter": k, "test_error": error + 0.001 * level, "instability_test": instability}
                )
        rows += with_matching(of_k)
    about = {"task": "made-up", "task_changes": "", "replicates": 2, "statistics_fix": "repair", "threshold": 0.02}
    return LotteryResult(
        rows, [], about | {"diverged": [], "data_note": "", "by_rewind_iter": {str(k): {} for k in KS}}
    )


# --- the study


@pytest.mark.slow
@pytest.mark.parametrize("k", KS)
def test_each_k_of_several_is_the_study_of_that_k_alone(k, place, result, data_dir, tmp_path):
    computed = []
    where = settings(place / "store", data_dir) | {"report": computed.append, "out": tmp_path / "out"}
    alone = lottery(TASK, **SMALL, rewind_iter=k, **where)
    assert all(progress.about.startswith("0 of ") and not progress.jobs for progress in computed)
    one = result.at(k)
    assert str(one.rows) == str(alone.rows)
    assert one.layers == alone.layers
    for name in ("rewind_iter", "rewind_iter_because", "sparsest_matching", "emptied_layers", "diverged"):
        assert one.summary[name] == alone.summary[name], name
    masks = sorted((tmp_path / "out" / "masks").iterdir())
    assert len(masks) == 2 * 2 * 2
    for mask in masks:
        assert (place / "out" / "masks" / f"rewind-{k}-{mask.name}").read_bytes() == mask.read_bytes()


@pytest.mark.slow
def test_several_k_have_rows_files_and_figures_of_their_own(place, result):
    assert result.rewind_iters == KS
    assert len(result.rows) == len(KS) * 2 * (1 + 2 * 2)
    assert {row["rewind_iter"] for row in result.layers} == set(KS)
    names = {path.name for path in (place / "out").iterdir()}
    figures = {"rewinding.png", "rewinding.pdf"}
    figures |= {f"{kind}-{k}.{ending}" for kind in ("lottery", "barriers") for k in KS for ending in ("png", "pdf")}
    assert names == figures | {"lottery.csv", "layers.csv", "summary.json", "masks"}
    assert len(list((place / "out" / "masks").iterdir())) == len(KS) * 2 * 2 * 2
    text = str(result)
    assert "Rewinding to iterations 0, 2 and 5, as given." in text
    assert [f"k = {k} (" in text for k in KS] == [True] * 3
    assert result.summary["rewind_iter"] is None
    assert list(result.summary["by_rewind_iter"]) == [str(k) for k in KS]


@pytest.mark.slow
def test_what_was_saved_is_written_again_with_the_same_bytes(place, result, tmp_path):
    result.save(tmp_path)
    for name in ("lottery.csv", "layers.csv", "summary.json"):
        assert (tmp_path / name).read_bytes() == (place / "out" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no k", "another k"])
def test_a_summary_of_other_rewinding_iterations_is_refused(damage, result, tmp_path):
    result.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    by_k = summary.pop("by_rewind_iter")
    if damage == "another k":
        summary["by_rewind_iter"] = {"3": by_k["2"], "0": by_k["0"], "5": by_k["5"]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="rewinding iterations"):
        load_result(tmp_path)


@pytest.mark.slow
def test_figures_of_one_k_take_the_place_of_those_of_several(place, data_dir, tmp_path):
    where = settings(place / "store", data_dir) | {"out": tmp_path / "out"}
    lottery(TASK, **SMALL, rewind_iter=[0, 2], **where)
    lottery(TASK, **SMALL, rewind_iter=2, **where)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"lottery.csv", "layers.csv", "summary.json", "masks"} | {
        f"{kind}.{ending}" for kind in ("lottery", "barriers") for ending in ("png", "pdf")
    }
    assert all(path.name.startswith("replicate-") for path in (tmp_path / "out" / "masks").iterdir())


@pytest.mark.slow
def test_a_ticket_of_one_k_is_exported(place, tmp_path, capsys):
    common = {"level": 2, "store": place / "store"}
    with pytest.raises(OptionError, match="rewind_iter=: 0, 2, 5"):
        export_ticket(place / "out", tmp_path / "ticket", **common)
    with pytest.raises(OptionError, match="unknown rewinding iteration '3'"):
        export_ticket(place / "out", tmp_path / "ticket", rewind_iter=3, **common)
    command = ["export", str(place / "out"), "--store", str(place / "store"), "--out", str(tmp_path / "ticket")]
    assert main([*command, "--rewind-iter", "5", "--level", "2"]) == 0
    assert "level 2, replicate 0, at iteration 5" in capsys.readouterr().out


@pytest.mark.slow
def test_the_trunk_of_a_replicate_is_trained_once_whatever_the_number_of_k(data_dir):
    prepared = prepare(with_early_stopping(TASK, data_dir, None), data_dir=data_dir, device="cpu")
    options = LotteryOptions(**SMALL, rewind_iter=KS)
    together = list(plan_replicate(plan_lottery(prepared, options, *KS), 0))
    dense = [found for found in together if found.condition == "dense"]
    assert [found.start.iteration for found in dense] == KS
    assert dense[1].start.start is dense[0].start
    assert dense[2].start.start is dense[1].start
    alone = [found for k in KS for found in plan_replicate(plan_lottery(prepared, options, k), 0)]
    assert [job_name(job) for found in together for job in found.jobs] == [
        job_name(job) for found in alone for job in found.jobs
    ]


# --- the result


def test_one_k_of_several_is_asked_for():
    result = made_up()
    for asked in (result.sparsest_matching, lambda: result.values("test_error", "imp")):
        with pytest.raises(OptionError, match=r"take one of 0, 2, 5 by at\(k\)"):
            asked()
    with pytest.raises(OptionError, match="unknown rewinding iteration '3'"):
        result.at(3)
    assert result.at(2).rewind_iters == [2]
    assert result.at(2).at(2).rows == result.at(2).rows
    assert result.at(5).sparsest_matching()["imp"]["matching_02"] is None


def test_error_over_k_is_the_mean_at_the_sparsest_level_beside_the_dense_networks():
    ax = made_up().plot_rewinding()
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["IMP", "random pruning", "dense"]
    for label, height in (("IMP", 5), ("random pruning", 10)):
        assert lines[label].get_xdata().tolist() == KS
        assert np.allclose(lines[label].get_ydata(), [2.5 + 0.2 + height / (1 + k) for k in KS])
    assert np.allclose(lines["dense"].get_ydata(), 2.5)
    assert ax.get_title() == "25 % of weights"
    at_1 = made_up().plot_rewinding(level=1, conditions=["imp"])
    assert np.allclose(at_1.lines[0].get_ydata(), [2.5 + 0.1 + 5 / (1 + k) for k in KS])
    assert [line.get_label() for line in at_1.lines] == ["IMP", "dense"]


def test_plot_draws_several_k_over_k():
    plotted, over_k = (draw(column="instability_test") for draw in (made_up().plot, made_up().plot_rewinding))
    assert plotted.get_xlabel() == "rewinding iteration k (symlog scale)"
    assert [line.get_label() for line in plotted.lines] == ["IMP", "dense", "2 points"]
    for one, other in zip(plotted.lines, over_k.lines, strict=True):
        assert np.allclose(one.get_ydata(), other.get_ydata())


def test_the_figure_over_k_has_error_and_instability_of_each_level():
    figure = rewinding_figure(made_up(), level=1)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["50 % of weights"] * 2 + ["25 % of weights"] * 2
    assert "rewound to 3 iterations" in figure.get_suptitle()
    assert len(rewinding_figure(made_up()).axes) == 2
    with pytest.raises(OptionError, match="no level 7; it has 0, 1, 2"):
        rewinding_figure(made_up(), level=7)


@pytest.mark.slow
def test_the_figure_is_drawn_again_with_another_level(place, capsys):
    before = (place / "out" / "rewinding.png").read_bytes()
    assert main(["plot", str(place / "out"), "--level", "1"]) == 0
    assert (place / "out" / "rewinding.png").read_bytes() != before
    assert main(["plot", str(place / "out")]) == 0
    assert (place / "out" / "rewinding.png").read_bytes() == before
    assert main(["plot", str(place / "out"), "--level", "9"]) == 2
    assert "no level 9" in capsys.readouterr().err
