"""Metrics of whole data, F1 and AUROC, as objects with update, compute and reset: of all examples, no intervals."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from modeconn import Barrier, barrier_matrix, error_barrier, layerwise_barrier, soup
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.metric_objects import is_metric

CLASSES, ALPHAS = 3, (0.0, 0.25, 1.0)


class MacroF1:
    """Macro-averaged F1 from counts, as the textbook defines it."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, target: Tensor) -> None:
        self.seen.append((output.argmax(1), target))

    def compute(self) -> Tensor:
        predicted, target = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        scores = []
        for label in range(CLASSES):
            hits = ((predicted == label) & (target == label)).sum().double()
            scores.append(2 * hits / ((predicted == label).sum() + (target == label).sum()))
        return torch.stack(scores).mean()


class Both(MacroF1):
    """Two values, of which nothing says which way is better but one name."""

    higher_is_better = None

    def compute(self) -> dict[str, Tensor]:
        value = super().compute()
        return {"f1": value, "gap": 1 - value}


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()


def predictions(a: nn.Module, b: nn.Module, alpha: float, inputs: Tensor) -> Tensor:
    """Logits between two networks, by interpolating their weights here."""
    between = copy.deepcopy(a)
    with torch.no_grad():
        for weight, one, other in zip(between.parameters(), a.parameters(), b.parameters(), strict=True):
            weight.copy_((1 - alpha) * one + alpha * other)
        return between(inputs)


def f1_by_scikit_learn(data: tuple[Tensor, Tensor]) -> list[float]:
    inputs, labels = data
    logits = [predictions(network(0), network(1), alpha, inputs) for alpha in ALPHAS]
    return [f1_score(labels, one.argmax(1), average="macro") for one in logits]


@pytest.mark.parametrize("batch_size", [7, 90])
def test_f1_is_that_of_all_examples_however_they_are_batched(data, batch_size):
    batches = DataLoader(TensorDataset(*data), batch_size)
    result = error_barrier(network(0), network(1), batches, evaluate=MacroF1(), alphas=ALPHAS)
    assert result.metrics == ("MacroF1",)
    np.testing.assert_allclose(result.values("MacroF1"), f1_by_scikit_learn(data), rtol=1e-6)
    assert result.higher_is_better == {"MacroF1"}
    assert "higher MacroF1 is better, as the metric says" in " ".join(result.notes)


def test_it_has_no_interval_and_says_so(data, tmp_path):
    result = error_barrier(network(0), network(1), data, evaluate=MacroF1(), alphas=ALPHAS)
    assert "No interval: MacroF1 is of all examples together and no mean over them." in str(result)
    assert "examples\n" not in str(result).splitlines()[0]
    assert "cross-fitted" not in str(result)
    result.to_json(tmp_path / "barrier.json")
    for barrier in (result, Barrier.from_json(tmp_path / "barrier.json")):
        for ask in (barrier.interval, barrier.cross_fitted):
            with pytest.raises(OptionError, match="MacroF1 is of all examples together and no mean over them: it has"):
                ask()
        np.testing.assert_array_equal(barrier.values("MacroF1"), result.values("MacroF1"))


def test_several_values_have_their_names_and_names_say_which_is_better(data):
    result = error_barrier(network(0), network(1), data, evaluate=Both(), alphas=ALPHAS)
    assert result.metrics == ("f1", "gap")
    assert result.higher_is_better == {"f1"}
    np.testing.assert_allclose(result.values("f1") + result.values("gap"), 1)
    assert (
        error_barrier(
            network(0), network(1), data, evaluate=Both(), alphas=ALPHAS, higher_is_better=False
        ).higher_is_better
        == frozenset()
    )


def test_the_callers_object_is_left_as_it_is(data):
    metric = MacroF1()
    metric.update(torch.eye(3), torch.arange(3))
    error_barrier(network(0), network(1), data, evaluate=metric, alphas=ALPHAS)
    assert float(metric.compute()) == 1


def test_matrices_layers_and_soups_take_it(data):
    networks = [network(seed) for seed in range(3)]
    pair = error_barrier(*networks[:2], data, evaluate=MacroF1(), alphas=3)
    assert barrier_matrix(networks, data, evaluate=MacroF1(), alphas=3).barrier[0, 1] == pair.barrier
    assert layerwise_barrier(*networks[:2], data, evaluate=MacroF1(), alphas=3).metric == "MacroF1"
    made = soup(networks, data, "greedy", evaluate=MacroF1(), gate=None)
    assert made.value >= max(made.values.values())
    assert "examples" not in made.settings


