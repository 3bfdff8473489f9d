"""`compare` against plain computations: distances, task vectors, and what is found of files that differ."""

import copy
import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from direct import everything, random_state
from modeconn import compare
from modeconn.analysis.compare.sums import sums_of
from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from networks import by_name, each_network


def mlp(seed: int, classes: int = 10, width: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def moved(network: nn.Module, seed: int, by: float = 0.1) -> nn.Module:
    network, draw = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by * parameter.std() * torch.randn(parameter.shape, generator=draw).to(parameter)
    return network


ONE = torch.tensor(1)
DATA = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10


# --- distances


tensors = st.integers(0, 10_000).map(lambda seed: torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(tensors, st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.complex64]), st.booleans())
def test_sums_are_those_of_plain_vectors(draw: torch.Generator, dtype: torch.dtype, large: bool) -> None:
    shape = (700, 800) if large else (7, 5)  # more and less than a piece
    a, b, c = ((torch.randn(*shape, generator=draw) * 2).round().to(dtype) for _ in range(3))
    sums, moves = sums_of(a, b, c)
    wide = [torch.view_as_real(one) if one.is_complex() else one for one in (a, b, c)]
    x, y, z = (one.double().numpy().ravel() for one in wide)
    u, v = x - z, y - z
    assert sums.entries == len(x)
    assert sums.l2 == pytest.approx(np.linalg.norm(x - y))
    assert sums.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert sums.relative_distance == pytest.approx(2 * sums.l2 / (np.linalg.norm(x) + np.linalg.norm(y)))
    assert sums.differing == (x != y).sum()
    both = (x != 0) & (y != 0)
    assert sums.sign_agreement == pytest.approx((np.sign(x) == np.sign(y))[both].mean())
    assert moves.cosine == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    assert moves.relative == pytest.approx(
        (np.linalg.norm(u) / np.linalg.norm(z), np.linalg.norm(v) / np.linalg.norm(z))
    )
    assert (moves.moved_a, moves.moved_b) == ((u != 0).sum(), (v != 0).sum())
    assert moves.moved_both == ((u != 0) & (v != 0)).sum()
    assert moves.conflicts == (u * v < 0).sum()


def test_a_layer_and_the_whole_have_the_distances_of_their_weights_together() -> None:
    a, b = by_name("batchnorm").pair()
    result = compare(a, b)
    for layer in result.layers:
        parts = [[p.detach().flatten() for p in net.get_submodule(layer.name).parameters()] for net in (a, b)]
        x, y = (torch.cat(part).double() for part in parts)
        assert layer.sums.l2 == pytest.approx(float((x - y).norm()))
    flat = [nn.utils.parameters_to_vector(net.parameters()).detach().double() for net in (a, b)]
    assert result.whole.sums.l2 == pytest.approx(float((flat[0] - flat[1]).norm()))
    assert result.whole.sums.entries == len(flat[0])
    statistics = {row["name"] for row in result.rows() if row["kind"] == "statistic"}
    assert statistics == {name for name, _ in a.named_buffers() if name.endswith(("mean", "var"))}


def test_blocks_are_layers_up_to_the_first_number() -> None:
    case = by_name("gpt-2")
    result = compare(*case.pair())
    names = [block.name for block in result.blocks]
    assert {"transformer.h.0", "transformer.h.1", "transformer.wte"} <= set(names)
    assert sum(block.sums.entries for block in result.blocks) == result.whole.sums.entries
    assert result.whole.sums.entries == sum(p.numel() for p in case.network(0).parameters())  # tied ones once


def test_equal_layers_are_named() -> None:
    a = mlp(0)
    b = moved(a, 1)
    b[2].load_state_dict(a[2].state_dict())
    result = compare(a, b)
    assert [layer.name for layer in result.layers if layer.equal] == ["2"]
    assert "Equal, 1 of 3 layers:\n  2\n" in str(result)
    assert not result.equal
    assert result.siblings.answer == "siblings"


# --- every kind of network


