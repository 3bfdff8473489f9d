"""How a curve is trained: its gradient, its schedule, its data, interruption, and what is refused."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from trained import TRAIN, mlp, trained

from modeconn import fit_curve, neb
from modeconn.analysis.landscape.curves import curve_checkpoint
from modeconn.analysis.landscape.curves.curve_fit import decay
from modeconn.analysis.landscape.curves.feed import Feed
from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from modeconn.evaluation.batches import Batches
from modeconn.seeds import mix

CPU = torch.device("cpu")
FEW = (TRAIN[0][:60], TRAIN[1][:60])


def same(one: Any, other: Any) -> bool:
    """Whether two curves have the same control points to the bit."""
    return all(
        torch.equal(x[name], y[name]) for x, y in zip(one.points, other.points, strict=True) for name in x
    )  # fmt: skip


# --- the training


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("bezier", 2), ("polychain", 2)])
def test_every_step_is_that_of_the_plain_formulas(kind: str, bends: int) -> None:
    """A network of two layers by hand, in double precision: weights at t, loss, regularizer, Nesterov's momentum."""
    decay_of_weights, rate, momentum, steps, n = 0.01, 0.3, 0.9, 6, bends + 1
    networks = [mlp(seed, depth=1, width=8).double() for seed in (1, 2)]
    data = FEW[0].double(), FEW[1]
    how: dict[str, Any] = {"learning_rate": rate, "momentum": momentum, "weight_decay": decay_of_weights}
    curve = fit_curve(*networks, data, kind=kind, bends=bends, steps=steps, batch_size=20, seed=3, **how)

    names = [name for name, _ in networks[0].named_parameters()]
    a, b = ([dict(network.named_parameters())[name].detach() for name in names] for network in networks)
    inner = [[(x + i / n * (y - x)).requires_grad_() for x, y in zip(a, b, strict=True)] for i in range(1, n)]
    velocity = [[torch.zeros_like(tensor) for tensor in bend] for bend in inner]
    batches = Feed(data, None, CPU, 20, mix(3, "order")).batches(0)
    losses = []
    for step in range(steps):
        t = float(torch.rand((), generator=torch.Generator().manual_seed(mix(3, "t", step))))
        if kind == "bezier":
            shares = [math.comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(n + 1)]
        else:
            shares = [max(0.0, 1 - abs(n * t - i)) for i in range(n + 1)]
        w1, b1, w2, b2 = (
            sum(share * tensor for share, tensor in zip(shares, column, strict=True))
            for column in zip(a, *inner, b, strict=True)
        )
        x, y = next(batches)
        logits = (x @ w1.T + b1).clamp(min=0) @ w2.T + b2
        loss = -logits.log_softmax(1)[torch.arange(len(y)), y].mean()
        losses.append(float(loss.detach()))
        loss = loss + decay_of_weights / 2 * sum(tensor.square().sum() for tensor in (w1, b1, w2, b2))
        done = step / steps
        factor = 1.0 if done <= 0.5 else 1 - (done - 0.5) / 0.4 * 0.99 if done <= 0.9 else 0.01
        gradients = iter(torch.autograd.grad(loss, [tensor for bend in inner for tensor in bend], allow_unused=True))
        with torch.no_grad():
            for i, k in itertools.product(range(bends), range(len(names))):
                gradient = next(gradients)
                gradient = torch.zeros_like(inner[i][k]) if gradient is None else gradient
                velocity[i][k] = momentum * velocity[i][k] + gradient
                inner[i][k] -= rate * factor * (gradient + momentum * velocity[i][k])
    for i, k in itertools.product(range(bends), range(len(names))):
        torch.testing.assert_close(curve.points[i + 1][names[k]], inner[i][k].detach(), rtol=1e-9, atol=1e-12)
    assert curve.losses == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])


def test_the_learning_rate_is_that_of_the_paper() -> None:
    assert [decay(done) for done in (0, 0.5, 0.9, 0.95, 1)] == [1, 1, pytest.approx(0.01), 0.01, 0.01]
    assert decay(0.7) == pytest.approx((1 + 0.01) / 2)


def test_a_curve_is_low_where_the_segment_is_high() -> None:
    """On what it was trained on; and so it is if the units of an end are in another order."""
    a, b = trained(mlp(1), 1), trained(mlp(2), 2)
    result = fit_curve(a, b, TRAIN, epochs=15, learning_rate=0.05).barrier(TRAIN, alphas=11)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tensor in (b[0].weight, b[0].bias):
            tensor.copy_(tensor[order])
        b[2].weight.copy_(b[2].weight[:, order])
    permuted = fit_curve(a, b, TRAIN, epochs=15, learning_rate=0.05).barrier(TRAIN, alphas=11)
    assert permuted.curve.end_values("loss") == pytest.approx(result.curve.end_values("loss"), rel=1e-4)
    for found in (result, permuted):
        assert found.segment.heights("loss").barrier > 0.5
        assert found.curve.heights("loss").barrier < 0.15 * found.segment.heights("loss").barrier
        assert found.curve.worst("error") <= found.segment.worst("error")


