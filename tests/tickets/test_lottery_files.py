"""What people see of a lottery-ticket study: commands, tables, figures, exported tickets."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import prune as torch_prune

from modeconn import load_data, load_result
from modeconn.cli.main import main
from modeconn.errors import DataError, OptionError
from modeconn.execution import Store
from modeconn.models import build_network
from modeconn.pruning.masks import Mask
from modeconn.tickets.export import export_ticket
from modeconn.tickets.figures import barriers_figure, lottery_figure
from modeconn.tickets.matching import with_matching
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.result import LotteryResult
from modeconn.training.jobs import load_state

pytestmark = pytest.mark.slow  # whole studies

SMALL = [
    *("--iterations", "20", "--task.evaluate-every", "5", "--levels", "2", "--fraction", "0.5", "--rewind-iter", "10%"),
    *("--replicates", "1", "--conditions", "imp,reinit", "--alphas", "3", "--workers", "0", "--calibration", "100"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_dir):
    """A folder with a small study in `out` and its store."""
    folder = tmp_path_factory.mktemp("lottery")
    files = ["--store", str(folder / "store"), "--data-dir", str(data_dir), "--out", str(folder / "out")]
    assert main(["lottery", *SMALL, *files]) == 0
    return folder


def made_up(**changes):
    """A result of three replicates at four levels, from formulas."""
    rows = []
    for replicate in range(3):
        for level in range(4):
            for condition in ("imp", "reinit") if level else ("dense",):
                error = 0.02 + 0.001 * replicate + (0.01 * level if condition == "reinit" else 0)
                row = {
                    **{"replicate": replicate, "level": level, "density": 0.8**level, "condition": condition},
                    **{"rewind_iter": 5, "test_error": error, "train_error": error, "early_stop_iter": 10 * level + 10},
                    **{"early_stop_error": error, "instability_test": 0.01 if condition != "reinit" else math.nan},
                    **{"instability_train": 0.01, "barrier_to_previous": math.nan, "barrier_to_dense": 0.03 * level},
                    **{"diverged_at": None, "weights": 100, "ticket": "", "mask": "", "barrier_to_dense_fixed": 0.001},
                    **{"instability_test_fixed": math.nan, "instability_train_fixed": math.nan},
                    "barrier_to_previous_fixed": math.nan,
                    **{"chord_barrier_to_previous": math.nan, "chord_barrier_to_dense": 0.004 * level},
                    **{"chord_barrier_to_previous_fixed": math.nan, "chord_barrier_to_dense_fixed": 0.0005},
                    **{"draw": 0, "sign_flips": math.nan},
                }
                rows.append(row | changes.get(condition, {}))
    layers = [
        {"replicate": r, "level": n, "condition": "imp", "layer": name, "weights": 50, "kept": 40, "density": d}
        | {"rewind_iter": 5}
        for r in range(3)
        for n in (1, 2, 3)
        for name, d in (("a.weight", 0.9**n), ("b.weight", 0.0 if n == 3 else 0.7**n))
    ]
    rows = with_matching(rows)
    summary = {
        **{"task": "made-up", "task_changes": "", "iterations": 100, "rewind_iter": 5, "replicates": 3, "levels": 3},
        **{
            "data_note": "pixels differ",
            "threshold": 0.02,
            "statistics_fix": "repair",
            "diverged": [],
            "validation": 7,
            **{"fraction": 0.2, "scope": "layerwise", "rates": [["conv", 0.5], ["output", 0]]},
        },
        "rewind_iter_because": "Rewinding to iteration 5, as given.",
        "not_trained": 0,
        "emptied_layers": [{"replicate": 0, "level": 3, "condition": "imp", "layer": "b.weight"}],
    }
    result = LotteryResult(rows, layers, summary)
    return LotteryResult(rows, layers, summary | {"sparsest_matching": result.sparsest_matching()})


# --- commands


@pytest.mark.slow
def test_the_command_prints_its_table_and_reasons(place, capsys, data_dir):
    files = ["--store", str(place / "store"), "--data-dir", str(data_dir), "--out", str(place / "again")]
    assert main(["lottery", *SMALL, *files]) == 0
    text = capsys.readouterr().out
    for part in (
        "lottery tickets of digits-conv, 20 of 400 iterations",
        "143 training examples held out",
        "Each level prunes 50 % of the remaining weights, the smallest of the network.",
        "Rewinding to iteration 2, as given.",
        "test error",
        "    2      25.00  reinit",
        "No standard deviation to match within: 1 replicate.",
        "Masks make networks sparse, not fast",
        "lottery.csv",
    ):
        assert part in text
    for name in ("lottery.csv", "layers.csv"):
        assert (place / "again" / name).read_bytes() == (place / "out" / name).read_bytes()


def test_every_option_of_a_study_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["lottery", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(LotteryOptions):
        assert f"--{field.name.replace('_', '-')} " in text
    for part in ("imp, random, reinit, shuffle", "--no-fix", "(default: 11)", "(default: 0,1%,3%,10%,30%)"):
        assert part in text
    assert "--task.validation" not in text  # --validation is there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fraction", "1.5"], "between 0 and 1"),
        (["--rewind-iter", "120%"], "outside the training"),
        (["--rates", "nobody=0.5"], "nobody"),
        (["--conditions", "imp,luck"], "luck"),
        (["--levels", "8", "--fraction", "0.9"], "nothing would remain"),
    ],
)
def test_bad_options_are_one_line_and_status_2(options, message, place, capsys, data_dir):
    assert main(["lottery", *SMALL, *options, "--data-dir", str(data_dir), "--store", str(place / "store")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_rate_that_is_none_is_refused_by_the_parser(capsys):
    assert main(["lottery", "--rates", "4.weight:0.5"]) == 2
    assert "4.weight=0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_are_drawn_again_from_files(place, capsys):
    before = (place / "out" / "lottery.png").read_bytes()
    (place / "out" / "lottery.png").unlink()
    assert main(["plot", str(place / "out")]) == 0
    assert (place / "out" / "lottery.png").read_bytes() == before
    assert "barriers.pdf" in capsys.readouterr().out


def test_a_damaged_result_says_what_to_do(place, tmp_path):
    shutil.copytree(place / "out", tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    with pytest.raises(DataError, match=r"no file summary\.json"):
        load_result(tmp_path / "out")
    text = (tmp_path / "out" / "lottery.csv").read_text()
    (tmp_path / "out" / "lottery.csv").write_text(text.replace("density", "sparsity"))
    with pytest.raises(DataError, match="run it again"):
        load_result(tmp_path / "out")


def test_nan_is_null_in_the_summary_and_read_from_older_files_too(tmp_path):
    result = made_up(reinit={"density": math.nan, "test_error": 0.0}).save(tmp_path / "a")
    text = (tmp_path / "a" / "summary.json").read_text()
    assert '"density": null' in text
    (tmp_path / "a" / "summary.json").write_text(text.replace('"density": null', '"density": NaN'))
    again = load_result(tmp_path / "a")
    assert again.summary["sparsest_matching"]["reinit"]["matching_02"]["density"] is None
    assert str(again) == str(result)
    again.save(tmp_path / "b")
    for name in ("lottery.csv", "layers.csv"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert (tmp_path / "b" / "summary.json").read_text() == text


# --- tickets


@pytest.fixture(scope="module")
def ticket(place):
    out = place / "ticket"
    return export_ticket(place / "out", out, level=2, store=place / "store", torch_prune=True)


def test_plain_pytorch_loads_a_ticket(ticket, place, data_dir):
    network = build_network("digits-conv", (1, 8, 8), 10, seed=5)
    network.load_state_dict(load_file(ticket.folder / "weights.safetensors"))
    mask = load_file(ticket.folder / "mask.safetensors")
    kept = sum(int(m.sum()) for m in mask.values())
    assert kept == 758  # of 3,032, half and half again
    assert not any(network.get_parameter(name)[~m].any() for name, m in mask.items())
    row = next(r for r in load_result(place / "out").rows if (r["condition"], r["level"]) == ("imp", 2))
    state = load_state(Store(place / "store").finished(row["ticket"]))
    assert state.iteration == 2
    assert all(torch.equal(value, state.model[name]) for name, value in network.state_dict().items())
    about = json.loads((ticket.folder / "ticket.json").read_text())
    assert (about["weights"], about["rewind_iter"], about["condition"]) == (758, 2, "imp")
    assert sum(layer["kept"] for layer in about["layers"].values()) == 758
    digits = load_data("digits", data_dir=data_dir)
    assert (about["mean"], about["std"]) == (list(digits.mean), list(digits.std))
    assert list(about["layers"]) == list(ticket.mask)
    assert "from network import load, load_mask, scale" in str(ticket)


def test_a_ticket_in_the_form_of_torch_prune_loads_into_a_network_under_it(ticket):
    network = build_network("digits-conv", (1, 8, 8), 10, seed=5)
    for name in ticket.mask:
        torch_prune.identity(network.get_submodule(name.removesuffix(".weight")), "weight")
    network.load_state_dict(load_file(ticket.folder / "torch_prune.safetensors"))
    plain = build_network("digits-conv", (1, 8, 8), 10, seed=6)
    plain.load_state_dict(load_file(ticket.folder / "weights.safetensors"))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(network.eval()(x), plain.eval()(x))


def test_a_ticket_trains_on_in_plain_pytorch_and_stays_pruned(ticket, data_dir):
    network = build_network("digits-conv", (1, 8, 8), 10, seed=5)
    network.load_state_dict(load_file(ticket.folder / "weights.safetensors"))
    mask, data = Mask.load(ticket.folder / "mask.safetensors"), load_data("digits", data_dir)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    images, labels = data.train.images.read(torch.arange(64)) / 255, data.train.labels[:64]
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        mask.apply(network)
        assert not any(network.get_parameter(name)[~m].any() for name, m in mask.items())


def test_the_export_command(place, tmp_path, capsys):
    out = tmp_path / "ticket"
    command = [
        "export",
        str(place / "out"),
        "--store",
        str(place / "store"),
        "--out",
        str(out),
        "--condition",
        "reinit",
    ]
    assert main([*command, "--level", "1"]) == 0
    assert "reinit, level 1, replicate 0, at iteration 2" in capsys.readouterr().out
    weights = ["mask.safetensors", "trained.safetensors", "weights.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*weights, "network.py", "ticket.json"])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"level": 3}, OptionError, r"levels \[1, 2\]"),
        ({"replicate": 1}, OptionError, r"replicates \[0\]"),
        ({"condition": "luck"}, OptionError, "imp, reinit"),
        ({"level": 0}, OptionError, "no ticket"),
    ],
)
def test_what_cannot_be_exported_is_said(options, kind, message, place, tmp_path):
    with pytest.raises(kind, match=message):
        export_ticket(place / "out", tmp_path / "ticket", store=place / "store", **options)
    assert not (tmp_path / "ticket").exists()


def test_a_ticket_needs_its_store(place, tmp_path):
    with pytest.raises(DataError, match="point store="):
        export_ticket(place / "out", tmp_path / "ticket", level=1, store=Store(tmp_path / "other").root)


def test_without_a_level_the_sparsest_that_matches_is_exported(tmp_path, place):
    result = load_result(place / "out")
    dense, *tickets = (row for row in result.rows if row["condition"] != "reinit")
    matching = [row["level"] for row in tickets if row["test_error"] < dense["test_error"] + 0.0019]
    found = export_ticket(place / "out", tmp_path / "ticket", store=place / "store")
    assert found.about["level"] == max(matching, default=2)


# --- tables and figures


def test_the_table_has_a_line_for_each_level_and_condition_in_points():
    text = str(made_up())
    assert "    3      51.20  reinit             5.10" in text
    assert "imp: matches the dense networks within one standard deviation down to 51.2 % (level 3) of weights" in text
    assert "reinit: matches the dense networks within one standard deviation at no level" in text
    assert "Layers with nothing left: 1, first b.weight, imp at level 3, replicate 0." in text
    assert "Data: pixels differ" in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_error_over_density_is_mean_and_deviation_in_percent_and_falls_to_the_right():
    ax = made_up().plot()
    line = next(line for line in ax.lines if line.get_label() == "random reinit")
    assert np.allclose(line.get_xdata(), [100, 80, 64, 51.2])
    assert np.allclose(line.get_ydata(), [2.1, 3.1, 4.1, 5.1])
    left, right = ax.get_xlim()
    assert left > 100 > 51.2 > right
    band = ax.collections[-1].get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [2.1 - 0.1, 5.1 + 0.1])
    assert ax.get_xscale() == "log"


def test_only_what_was_measured_is_drawn():
    ax = made_up().plot(column="instability_test")
    assert "IMP" in [line.get_label() for line in ax.lines]
    assert "random reinit" not in [line.get_label() for line in ax.lines]
    assert "2 points" in [line.get_label() for line in ax.lines]
    empty = made_up().plot(column="barrier_to_previous")
    assert empty.texts[0].get_text() == "nothing was measured"


def test_an_emptied_layer_ends_its_line():
    ax = made_up().plot_layers()
    values = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert np.allclose(values["a.weight"], [100, 90, 81, 72.9])
    assert np.isnan(values["b.weight"][3])


def test_figures_say_what_was_studied_and_how_statistics_were_fixed():
    figure = lottery_figure(made_up())
    assert len(figure.axes) == 4
    assert "made-up, rewound to iteration 5" in figure.get_suptitle()
    assert "pixels differ" in figure.legends[-1].get_title().get_text()
    barriers = barriers_figure(made_up())
    assert [ax.get_title() for ax in barriers.axes] == ["", "with REPAIR"]


def test_unknown_columns_and_conditions_are_refused():
    for options in ({"column": "luck"}, {"column": "ticket"}, {"conditions": ["luck"]}):
        with pytest.raises(OptionError):
            made_up().plot(**options)
    with pytest.raises(OptionError, match="no masks"):
        made_up().plot_layers(condition="reinit")
    with pytest.raises(OptionError, match="unknown column"):
        made_up().values("luck", "imp")
