"""Weights by the names of a network: prefixes, ties, and what does not fit."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from modeconn.errors import NetworkError
from modeconn.weights.names import match_names
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights


class Named(nn.Module):
    """A network with any names: each a scalar parameter, in modules as deep as its dots."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        for i, name in enumerate(names):
            *path, last = name.split(".")
            home: nn.Module = self
            for segment in path:
                if segment not in home._modules:
                    home.add_module(segment, nn.Module())
                home = home._modules[segment]  # type: ignore[assignment]
            home.register_parameter(last, nn.Parameter(torch.tensor(float(i))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.wte.weight


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _prefixed(entries: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in entries.items()}


def _fit(entries: Any, net: nn.Module, **options: Any) -> Weights:
    return match_names(weights_of(entries, "b"), net, "b", **options)


def _same(weights: Weights, entries: dict[str, Tensor]) -> bool:
    return list(weights.layout) == list(entries) and all(torch.equal(weights.read(n), t) for n, t in entries.items())


# --- names


def test_names_that_match_are_taken_as_they_are_in_the_networks_order() -> None:
    net, saved = _net(), _net().state_dict()
    fitted = _fit(dict(reversed(saved.items())), net)
    assert _same(fitted, saved)
    assert fitted.notes == ()


@pytest.mark.parametrize(
    ("prefix", "note"),
    [
        ("module.", "'module.' and '_orig_mod.' were removed from its names"),
        ("_orig_mod.", "'module.' and '_orig_mod.' were removed from its names"),
        ("module._orig_mod.module.", "'module.' and '_orig_mod.' were removed from its names"),
        ("model.", "the prefix 'model.' was removed from its names"),
        ("net.encoder.", "the prefix 'net.encoder.' was removed from its names"),
        ("model._orig_mod.", "the prefix 'model._orig_mod.' was removed from its names"),
    ],
)
def test_prefixes_are_removed_with_a_note(prefix: str, note: str) -> None:
    saved = _net().state_dict()
    fitted = _fit(_prefixed(saved, prefix), _net())
    assert _same(fitted, saved)
    assert fitted.notes == (note,)


def test_a_prefix_that_all_names_lack_is_added() -> None:
    saved = _net().state_dict()
    fitted = _fit(saved, nn.ModuleDict({"model": _net()}))
    assert _same(fitted, _prefixed(saved, "model."))
    assert fitted.notes == ("the prefix 'model.' was added to its names",)


def test_wrappers_in_the_middle_of_names_are_removed() -> None:
    net = _net()
    net[0] = nn.DataParallel(torch.compile(net[0], backend="eager"))
    assert _same(_fit(net.state_dict(), plain_copy(net)), plain_copy(net).state_dict())


def test_a_prefix_and_wrappers_further_on_are_removed_together() -> None:
    saved = _net().state_dict()
    stored = {name.replace("2.", "model._orig_mod.2.").replace("1.", "model.1.module."): t for name, t in saved.items()}
    stored = {name.replace("0.", "model.0.", 1) if name[0] == "0" else name: t for name, t in stored.items()}
    fitted = _fit(stored, _net())
    assert _same(fitted, saved)
    assert fitted.notes == (
        "'module.' and '_orig_mod.' were removed from its names and the prefix 'model.' was removed from its names",
    )


def test_a_layer_called_module_keeps_its_name() -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    for entries in (net.state_dict(), nn.DataParallel(net).state_dict(), _prefixed(net.state_dict(), "model.")):
        assert _same(_fit(entries, net), net.state_dict())


def test_names_that_only_wrappers_tell_apart_are_not_mixed_up() -> None:
    net = Named(["module.x", "x"])
    saved = {name: torch.tensor(7.0 + i) for i, name in enumerate(net.state_dict())}
    assert _same(_fit(_prefixed(saved, "module."), net), saved)


segments = st.sampled_from(["a", "b", "weight", "module", "_orig_mod", "model", "0"])
names = st.lists(st.lists(segments, min_size=1, max_size=4).map(".".join), min_size=1, max_size=6, unique=True)


def _possible(found: list[str]) -> bool:
    return not any(other.startswith(f"{name}.") for name in found for other in found)


@hypothesis.given(names.filter(_possible), st.lists(segments, max_size=3), st.randoms())
def test_any_prefix_is_removed_from_any_names(found: list[str], prefix: list[str], order: Any) -> None:
    net = Named(found)
    saved = list(_prefixed(net.state_dict(), "".join(f"{segment}." for segment in prefix)).items())
    order.shuffle(saved)
    assert _same(_fit(dict(saved), net), net.state_dict())


@hypothesis.given(names.filter(_possible), st.data())
def test_wrappers_anywhere_are_removed_from_any_names(found: list[str], data: st.DataObject) -> None:
    found = list(dict.fromkeys(name.replace("module", "m").replace("_orig_mod", "o") for name in found))
    net = Named(found)
    saved = {}
    for name, tensor in net.state_dict().items():
        path = name.split(".")
        for place in data.draw(st.lists(st.integers(0, len(path) - 1), max_size=2)):
            path.insert(place, data.draw(st.sampled_from(["module", "_orig_mod"])))
        saved[".".join(path)] = tensor
    assert _same(_fit(saved, net), net.state_dict())


@hypothesis.given(names.filter(_possible), names.filter(_possible))
@pytest.mark.slow
def test_other_names_are_refused_with_every_one_of_them(ours: list[str], theirs: list[str]) -> None:
    net, other = Named(ours), Named(theirs)
    hypothesis.assume(len(ours) != len(theirs))
    with pytest.raises(NetworkError) as caught:
        _fit(other.state_dict(), net)
    said = str(caught.value)
    only = said.count("is only in b"), said.count("is only in the network")
    assert len(theirs) - only[0] == len(ours) - only[1]
    assert sum(only) > 0


# --- what does not fit


def test_missing_extra_and_differently_shaped_names_are_all_listed_in_order() -> None:
    saved = _net().state_dict()
    saved["2.weight"] = torch.zeros(10, 4)
    saved["2.bias"] = torch.zeros(10)
    saved["tail.bias"] = saved.pop("1.bias")
    with pytest.raises(NetworkError) as caught:
        _fit(saved, _net())
    assert str(caught.value) == (
        "b does not fit the network: 1.bias is only in the network; 2.bias is [10] in b and [2] in the network; "
        "2.weight is [10, 4] in b and [2, 4] in the network; tail.bias is only in b"
    )


def test_where_much_does_not_fit_a_summary_comes_first() -> None:
    saved = {f"part{number}": torch.ones(2) for number in range(5)} | {"2.bias": torch.zeros(10)}
    with pytest.raises(NetworkError) as caught:
        _fit(saved, _net())
    ours = len(_net().state_dict()) - 1
    assert str(caught.value).startswith(
        f"b does not fit the network: 5 tensors are only in b, {ours} only in the network, 1 of another shape or type. "
        "They are: 0.bias is only in the network; "
    )


def test_the_error_names_label_and_origin_and_the_closest_renaming() -> None:
    saved = _prefixed(_net().state_dict(), "model.")
    saved["teacher.weight"] = torch.ones(2)
    with pytest.raises(NetworkError) as caught:
        match_names(weights_of(saved, "runs/last.ckpt"), _net(), "b")
    assert str(caught.value) == (
        "b (runs/last.ckpt) does not fit the network: teacher.weight is only in b (runs/last.ckpt) "
        "(after: the prefix 'model.' was removed from its names)"
    )


def test_a_prefix_that_only_some_names_have_is_not_removed() -> None:
    with pytest.raises(NetworkError, match=r"b is only in b; b is only in the network \(after: the prefix 'model\.'"):
        _fit({"model.a": torch.ones(()), "model.c": torch.ones(()), "b": torch.ones(())}, Named(["a", "b", "c"]))


def test_two_names_for_one_tensor_are_refused() -> None:
    saved = _net().state_dict()
    saved["module.0.bias"] = torch.ones(4)
    with pytest.raises(NetworkError, match=r"module\.0\.bias is only in b"):
        _fit(saved, _net())


def test_a_scalar_and_a_vector_of_one_do_not_fit() -> None:
    with pytest.raises(NetworkError, match=r"w is \[1\] in b and \[\] in the network"):
        _fit({"w": torch.ones(1)}, Named(["w"]))


def test_names_that_only_wrappers_tell_apart_do_not_stand_for_each_other() -> None:
    with pytest.raises(NetworkError, match=r"x is only in the network"):
        _fit({"_orig_mod.x": torch.ones(())}, Named(["module.x", "x"]))


# --- ties


def test_a_missing_tied_name_is_read_from_its_twin() -> None:
    net = Tied()
    fitted = _fit({"wte.weight": torch.ones(4, 3)}, net)
    assert torch.equal(fitted.read("head.weight"), torch.ones(4, 3))
    assert fitted.notes == ("head.weight is missing and read from wte.weight, to which the network ties it",)
    other = _fit({"model.head.weight": torch.ones(4, 3)}, net)
    assert torch.equal(other.read("wte.weight"), torch.ones(4, 3))
    assert fitted.aliases == other.aliases == {"head.weight": "wte.weight"}


def test_a_missing_name_that_is_not_tied_is_still_missing() -> None:
    net = Tied()
    net.head.weight = nn.Parameter(net.wte.weight.detach().clone())
    with pytest.raises(NetworkError, match=r"head\.weight is only in the network"):
        _fit({"wte.weight": torch.ones(4, 3)}, net)


def test_tied_tensors_that_differ_in_the_weights_are_refused() -> None:
    equal = {"wte.weight": torch.ones(4, 3), "head.weight": torch.ones(4, 3).half()}
    assert _same(_fit(equal, Tied()), equal)
    with pytest.raises(NetworkError, match=r"ties wte\.weight and head\.weight, but in b they differ"):
        _fit(equal | {"head.weight": torch.zeros(4, 3)}, Tied())


def test_tied_tensors_that_are_not_finite_in_the_same_places_are_equal() -> None:
    broken = torch.tensor([[float("nan"), float("inf"), 0.0]] * 4)
    fitted = _fit({"wte.weight": broken, "head.weight": broken.clone()}, Tied())
    assert fitted.read("head.weight").isnan().any()


def test_another_name_for_a_tensor_that_is_used_does_no_harm() -> None:
    tensor = torch.ones(3)
    for entries in ({"alias": tensor, "w": tensor}, {"w": tensor, "alias": tensor}):
        assert _fit(entries, Named3()).notes == ("of no use to the network, left out: alias",)
    with pytest.raises(NetworkError, match="alias is only in b"):
        _fit({"alias": tensor.clone(), "w": tensor}, Named3())


class Named3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))


