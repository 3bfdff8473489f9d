"""Layer-wise linear feature connectivity against plain code, over the whole list of networks."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from direct import everything, random_state
from modeconn import Run, train
from modeconn.analysis.connectivity.features import feature_connectivity
from modeconn.analysis.connectivity.features_result import FeatureConnectivity
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import channel_statistics, interpolate_statistics, repaired
from modeconn.errors import DataError, OptionError, StoreError
from networks import EXAMPLES, Network, by_name, each_network


@functools.cache
def _compare(case: Network, alpha: float = 0.5) -> FeatureConnectivity:
    return feature_connectivity(*case.pair(), case.batches(), alpha=alpha, **_how(case))


def _how(case: Network) -> dict[str, Any]:
    return {"evaluate": case.evaluate} if callable(case.evaluate) else {}


# --- against plain code


def _layer_by_layer(state: dict[str, Tensor], example: Tensor) -> list[np.ndarray]:
    """The features of every layer of the MLP for one example, from its weights."""
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    found, x = [], example.double().numpy()
    for layer in (0, 2, 4):
        x = weights[f"{layer}.weight"] @ x + weights[f"{layer}.bias"]
        found.append(x)
        if layer < 4:
            x = np.maximum(x, 0)
            found.append(x)
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_values_are_those_of_a_plain_loop_over_examples_and_layers(alpha: float) -> None:
    case = by_name("mlp")
    a, b = (network.state_dict() for network in case.pair())
    middle = {name: (1 - alpha) * a[name].double() + alpha * b[name].double() for name in a}
    cosines, of_ends, products, squares = ([[] for _ in range(5)] for _ in range(4))  # type: ignore[var-annotated]
    for example in case.data[0]:  # type: ignore[index]
        features = zip(*(_layer_by_layer(state, example) for state in (a, b, middle)), strict=True)
        for layer, (of_a, of_b, found) in enumerate(features):
            average = (1 - alpha) * of_a + alpha * of_b
            cosines[layer].append(found @ average / np.linalg.norm(found) / np.linalg.norm(average))
            of_ends[layer].append(of_a @ of_b / np.linalg.norm(of_a) / np.linalg.norm(of_b))
            products[layer].append(found @ average)
            squares[layer].append(found @ found)
    result = feature_connectivity(a, b, case.data, alpha=alpha, model=case.build)
    assert result.layers == ("0", "1", "2", "3", "4")
    assert (result.alpha, result.examples) == (alpha, EXAMPLES)
    np.testing.assert_allclose(result.cosine, np.mean(cosines, 1), rtol=1e-5)
    np.testing.assert_allclose(result.cosine_ends, np.mean(of_ends, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.scale, np.sum(products, 1) / np.sum(squares, 1), rtol=1e-5)
    if alpha == 0.5:
        assert result.cosine[-1] < 0.999  # or nothing would be seen here


def _features(network: Any, images: Tensor) -> list[Tensor]:
    """Of the convolutional network, flattened."""
    found = []
    with torch.no_grad():
        for layer in network.eval():
            images = layer(images)
            found.append(images.flatten(1).double())
    return found


def _plain(of_a: list[Tensor], of_b: list[Tensor], middle: list[Tensor]) -> list[float]:
    similar = torch.nn.functional.cosine_similarity
    return [float(similar(m, (x + y) / 2).mean()) for x, y, m in zip(of_a, of_b, middle, strict=True)]


def _half_way(a: nn.Module, b: nn.Module) -> nn.Module:
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for x, y in zip(middle.state_dict().values(), b.state_dict().values(), strict=True):
            if x.is_floating_point():
                x.lerp_(y, 0.5)
    return middle


def test_batchnorm_is_interpolated_recalibrated_or_repaired_as_on_any_path() -> None:
    case = by_name("batchnorm")
    a, b = case.pair()
    images, calibration = case.data[0], [torch.randn(30, 3, 8, 8) + 1]  # type: ignore[index]
    middle = _half_way(a, b)

    expected = _plain(*(_features(network, images) for network in (a, b, middle)))
    found = feature_connectivity(a, b, case.data)
    assert found.batchnorm == "interpolate"
    np.testing.assert_allclose(found.cosine, expected, rtol=1e-5)

    statistics = [channel_statistics(network, calibration) for network in (a, b)]
    with repaired(middle, calibration, interpolate_statistics(*statistics, 0.5)):
        of_middle = _features(middle, images)
    expected = _plain(_features(a, images), _features(b, images), of_middle)
    found = feature_connectivity(a, b, case.data, batchnorm="repair", calibration=calibration)
    assert found.batchnorm == "repair"
    np.testing.assert_allclose(found.cosine, expected, rtol=1e-5)

    three = [copy.deepcopy(network) for network in (a, b, middle)]
    for network in three:
        recalibrate(network, calibration)
    expected = _plain(*(_features(network, images) for network in three))
    found = feature_connectivity(a, b, case.data, batchnorm="recalibrate", calibration=calibration)
    assert found.batchnorm == "recalibrate"
    np.testing.assert_allclose(found.cosine, expected, rtol=1e-5)


# --- identities


@each_network
def test_every_leaf_that_gives_features_is_compared(case: Network) -> None:
    result = _compare(case)
    plain = case.plain(case.network(1))
    leaves = {name for name, module in plain.named_modules() if not any(module.children())} or {"Complex"}
    said = " ".join(result.notes)
    seen = {layer.partition(" (")[0] for layer in result.layers}
    assert seen <= (leaves if "" not in leaves else {type(plain).__name__})
    assert all(leaf in said for leaf in leaves - seen - {""})
    assert len(result.layers) == len(set(result.layers)) > 0
    for values in (result.cosine, result.cosine_ends, result.scale):
        assert values.shape == (len(result.layers),)
        assert values.dtype == np.float64
    assert (np.abs(result.cosine[np.isfinite(result.cosine)]) <= 1).all()
    assert result.examples == EXAMPLES


@each_network
def test_the_features_of_equal_networks_are_equal(case: Network) -> None:
    result = feature_connectivity(case.network(1), case.network(1), case.batches(), **_how(case))
    for values in (result.cosine, result.cosine_ends, result.scale):
        np.testing.assert_allclose(values[np.isfinite(values)], 1, rtol=1e-12)
    assert np.isfinite(result.scale).any()


@each_network
@pytest.mark.parametrize("alpha", [0, 1])
def test_at_an_end_the_features_are_the_ends(case: Network, alpha: int) -> None:
    result = _compare(case, alpha)
    for values in (result.cosine, result.scale):
        np.testing.assert_allclose(values[np.isfinite(values)], 1, rtol=1e-12)
    assert np.nanmin(result.cosine_ends) < 0.9999


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "recurrent", "gpt-2"])
def test_swapping_the_ends_mirrors_alpha(name: str) -> None:
    case = by_name(name)
    a, b = case.pair()
    there, back = _compare(case, 0.25), feature_connectivity(b, a, case.batches(), alpha=0.75, **_how(case))
    for one, other in ((there.cosine, back.cosine), (there.cosine_ends, back.cosine_ends), (there.scale, back.scale)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "tied", "two inputs", "bert"])
@pytest.mark.parametrize("size", [1, EXAMPLES])
def test_the_batch_size_does_not_matter(name: str, size: int) -> None:
    case = by_name(name)
    result = feature_connectivity(*case.pair(), case.batches(size), **_how(case))
    # Position embeddings, which have one example, are told from features only where batches have more.
    shared = [layer for layer in _compare(case).layers if layer in result.layers]
    assert len(shared) == len(_compare(case).layers)
    for layer in shared:
        here, there = result.layers.index(layer), _compare(case).layers.index(layer)
        for curve in ("cosine", "cosine_ends", "scale"):
            assert getattr(result, curve)[here] == pytest.approx(getattr(_compare(case), curve)[there], rel=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_features_that_are_linear_in_the_weights_are_linearly_connected_with_a_factor_of_one(alpha: float) -> None:
    a, b = (by_name("regression").network(seed) for seed in (1, 2))
    with torch.no_grad():
        for layer in (0, 2):  # all but the last layer are shared
            b[layer].load_state_dict(a[layer].state_dict())  # type: ignore[index]
    result = feature_connectivity(a, b, by_name("regression").data, alpha=alpha)
    np.testing.assert_allclose(result.cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(result.scale, 1, rtol=1e-5)
    assert result.cosine_ends[-1] < 0.999


def test_the_factor_is_that_of_homogeneous_networks() -> None:
    """Weights W and 3 W: each of two layers gives 2 W x between, where the average of 1 and 9 times is 5 times."""
    a = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    b = copy.deepcopy(a)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.mul_(3)
    result = feature_connectivity(a, b, by_name("mlp").data)
    np.testing.assert_allclose(result.cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(result.scale, [1, 1, 5 / 4], rtol=1e-5)


# --- layers


def test_layers_that_are_asked_for_may_have_modules_in_them() -> None:
    case = by_name("resnet-20")
    names = [name for name, _ in case.network(1).named_children()]
    result = feature_connectivity(*case.pair(), case.data, layers=[names[-1], names[3], names[3]])
    assert result.layers == (names[3], names[-1])
    alone = feature_connectivity(*case.pair(), case.data, layers=names[3])  # type: ignore[arg-type]
    assert alone.cosine[0] == result.cosine[0]


def test_an_unknown_layer_is_refused_with_near_names() -> None:
    with pytest.raises(OptionError, match=r"unknown layer 'body\.O'; did you mean .*'body\.0'"):
        feature_connectivity(*by_name("tied").pair(), by_name("tied").data, layers=["head", "body.O"])
    with pytest.raises(OptionError, match="layers= is empty"):
        feature_connectivity(*by_name("tied").pair(), by_name("tied").data, layers=[])


class Twice(nn.Module):
    """Compares two inputs by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.relu, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.relu(self.body(x)) - self.relu(self.body(y)))


