"""Modules and state dicts as named tensors, and plain copies of modules."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from modeconn.errors import NetworkError
from modeconn.weights.effective import unwrap
from modeconn.weights.names import match_names
from modeconn.weights.plain_copy import is_plain, plain_copy
from modeconn.weights.sources import weights_of


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Noisy(nn.Module):
    """Noise in training only, as DropConnect has."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.body = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed((x.abs() * 3).long() % 7)))


class Buffers(nn.Module):
    """Complex, integer, boolean and unsaved buffers, and an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.register_buffer("phase", torch.randn(5, dtype=torch.complex64))
        self.register_buffer("order", torch.randperm(5))
        self.register_buffer("on", torch.tensor([True, False, True, True, False]))
        self.register_buffer("scratch", torch.randn(5), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x)[..., self.order] * self.phase * self.on).abs() + self.scratch


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 5))


def _pruned() -> nn.Module:
    net = _mlp()
    prune.random_unstructured(net[0], "weight", amount=0.4)
    prune.l1_unstructured(net[0], "weight", amount=0.5)  # on top of the first: a container
    prune.random_unstructured(net[4], "bias", amount=2)
    return net


def _pruned_globally() -> nn.Module:
    net = _mlp()
    prune.global_unstructured([(net[0], "weight"), (net[4], "weight")], pruning_method=prune.L1Unstructured, amount=0.6)
    net(torch.randn(6, 5)).sum().backward()
    return net


def _pruned_tie() -> nn.Module:
    """One end of a tie is pruned: the other keeps all of its weights."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    net[1].weight = net[0].weight
    prune.l1_unstructured(net[1], "weight", amount=0.5)
    return net


def _pruned_lstm() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 5, batch_first=True)
            prune.random_unstructured(self.lstm, "weight_hh_l0", amount=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x[:, None].expand(-1, 3, -1))[0][:, -1]  # the same input three times

    return Last()


def _orthogonal() -> nn.Module:
    net = _mlp()
    parametrizations.orthogonal(net[0])
    parametrizations.orthogonal(net[4], orthogonal_map="householder")
    return net


def _two_parametrizations() -> nn.Module:
    net = _mlp()
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    parametrize.register_parametrization(net[0], "weight", Noisy())
    parametrize.register_parametrization(net[0], "bias", Same())
    parametrize.register_parametrization(net[1], "running_mean", Same())  # a buffer
    return net


def _weight_norm() -> nn.Module:
    net = _mlp()
    parametrizations.weight_norm(net[0])
    parametrizations.weight_norm(net[4], dim=1)
    return net


def _spectral_norm() -> nn.Module:
    net = _mlp()
    parametrizations.spectral_norm(net[0])
    return net


def _hooked_norms() -> nn.Module:
    net = _mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older forms
        nn.utils.weight_norm(net[0])
        nn.utils.spectral_norm(net[4])
    return net


def _pruned_direction() -> nn.Module:
    """A mask on the direction of a weight normalization: computed from what is computed."""
    net = _mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(net[0])
    prune.random_unstructured(net[0], "weight_v", amount=0.5)
    net[0]._forward_pre_hooks.move_to_end(next(iter(net[0]._forward_pre_hooks)))  # the mask is applied first
    parametrizations.weight_norm(net[4])
    prune.random_unstructured(net[4].parametrizations.weight, "original1", amount=0.5)
    return net


def _compiled_inside() -> nn.Module:
    net = _mlp()
    net[0] = torch.compile(net[0], backend="eager")
    net[4] = nn.DataParallel(torch.compile(prune.l1_unstructured(net[4], "weight", amount=0.5), backend="eager"))
    return net


def _shared_layer() -> nn.Module:
    layer = prune.l1_unstructured(nn.Linear(5, 5), "weight", amount=0.5)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _frozen() -> nn.Module:
    net = _pruned()
    net[0].requires_grad_(False)
    return net