@each_network
def test_of_anyones_network_independent_ones_are_no_siblings_and_near_ones_are(case) -> None:
    a, b = case.pair()
    before = everything(a), everything(b), random_state()
    result = compare(a, b)
    assert (everything(a), everything(b), random_state()) == before
    assert result.differences == ()
    assert result.siblings.answer in ("not siblings", "too small to tell")
    near = compare(a, case.network(1))
    assert near.equal
    assert near.verdict == "average"
    assert near.siblings.answer in ("siblings", "too small to tell")
    assert result.verdict == "unknown"
    assert result.to_frame().equals(type(result).from_json(result.to_json()).to_frame())
    assert str(type(result).from_json(result.to_json())) == str(result)


def test_a_descendant_of_each_of_two_is_a_sibling_of_its_own() -> None:
    a, b = mlp(1), mlp(2)
    assert compare(a, moved(a, 3, 0.5)).siblings.answer == "siblings"
    assert compare(b, moved(a, 3, 0.5)).siblings.answer == "not siblings"
    half = copy.deepcopy(b)
    half[0].load_state_dict(a[0].state_dict())
    result = compare(a, half)
    assert result.siblings.answer == "siblings in part"
    assert result.siblings.apart == ("2.weight", "4.weight")
    assert "Not related:\n  2.weight\n  4.weight" in str(result)


# --- ancestors


def test_task_vectors_are_those_of_the_weights() -> None:
    c = mlp(0)
    a, b = moved(c, 1), moved(c, 2)
    a[0].load_state_dict(c[0].state_dict())
    result = compare(a, b, ancestor=c)
    x, y, z = (nn.utils.parameters_to_vector(net.parameters()).detach().double() for net in (a, b, c))
    moves = result.whole.moves
    assert moves is not None
    assert moves.moved_a == int((x != z).sum())
    assert moves.moved_both == int(((x != z) & (y != z)).sum())
    assert moves.cosine == pytest.approx(float(nn.functional.cosine_similarity(x - z, y - z, 0)))
    assert "the cosine of the task vectors is" in str(result)
    assert result.rows()[0]["moved_a"] == 0 < result.rows()[0]["moved_b"]
    assert type(result).from_json(result.to_json()).whole == result.whole


def test_an_ancestor_that_is_one_of_the_two_has_no_task_vector_to_compare() -> None:
    a = mlp(0)
    words = str(compare(a, moved(a, 1), ancestor=a))
    assert "The weights of a are the ancestor's, so that there is nothing to compare." in words
    assert "nan" not in words


def test_what_of_an_ancestor_does_not_fit_is_named() -> None:
    c = mlp(0)
    result = compare(moved(c, 1), moved(c, 2), ancestor=mlp(0, classes=7))
    (note,) = [note for note in result.notes if "the ancestor differs" in note]
    assert "4.weight is [7, 16] in the ancestor" in note
    assert [bool(tensor.moves) for tensor in result.tensors] == [True] * 4 + [False] * 2
    with pytest.raises(NetworkError, match=r"the ancestor does not fit.*0\.weight is \[16, 4\]|only in the ancestor"):
        compare(c, moved(c, 1), ancestor={"else": torch.ones(3)})


# --- two architectures


