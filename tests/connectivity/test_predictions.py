"""Predictions along the path, against plain computations in float64 and by what must be so."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from torch import nn

import modeconn.analysis.connectivity.predictions as module
from direct import barrier_of, everything, random_state, refused
from modeconn import Barrier, error_barrier
from modeconn.analysis.connectivity.predictions_result import Predictions
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.predictions import calibrated, calibration_error, compare_predictions
from modeconn.result import json_text
from networks import CLASSES, IGNORED, Network, by_name

ALPHAS = (0.0, 0.3, 0.5, 1.0)
NAMES = tuple(field.name for field in dataclasses.fields(Predictions))
VECTORS = by_name("mlp").data[0]  # type: ignore[index]
SOFT = Network("soft labels", by_name("mlp").build, (VECTORS, torch.rand(len(VECTORS), CLASSES).softmax(1)))
PROBABILITIES = Network(
    "probabilities", lambda: nn.Sequential(by_name("mlp").build(), nn.Softmax(1)), by_name("mlp").data
)


def measured(case: Network, **how: Any) -> Barrier:
    return error_barrier(
        *case.pair(), case.batches(), evaluate=case.evaluate, predictions=True, **({"alphas": ALPHAS} | how)
    )


# --- against plain code


def plain_rows(case: Network, network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and distributions of targets, [n, classes] each, in float64."""
    with torch.no_grad():
        output = case.call(network.eval(), copy.deepcopy(case.data)).double()
    data = case.data
    target = data.get("labels", data.get("label")) if isinstance(data, dict) else data[-1]
    if case.kind == "next-token":
        output, target = output[:, :-1], target[:, 1:]
    logs = np.log(output.numpy()) if case is PROBABILITIES else log_softmax(output.numpy(), -1)
    logs = logs.reshape(-1, logs.shape[-1])
    if case is SOFT:
        return logs, target.double().numpy()
    labels = target.reshape(-1).numpy()
    return logs[labels != IGNORED], np.eye(logs.shape[1])[labels[labels != IGNORED]]


def plain_calibration_error(logs: np.ndarray, targets: np.ndarray) -> float:
    """As Guo et al. 2017 define it: bin m holds the confidences in ((m - 1) / 15, m / 15]."""
    confidence, right = np.exp(logs.max(1)), logs.argmax(1) == targets.argmax(1)
    total = 0.0
    for m in range(1, 16):
        inside = [i for i, value in enumerate(confidence) if (m - 1) / 15 < value <= m / 15]
        if inside:
            total += len(inside) / len(logs) * abs(np.mean(right[inside]) - np.mean(confidence[inside]))
    return total


def plain(case: Network, alpha: float) -> dict[str, float]:
    """Every measure at one alpha, from the interpolated state dict."""
    a, b = case.pair()
    between, state = copy.deepcopy(a), b.state_dict()
    if alpha == 1:
        between = b
    elif alpha:
        mixed = {
            name: torch.lerp(tensor.double(), state[name].double(), alpha).to(tensor)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in a.state_dict().items()
        }
        between.load_state_dict(mixed)
    (log_a, targets), (log_b, _), (logs, _) = (plain_rows(case, network) for network in (a, b, between))
    loss = lambda x: -(targets * x).sum(1).mean()  # noqa: E731
    ensemble = np.log((1 - alpha) * np.exp(log_a) + alpha * np.exp(log_b))
    found = minimize_scalar(
        lambda u: loss(log_softmax(logs / math.exp(u), 1)), bounds=(-math.log(1024), math.log(16)), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    return {
        "temperature": math.exp(found.x),
        "calibrated_loss": found.fun,
        "calibration_error": plain_calibration_error(logs, targets),
        "kl_from_a": (np.exp(log_a) * (log_a - logs)).sum(1).mean(),
        "kl_from_b": (np.exp(log_b) * (log_b - logs)).sum(1).mean(),
        "disagreement_with_a": np.mean(log_a.argmax(1) != logs.argmax(1)),
        "disagreement_with_b": np.mean(log_b.argmax(1) != logs.argmax(1)),
        "ensemble_error": np.mean(ensemble.argmax(1) != targets.argmax(1)),
        "ensemble_loss": loss(ensemble),
    }


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=case.name) for case in (SOFT, PROBABILITIES)),
        *(by_name(name) for name in ("mlp", "batchnorm", "tied", "dict batches")),
        *(pytest.param(by_name(name), id=name, marks=pytest.mark.slow) for name in ("gpt-2", "masked bert")),
    ],
    ids=lambda case: case.name,
)
def test_all_measures_are_those_of_plain_code(case: Network) -> None:
    found = measured(case).predictions
    assert found is not None
    for place, alpha in enumerate(ALPHAS):
        expected = plain(case, alpha)
        assert list(expected) == list(NAMES)
        at_limit = not 1 / 900 < expected["temperature"] < 15
        for name, value in expected.items():
            if name != "temperature" or not at_limit:
                tolerance = 0.02 * value if name == "temperature" else 2e-5
                assert getattr(found, name)[place] == pytest.approx(value, abs=tolerance), (name, alpha)