def _remembers() -> nn.Module:
    """Attributes with a history, which PyTorch's own deepcopy refuses."""

    class Remembers(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            self.all: Any = {"steps": [self.last * 2]}
            return self.last

    net = Remembers(5, 5)
    net(torch.randn(2, 5))
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "float16": lambda: nn.Linear(5, 5).half(),
    "bfloat16": lambda: _mlp().bfloat16(),
    "tied": Tied,
    "buffers": Buffers,
    "pruned": _pruned,
    "pruned globally": _pruned_globally,
    "pruned at one end of a tie": _pruned_tie,
    "pruned LSTM": _pruned_lstm,
    "orthogonal": _orthogonal,
    "two parametrizations": _two_parametrizations,
    "weight norm": _weight_norm,
    "spectral norm": _spectral_norm,
    "norms by hooks": _hooked_norms,
    "pruned direction": _pruned_direction,
    "compiled inside": _compiled_inside,
    "shared layer": _shared_layer,
    "frozen": _frozen,
    "remembers": _remembers,
    "traced": lambda: torch.fx.symbolic_trace(_mlp()),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())


def _inputs(net: nn.Module) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).to(next(net.parameters()).dtype)


def _outputs(net: nn.Module) -> Tensor:
    """In evaluation mode; modes are put back."""
    modes = [(module, module.training) for module in net.modules()]
    with torch.no_grad():
        out = net.eval()(_inputs(net))
    for module, training in modes:
        module.training = training
    return out


def _everything(net: nn.Module) -> list[Any]:
    """All that must not change: objects, bits, gradients, modes, hooks, classes, and the random state."""
    found: list[Any] = [torch.get_rng_state().tolist()]
    for module in net.modules():
        found += [id(module), type(module), module.training, list(vars(module)), list(module._forward_pre_hooks)]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                grad = None if tensor.grad is None else tensor.grad.tolist()
                found += [id(tensor), tensor.data_ptr(), tensor.requires_grad, tensor._version, tensor.tolist(), grad]
    return found


@each_network
def test_a_plain_copy_computes_what_the_network_computes(build: Callable[[], nn.Module]) -> None:
    net = build()
    replica = plain_copy(net)
    assert torch.equal(_outputs(replica), _outputs(net))