# --- entries that a network can do without


def test_the_counter_of_an_averaged_model_is_left_out() -> None:
    averaged = AveragedModel(_net())
    fitted = _fit(averaged.state_dict(), _net())
    assert _same(fitted, averaged.module.state_dict())
    assert fitted.notes[-1] == "of no use to the network, left out: n_averaged"
    with pytest.raises(NetworkError, match="n_averaged is only in b"):
        _fit(_net().state_dict() | {"n_averaged": torch.tensor(3)}, _net())


def test_names_that_a_hugging_face_network_ignores_are_left_out() -> None:
    net = Named3()
    net._keys_to_ignore_on_load_unexpected = [r"attn\.bias"]  # type: ignore[assignment]
    saved = {"w": torch.ones(3), "h.0.attn.bias": torch.ones(2, 2)}
    assert _fit(saved, net).notes == ("of no use to the network, left out: h.0.attn.bias",)
    with pytest.raises(NetworkError, match=r"h\.0\.attn\.b is only in b"):
        _fit({"w": torch.ones(3), "h.0.attn.b": torch.ones(2, 2)}, net)


# --- types


def test_weights_keep_their_own_floating_point_type() -> None:
    fitted = _fit(_net().bfloat16().state_dict(), _net())
    assert fitted.layout["0.weight"].dtype == fitted.read("0.weight").dtype == torch.bfloat16


