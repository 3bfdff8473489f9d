"""Layer-wise linear feature connectivity: does every layer of the network between two compute the mean of theirs?"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.comparison import open_comparison
from modeconn.analysis.connectivity.features_result import FeatureConnectivity
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.errors import DataError, NetworkError, OptionError, unknown
from modeconn.evaluation.forward import run
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.modes import padded
from modeconn.evaluation.scores import BatchSums
from modeconn.evaluation.structures import at_least_float32, describe_batch, map_tensors, tensors_of
from modeconn.progress import Progress, Report, silent, with_progress


@with_progress
def feature_connectivity(
    a: Source,
    b: Source,
    data: Any = None,
    *,
    alpha: float = 0.5,
    layers: Sequence[str] | None = None,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> FeatureConnectivity:
    """Compare every layer's features on the path with the average of the ends' features (Zhou et al. 2023).

    Two networks are layer-wise linearly feature connected if, for every layer l and up to a factor c near 1,
    c f_l(theta_alpha) = (1 - alpha) f_l(theta_a) + alpha f_l(theta_b), where f_l are the features of an example in
    layer l and theta_alpha are the weights on the straight path. For each layer this gives

    - the mean over examples of the cosine between f_l(theta_alpha) and that average of features: 1 if they are so
      connected;
    - the mean cosine between f_l(theta_a) and f_l(theta_b), which is what there is to explain: if the ends' features
      are alike, those between must be (the paper compares E[1 - cos_alpha] with E[1 - cos_AB]);
    - the factor c with the least squared error over all examples,
      sum <f_l(theta_alpha), average> / sum |f_l(theta_alpha)|^2.

    Features are a layer's output, flattened for each example. Layers are in the order in which they are called; one
    that is called several times for a batch counts every call, as `relu`, `relu (2)`. Three networks are in memory,
    and of one batch, the features of two: if that is too much, name fewer `layers` or give smaller batches.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them.
        data: as `modeconn.error_barrier` takes them; targets are not looked at. The first dimension of a batch counts
            its examples.
        alpha: where on the path; 0 is `a`, 1 is `b`.
        layers: names of modules; if None, all that have no modules in them. What is no floating-point tensor (or a
            tuple that begins with one) with the batch's examples as its first dimension is left out, with a note.
        report: called after every batch. How many are left is not known: it counts one more than there were.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: options of `modeconn.error_barrier`. `batchnorm` is done to the network between, `"recalibrate"` to
            the ends too. `evaluate`, if it is a function, passes a batch through the network.

    Raises:
        ModeconnError: an option, a network or data that do not fit; no layer that can be compared.

    >>> a, b = (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    >>> result = feature_connectivity(a, b, [torch.randn(20, 3, generator=torch.Generator().manual_seed(0))])
    >>> result.layers, result.cosine.shape, bool((result.cosine[0] > 0.999))
    (('0', '1', '2'), (3,), True)
    """
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not 0 <= float(alpha) <= 1:
        raise OptionError(f"alpha must be a number between 0 and 1; got {alpha!r}")
    options: OptionKeywords = {"evaluate": run, **how}
    with open_comparison([a, b], data, ComparisonOptions(**options)) as comparison:
        evaluator = comparison.evaluator
        modules = _modules(evaluator.network, layers)
        ends = [comparison.own_network(weights) for weights in comparison.networks]
        line = comparison.line(0, 1)
        features = _Features(modules, ends, float(alpha), evaluator.meter.forward, report)
        meter = Meter("features", features.compare, features.pass_through)
        replace(evaluator, meter=meter).measure_at(line, float(alpha))
        notes = [*comparison.notes, *line.notes, *features.notes()]
    compared = {name: layer for name, layer in features.layers.items() if name not in features.unfit}
    if not compared:
        raise DataError(f"no layer can be compared: {'; '.join(features.notes()) or 'none of them was called'}")
    return FeatureConnectivity(
        layers=tuple(compared),
        cosine=np.array([layer.mean_cosine(0) for layer in compared.values()]),
        cosine_ends=np.array([layer.mean_cosine(1) for layer in compared.values()]),
        scale=np.array([layer.scale for layer in compared.values()]),
        alpha=float(alpha),
        examples=features.examples,
        names=(comparison.names[0], comparison.names[1]),
        batchnorm=comparison.evaluator.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=comparison.settings | {"measured": "features"},
    )


@dataclass
class _LayerSums:
    """Sums over the examples of one layer, in float64."""

    examples: int = 0
    cosines: list[float] = field(default_factory=lambda: [0.0, 0.0])  # to the average of features, between the ends
    finite: list[int] = field(default_factory=lambda: [0, 0])  # examples that have such a cosine
    product: float = 0.0  # <middle, average>
    square: float = 0.0  # |middle|^2

    def add(self, middle: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
        """Features of one batch, [batch, ...] each."""
        middle, a, b = (_flat(tensor) for tensor in (middle, a, b))
        average = torch.lerp(a, b, alpha)
        product, square = _dot(middle, average), _dot(middle, middle)
        pairs = (product, square, _dot(average, average)), (_dot(a, b), _dot(a, a), _dot(b, b))
        for index, (dot, one, other) in enumerate(pairs):
            cosine = dot / (one * other).sqrt()  # NaN if one is zero; exactly 1 if all are equal
            finite = cosine.isfinite()
            self.cosines[index] += float(cosine[finite].clamp(-1, 1).sum())
            self.finite[index] += int(finite.sum())
        finite = product.isfinite() & square.isfinite()
        self.product += float(product[finite].sum())
        self.square += float(square[finite].sum())
        self.examples += len(middle)

    def mean_cosine(self, index: int) -> float:
        """The mean over examples that have one; NaN if none has."""
        return self.cosines[index] / self.finite[index] if self.finite[index] else math.nan

    @property
    def scale(self) -> float:
        """The factor c; NaN if all features are zero."""
        return self.product / self.square if self.square else math.nan


@dataclass(eq=False)
class _Features:
    """Passes batches through three networks and compares their features.

    Attributes:
        modules: names of the modules to look at.
        ends: networks with the weights of `a` and `b`.
        alpha: where the third network is on the path.
        pass_through: passes a batch through a network.
        layers: sums by layer, in the order of the first call.
        unfit: layers that cannot be compared, and why.
    """

    modules: Sequence[str]
    ends: Sequence[nn.Module]
    alpha: float
    pass_through: Callable[[nn.Module, Any], Any]
    report: Report
    layers: dict[str, _LayerSums] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    examples: int = 0
    batches: int = 0

    def compare(self, network: nn.Module, batch: Any) -> BatchSums:
        """Compare the features of one batch; `network` has the weights between."""
        tensors = [tensor for tensor in tensors_of(batch) if tensor.ndim]
        if not tensors:
            raise DataError(f"there are no examples in a batch {describe_batch(batch)}")
        size = len(tensors[0])
        of_a, of_b = (self._features_of(end, batch, size) for end in self.ends)

        def add(layer: str, middle: Tensor) -> None:
            if layer in of_a and layer in of_b and of_a[layer].shape == of_b[layer].shape == middle.shape:
                self.layers.setdefault(layer, _LayerSums()).add(middle, of_a[layer], of_b[layer], self.alpha)
            elif layer not in self.unfit:
                self.unfit[layer] = "is not called, or gives another shape, in one of the networks"

        with _watching(network, self.modules, self._checked(add, size)):
            self.forward(network, batch)
        self.examples += size
        self.batches += 1
        self.report(Progress.counted(self.batches, self.batches + 1, "batches"))
        one = torch.ones(1)
        return BatchSums({"batches": one}, {"batches": one}, whole=frozenset({"batches"}))

    def forward(self, network: nn.Module, batch: Any) -> None:
        """Pass a copy of a batch, as a network may write to its input."""
        self.pass_through(network, map_tensors(torch.clone, batch))

    def notes(self) -> Iterator[str]:
        """Notes on what was left out."""
        for reason in dict.fromkeys(self.unfit.values()):
            layers = [layer for layer, why in self.unfit.items() if why == reason]
            yield f"left out, as its output {reason}: {', '.join(layers)}"
        seen = {layer: sums for layer, sums in self.layers.items() if layer not in self.unfit}
        zero = {layer: sums.examples - min(sums.finite) for layer, sums in seen.items()}
        if any(zero.values()):
            shown = ", ".join(f"{layer} ({count} of {seen[layer].examples})" for layer, count in zero.items() if count)
            yield f"examples whose features are zero, or not finite, have no cosine and do not count: {shown}"
        uncalled = [name for name in self.modules if name and name not in self.layers and name not in self.unfit]
        if uncalled:
            yield f"modules that are never called: {', '.join(uncalled)}"
        rare = [f"{layer} ({sums.examples})" for layer, sums in seen.items() if sums.examples < self.examples]
        if rare:
            yield f"layers that were not called for all of the {self.examples} examples: {', '.join(rare)}"

    def _features_of(self, network: nn.Module, batch: Any, size: int) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}

        def keep(layer: str, output: Tensor) -> None:
            features[layer] = output.clone()  # what comes next may write to it

        with _watching(network, self.modules, self._checked(keep, size)):
            self.forward(network, batch)
        return features

    def _checked(self, use: Callable[[str, Tensor], None], size: int) -> Callable[[str, Any], None]:
        """Use an output only if it is a tensor with something for each example."""

        def check(layer: str, output: Any) -> None:
            tensor = output[0] if isinstance(output, list | tuple) and output else output
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                self.unfit[layer] = "is not a floating-point tensor"
            elif tensor.is_nested:
                self.unfit[layer] = "is a nested tensor"
            elif tensor.ndim == 0 or len(tensor) != size:
                self.unfit[layer] = "does not have the examples of the batch as its first dimension"
            elif layer not in self.unfit:
                use(layer, tensor.detach())

        return check


def _modules(network: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise NetworkError("scripted or traced networks cannot be looked into; give them as they were before torch.jit")
    named = {name: module for name, module in network.named_modules() if name}
    if layers is None:
        leaves = tuple(name for name, module in named.items() if not any(module.children()))
        return leaves or ("",)  # a network that is a single layer
    asked = [layers] if isinstance(layers, str) else list(layers)
    every = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    for name in asked:
        if name not in every:
            raise unknown("layer", str(name), every)
    if not asked:
        raise OptionError("layers= is empty; name modules of the network, or leave it out for all of them")
    return tuple(dict.fromkeys(asked))


@contextlib.contextmanager
def _watching(network: nn.Module, modules: Iterable[str], use: Callable[[str, Any], None]) -> Iterator[None]:
    """Context in which outputs of modules are used as they are made; of a second call by the name `module (2)`."""
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            shown = name or type(module).__name__
            use(shown if calls[name] == 1 else f"{shown} ({calls[name]})", output)

        return hook

    watched = {name: network.get_submodule(name) for name in modules}
    with padded(network, watched.values()), contextlib.ExitStack() as hooks:
        for name, module in watched.items():
            hooks.enter_context(module.register_forward_hook(watch(name)))
        yield


def _flat(tensor: Tensor) -> Tensor:
    return at_least_float32(tensor.reshape(len(tensor), -1))  # [batch, features]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Product per example: [batch], float64."""
    return (x * y).sum(1, dtype=torch.float64)
