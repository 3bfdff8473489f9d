"""Several new initialisations of each ticket, and what figures show of the trials."""

import numpy as np
import pytest
from tickets.test_conditions import OPTIONS, TASK, settings
from tickets.test_lottery_files import made_up

from modeconn import load_result, lottery
from modeconn.cli.main import main
from modeconn.errors import OptionError
from modeconn.tickets.options import LotteryOptions

CONDITIONS = ["imp", "reinit", "snip-reinit", "sign"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_dir):
    """A folder with the results of a study of three draws in `out`, and its store."""
    folder = tmp_path_factory.mktemp("draws")
    options = OPTIONS | {"conditions": CONDITIONS, "replicates": 2, "reinits": 3}
    lottery(TASK, **options, **settings(folder / "store", data_dir), out=folder / "out")
    return folder


@pytest.mark.slow
def test_each_draw_of_new_weights_has_a_row_and_the_first_is_the_only_one_of_a_study_without(place, data_dir):
    result = load_result(place / "out")
    draws = {name: [row["draw"] for row in result.rows if row["condition"] == name] for name in CONDITIONS}
    assert draws == {"imp": [0] * 4} | {name: [0, 1, 2] * 4 for name in CONDITIONS[1:]}
    tickets = [row["ticket"] for row in result.rows]
    assert len(set(tickets)) == len(tickets)
    computed = []
    options = OPTIONS | {"conditions": CONDITIONS, "replicates": 2}
    one = lottery(TASK, **options, **settings(place / "store", data_dir), report=computed.append)
    assert all(progress.about.startswith("0 of ") and not progress.jobs for progress in computed)
    assert [row["ticket"] for row in one.rows] == [row["ticket"] for row in result.rows if not row["draw"]]
    assert one.layers == result.layers
    assert "reinits" not in one.summary
    assert (result.summary["reinits"], result.samples[:13]) == (3, "2 replicates,")


@pytest.mark.slow
def test_means_are_over_all_draws(place):
    result = load_result(place / "out")
    _, values = result.values("test_error", "reinit")
    assert values.shape == (3, 6)
    assert np.isnan(values[0]).sum() == 4  # the dense networks are no draws
    of_level = [row["test_error"] for row in result.rows if (row["level"], row["condition"]) == (2, "reinit")]
    assert values[2].tolist() == of_level
    line = next(line for line in result.plot().lines if line.get_label() == "random reinit")
    assert line.get_ydata()[2] == pytest.approx(100 * np.mean(of_level))
    matching = result.sparsest_matching()["reinit"]["matching_02"]
    assert matching is None or matching["level"] in (1, 2)
    shown = f"{100 * np.mean(of_level):.2f}"
    assert any(line.split()[2:4] == ["reinit", shown] for line in str(result).splitlines())


@pytest.mark.slow
def test_masks_are_written_once(place):
    assert len(list((place / "out" / "masks").iterdir())) == 2 * 2 * len(CONDITIONS)


def test_draws_are_counted_among_the_jobs():
    with pytest.raises(OptionError, match="at least one new initialisation"):
        LotteryOptions(reinits=0)
    with pytest.raises(OptionError, match="a study has at most"):
        LotteryOptions(reinits=10_000)
    assert LotteryOptions(reinits=3).draws("random") == 1


# --- bars


def test_bars_reach_from_the_least_to_the_highest_of_the_trials():
    ax = made_up().plot(bars="minmax")
    errors = next(c for c in ax.containers if c.get_label() == "random reinit")
    (low, high), *_ = errors[2][0].get_segments()
    assert (low[1], high[1]) == (pytest.approx(2.0), pytest.approx(2.2))
    assert "random reinit" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_bars_that_do_not_exist_are_refused():
    with pytest.raises(OptionError, match="unknown bars 'range'"):
        made_up().plot(bars="range")


@pytest.mark.slow
def test_the_command_draws_bars(place, capsys):
    before = (place / "out" / "lottery.png").read_bytes()
    assert main(["plot", str(place / "out"), "--bars", "minmax"]) == 0
    assert (place / "out" / "lottery.png").read_bytes() != before
    assert main(["plot", str(place / "out"), "--bars", "range"]) == 2
    assert "unknown bars" in capsys.readouterr().err