def test_two_architectures_are_reported_with_every_difference() -> None:
    a, b = mlp(0), mlp(0, classes=7)
    b.append(nn.Linear(7, 3))
    result = compare(a, b, DATA)
    assert result.verdict == "do not average"
    assert result.attempts == ()
    assert sorted(result.differences) == [
        "4.bias is [7] in b and [10] in a",
        "4.weight is [7, 16] in b and [10, 16] in a",
        "5.bias is only in b",
        "5.weight is only in b",
    ]
    assert all(difference in str(result) for difference in result.differences)
    assert [tensor.name for tensor in result.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    nothing = compare(nn.Linear(2, 2), {"else": torch.ones(3, 4)})
    assert nothing.verdict == "do not average"
    assert nothing.rows() == []
    assert "0 tensors in common" in str(nothing)


def test_prefixes_of_wrappers_are_no_difference(tmp_path) -> None:
    a, b = mlp(0), mlp(1)
    save_file({f"module.{name}": tensor for name, tensor in b.state_dict().items()}, tmp_path / "b.safetensors")
    save_file(a.state_dict(), tmp_path / "a.safetensors")
    result = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert result.differences == ()
    assert result.names == ("a.safetensors", "b.safetensors")
    assert {row["name"]: row["l2"] for row in result.rows()} == {row["name"]: row["l2"] for row in compare(a, b).rows()}
    assert any("module." in note for note in result.notes)


def test_buffers_that_only_old_files_have_are_no_difference() -> None:
    new = {"model.layers.0.self_attn.q_proj.weight": torch.randn(8, 8)}
    old = new | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    for pair in ((old, new), (new, old)):
        assert compare(*pair).differences == ()
        assert compare(*pair).equal


def test_what_one_ties_and_the_other_does_not_is_a_difference() -> None:
    shared, other = torch.randn(8, 8), torch.randn(8, 8)
    tied, untied = {"in": shared, "out": shared}, {"in": shared.clone(), "out": other}
    assert compare(tied, untied).differences == ("in and out are tied in a, and differ in b",)
    assert compare(untied, tied).differences == ("in and out are tied in b, and differ in a",)
    assert compare(tied, {"in": other, "out": other.clone()}).differences == ()
    assert len(compare(tied, {"in": other}).tensors) == 1  # as files of tied networks have it


def test_what_one_module_ties_and_the_other_does_not_is_a_difference_in_either_order() -> None:
    torch.manual_seed(0)
    tied, untied = (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2))
    tied[2].weight = tied[0].weight
    for pair in ((tied, untied), (untied, tied), (untied, tied.state_dict())):
        (difference,) = compare(*pair).differences
        assert difference.startswith("0.weight and 2.weight are tied in ")
    same = copy.deepcopy(tied)
    assert compare(tied, same).differences == ()
    same[2].weight = nn.Parameter(same[0].weight.detach().clone())
    assert compare(tied, same).differences == compare(same, tied).differences == ()


def test_types_may_differ_and_kinds_may_not() -> None:
    a = mlp(0)
    result = compare(a, copy.deepcopy(a).bfloat16())
    assert result.differences == ()
    assert result.rows()[0]["type_b"] == "bfloat16"
    assert result.whole.sums.relative_distance == pytest.approx(0, abs=0.01)
    counted = {"w": torch.ones(3, 3), "n": torch.tensor(3)}
    averaged = compare(counted, {"w": torch.ones(3, 3), "n": torch.tensor(3.0)})
    assert "n is int64 in a and float32 in b, and is not compared" in averaged.notes
    assert compare(counted, counted | {"n": torch.tensor(4)}).tensors[1].equal is False
    assert compare({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2, dtype=torch.int32)}).differences == (
        "w is an integer in b and none in a",
    )
    assert compare({"w": torch.ones(2, 2, dtype=torch.int32)}, {"w": torch.ones(2, 2)}).differences == (
        "w is an integer in a and none in b",
    )


def test_integers_that_differ_are_named_and_counters_are_not() -> None:
    tensors = {"w": torch.ones(9, 9), "packed": torch.ones(9, 9, dtype=torch.int32), "n.num_batches_tracked": ONE}
    other = tensors | {"packed": 2 * tensors["packed"], "n.num_batches_tracked": 2 * ONE}
    assert compare(tensors, other).notes == ("integers are not averaged, and these differ: packed",)
    assert compare(tensors, copy.deepcopy(tensors)).notes == ()


# --- bad input


def test_weights_that_are_no_numbers_are_named() -> None:
    a, b = mlp(0), mlp(1)
    with torch.no_grad():
        b[2].weight[0, 0] = math.nan
        a[4].bias[0] = math.inf
    with pytest.raises(NetworkError, match=r"2\.weight in b, 4\.bias in a"):
        compare(a, b)
    mask = torch.full((4, 4), -math.inf).triu(1)
    masked = [{"mask": mask, "w": torch.randn(8, 8)} for _ in range(2)]
    assert compare(*masked).tensors[0].kind == "other"


