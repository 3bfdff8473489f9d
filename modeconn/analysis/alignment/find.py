"""Find the alignment of two networks that are open: the graph, the matching, and the look at what it does."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.alignment.activation_matching import match_activations
from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.alignment.example import Call, Measured, as_parameters, example_of
from modeconn.analysis.alignment.network import PREFIX, TOLERANCE, Graph, difference, graph_of
from modeconn.analysis.alignment.specification import Specification
from modeconn.analysis.alignment.straight_through import learn_permutations
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.analysis.alignment.trace import exported
from modeconn.analysis.alignment.weight_matching import Match, match_weights
from modeconn.analysis.paths.linear import all_finite, can_interpolate, compute_dtype, load_weights
from modeconn.errors import DataError, NetworkError, OptionError, unknown
from modeconn.evaluation.batches import EMPTY
from modeconn.evaluation.forward import split_batch
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors
from modeconn.options import require, whole_number
from modeconn.versions import versions
from modeconn.weights.state_dicts import Weights

METHODS = ("weights", "activations", "straight-through")


@dataclass(frozen=True)
class AlignOptions:
    """How an alignment is found; `modeconn.align` explains each option.

    Raises:
        OptionError: an option that cannot be used, whatever the networks are.
    """

    method: str = "weights"
    tries: int = 5
    seed: int = 0
    double: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method of alignment", str(self.method), METHODS)
        object.__setattr__(self, "tries", whole_number(self.tries, 1, "there must be at least one try"))
        object.__setattr__(self, "seed", whole_number(self.seed, 0, "the seed must be a whole number, not negative"))

    @classmethod
    def of(cls, method: str | None, has_data: bool, **others: Any) -> "AlignOptions":
        """With the default method: by activations if there are data, by weights if not.

        Raises:
            OptionError: a method that needs data without any.
        """
        options = cls(("activations" if has_data else "weights") if method is None else method, **others)
        require(
            has_data or options.method == "weights",
            f"alignment by {options.method} needs data; give data= some of the training data",
        )
        return options


def find_alignment(
    scratch: nn.Module,
    weights: Sequence[Weights],
    names: Sequence[str],
    options: AlignOptions,
    *,
    example: Any = None,
    batches: Iterable[Any] = (),
    specification: Specification | None = None,
    graph: Graph | None = None,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> Alignment:
    """Find the permutation of the second network's units under which it is most like the first.

    Args:
        scratch: a network of ours, on the device where it is computed; its weights are overwritten.
        weights: of a and of b, by the names of `scratch`.
        names: what they are called.
        options: how.
        example: what the network is called with; the first of `batches`, or a guess, if None.
        batches: for methods that look at data.
        specification: of your own, instead of the network's graph.
        graph: what is known of the network, if that was found before.
        report: called with how many tries are done, and how many there are.

    Raises:
        ModeconnError: as `modeconn.align`.
    """
    began = time.monotonic()
    a, b = (_state(one, scratch) for one in weights)
    load_weights(scratch, weights[1])
    if graph is None:
        device = device_of(scratch)
        shown = next(iter(batches), None) if example is None else example
        graph = graph_of(scratch, example_of(scratch, shown, device), specification)
    match = _matched(graph, a, b, batches, options, report)
    change = _seen_unchanged(graph, match, names, options)
    return Alignment(
        symmetry=graph.symmetry,
        permutations=match.permutations,
        method=options.method,
        score=match.score,
        before=match.before,
        scores=match.scores,
        change=change,
        names=(names[0], names[1]),
        notes=match.notes,
        settings={
            "tries": options.tries,
            "seed": options.seed,
            "double": options.double,
            "seconds": round(time.monotonic() - began, 3),
            "versions": versions(),
        },
    )


def _matched(
    graph: Graph,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    batches: Iterable[Any],
    options: AlignOptions,
    report: Callable[[int, int], None],
) -> Match:
    matched = {name for name, _ in graph.network.named_parameters(remove_duplicate=False)}
    dtype = torch.float64 if options.double else None
    first, second = (
        {
            name: tensor.to(compute_dtype(tensor.dtype) if dtype is None else dtype)
            for name, tensor in state.items()
            if name in matched and name in graph.symmetry.tensors
        }
        for state in (a, b)
    )
    by_weights = match_weights(graph.symmetry, first, second, tries=options.tries, seed=options.seed, report=report)
    if options.method == "weights":
        return by_weights
    if graph.program is None:
        raise OptionError(
            f"alignment by {options.method} needs the network's graph, which a specification stands for here; use "
            "the method weights"
        )
    start = by_weights.permutations
    if options.method == "activations":
        program, inputs = _on_batches(graph.network, batches)
        return match_activations(graph.symmetry, program, a, b, inputs, start=start, prefix=PREFIX)
    loss = partial(_loss, _meter(graph.network, batches))
    return learn_permutations(graph.symmetry, graph.network, a, b, batches, loss, start=start, seed=options.seed)


def _on_batches(network: nn.Module, batches: Iterable[Any]) -> tuple[Any, Iterator[Call]]:
    """The network's graph for batches as long as the first, and what it is called with on each."""

    def inputs() -> Iterator[Call]:
        for batch in batches:
            args, kwargs, _ = split_batch(network, batch)
            yield as_parameters(network, args), as_parameters(network, kwargs)

    first = next(inputs(), None)
    if first is None:
        raise DataError(EMPTY)
    return exported(Measured(network), *first), inputs()


def _meter(network: nn.Module, batches: Iterable[Any]) -> Meter:
    """How the loss is measured, by what the first batch shows."""
    first = next(iter(batches), None)
    if first is None:
        raise DataError(EMPTY)
    with torch.no_grad(), evaluating(network):
        return choose_meter("auto", network, map_tensors(torch.clone, first))


class _Called(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _loss(meter: Meter, network: Callable[..., Any], batch: Any) -> Tensor:
    """The mean loss of a batch, which can be differentiated.

    Raises:
        OptionError: what is measured has no loss.
    """
    measured = meter.measure(_Called(network), batch)
    if "loss" not in measured.sums:
        known = ", ".join(measured.sums)
        raise OptionError(f"straight-through needs a loss to learn by; what is measured here has {known}")
    return measured.sums["loss"].sum() / measured.counts["loss"].sum()


def _seen_unchanged(graph: Graph, match: Match, names: Sequence[str], options: AlignOptions) -> float:
    """How far the permutation changes the output on a batch.

    Raises:
        SymmetryError: by more than sums in another order do.
    """
    dtype = torch.float64 if options.double else None
    change = difference(graph.network, graph.example, graph.symmetry, match.permutations, dtype)
    own = next((tensor.dtype for tensor in graph.network.parameters()), torch.float32)
    if not change <= TOLERANCE.get(own if dtype is None else dtype, 1e-2):
        raise SymmetryError(
            f"the permutation would change what {names[1]} computes by {change:.1e} of its largest output, so it is "
            "not used; a specification= of your own says which axes move together"
        )
    return change


def _state(weights: Weights, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network.

    Raises:
        NetworkError: a parameter that is NaN or infinite; a buffer may be, such as a causal mask.
    """
    state = {name: weights.read(name) for name in weights.layout}
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    bad = [name for name in parameters & state.keys() if can_interpolate(state[name]) and not all_finite(state[name])]
    if bad:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(sorted(bad))} in {weights.origin}")
    return state