def test_a_layer_that_is_called_twice_counts_each_call() -> None:
    a, b = Twice(), Twice()
    x, y = torch.randn(2, EXAMPLES, 6)
    result = feature_connectivity(a, b, (x, y, x))
    assert result.layers == ("body", "relu", "body (2)", "relu (2)", "head")
    swapped = feature_connectivity(a, b, (y, x, x))
    assert result.cosine_ends[0] == pytest.approx(swapped.cosine_ends[2])
    assert result.cosine_ends[0] != pytest.approx(result.cosine_ends[2])
    assert result.cosine[1] == pytest.approx(swapped.cosine[3])


class Odd(nn.Module):
    """Layers that give what is no feature of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(3, 6)
        self.pick = Pick()
        self.pair = Pair()
        self.whole = Whole()
        self.never = nn.Linear(1, 1)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(torch.arange(3)).mean(0) + self.whole(x)
        return self.last(self.pair(x)[0]) + self.pick(x)[:, None]


class Pick(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


def test_what_gives_no_features_is_left_out_and_said() -> None:
    result = feature_connectivity(Odd(), Odd(), by_name("mlp").batches())
    assert result.layers == ("pair", "last")
    said = "; ".join(result.notes)
    assert "does not have the examples of the batch as its first dimension: position, whole" in said
    assert "is not a floating-point tensor: pick" in said
    assert "never called: never" in said
    with pytest.raises(DataError, match="no layer can be compared: left out, as its output is not"):
        feature_connectivity(Odd(), Odd(), by_name("mlp").data, layers=["pick"])
    with pytest.raises(DataError, match="no layer can be compared: modules that are never called: never"):
        feature_connectivity(Odd(), Odd(), by_name("mlp").data, layers=["never"])


class Sometimes(nn.Module):
    """Calls a layer for large batches only, and another where a weight is positive."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))
        self.body, self.large, self.positive = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = self.large(x) if len(x) > 2 else x
        return self.positive(x) if self.sign > 0 else x