@each_network
def test_weights_are_those_of_the_plain_copy_by_name_shape_type_and_bit(build: Callable[[], nn.Module]) -> None:
    net = build()
    weights = weights_of(net, "a")
    expected = {k: v for k, v in plain_copy(net).state_dict().items() if isinstance(v, Tensor)}
    assert weights.layout.keys() == expected.keys()
    for name, tensor in expected.items():
        shape = weights.layout[name]
        assert shape.is_meta
        assert (shape.shape, shape.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(weights.read(name), tensor)
        assert not weights.read(name).requires_grad


@each_network
def test_names_of_a_plain_copy_are_plain(build: Callable[[], nn.Module]) -> None:
    replica = plain_copy(build())
    banned = ("_orig", "_mask", "parametrizations", "weight_g", "weight_v", "module.", "_u")
    assert not [name for name in replica.state_dict() if any(word in name for word in banned)]
    assert not any(module._forward_pre_hooks for module in replica.modules())
    replica.load_state_dict(dict(replica.state_dict()))  # without PyTorch's metadata
    copy.deepcopy(replica)


@each_network
def test_nothing_of_the_callers_changes(build: Callable[[], nn.Module]) -> None:
    net = build().train()
    next(iter(net.children()), net).eval()  # mixed modes
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    outputs = _outputs(net)  # pruned networks put their products into attributes
    before = _everything(net)
    weights = weights_of(net, "a")
    for name in weights.layout:
        weights.read(name)
    replica = plain_copy(net)
    match_names(weights, replica, "a")
    with torch.no_grad():
        for tensor in replica.state_dict().values():
            if isinstance(tensor, Tensor):
                tensor.zero_()
    assert _everything(net) == before
    assert torch.equal(_outputs(net), outputs)


@each_network
def test_a_plain_copy_keeps_modes_and_freezing_and_carries_no_gradients(build: Callable[[], nn.Module]) -> None:
    net = build().train()
    next(iter(net.children()), net).eval()
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    replica = plain_copy(net)
    modes = {name: module.training for name, module in replica.named_modules()}
    own = {name.replace("_orig_mod.", "").replace("module.", ""): m.training for name, m in net.named_modules()}
    assert all(own[name] == training for name, training in modes.items())
    assert all(parameter.grad is None and parameter.is_leaf for parameter in replica.parameters())
    trained = {name for name, parameter in replica.named_parameters() if parameter.requires_grad}
    assert trained == (
        {name for name, _ in replica.named_parameters()} - ({"0.weight", "0.bias"} if build is _frozen else set())
    )


@each_network
def test_a_plain_copy_shares_no_memory_with_the_network(build: Callable[[], nn.Module]) -> None:
    net = build()
    places = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    assert not [
        n
        for n, t in plain_copy(net).state_dict().items()
        if isinstance(t, Tensor) and t.untyped_storage().data_ptr() in places
    ]


@each_network
def test_tensors_that_need_no_computing_are_not_copied(build: Callable[[], nn.Module]) -> None:
    net = build()
    own = {t.data_ptr() for t in net.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    weights = weights_of(net, "a")
    computed = {name for name in weights.layout if weights.read(name).data_ptr() not in own}
    noted = "".join(weights.notes)
    assert all(name in noted for name in computed)
    if build in (_mlp, Tied, Buffers):
        assert not computed


def test_the_notes_name_what_was_computed_and_what_was_left_out() -> None:
    assert weights_of(_mlp(), "a").notes == ()
    assert weights_of(_pruned(), "a").notes == (
        "pruned or parametrized, read by the effective weights: 0.weight, 4.bias",
    )
    assert weights_of(Buffers(), "a").notes == ("not tensors of the network, left out: _extra_state",)


def test_an_extra_state_is_left_out_even_if_it_is_a_tensor() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(3)

        def set_extra_state(self, state: Tensor) -> None:
            pass

    for source in (Extra(2, 2), Extra(2, 2).state_dict()):
        weights = weights_of(source, "a")
        assert list(weights.layout) == ["weight", "bias"]
        assert weights.notes == ("not tensors of the network, left out: _extra_state",)


def test_pruned_tensors_are_read_anew_after_another_training_step() -> None:
    net = _pruned()
    weights = weights_of(net, "a")
    with torch.no_grad():
        net[0].weight_orig.add_(1)  # PyTorch's cached product is now stale
    assert torch.equal(weights.read("0.weight"), (net[0].weight_orig * net[0].weight_mask).detach())


def test_pytorch_itself_breaks_the_original_when_a_copy_loses_its_parametrizations() -> None:
    """Why plain_copy does not use remove_parametrizations. If this fails, it may."""
    net = parametrizations.orthogonal(nn.Linear(3, 3))
    parametrize.remove_parametrizations(copy.deepcopy(net), "weight")
    assert not hasattr(net, "weight")


def test_spectral_norm_does_not_take_a_step_in_training_mode() -> None:
    net = _spectral_norm().train()
    u = net[0].parametrizations.weight[0]._u.clone()
    first, second = (weights_of(net, "a").read("0.weight") for _ in range(2))
    plain_copy(net)
    assert torch.equal(first, second)
    assert torch.equal(u, net[0].parametrizations.weight[0]._u)


@pytest.mark.parametrize("by", ["parameter", "data"])
def test_tied_weights_stay_tied_in_a_copy(by: str) -> None:
    net = Tied()
    if by == "data":  # two parameters, one memory
        net.head.weight = nn.Parameter(torch.empty(7, 5))
        net.head.weight.data = net.embed.weight.data
    replica: Any = plain_copy(net)
    with torch.no_grad():
        replica.embed.weight.fill_(3)
    assert (replica.head.weight == 3).all()
    assert not (net.head.weight == 3).any()
    assert weights_of(net, "a").aliases == {"head.weight": "embed.weight"}


def test_a_tie_of_which_one_end_is_pruned_is_no_tie() -> None:
    net = _pruned_tie()
    weights = weights_of(net, "a")
    assert weights.aliases == {}
    assert int((weights.read("0.weight") == 0).sum()) == 0
    assert int((weights.read("1.weight") == 0).sum()) == 12


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        AveragedModel,
        lambda net: torch.compile(nn.DataParallel(net)),
        lambda net: nn.DataParallel(torch.compile(nn.DataParallel(net))),
    ],
    ids=["DataParallel", "compile", "AveragedModel", "compiled DataParallel", "three"],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = _mlp()
    wrapped = wrap(net)
    if not isinstance(wrapped, AveragedModel):  # which makes its own copy
        assert unwrap(wrapped) is net
    assert type(plain_copy(wrapped)) is nn.Sequential
    weights = weights_of(wrapped, "a")
    assert list(weights.layout) == list(net.state_dict())
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in net.state_dict().items())