def test_frozen_parameters_stay_on_the_segment() -> None:
    a, b = mlp(1), mlp(2)
    a[0].weight.requires_grad_(False)
    curve = fit_curve(a, b, FEW, bends=2, steps=5, learning_rate=0.1)
    expected = torch.lerp(a[0].weight, b[0].weight, 2 / 3)
    torch.testing.assert_close(curve.points[2]["0.weight"], expected)
    assert not torch.allclose(curve.points[2]["2.weight"], torch.lerp(a[2].weight, b[2].weight, 2 / 3), atol=1e-5)


def test_tied_weights_are_trained_once_and_stay_tied() -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
        network[2].weight = network[0].weight
        return network

    curve = fit_curve(tied(1), tied(2), FEW, steps=3, learning_rate=0.1)
    state = curve.state_at(0.5)
    assert state["0.weight"].data_ptr() == state["2.weight"].data_ptr()
    assert "2.weight" not in curve.parameters


def test_integers_are_those_of_the_first_network_until_the_second() -> None:
    a, b = trained(mlp(1, norm=True), 1, steps=5), trained(mlp(2, norm=True), 2, steps=9)
    curve = fit_curve(a, b, FEW, steps=2)
    assert [int(curve.state_at(t)["1.num_batches_tracked"]) for t in (0, 0.5, 1)] == [5, 5, 9]


def test_an_optimizer_and_a_loss_of_ones_own() -> None:
    a, b = mlp(1), mlp(2)
    seen = []

    def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
        seen.append(torch.optim.Adam(parameters, 0.01))
        return seen[-1]

    def loss(network: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1], label_smoothing=0.5)

    curve = fit_curve(a, b, FEW, steps=20, optimizer=adam, loss=loss)
    assert seen[0].param_groups[0]["lr"] == pytest.approx(0.01 * decay(19 / 20))
    assert curve.settings["optimizer"].startswith("Adam")
    assert not same(curve, fit_curve(a, b, FEW, steps=20, optimizer=adam))
    assert fit_curve(a, b, [FEW[0]], steps=2, loss=lambda n, x: n(x).square().mean()).losses  # without a target


# --- interruption


class Interrupted(Exception):
    pass


def until(step: int) -> Any:
    def report(progress: Any) -> None:
        if progress.done == step:
            raise Interrupted

    return report


@pytest.mark.parametrize("data", ["tensors", "data set", "loader", "batches"])
def test_an_interrupted_training_goes_on_to_the_same_bits(data: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(curve_checkpoint, "_EVERY", 0.0)

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))

    given: Any = {
        "tensors": FEW,
        "data set": Noisy(*FEW),
        "loader": DataLoader(Noisy(*FEW), batch_size=16, shuffle=True),
        "batches": [(x, y) for x, y in zip(FEW[0].split(16), FEW[1].split(16), strict=True)],
    }[data]
    how: dict[str, Any] = {"steps": 11, "learning_rate": 0.1, "batch_size": 16, "bends": 2}
    whole = fit_curve(network(1), network(2), given, **how)
    file = tmp_path / "training"
    for step in (3, 6, 7):
        with pytest.raises(Interrupted):
            fit_curve(network(1), network(2), given, **how, checkpoint=file, report=until(step))
    resumed = fit_curve(network(1), network(2), given, **how, checkpoint=file)
    assert same(resumed, whole)
    assert resumed.losses == whole.losses
    steps: list[Any] = []
    again = fit_curve(network(1), network(2), given, **how, checkpoint=file, report=steps.append)
    assert not steps
    assert same(again, whole)


class Noisy(TensorDataset):
    """A data set with augmentation from PyTorch's generator."""

    def __getitem__(self, place: int) -> Any:
        x, y = super().__getitem__(place)
        return x + 0.1 * torch.randn(x.shape), y


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.2}, "learning_rate is 0.01, and here it is 0.2"),
        ({"kind": "polychain"}, "kind"),
        ({"bends": 2}, "bends"),
        ({"seed": 1}, "seed"),
        ({"steps": 4}, "steps"),
        ({"batch_size": 30}, "batches_per_epoch|batch_size"),
        ({"a": 5}, "its a is"),
        ({"train": (FEW[0] + 1, FEW[1])}, "training data"),
        (
            {"train": (FEW[0], torch.cat([FEW[1][:-1], 9 - FEW[1][-1:]]))},
            "training data",
        ),  # the first batch is the same
        ({"loss": lambda network, batch: network(batch[0]).sum()}, "loss"),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters)}, "optimizer"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(changes: dict[str, Any], says: str, tmp_path) -> None:
    file = tmp_path / "training"
    fit_curve(mlp(1), mlp(2), FEW, steps=3, batch_size=20, checkpoint=file)
    content = file.read_bytes()
    given = {"steps": 3, "batch_size": 20, **changes}
    a, train = mlp(given.pop("a", 1)), given.pop("train", FEW)
    with pytest.raises(OptionError, match=says) as caught:
        fit_curve(a, mlp(2), train, checkpoint=file, **given)
    assert "is of another training" in str(caught.value)
    assert file.read_bytes() == content