def test_layers_that_are_called_at_times_are_said() -> None:
    result = feature_connectivity(Sometimes(1.0), Sometimes(-0.5), by_name("mlp").batches())
    assert result.layers == ("body", "large")
    said = "; ".join(result.notes)
    assert "not called for all of the 16 examples: large (14)" in said
    assert "in one of the networks: positive" in said


def test_zero_features_have_no_cosine_and_are_counted() -> None:
    def network(bias: float) -> nn.Sequential:
        made = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        nn.init.ones_(made[0].weight)
        nn.init.constant_(made[0].bias, bias)
        return made

    inputs = torch.tensor([[-2.0], [-1.0], [0.5], [2.0], [3.0]])
    result = feature_connectivity(network(0.0), network(0.25), [inputs])
    assert result.cosine[1] == pytest.approx(1)
    assert "do not count: 1 (2 of 5)" in "; ".join(result.notes)
    dead = feature_connectivity(network(-9.0), network(-8.0), [inputs])
    assert np.isnan([dead.cosine[1], dead.cosine_ends[1], dead.scale[1]]).all()
    assert "1 (5 of 5)" in "; ".join(dead.notes)


def test_features_that_are_not_finite_do_not_count() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Softplus())
    inputs = torch.tensor([[1.0], [torch.inf], [2.0], [torch.nan]])
    result = feature_connectivity(network, copy.deepcopy(network), [inputs])
    assert result.cosine.tolist() == [1, 1]
    assert result.scale.tolist() == pytest.approx([1, 1])
    assert "0 (2 of 4), 1 (2 of 4)" in "; ".join(result.notes)


