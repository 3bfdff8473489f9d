r"""Norms without scales: LayerNorm and RMSNorm of a residual stream folded into the layers around them.

With \(\hat x\) for what a norm gives before its scale and shift, a layer that reads it computes
\(W(\gamma \odot \hat x + \beta) + b = (W\,\mathrm{diag}(\gamma))\,\hat x + (W \beta + b)\). LayerNorm takes the mean
away first: \(\mathrm{LayerNorm}(x) = \mathrm{RMSNorm}(M x)\) with \(M = I - \mathbf{1}\mathbf{1}^\top / D\), and M x is
what the stream holds when everything that writes to it is multiplied by M (Ashkboos et al. 2024, SliceGPT,
section 3.2).
"""

import contextlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.flow import READ, along, opname, where
from modeconn.analysis.alignment.orthogonal import WholeStream, residual_group
from modeconn.analysis.alignment.symmetry import Symmetry, SymmetryError
from modeconn.analysis.alignment.trace import exported, trace

_CARRIED = ("moved", "reshaped", "unchanged")  # rules under which what a norm gives stays what it gave
_AGREES = 1e-3  # part of the largest output that the folded network's may differ by


@dataclass(frozen=True)
class Folded:
    """A network whose norms have no scales.

    Attributes:
        network: of the original's class, with `torch.nn.RMSNorm` without parameters in the place of its norms.
        norms: the paths of the modules that were replaced.
        untied: names of parameters that were an embedding's, and have their own numbers now.
    """

    network: nn.Module
    norms: tuple[str, ...]
    untied: tuple[str, ...]