def test_wrappers_within_wrapped_layers_are_taken_off() -> None:
    net = nn.Sequential(nn.DataParallel(nn.Sequential(nn.DataParallel(nn.Linear(5, 5)), nn.ReLU())), nn.Linear(5, 5))
    replica = plain_copy(net)
    assert list(replica.state_dict()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert torch.equal(_outputs(replica), _outputs(net))


def test_a_distributed_network_is_unwrapped(tmp_path: Any) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = _mlp()
        assert unwrap(nn.parallel.DistributedDataParallel(net)) is net
    finally:
        torch.distributed.destroy_process_group()


def test_a_network_with_a_layer_called_module_is_not_unwrapped() -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert unwrap(net) is net
    assert list(weights_of(net, "a").layout) == ["module.weight", "module.bias"]


def test_what_a_network_remembers_is_copied_without_its_history() -> None:
    net: Any = _remembers()
    replica: Any = plain_copy(net)
    for ours, theirs in ((replica.last, net.last), (replica.all["steps"][0], net.all["steps"][0])):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert ours.grad_fn is None
        assert theirs.grad_fn is not None


def test_a_recurrent_copy_computes_with_what_is_loaded_into_it() -> None:
    replica, plain = plain_copy(_pruned_lstm()), nn.LSTM(5, 5, batch_first=True)
    replica.load_state_dict({f"lstm.{name}": tensor for name, tensor in plain.state_dict().items()})
    with torch.no_grad():
        expected = plain(_inputs(plain)[:, None].expand(-1, 3, -1))[0][:, -1]
    assert torch.equal(_outputs(replica), expected)


def test_a_scripted_network_is_read_and_copied() -> None:
    net = _mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        scripted = torch.jit.script(net)
    assert list(weights_of(scripted, "a").layout) == list(net.state_dict())
    assert torch.equal(_outputs(plain_copy(scripted)), _outputs(net))


def test_hooks_of_the_caller_are_kept_in_the_copy() -> None:
    net = _mlp()
    net[4].register_forward_hook(lambda module, args, out: out + 1)
    net[4].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    assert torch.equal(_outputs(plain_copy(net)), _outputs(net))


@pytest.mark.parametrize("wrong", [3, None, [torch.zeros(2)], lambda: None])
def test_what_is_no_network_is_refused(wrong: Any) -> None:
    with pytest.raises(NetworkError, match=r"a torch[.]nn[.]Module, a state dict, or the path"):
        weights_of(wrong, "a")
    with pytest.raises(NetworkError, match=r"expected a torch[.]nn[.]Module"):
        plain_copy(wrong)


def test_modules_without_values_are_refused() -> None:
    with pytest.raises(NetworkError, match="without parameters"):
        weights_of(nn.ReLU(), "a")
    with pytest.raises(NetworkError, match=r"meta device.*bias, weight"):
        weights_of(nn.Linear(2, 2, device="meta"), "a")
    with pytest.raises(NetworkError, match=r"no shapes yet for 0\.bias, 0\.weight; pass a batch"):
        weights_of(nn.Sequential(nn.LazyLinear(2)), "a")


def test_a_module_that_cannot_be_copied_is_refused_with_advice() -> None:
    net = nn.Linear(2, 2)
    net.stream = iter(lambda: 0, 1)  # type: ignore[assignment]
    net.file = open(__file__)  # type: ignore[assignment]  # noqa: SIM115
    advice = "give a plain module with its weights or, .* its state dict with model= a function that builds it"
    with pytest.raises(NetworkError, match=f"Linear cannot be copied.*{advice}"):
        plain_copy(net)
    net.file.close()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, and still met
def test_quantised_modules_are_refused_with_the_reason() -> None:
    quantised = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    net = nn.Sequential(nn.Linear(4, 4), quantised.Linear(4, 4))
    for source in (net, net.state_dict()):
        with pytest.raises(
            NetworkError, match=r"quantised weights \(1.*a path between quantised weights is not defined"
        ):
            weights_of(source, "a")
    tensor = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    with pytest.raises(NetworkError, match=r"quantised weights \(w\).*dequantise"):
        weights_of({"w": tensor}, "a")


# --- state dicts


def test_a_state_dict_is_read_without_a_copy() -> None:
    net = _mlp()
    weights = weights_of(net.state_dict(), "a")
    assert list(weights.layout) == list(net.state_dict())
    assert weights.notes == ()
    assert all(weights.read(n).data_ptr() == t.data_ptr() for n, t in net.state_dict().items())
    kept = weights_of(net.state_dict(keep_vars=True), "a")
    assert not kept.read("0.weight").requires_grad


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_is_found_in_a_checkpoint(key: str) -> None:
    saved = {"epoch": 3, key: _mlp().state_dict(), "best": torch.tensor(0.1), "optimizer": {"state": {0: {}}}}
    if key == "net":  # found because it is the only one; without a tensor beside it
        del saved["best"]
    weights = weights_of(saved, "a")
    assert list(weights.layout) == list(_mlp().state_dict())
    assert weights.notes == (f"its state dict is the one under {key!r}",)


def test_a_checkpoint_with_several_or_no_state_dicts_is_refused() -> None:
    one = nn.Linear(2, 2).state_dict()
    with pytest.raises(NetworkError, match=r"several state dicts, under 'net', 'ema'"):
        weights_of({"net": one, "ema": one}, "a")
    with pytest.raises(NetworkError, match=r"no tensors by name in it.*its keys are 'epoch'"):
        weights_of({"epoch": 1}, "a")
    with pytest.raises(NetworkError, match="its keys are none"):
        weights_of({}, "a")
    (note,) = weights_of({"state_dict": one, "ema": one}, "a").notes
    assert note.startswith("its state dict is the one under 'state_dict', and not 'ema', which checkpoint_key=")


def test_masks_in_a_state_dict_are_applied() -> None:
    net = _pruned()
    weights = weights_of(net.state_dict(), "a")
    effective = weights_of(net, "a")
    assert set(weights.layout) == set(effective.layout)
    assert all(torch.equal(weights.read(name), effective.read(name)) for name in effective.layout)
    assert weights.notes == ("pruned, the masks are applied to 2 tensors: 0.weight, 4.bias",)


def test_masks_without_originals_are_buffers_like_any_other() -> None:
    entries = {"weight": torch.ones(2), "weight_mask": torch.ones(2), "x_orig": torch.ones(1)}
    for more in ({}, {"weight_orig": torch.ones(2)}):
        weights = weights_of(entries | more, "a")
        assert list(weights.layout) == [*entries, *more]
        assert weights.notes == ()


def test_entries_that_are_not_tensors_are_left_out_with_a_note() -> None:
    weights = weights_of(Buffers().state_dict() | {"lr": 0.1}, "a")
    assert weights.notes == ("not tensors of the network, left out: _extra_state, lr",)
    assert weights.layout["phase"].dtype == torch.complex64


def test_tensors_on_the_meta_device_are_refused_in_state_dicts() -> None:
    with pytest.raises(NetworkError, match="meta device, without values: weight"):
        weights_of({"bias": torch.ones(1), "weight": torch.empty(2, device="meta")}, "a")


def test_a_copy_of_layers_without_shapes_says_what_they_lack() -> None:
    with pytest.raises(NetworkError, match=r"Sequential has no shapes yet for 0\.bias, 0\.weight; pass a batch"):
        plain_copy(nn.Sequential(nn.LazyLinear(2)))


def test_layers_without_shapes_are_not_plain() -> None:
    assert not is_plain(nn.Sequential(nn.LazyLinear(2)))
    assert is_plain(nn.Sequential(nn.Linear(2, 2)))