def test_features_are_taken_before_a_later_layer_writes_to_them() -> None:
    plain = by_name("batchnorm").pair()
    inplace = [copy.deepcopy(network) for network in plain]
    for network in inplace:
        for layer in network.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = True
    expected = feature_connectivity(*plain, by_name("batchnorm").batches())
    result = feature_connectivity(*inplace, by_name("batchnorm").batches())
    assert np.array_equal(result.cosine, expected.cosine)


def test_a_network_that_writes_to_its_input_sees_the_same_batch_each_time() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.mul_(2))

    network = Writing()
    data = by_name("mlp").batches()
    before = copy.deepcopy(data)
    result = feature_connectivity(network, copy.deepcopy(network), data)
    assert (result.cosine.tolist(), result.cosine_ends.tolist()) == ([1], [1])
    assert all(torch.equal(x[0], y[0]) for x, y in zip(data, before, strict=True))


# --- what goes in and what comes out


@each_network
def test_nothing_of_the_callers_changes(case: Network) -> None:
    a, b = case.pair()
    for network in (a, b):
        for index, module in enumerate(network.modules()):
            module.training = index % 2 == 0
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
    before = [everything(network) for network in (a, b)], random_state()
    feature_connectivity(a, b, case.batches(), **_how(case))
    assert ([everything(network) for network in (a, b)], random_state()) == before


def test_targets_are_not_needed() -> None:
    case = by_name("mlp")
    with_targets = _compare(case)
    for data in ((case.data[0],), [batch[0] for batch in case.batches()]):  # type: ignore[index]
        without = feature_connectivity(*case.pair(), data)
        np.testing.assert_allclose(without.cosine, with_targets.cosine, rtol=1e-6)


def test_networks_may_differ_in_type_and_come_from_files(tmp_path: Path) -> None:
    case = by_name("mlp")
    a, b = case.pair()
    torch.save(b.half().state_dict(), tmp_path / "b.pt")
    result = feature_connectivity(a, tmp_path / "b.pt", case.data)
    np.testing.assert_allclose(result.cosine, _compare(case).cosine, rtol=1e-3)
    assert result.names == ("a", "b.pt")
    assert any("differ in type" in note for note in result.notes)


def test_bfloat16_is_compared_in_single_precision() -> None:
    case = by_name("mlp")
    result = feature_connectivity(*case.pair(), case.data, precision="bfloat16")
    np.testing.assert_allclose(result.cosine, _compare(case).cosine, atol=0.01)
    assert not np.array_equal(result.cosine, _compare(case).cosine)


def test_half_precision_is_multiplied_in_single_precision() -> None:
    """The squares of these features are beyond float16."""
    a, b = (by_name("float16").network(seed) for seed in (1, 2))
    with torch.no_grad():
        for network in (a, b):
            network[0].weight.mul_(3000)  # type: ignore[index]
    result = feature_connectivity(a, b, by_name("float16").data, layers=["0"])
    expected = feature_connectivity(a.float(), b.float(), by_name("mlp").data, layers=["0"])
    np.testing.assert_allclose(result.cosine_ends, expected.cosine_ends, atol=1e-2)
    assert not any("do not count" in note for note in result.notes)


def test_stored_runs_know_their_data(tmp_path: Path, data_dir: Path) -> None:
    runs: list[Run] = [
        train("digits-conv", iterations=4, workers=0, store=tmp_path, data_dir=data_dir, device="cpu", seed=seed)
        for seed in (0, 1)
    ]
    result = feature_connectivity(*runs, batchnorm="recalibrate")
    assert result.examples == 360
    assert (result.cosine >= result.cosine_ends - 1e-3).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), "half", True])