def test_integer_weights_for_a_floating_point_parameter_are_refused_as_quantised() -> None:
    saved = _net().state_dict()
    saved["0.weight"] = torch.ones(4, 3, dtype=torch.int8)
    saved["0.weight.absmax"] = torch.ones(1)
    with pytest.raises(NetworkError, match=r"b has quantised weights \(0\.weight\).*dequantise the network first"):
        _fit(saved, _net())


def test_complex_weights_for_a_real_parameter_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"w is torch\.complex64 in b and torch\.float32 in the network"):
        _fit({"w": torch.ones(3, dtype=torch.complex64)}, Named3())


def test_counters_that_were_averaged_as_floats_are_read_as_integers() -> None:
    saved = _net().state_dict()
    saved["1.num_batches_tracked"] = torch.tensor(70.0)
    fitted = _fit(saved, _net())
    counter = fitted.read("1.num_batches_tracked")
    assert (counter.dtype, fitted.layout["1.num_batches_tracked"].dtype, int(counter)) == (torch.int64, torch.int64, 70)
    assert fitted.notes == ("1.num_batches_tracked is read as torch.int64",)
    for wrong in (70.5, float("nan"), 1e30):
        saved["1.num_batches_tracked"] = torch.tensor(wrong)
        with pytest.raises(NetworkError, match=r"1\.num_batches_tracked is torch\.float32 in b, with values"):
            _fit(saved, _net())