def test_the_error_and_the_loss_of_the_path_are_what_they_are_without_predictions() -> None:
    case = by_name("batchnorm")
    plainly = error_barrier(*case.pair(), case.batches(), alphas=ALPHAS)
    found = measured(case)
    assert [found.values(name).tolist() for name in found.metrics] == [
        plainly.values(n).tolist() for n in plainly.metrics
    ]
    assert found.ends == plainly.ends
    assert set(found.notes) > set(plainly.notes)


# --- what must be so


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate", "repair"])
def test_the_ends_are_at_no_distance_from_themselves_and_are_the_ensemble_there(batchnorm: str) -> None:
    case = by_name("batchnorm")
    result = measured(case, batchnorm=batchnorm, calibration=case.batches())
    found = result.predictions
    assert found is not None
    for end, place in (("a", 0), ("b", -1)):
        assert getattr(found, f"kl_from_{end}")[place] == 0
        assert getattr(found, f"disagreement_with_{end}")[place] == 0
        assert found.ensemble_error[place] == result.error[place]
        assert found.ensemble_loss[place] == pytest.approx(result.loss[place], rel=1e-6)
    # What separates the ends is said once for both, and by the result itself.
    assert found.disagreement_with_a[-1] == found.disagreement_with_b[0] == result.ends.disagreement
    assert (found.kl_from_a[1:] > 0).all()
    assert (found.kl_from_b[:-1] > 0).all()


