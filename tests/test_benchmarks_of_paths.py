"""The benchmarks of paths: adaptive alphas replayed, other orders of measuring, draws of calibration images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import instability
from torch import nn

from benchmarks import adaptive_answers, calibration_images, path_orders
from modeconn.analysis.paths.alphas import CANDIDATES, COUNTED, SHARE, grid
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import make_line
from modeconn.data import load_data
from modeconn.data.batches import SplitBatches
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.models import build_network
from modeconn.tasks import get_task
from modeconn.training import task_training
from modeconn.weights.sources import weights_of

ALPHAS = np.array(grid(CANDIDATES))


# Adaptive alphas, replayed.


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("peak", [3, 15, 22])
def test_a_peak_is_found_wherever_it_is(alike: bool, peak: int) -> None:
    errors = 0.02 + 0.5 * np.exp(-((ALPHAS - ALPHAS[peak]) ** 2) / 0.02)
    found = adaptive_answers.replay(np.rint(errors * 10_000) / 10_000, 10_000, alike, np.random.default_rng(0))
    by_hand = errors.max() - (errors[0] + errors[-1]) / 2
    assert found.barrier == found.whole == pytest.approx(by_hand, abs=1e-4)
    assert found.times == (CANDIDATES - 2) / (found.counted + CANDIDATES * SHARE)
    assert 1 <= found.counted <= COUNTED - 2


def test_of_few_examples_all_alphas_are_counted() -> None:
    errors = np.where(np.arange(CANDIDATES) == 7, 0.5, 0.0)
    found = adaptive_answers.replay(errors, 360, False, np.random.default_rng(0))
    assert (found.barrier, found.whole, found.counted, found.times) == (0.5, 0.5, CANDIDATES - 2, 1.0)


def test_paths_of_few_alphas_are_joined_by_straight_lines(tmp_path: Path) -> None:
    header = "replicate,split,alpha,error,loss"
    rows = ["0,test,1.0,0.2,9", "0,test,0.0,0.0,9", "0,test,0.5,0.4,9", "0,train,0.0,0.1,9", "0,train,1.0,0.1,9"]
    (tmp_path / "paths.csv").write_text("\n".join([header, *rows]))
    found = adaptive_answers._curves(tmp_path / "paths.csv")
    (test,), (train,) = found["test"], found["train"]
    assert np.allclose(test[: CANDIDATES // 2 + 1], 0.8 * ALPHAS[: CANDIDATES // 2 + 1])
    assert np.allclose(test[CANDIDATES // 2 :], 0.6 - 0.4 * ALPHAS[CANDIDATES // 2 :])
    assert np.allclose(train, 0.1)


def test_answers_say_where_decisions_differ() -> None:
    # A thousandth of the instability: 0.3 points at k = 0 instead of 30, while replicates differ by 1 point.
    lines = list(adaptive_answers.answers(instability(), instability(scale=0.001)))[2:5]
    means, apart = zip(*((line.split()[3:5], line.split()[5]) for line in lines), strict=True)
    assert means[0] == ["30.500", "0.530"]
    assert float(apart[0]) == pytest.approx(29.97)
    assert [("OTHER" in line, "same" in line) for line in lines] == [(True, False), (True, False), (False, True)]


# Orders of measuring a path.


def line_of(model: str) -> tuple[PathEvaluator, object, list]:
    torch.set_num_threads(1)
    a, b, network = (build_network(model, (1, 8, 8), 10, seed=seed).eval() for seed in range(3))
    for end in (a, b):  # biases are 0 at initialisation
        for parameter in end.parameters():
            nn.init.normal_(parameter, std=0.1) if parameter.ndim == 1 else None
    batches = list(SplitBatches(load_data("digits"), "test").take(torch.arange(300)))
    few = [(images[at : at + 60], labels[at : at + 60]) for images, labels in batches for at in range(0, 300, 60)]
    line = make_line(weights_of(a, "a"), weights_of(b, "b"), [name for name, _ in network.named_parameters()])
    return PathEvaluator(network, CLASSIFICATION, {"": few}), line, few


@pytest.mark.parametrize("model", ["lenet-20-10", "digits-conv"])
def test_every_order_measures_the_same_path(model: str) -> None:
    evaluator, line, few = line_of(model)
    found = path_orders.ways(evaluator, line, few, (0.25, 0.5))
    used = found.pop("used")()
    assert found.pop("floor")() == {}
    assert ("first layer of both ends" in found) == (model != "digits-conv")
    if rounded := found.pop("first layer of both ends", None):
        for alpha, (errors, loss) in rounded().items():
            assert errors == used[alpha][0]
            assert loss == pytest.approx(used[alpha][1], rel=1e-5)
    assert [way() for way in found.values()] == [used, used]


# Draws of calibration images.


def test_the_draw_of_a_study_is_one_of_those_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    training = task_training.prepare(get_task("digits-conv"), device="cpu").training
    monkeypatch.setattr(calibration_images, "_SEED", task_training._CALIBRATION_SEED)
    for examples in (100, 600):
        study, drawn, other = (
            training.calibration(examples),
            *(calibration_images._calibration(training, examples, draw) for draw in (0, 1)),
        )
        assert [len(batch) for batch in drawn] == [len(batch) for batch in study]
        assert all(map(torch.equal, drawn, study))
        assert not torch.equal(other[0], study[0])


def test_a_row_separates_draws_from_pairs_and_test_images() -> None:
    at = lambda barrier: calibration_images.Measured(barrier, 0.03, 2.0)  # noqa: E731
    measured, most = [[at(0.10), at(0.12)], [at(0.50), at(0.52)]], [[at(0.10), at(0.10)], [at(0.50), at(0.50)]]
    barrier, over_draws, away, test, seconds, _ = calibration_images._row(measured, most).split()
    assert (barrier, over_draws, away, test, seconds) == ("31.00", "1.41", "1.00", "3.00", "2.00")


def test_the_error_over_test_images_is_that_of_the_excess() -> None:
    evaluator, line, few = line_of("lenet-20-10")
    evaluator = PathEvaluator(evaluator.network, CLASSIFICATION, {"test": few})
    found = calibration_images._measure((line, evaluator), [], (0.0, 0.5, 1.0))
    errors = [evaluator.measure_at(line, alpha)["test"].sums["error"].astype(float) for alpha in (0.0, 0.5, 1.0)]
    excess = max(errors, key=np.mean) - (errors[0] + errors[2]) / 2
    assert found.barrier == pytest.approx(excess.mean())
    assert found.error == pytest.approx(excess.std() / np.sqrt(300))