def test_options_are_refused_before_anything_is_read() -> None:
    a = mlp(0)
    with pytest.raises(OptionError, match="threshold must be a number between 0 and 1"):
        compare(a, a, threshold=2)
    with pytest.raises(OptionError, match="model="):
        compare(a.state_dict(), mlp(1).state_dict(), DATA)
    with pytest.raises(OptionError, match="2 different names"):
        compare(a, a, names=["x"])
    with pytest.raises(OptionError, match="only stored runs know their own"):
        compare(a, mlp(1), "test")
    with pytest.raises(ModeconnError, match="classificatoin"):
        compare(a, mlp(1), DATA, evaluate="classificatoin")


def test_data_without_labels_are_refused() -> None:
    with pytest.raises(DataError):
        compare(mlp(0), mlp(1), DATA[0])
    with pytest.raises(ModeconnError):
        compare(mlp(0), mlp(1), [(DATA[0],)])


class Once(IterableDataset):
    """Gives its examples in the first pass alone."""

    def __init__(self) -> None:
        self.left = list(zip(*DATA, strict=True))

    def __iter__(self):
        while self.left:
            yield self.left.pop(0)


@pytest.mark.parametrize(
    "once",
    [lambda: iter([DATA]), lambda: DataLoader(Once(), 20), Once],
    ids=["an iterator", "a loader", "a data set"],
)
def test_data_that_end_after_one_pass_serve_all_paths(once) -> None:
    a, b = mlp(0), mlp(1)
    result, expected = (compare(a, b, data, calibration=data, try_all=True) for data in (once(), DATA))
    found, right = ([attempt.midpoint for attempt in one.attempts] for one in (result, expected))
    assert found == pytest.approx(right)


# --- what is printed and saved


def test_a_report_is_drawn_and_read_again(tmp_path) -> None:
    c = mlp(0)
    result = compare(moved(c, 1), moved(c, 2), DATA, ancestor=c, names=["one", "other"])
    result.to_json(tmp_path / "report.json")
    read = type(result).from_json(tmp_path / "report.json")
    assert str(read) == str(result)
    assert repr(read) == repr(result)
    assert read.plot().get_title().startswith("one and other: average")
    labels = [text.get_text() for text in result.plot().get_legend().get_texts()]
    assert labels == ["relative distance", "cosine", "cosine of task vectors"]
    content = json.loads((tmp_path / "report.json").read_text())
    with pytest.raises(DataError):
        type(result).from_json(json.dumps(content | {"verdict": "perhaps"}))
    assert list(result.to_frame().columns) == list(result.rows()[0])


def test_progress_is_reported_tensor_by_tensor() -> None:
    seen = []
    a, b = mlp(0), mlp(1)
    compare(a, b, report=seen.append)
    assert [one.done for one in seen] == list(range(1, 7))
    assert seen[-1].work == seen[-1].total == sum(p.numel() for p in a.parameters())


def test_tensors_are_read_once_and_let_go() -> None:
    """Two tensors are in memory at a time."""
    import weakref

    from modeconn.analysis.compare.pairing import pair_weights
    from modeconn.analysis.compare.tensors import compare_tensors
    from modeconn.weights.state_dicts import Weights

    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(name: str) -> Tensor:
        nonlocal most
        tensor = torch.randn(20, 20)
        alive.append(weakref.ref(tensor))
        most = max(most, sum(one() is not None for one in alive))
        return tensor

    layout = {f"layers.{i}.weight": torch.empty(20, 20, device="meta") for i in range(30)}
    origins = [Weights(layout, read, name) for name in "ab"]
    compare_tensors(pair_weights(origins, ["a", "b"], None), None, lambda progress: None)
    assert len(alive) == 60
    assert most == 2