def test_a_checkpoint_of_other_code_is_refused(tmp_path) -> None:
    """Weights and data are the same, and the network, its frozen parameters or the loss are not."""

    def networks(activation: type[nn.Module], frozen: int = 0) -> list[nn.Module]:
        torch.manual_seed(0)
        found = [nn.Sequential(nn.Linear(64, 8), activation(), nn.Linear(8, 10)) for _ in range(2)]
        for network in found:
            for parameter in list(network.parameters())[:frozen]:
                parameter.requires_grad_(False)
        return found

    def loss(factor: float) -> Any:
        return lambda network, batch: factor * nn.functional.cross_entropy(network(batch[0]), batch[1])

    file = tmp_path / "training"
    how: dict[str, Any] = {"steps": 3, "checkpoint": file}
    fit_curve(*networks(nn.ReLU), FEW, loss=loss(1), **how)
    fit_curve(*networks(nn.ReLU), FEW, loss=loss(1), **how)
    for others, other_loss, says in (
        (networks(nn.Tanh), loss(1), "its network is"),
        (networks(nn.ReLU, 2), loss(1), "its trained parameters is"),
        (networks(nn.ReLU), loss(2), "its loss is"),
    ):
        with pytest.raises(OptionError, match=says):
            fit_curve(*others, FEW, loss=other_loss, **how)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"optimizer": "adam"}, "optimizer= is a function of a list of parameters"),
        ({"optimizer": torch.optim.LBFGS}, "makes LBFGS, whose steps need a closure"),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters[1:])}, "must be of the parameters"),
        ({"optimizer": lambda parameters: torch.optim.Adam(mlp(1).parameters())}, "must be of the parameters"),
        ({"loss": "cross-entropy"}, "loss= is a function"),
        ({"loss": lambda network, batch: network(batch[0]).sum(1)}, "a tensor with one number"),
    ],
)
def test_an_optimizer_or_a_loss_that_cannot_train_is_refused(how: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        fit_curve(mlp(1), mlp(2), FEW, steps=3, **how)


def test_settings_are_numbers_of_python_and_those_that_were_used() -> None:
    given = {"seed": np.int64(1), "steps": np.int64(2), "bends": np.int64(2), "learning_rate": np.float32(0.5)}
    curve = fit_curve(mlp(1), mlp(2), FEW, **given)
    assert same(curve, fit_curve(mlp(1), mlp(2), FEW, seed=1, steps=2, bends=2, learning_rate=0.5))
    assert {type(curve.settings[name]) for name in ("seed", "steps", "bends")} == {int}
    curve.barrier(FEW, alphas=3).to_json()
    own = fit_curve(mlp(1), mlp(2), FEW, steps=2, optimizer=torch.optim.Adam).settings
    assert not {"learning_rate", "momentum"} & own.keys()  # those of Adam are in its description
    assert neb(mlp(1), mlp(2), FEW, pivots=np.int64(2), seed=np.int64(1), cycles=[(1, 0.1)]).bends == 2
    with pytest.raises(OptionError, match="t = 0 to t = 1"):
        curve.state_at("x")  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    file = tmp_path / "training"
    for content in (b"", b"PK nothing", b"\x80\x04N."):
        file.write_bytes(content)
        with pytest.raises(DataError, match="no training of a curve that can be read"):
            fit_curve(mlp(1), mlp(2), FEW, steps=1, checkpoint=file)


# --- the data


def seen_in(batches: Iterator[Any], count: int) -> list[list[int]]:
    return [next(batches)[1].tolist() for _ in range(count)]


@pytest.mark.parametrize("what", ["tensors", "arrays", "mapping", "data set", "loader", "batches", "stream", "once"])
def test_every_epoch_sees_each_example_once_in_another_order(what: str) -> None:
    x, y = torch.arange(10.0)[:, None], torch.arange(10)

    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(x, y, strict=True))

    data: Any = {
        "tensors": lambda: (x, y),
        "arrays": lambda: (x.numpy(), y.numpy()),
        "mapping": lambda: {0: x, 1: y},
        "data set": lambda: TensorDataset(x, y),
        "loader": lambda: DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True),
        "batches": lambda: list(zip(x.split(3), y.split(3), strict=True)),
        "stream": lambda: DataLoader(Stream(), batch_size=3),
        "once": lambda: iter(list(zip(x.split(3), y.split(3), strict=True))),
    }[what]()
    feed = Feed(data, Batches(data, CPU), CPU, 3, seed=0)
    assert feed.per_epoch == 4
    epochs = [seen_in(batches, 4) for batches in [feed.batches(0)] for _ in range(3)]
    assert all(sorted(label for batch in epoch for label in batch) == list(range(10)) for epoch in epochs)
    if what != "stream":  # which has an order of its own
        assert epochs[0] != epochs[1] != epochs[2]
    for start in (3, 4, 6):  # from any step on
        every = [batch for epoch in epochs for batch in epoch]
        assert seen_in(feed.batches(start), 5) == every[start : start + 5]