def test_alphas_that_are_not_between_the_ends_are_refused(alpha: Any) -> None:
    with pytest.raises(OptionError, match="alpha must be a number between 0 and 1"):
        feature_connectivity(*by_name("mlp").pair(), by_name("mlp").data, alpha=alpha)


def test_bad_data_are_refused() -> None:
    pair = by_name("mlp").pair()
    with pytest.raises(OptionError, match="give data"):
        feature_connectivity(*pair)
    with pytest.raises(DataError, match="empty"):
        feature_connectivity(*pair, [])
    with pytest.raises(DataError, match="the network fails in its module 0 on a batch"):
        feature_connectivity(*pair, [torch.zeros(3, 7)])
    scalars = nn.PReLU(), nn.PReLU()
    with pytest.raises(DataError, match="no examples in a batch"):
        feature_connectivity(*scalars, [torch.tensor(1.0)])


def test_every_batch_is_reported() -> None:
    seen: list[int] = []
    feature_connectivity(*by_name("mlp").pair(), by_name("mlp").batches(7), report=lambda p: seen.append(p.done))
    assert seen == [1, 2, 3]


def test_a_result_is_read_back_from_json(tmp_path: Path) -> None:
    result = _made()
    text = result.to_json(tmp_path / "features.json")
    assert text.count("null") == 1
    older = text.replace("null", '"nan"')  # as modeconn 0.1 wrote it
    for source in (text, older, tmp_path / "features.json", str(tmp_path / "features.json")):
        back = FeatureConnectivity.from_json(source)
        for name in ("cosine", "cosine_ends", "scale"):
            assert np.array_equal(getattr(back, name), getattr(result, name), equal_nan=True)
        for name in ("layers", "alpha", "examples", "names", "batchnorm", "notes", "settings"):
            assert getattr(back, name) == getattr(result, name)
    with pytest.raises(StoreError):
        result.to_json(tmp_path / "nowhere" / "features.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "'format'"),
        ('{"format": "modeconn barrier 1"}', "it has the format 'modeconn barrier 1'"),
        (lambda text: text.replace('"conv 2"', '"conv 2", "more"'), "values of the shape"),
        (lambda text: text[:-20], "not a result"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_what_is_no_such_json_is_refused(text: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        FeatureConnectivity.from_json(text(_made().to_json()) if callable(text) else text)


def test_rows_and_text_have_a_line_for_each_layer() -> None:
    frame = _made().to_frame()
    assert list(frame.columns) == ["layer", "cosine", "cosine_ends", "scale"]
    assert frame["layer"].tolist() == ["conv 1", "conv 2"]
    assert frame["scale"].tolist() == [1.0, 1.25]
    assert "conv 2" in str(_made())
    assert "Note: something." in str(_made())


# --- its figure


def test_the_figure_has_both_curves_over_the_layers() -> None:
    ax = _compare(by_name("mlp")).plot()
    ax.figure.draw_without_rendering()
    drawn = {line.get_label(): line for line in ax.lines}
    result = _compare(by_name("mlp"))
    assert drawn["a against b"].get_ydata().tolist() == (1 - result.cosine_ends).tolist()
    assert drawn["alpha 0.5 against the average of both"].get_ydata().tolist() == (1 - result.cosine).tolist()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(result.layers)


@pytest.mark.parametrize("name", ["complex", "batchnorm", "torchvision", "bert"])
def test_any_number_of_layers_can_be_drawn(name: str) -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert _compare(by_name(name)).plot(ax=ax) is ax
    _compare(by_name(name)).plot().figure.draw_without_rendering()
    _made().plot().figure.draw_without_rendering()


# ---


def _made() -> FeatureConnectivity:
    return FeatureConnectivity(
        ("conv 1", "conv 2"),
        np.array([1.0, np.nan]),
        np.array([0.25, 0.5]),
        np.array([1.0, 1.25]),
        alpha=0.25,
        examples=3,
        names=("x", "y"),
        batchnorm="repair",
        notes=("something",),
        settings={"device": "cpu"},
    )