# --- parametrized and pruned networks


def _orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 4))


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_state_dict_of_a_parametrized_network_is_read_by_its_effective_weights(prefix: str) -> None:
    net, other = _orthogonal(), _orthogonal()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fitted = _fit(_prefixed(other.state_dict(), prefix), plain_copy(net), original=net)
    expected = plain_copy(other).state_dict()
    assert fitted.layout.keys() == expected.keys()
    assert all(torch.equal(fitted.read(name), tensor) for name, tensor in expected.items())
    assert "pruned or parametrized, read by the effective weights: 0.weight" in fitted.notes
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert parametrize.is_parametrized(net[0])


def test_weights_of_a_plain_network_fit_a_parametrized_one() -> None:
    dense = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).state_dict()
    assert _same(_fit(dense, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), original=_orthogonal()), dense)


def test_a_state_dict_of_a_parametrized_network_without_the_network_is_refused_with_advice() -> None:
    plain = plain_copy(_orthogonal())
    for options in ({}, {"original": plain}):
        with pytest.raises(
            NetworkError, match=r"0\.parametrizations\.weight\.original is only in b.*give that network"
        ):
            _fit(_orthogonal().state_dict(), plain, **options)


def test_older_weight_normalization_needs_its_network_too() -> None:
    with pytest.warns(FutureWarning):
        net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    assert _same(_fit(net.state_dict(), plain_copy(net), original=net), _effective(net))
    with pytest.raises(NetworkError, match=r"0\.weight_g is only in b.*remove_parametrizations"):
        _fit(net.state_dict(), plain_copy(net))


def _effective(net: nn.Module) -> dict[str, Tensor]:
    return dict(plain_copy(net).state_dict())


def test_a_pruned_state_dict_fits_the_dense_network() -> None:
    net = _net()
    dense = plain_copy(net)
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    fitted = _fit(_prefixed(net.state_dict(), "module."), dense)
    assert int((fitted.read("0.weight") == 0).sum()) == 6
    assert fitted.notes[0] == "pruned, the masks are applied to 1 tensors: module.0.weight"


def test_fitting_leaves_network_and_weights_unchanged() -> None:
    net, saved = _net(), _net().state_dict()
    before = [(id(tensor), tensor._version) for tensor in (*net.state_dict(keep_vars=True).values(), *saved.values())]
    state = torch.get_rng_state()
    fitted = _fit(saved, net)
    assert all(fitted.read(name).data_ptr() == tensor.data_ptr() for name, tensor in saved.items())
    after = [(id(tensor), tensor._version) for tensor in (*net.state_dict(keep_vars=True).values(), *saved.values())]
    assert before == after
    assert torch.equal(state, torch.get_rng_state())