def test_of_equal_ends_the_ensemble_is_the_end() -> None:
    case = by_name("mlp")
    network = case.network(1)
    result = error_barrier(network, copy.deepcopy(network), case.data, alphas=3, predictions=True)
    found = result.predictions
    assert found is not None
    assert found.ensemble_error.tolist() == result.error.tolist()
    assert found.ensemble_loss == pytest.approx(result.loss, rel=1e-6)
    assert found.kl_from_a == pytest.approx(np.zeros(3), abs=1e-6)
    assert not found.disagreement_with_a.any()


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_the_temperature_of_calibrated_logits_is_their_scale(scale: float) -> None:
    """Labels are drawn with the probabilities of logits z, and the network gives scale z: the temperature is scale."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    logs = (scale * logits).log_softmax(1)
    sums = compare_predictions(logs, labels, (logs, logs), 0.5)
    temperature, loss = calibrated(sums)
    # The information in one label about log(temperature) is the variance of z under softmax(z).
    p = logits.softmax(1)
    information = float(((p * logits**2).sum(1) - (p * logits).sum(1) ** 2).sum())
    assert abs(math.log(temperature / scale)) < 4 / math.sqrt(information)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), abs=3 / len(labels) * 4)
    # Calibrated predictions have a calibration error of sampling noise alone; others have more.
    assert (calibration_error(sums) < 0.02) == (scale == 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0.1, 30), st.integers(2, 6))
def test_laws(seed: int, alpha: float, scale: float, classes: int) -> None:
    """A divergence is not negative, an ensemble no worse than its members on average, a best temperature than none."""
    generator = torch.Generator().manual_seed(seed)
    logs, a, b = (scale * torch.randn(3, 50, classes, generator=generator)).log_softmax(2)
    labels = torch.randint(classes, (50,), generator=generator)
    sums = compare_predictions(logs, labels, (a, b), alpha)
    losses = [float(nn.functional.cross_entropy(end, labels, reduction="sum")) for end in (a, b)]
    assert (sums.kl >= 0).all()
    assert ((sums.differing >= 0) & (sums.differing <= 50)).all()
    assert sums.ensemble[1] <= (1 - alpha) * losses[0] + alpha * losses[1] + 1e-3
    assert calibrated(sums)[1] <= float(nn.functional.cross_entropy(logs, labels)) + 1e-4
    assert 0 <= calibration_error(sums) <= 1
    halves = [
        compare_predictions(logs[part], labels[part], (a[part], b[part]), alpha) for part in (slice(20), slice(20, 50))
    ]
    for whole, one, other in zip(sums, *halves, strict=True):
        assert torch.allclose(whole, one + other, rtol=1e-5, atol=1e-5)


def test_an_ensemble_is_the_mean_of_probabilities_not_of_logits() -> None:
    a, b = torch.tensor([[4.0, 0.0]]).log_softmax(1), torch.tensor([[-1.0, 0.0]]).log_softmax(1)
    sums = compare_predictions(a, torch.tensor([0]), (a, b), 0.25)
    assert float(sums.ensemble[1]) == pytest.approx(-math.log(0.75 * math.exp(a[0, 0]) + 0.25 * math.exp(b[0, 0])))


def test_confidences_are_in_bins_of_a_fifteenth() -> None:
    """Right with 0.05 and wrong with 0.08, of 30 classes: in one bin, errors of either sign would cancel."""
    logs = torch.full((2, 30), 0.95 / 29)
    logs[1] = 0.92 / 29
    logs[0, 0], logs[1, 0] = 0.05, 0.08
    sums = compare_predictions(logs.log(), torch.tensor([0, 1]), (logs.log(), logs.log()), 0.5)
    assert calibration_error(sums) == pytest.approx((0.95 + 0.08) / 2)


def test_probabilities_of_exactly_zero_count_nothing() -> None:
    sure = torch.tensor([[1.0, 0.0, 0.0]]).log()
    spread = torch.tensor([[0.5, 0.25, 0.25]]).log()
    sums = compare_predictions(spread, torch.tensor([0]), (sure, sure), 0.5)
    assert sums.kl.tolist() == pytest.approx([math.log(2)] * 2)
    assert sums.ensemble.tolist() == [0, 0]
    assert compare_predictions(sure, torch.tensor([0]), (spread, sure), 0.5).kl.tolist() == [math.inf, 0]


# --- memory


class Counting(nn.Linear):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counting.calls += 1
        return super().forward(x)


def test_what_is_not_kept_of_the_ends_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of 7, 7 and 2: all kept; the first, with room for the last, which would then be the second; none."""
    batches, row = by_name("mlp").batches(), 2 * CLASSES * 4
    ends = [Counting(VECTORS.shape[1], CLASSES) for _ in range(2)]
    results, calls = [], []
    for room in (1 << 20, 9 * row, 0):
        monkeypatch.setattr(module, "ROOM", room)
        Counting.calls = 0
        found = error_barrier(*ends, batches, alphas=ALPHAS, predictions=True).predictions
        assert found is not None
        results.append({name: values.tolist() for name, values in found.columns().items()})
        calls.append(Counting.calls)
    assert results[0] == results[1] == results[2]
    # Both ends see again, at each of the three further alphas, two batches, and all three.
    assert [more - calls[0] for more in calls] == [0, 2 * 3 * 2, 2 * 3 * 3]


def test_many_rows_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = by_name("tied")
    whole = measured(case).predictions.columns()
    monkeypatch.setattr("modeconn.evaluation.predictions._ENTRIES", 25)
    parts = measured(case).predictions.columns()
    assert {name: values.tolist() for name, values in parts.items()} == {
        name: pytest.approx(values, rel=1e-6) for name, values in whole.items()
    }


def test_the_callers_networks_and_random_state_are_left_alone() -> None:
    a, b = by_name("batchnorm").pair()
    before = [everything(a), everything(b), random_state()]
    error_barrier(a, b, by_name("batchnorm").batches(), alphas=3, predictions=True)
    assert [everything(a), everything(b), random_state()] == before


# --- the result


def test_it_is_the_same_after_a_round_trip_through_json(tmp_path) -> None:
    result = measured(by_name("mlp"), alphas=[-0.5, 0.5], extrapolate=True)
    assert math.isnan(result.predictions.ensemble_loss[0])  # there is no such ensemble
    result.to_json(tmp_path / "b.json", examples=False)
    back = Barrier.from_json(tmp_path / "b.json")
    assert list(back.predictions.columns()) == list(NAMES)
    for name, values in result.predictions.columns().items():
        assert np.array_equal(back.predictions.columns()[name], values, equal_nan=True)
    assert str(back).splitlines()[-3:] == str(result).splitlines()[-3:]