class Failing(MacroF1):
    def update(self, output: Tensor, target: Tensor) -> None:
        raise ValueError("no such shapes")


class PerClass(MacroF1):
    def compute(self) -> Tensor:
        return torch.ones(3)


class Nothing(MacroF1):
    def compute(self) -> None:
        return None


@pytest.mark.parametrize(
    ("evaluate", "options", "kind", "said"),
    [
        (MacroF1, {}, OptionError, r"evaluate=MacroF1 is a class; give an object of it, such as MacroF1\(\)"),
        (MacroF1(), {"alphas": "adaptive"}, OptionError, "give alphas= a count or a list"),
        (MacroF1(), {"decide": 0.02, "alphas": 3}, OptionError, "decide= draws examples, and needs an error of each"),
        (MacroF1(), {"predictions": True}, OptionError, "MacroF1 of all outputs and targets together"),
        (Failing(), {}, DataError, r"evaluate=Failing fails on outputs float32\[90, 3\] and targets.*no such shapes"),
        (
            PerClass(),
            {},
            OptionError,
            r"evaluate gives float32\[3\] for 'PerClass'; choose a metric that gives one",
        ),
        (Nothing(), {}, OptionError, "evaluate gives NoneType for 'Nothing', which is no number"),
    ],
)
def test_what_cannot_be_is_said(data, evaluate, options, kind, said):
    with pytest.raises(kind, match=said):
        error_barrier(network(0), network(1), data, evaluate=evaluate, **options)


def test_a_mean_of_f1_over_batches_is_not_made_without_a_word(data):
    def evaluate(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, int]]:
        return {"f1": (f1_score(batch[1], net(batch[0]).argmax(1), average="macro"), 1)}

    batches = DataLoader(TensorDataset(*data), 30)
    result = error_barrier(network(0), network(1), batches, evaluate=evaluate, alphas=3)
    assert "such as F1 or AUROC, give an object with update, compute and reset" in " ".join(result.notes)


def test_functions_and_networks_are_no_metrics():
    assert not is_metric(lambda network, batch: {})
    assert not is_metric(network(0))
    assert not is_metric("classification")
    assert is_metric(MacroF1())


# --- torchmetrics


@pytest.mark.slow
def test_f1_and_auroc_of_torchmetrics_are_those_of_scikit_learn(data):
    torchmetrics = pytest.importorskip("torchmetrics")
    collection = torchmetrics.MetricCollection(
        {
            "f1": torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="macro"),
            "auroc": torchmetrics.AUROC("multiclass", num_classes=CLASSES),
            "ece": torchmetrics.CalibrationError("multiclass", num_classes=CLASSES),
        }
    )
    batches = DataLoader(TensorDataset(*data), 13)
    result = error_barrier(network(0), network(1), batches, evaluate=collection, alphas=ALPHAS)
    inputs, labels = data
    logits = [predictions(network(0), network(1), alpha, inputs) for alpha in ALPHAS]
    areas = [roc_auc_score(labels, one.softmax(1), multi_class="ovr", average="macro") for one in logits]
    np.testing.assert_allclose(result.values("f1"), f1_by_scikit_learn(data), rtol=1e-6)
    np.testing.assert_allclose(result.values("auroc"), areas, rtol=1e-6)
    assert result.higher_is_better == {"f1", "auroc"}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(90, 1), (90,)])
def test_a_binary_metric_takes_one_logit_and_targets_of_0_and_1(shape):
    torchmetrics = pytest.importorskip("torchmetrics")
    inputs = torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
    target = (inputs.sum(1) > 0).float().reshape(shape)

    def binary(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(4, 1)

    result = error_barrier(binary(0), binary(1), (inputs, target), evaluate=torchmetrics.AUROC("binary"), alphas=3)
    with torch.no_grad():
        expected = [roc_auc_score(target.reshape(-1), binary(seed)(inputs)[:, 0]) for seed in (0, 1)]
    np.testing.assert_allclose(result.end_values(), expected, rtol=1e-6)
    assert result.metric == "BinaryAUROC"