def fold_norms(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Folded:
    """A copy of a transformer that computes the same function with norms that have no scale, shift or mean.

    Scales and shifts go to the layers that read a norm, and the mean to what writes the residual stream and what reads
    it. An embedding that is also the output layer's weight (tied) cannot stay so: the layer gets its own in the copy,
    and what the copy's configuration says of it (`config.tie_word_embeddings`) becomes False.

    Args:
        network: which; it stays as it is.
        args, kwargs: an example of what it is called with.

    Raises:
        ExportError: its graph cannot be had.
        SymmetryError: a norm cannot be folded; the message names what stands in the way.
    """
    copy = deepcopy(network)
    untied = _untied(copy)
    program = exported(copy, args, kwargs)
    symmetry = symmetry_of(trace(program))
    flow = _Folding(symmetry, [residual_group(symmetry)], _norms(copy))
    flow.follow(program)
    _check(flow)
    with torch.no_grad():
        for (name, axis), reader in flow.readers.items():
            if reader.norm is not None:
                _absorb(copy, flow, name, axis, reader)
        if any(flow.norms[path].centres for path in flow.entered):
            for name, axis in flow.uses:
                tensor = _tensor(copy, name)
                tensor -= tensor.mean(axis, keepdim=True)
    norms = _swapped(copy, [flow.norms[path].module for path in flow.entered], flow)
    _compare(network, copy, args, kwargs or {})
    return Folded(copy, norms, untied)


@dataclass(frozen=True)
class _Norm:
    """A module that normalises the last axis.

    Attributes:
        module: the module.
        eps: what is added to the mean of squares.
        centres: whether it takes the mean away: LayerNorm.
    """

    module: nn.Module
    eps: float
    centres: bool


@dataclass(frozen=True)
class _Reader:
    """How a weight reads the stream: behind a norm, or none, and with a bias, or none."""

    norm: str | None
    bias: str | None


class _Folding(WholeStream):
    """The walk of a stream, on which norms stand.

    Attributes:
        norms: the network's, by path.
        entered: the labels along the last axis of what each norm was given, by path.
        readers: of the stream, by tensor and axis.
    """

    def __init__(self, symmetry: Symmetry, groups: list[int], norms: Mapping[str, _Norm]) -> None:
        super().__init__(symmetry, groups)
        self.norms = norms
        self.entered: dict[str, Tensor] = {}
        self.readers: dict[tuple[str, int], _Reader] = {}
        self._given: dict[Node, str | None] = {}  # by which norm

    def called(self, node: Node) -> Any:
        """The labels of what an operator gives, and by which norm it was given."""
        there = [given for given in node.all_input_nodes if given not in self._parameters and self.stands(given)]
        paths = (path for path, _ in (node.meta.get("nn_module_stack") or {}).values())
        norm = next((path for path in paths if path in self.norms), None)
        rule = self.names.get(opname(node), "")
        if norm is not None and there and rule != "unchanged" and node.meta.get("val") is not None:
            return self._inside(node, there[0], norm)
        found = super().called(node)
        if found is None:  # an assertion of the graph
            return None
        sources = {self._given.get(given) for given in node.all_input_nodes if self.stands(given)}
        if sources - {None} and rule not in ("product", "addmm", "convolution"):
            if (rule not in _CARRIED and opname(node) not in ("mean", "getitem")) or len(sources) > 1:
                for given in there:
                    self.refuse_all(given, where(node))
            self._given[node] = next(iter(sources - {None}))
        return found

    def layer(self, node: Node, x: Any, weight: Any, bias: Any, axes: tuple[int, int], channel: int) -> Any:
        """As it is, and noted who reads what."""
        found = super().layer(node, x, weight, bias, axes, channel)
        place = (self._parameters.get(weight, ""), axes[0])
        if self.uses.get(place) == READ:
            reader = _Reader(self._given.get(x), self._parameters.get(bias))
            if self.readers.setdefault(place, reader) != reader:
                self.refuse(self.value(x), f"{place[0]} reads behind two norms")
        return found

    def _inside(self, node: Node, x: Node, norm: str) -> Any:
        """The labels of an operator inside a norm: those of the stream, or none."""
        labels = self.value(x)
        if self._given.get(x) not in (None, norm) or self.axis(labels) != labels.dim() - 1:
            self.refuse(labels, where(node))
        line = labels[(0,) * (labels.dim() - 1)]
        if not torch.equal(self.entered.setdefault(norm, line), line):
            self.refuse(labels, where(node))
        self._given[node] = norm
        shape = tuple(map(int, node.meta["val"].shape))
        return labels if shape == tuple(labels.shape) else torch.zeros((), dtype=torch.int64).expand(shape)


def _untied(network: nn.Module) -> tuple[str, ...]:
    """Give those parameters their own numbers that are also an embedding's, and say which they were."""
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    found = []
    for path, module in network.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in embeddings and not isinstance(module, nn.Embedding):
                own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                module.register_parameter(name, own)
                found.append(f"{path}.{name}" if path else name)
    config = getattr(network, "config", None)
    if found and config is not None and hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = False  # or it would be tied again when the copy is saved and read
    return tuple(found)


def _norms(network: nn.Module) -> dict[str, _Norm]:
    """The LayerNorms and RMSNorms of a network, by path; those of other libraries are known by their name."""
    found = {}
    for path, module in network.named_modules(remove_duplicate=False):
        centres = isinstance(module, nn.LayerNorm)
        if centres or isinstance(module, nn.RMSNorm) or type(module).__name__.endswith("RMSNorm"):
            shape: Sequence[int] = getattr(module, "normalized_shape", None) or _shape(getattr(module, "weight", None))
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if len(shape) == 1 and path:
                weight = getattr(module, "weight", None)
                dtype = torch.get_default_dtype() if weight is None else weight.dtype
                norm = _Norm(module, torch.finfo(dtype).eps if eps is None else float(eps), centres)
                if _computes(norm, int(shape[0])):
                    found[path] = norm
    return found


def _shape(weight: Any) -> tuple[int, ...]:
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()


def _computes(norm: _Norm, width: int) -> bool:
    """Whether a module computes what its name says, on numbers that are drawn for it."""
    weight, bias = (_scale_or_shift(norm, name, width) for name in ("weight", "bias"))
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(weight)
    centred = x - x.mean(-1, keepdim=True) if norm.centres else x
    expected = weight * centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + norm.eps) + bias
    with contextlib.suppress(RuntimeError), torch.no_grad():
        return torch.allclose(norm.module(x), expected, rtol=1e-3, atol=1e-3)
    return False