def test_files_without_predictions_are_read_and_damaged_ones_are_refused() -> None:
    without, content = barrier_of(), measured(by_name("mlp")).content()
    assert "predictions" not in without.content()
    assert Barrier.from_json(without.to_json()).predictions is None
    columns = content["predictions"]
    for damaged in (
        {name: columns[name] for name in NAMES[1:]},
        columns | {"more": columns["temperature"]},
        columns | {"temperature": [1.0]},
    ):
        plain = {name: np.asarray(values).tolist() for name, values in damaged.items()}
        with pytest.raises(DataError, match=r"predictions|values of the shape"):
            Barrier.from_content(_plain(content) | {"predictions": plain})


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json_text(content))


def test_rows_text_and_pictures_have_them() -> None:
    result = measured(by_name("mlp"))
    found = result.predictions
    rows = result.rows()
    assert list(rows[0]) == ["alpha", "error", "loss", *NAMES]
    assert [row["kl_from_b"] for row in rows] == found.kl_from_b.tolist()
    text = str(result)
    assert f"the ensemble of the ends on {100 * found.ensemble_error[2]:.3g} %" in text
    assert f"with a temperature at each alpha {_barrier(found.calibrated_loss):.3g}" in text
    drawn = {tuple(line.get_ydata()) for line in result.plot_predictions().lines}
    assert drawn == {
        tuple(values)
        for values in (result.loss, found.calibrated_loss, found.ensemble_loss, found.kl_from_a, found.kl_from_b)
    }
    ax = result.plot(Figure().subplots())
    assert any(np.array_equal(line.get_ydata(), 100 * found.ensemble_error) for line in ax.lines)
    with pytest.raises(OptionError, match="predictions=True"):
        barrier_of().plot_predictions()


def _barrier(values: np.ndarray) -> float:
    return values.max() - (values[0] + values[-1]) / 2


def test_before_and_after_alignment_each_path_has_its_own() -> None:
    case = by_name("mlp")
    result = measured(case, align="weights")
    assert result.predictions.kl_from_a[-1] == pytest.approx(result.unaligned.predictions.kl_from_a[-1], rel=1e-4)
    assert result.predictions.kl_from_a[2] != result.unaligned.predictions.kl_from_a[2]
    back = Barrier.from_json(result.to_json())
    assert back.unaligned.predictions.kl_from_a.tolist() == result.unaligned.predictions.kl_from_a.tolist()


def test_a_temperature_at_the_limit_is_noted() -> None:
    """Of a network that makes no error, the lower the temperature the better."""
    inputs = torch.eye(3).repeat(10, 1)
    ends = [nn.Linear(3, 3, bias=False) for _ in range(2)]
    for end, scale in zip(ends, (3.0, 5.0), strict=True):
        end.weight.data = scale * torch.eye(3)
    result = error_barrier(*ends, (inputs, inputs.argmax(1)), alphas=3, predictions=True)
    assert any("not between 0.001 and 16 at alpha 0, 0.5, 1" in note for note in result.notes)
    assert result.predictions.temperature.tolist() == [1 / 1024] * 3


# --- what is refused, before anything is measured


def test_a_part_of_the_examples_or_of_the_alphas_is_refused() -> None:
    for how in ({"decide": 0.02}, {"alphas": "adaptive"}):
        refused(OptionError, "predictions=True", "decide=", predictions=True, **how)


@pytest.mark.parametrize("name", ["regression", "own measure"])
def test_outputs_that_are_no_classes_are_refused(name: str) -> None:
    case = by_name(name)
    seen: list[int] = []
    with pytest.raises(OptionError, match=r"classes or tokens.*(squared error|evaluate=reconstruction)"):
        measured(case, report=lambda progress: seen.append(1))
    assert not seen


def test_labels_of_0_and_1_are_refused() -> None:
    labels = (VECTORS[:, :CLASSES] > 0).float()
    message = refused(OptionError, "classes or tokens", data=(VECTORS, labels), predictions=True)
    assert "binary cross-entropy" in message


def test_a_label_out_of_range_is_refused_as_it_is_without_predictions() -> None:
    labels = torch.full((len(VECTORS),), CLASSES)
    refused(DataError, f"a label is {CLASSES}", data=(VECTORS, labels), predictions=True)


def test_outputs_that_are_not_finite_give_nan() -> None:
    a, b = by_name("mlp").pair()
    with torch.no_grad():
        b[4].bias[0] = 1e38
        b[4].weight *= 1e38
    result = barrier_of(a, b, predictions=True)
    assert logsumexp(result.predictions.kl_from_a[:1]) == 0
    assert not np.isfinite(result.predictions.kl_from_a[-1]) or result.predictions.kl_from_a[-1] > 1e3
    assert Barrier.from_json(result.to_json()).predictions is not None