def test_a_loader_that_ends_earlier_than_it_said_is_an_error() -> None:
    class Shrinking(IterableDataset):
        passes = 0

        def __len__(self) -> int:
            return 60

        def __iter__(self) -> Iterator[Any]:
            Shrinking.passes += 1
            return iter(list(zip(*FEW, strict=True))[: 60 if Shrinking.passes < 3 else 10])

    with pytest.raises(DataError, match=r"ended after \d of \d batches"):
        fit_curve(mlp(1), mlp(2), DataLoader(Shrinking(), batch_size=10), steps=20)


# --- what is refused


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"kind": "beziers"}, "did you mean 'bezier'"),
        ({"bends": 0}, "at least one of bends; got 0"),
        ({"steps": None, "epochs": 0}, "epochs must be"),
        ({"steps": 1.5}, "steps must be"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a number above 0"),
        ({"momentum": -0.1}, "momentum must be a number of at least 0"),
        ({"weight_decay": "much"}, "weight_decay must be a number of at least 0"),
        ({"seed": -1}, "seed must be"),
        ({"checkpoint": 5}, "checkpoint must be the path of a file"),
        ({"optimizer": lambda parameters: None}, "optimizer= must make a torch.optim.Optimizer"),
        ({"loss": lambda network, batch: 1.0}, "must give a tensor with one number"),
        ({"loss": lambda network, batch: torch.zeros(())}, "loss does not depend on the weights"),
        ({"adapter": "factors"}, "adapter"),
        ({"precision": "float8"}, "precision"),
    ],
)
def test_options_that_cannot_be_used(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ModeconnError, match=says):
        fit_curve(mlp(1), mlp(2), FEW, **{"steps": 2, **how})


@pytest.mark.parametrize("fit", [fit_curve, neb])
def test_networks_and_data_that_cannot_be_used(fit: Any) -> None:
    a = mlp(1)
    with pytest.raises(NetworkError, match="a and b have equal weights"):
        fit(a, mlp(1), FEW)
    with pytest.raises(OptionError, match=r"give train: .* stored runs know their own"):
        fit(a, mlp(2))
    with pytest.raises(NetworkError, match=r"is \[16\] in b and \[32\]"):
        fit(a, mlp(2, width=16), FEW)
    with pytest.raises(DataError, match="not one of the network's 10 classes"):
        fit(a, mlp(2), (FEW[0], FEW[1] + 20))
    frozen = mlp(2).requires_grad_(False)
    with pytest.raises(NetworkError, match="nothing to train"):
        fit(frozen, mlp(1), FEW)
    states = [mlp(seed).state_dict() for seed in (1, 2)]
    with pytest.raises(NetworkError, match=r"scripted and traced networks are not trained"):
        fit(*states, FEW, model=torch.jit.trace(mlp(1), FEW[0]))


def test_a_loss_that_stops_being_finite_is_said_with_its_step() -> None:
    with pytest.raises(NetworkError, match=r"training loss is (nan|inf) at step \d+ of 200; choose a smaller"):
        fit_curve(mlp(1), mlp(2), FEW, steps=200, learning_rate=1e4)


def test_it_works_where_the_caller_keeps_no_gradients() -> None:
    whole = fit_curve(mlp(1), mlp(2), FEW, steps=2)
    with torch.no_grad():
        assert same(fit_curve(mlp(1), mlp(2), FEW, steps=2), whole)
    with torch.inference_mode():
        assert same(fit_curve(mlp(1), mlp(2), FEW, steps=2), whole)


def test_half_precision_is_trained_in_float32() -> None:
    a, b = mlp(1).half(), mlp(2).half()
    curve = fit_curve(a, b, (FEW[0].half(), FEW[1]), steps=3)
    assert curve.points[1]["0.weight"].dtype == torch.float32
    assert np.isfinite(curve.losses).all()