def _scale_or_shift(norm: _Norm, name: str, width: int) -> Tensor:
    """A norm's weight or bias: [width]; 1 or 0 where it has none."""
    own = getattr(norm.module, name, None)
    if isinstance(own, Tensor):
        return own.detach()
    like = next(norm.module.parameters(), torch.empty(()))
    return torch.full((width,), 1.0 if name == "weight" else 0.0, dtype=like.dtype, device=like.device)


def _check(flow: _Folding) -> None:
    """See whether the norms on a stream can be folded."""
    group = residual_group(flow.symmetry)
    stream = flow.symmetry.groups[group].name
    if group in flow.refused:
        raise SymmetryError(f"the norms on the residual stream of {stream!r} cannot be folded: {flow.refused[group]}")
    if not flow.entered:
        raise SymmetryError(f"there is no norm on the residual stream of {stream!r}")
    centring = {flow.norms[path].centres for path in flow.entered}
    bare = [name for (name, _), reader in flow.readers.items() if reader.norm is None]
    if True in centring and (bare or len(centring) > 1):
        what = f"{bare[0]} reads it without a norm" if bare else "it has RMSNorms too"
        raise SymmetryError(f"the mean cannot be taken from the residual stream of {stream!r}: {what}")


def _absorb(network: nn.Module, flow: _Folding, name: str, axis: int, reader: _Reader) -> None:
    """Multiply what reads a norm by its scale, and add its shift to the bias."""
    assert reader.norm is not None
    norm, line = flow.norms[reader.norm], flow.entered[reader.norm]
    places = torch.argsort(line)[torch.argsort(torch.argsort(flow.lines(name)[axis]))]
    weight = _tensor(network, name)
    gamma, beta = (_scale_or_shift(norm, kind, len(line)).to(weight)[places] for kind in ("weight", "bias"))
    shift = (weight * along(beta, axis, weight.dim())).sum(axis)
    weight *= along(gamma, axis, weight.dim())
    if bool((beta != 0).any()):
        _shift(network, name, reader, shift)


def _shift(network: nn.Module, name: str, reader: _Reader, shift: Tensor) -> None:
    """Add to a layer's bias, which a linear layer without one gets."""
    layer = network.get_submodule(name.rpartition(".")[0])
    if shift.dim() != 1:
        raise SymmetryError(f"the shift of {reader.norm} cannot be folded into {name}, a convolution")
    if reader.bias is not None:
        bias = _tensor(network, reader.bias)
        bias += shift
    elif isinstance(layer, nn.Linear):
        layer.bias = nn.Parameter(shift.clone(), requires_grad=layer.weight.requires_grad)
    else:
        raise SymmetryError(f"the shift of {reader.norm} cannot be folded into {name}, whose layer has no bias")


def _tensor(network: nn.Module, name: str) -> Tensor:
    """A parameter or buffer."""
    path, _, own = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(path), own)
    return found


def _swapped(network: nn.Module, modules: Sequence[nn.Module], flow: _Folding) -> tuple[str, ...]:
    """Put norms without parameters in the place of modules, and say where."""
    found = []
    for path, norm in flow.norms.items():
        if any(norm.module is module for module in modules):
            width = len(next(iter(flow.entered.values())))
            parent, _, name = path.rpartition(".")
            new = nn.RMSNorm(width, eps=norm.eps, elementwise_affine=False).train(norm.module.training)
            setattr(network.get_submodule(parent), name, new)
            found.append(path)
    return tuple(found)


def _compare(network: nn.Module, copy: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """See whether both compute the same on the example."""
    before = _outputs(network, args, kwargs)
    try:
        after = _outputs(copy, args, kwargs)
    except AttributeError as error:
        raise SymmetryError(f"the network uses its norms in other ways than to call them ({error})") from error
    for one, other in zip(before, after, strict=True):
        if not bool((one - other).abs().max() <= _AGREES * one.abs().max()):
            raise SymmetryError("the network with folded norms computes something else on the example")


def _outputs(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All tensors of numbers that a network gives in evaluation mode."""
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            found = tree_leaves(network.eval()(*args, **kwargs))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [out for out in found if isinstance(out, Tensor) and out.is_floating_point() and out.numel()]
