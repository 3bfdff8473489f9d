"""Averages of networks' weights, and soups: averages of those networks that can be averaged (Wortsman et al. 2022)."""

import itertools
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from modeconn.analysis.alphas import grid
from modeconn.analysis.barrier import barrier_heights
from modeconn.analysis.error_barrier import Report, check_higher, first_metric
from modeconn.analysis.networks import Source, names_of, stored_of
from modeconn.analysis.paths import make_line
from modeconn.analysis.scene import How, Scene, open_scene
from modeconn.analysis.soup_result import Soup, Step
from modeconn.errors import DataError, NetworkError, OptionError, unknown
from modeconn.evaluation.measure import Measured
from modeconn.execution import Progress
from modeconn.models import Weights, fit, weights_of
from modeconn.models.state_dicts import state_tensors

KINDS = ("uniform", "greedy")
_DEFINITIONS = ("barrier", "chord_barrier")
_SUM = 1e-6  # how far from 1 the sum of given weights may be


def average(
    networks: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
) -> dict[str, Tensor]:
    """The weighted average of networks, tensor by tensor, as a state dict: sum over i of w_i theta_i.

    Floating-point and complex tensors are averaged in at least float32 and then take the networks' type, or the widest
    of theirs. Where all networks are equal, the average is bit for bit what they are; of two, it is the middle of
    the path of `modeconn.error_barrier`. Networks of weight 0 are not read. No network is built and the caller's are
    left unchanged: memory holds the result and a few tensors, however many networks are read from files.

    Running statistics of BatchNorm are averaged like weights, which is not what they should be at the average:
    measure them anew, as `modeconn.soup` does.

    Args:
        networks: at least one, each as `modeconn.error_barrier` takes it: modules, state dicts, files, Hugging Face
            folders, stored runs.
        weights: one for each, not negative, with a sum of 1; all equal if None.
        model: a module of the architecture, or a function that makes one; the tensors get its names. If None, they get
            those of the first module among the networks, or else of the first network.
        names: what messages call the networks.
        data_dir: folder of data sets, for folders of stored runs.

    Returns:
        By name, where the first network's tensors are and sharing memory with no network. Tied tensors are one tensor
        under each of their names. Integer and boolean tensors are the first network's, not averaged; where another's
        differ, a warning names them.

    Raises:
        OptionError: no networks, or weights that are no such weights.
        NetworkError: networks that do not fit together, or weights that are NaN or infinite, by name.

    >>> a, b, middle = (nn.Linear(2, 1) for _ in range(3))
    >>> keys = middle.load_state_dict(average([a, b], weights=[0.25, 0.75]))
    >>> torch.allclose(middle.weight, 0.25 * a.weight + 0.75 * b.weight)
    True
    """
    sources = _listed(networks)
    shares = _shares(weights, len(sources))
    used = [(one, share) for one, share in zip(_fitted(sources, model, names, data_dir), shares, strict=True) if share]
    mean = mean_of([one for one, _ in used], [share for _, share in used])
    state: dict[str, Tensor] = {}
    for name in mean.layout:
        twin = mean.aliases.get(name)
        state[name] = state[twin] if twin in state else mean.read(name).to(_common([one for one, _ in used], name))
    for note in _notes_on_integers([one for one, _ in used]):
        warnings.warn(note, stacklevel=2)
    return state


def soup(
    networks: Sequence[Source],
    data: Any = None,
    kind: str = "uniform",
    *,
    gate: float | None = 0.02,
    definition: str = "chord_barrier",
    alphas: int | Sequence[float] = 5,
    higher_is_better: bool | Collection[str] = (),
    report: Report = lambda progress: None,
    **how: Unpack[How],
) -> Soup:
    """Average those networks that can be averaged: a model soup (Wortsman et al. 2022, sections 2 and 3).

    Networks are ranked by the metric (the error, or else the first). A uniform soup is the average of all of them; a
    greedy soup (their recipe 1) starts from the best, and each next network joins if the average of the ingredients
    with it is no worse on `data`. So a greedy soup is never worse there than its best ingredient.

    The barrier is the gate: a network joins only if the barrier on the straight path from the best network (uniform),
    or from the soup so far (greedy), is at most `gate`. It is measured over the chord between the ends: the other
    definition would also keep out every network that is worse than the best by more than twice the gate, however
    straight the path.

    `data` decide which networks join, so they must be held out: neither what the networks were trained on, nor the test
    set on which the soup's error will be reported.

    Running statistics of BatchNorm are measured anew on `calibration` data for every network and every average, the
    result included, unless you choose otherwise. One network is in memory besides yours; networks in files are read
    again for every average.

    Args:
        networks: as `modeconn.error_barrier` takes them; one is enough.
        data: held-out data, as `modeconn.error_barrier` takes them. Of stored runs, `"test"` and `"train"` are known.
        kind: `"uniform"` or `"greedy"`.
        gate: the highest barrier with which a network joins, in the unit of the metric (0.02 is 2 points of error);
            None for no gate.
        definition: of the barrier: `"chord_barrier"` (Entezari et al. 2022) or `"barrier"` (Frankle et al. 2020).
        alphas: the points of paths that barriers are measured on: how many, ends included, or a list of them.
        higher_is_better: as `modeconn.error_barrier` takes it.
        report: called after every measurement with how far it is.
        **how: options of `modeconn.error_barrier`. `batchnorm` is `"recalibrate"` (needs `calibration`) or
            `"interpolate"`.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is measured.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> networks = [nn.Linear(4, 2) for _ in range(3)]
    >>> result = soup(networks, data, "greedy", gate=None)
    >>> result.value <= min(result.values.values())
    True
    >>> keys = networks[0].load_state_dict(result.state)
    """
    sources = _listed(networks)
    _check_options(kind, gate, definition, alphas, data, how)
    points = () if gate is None else grid(alphas)
    options: How = {"batchnorm": "recalibrate", **how}
    with open_scene(sources, data, **options) as scene:
        _check_finite(scene)
        say = _counting(report, len(sources), len(set(points) - {0.0, 1.0}) + (kind == "greedy"))
        ends = []
        for network in scene.networks:
            ends.append(scene.scratch.measure_end(network)[""])
            say()
        metric = first_metric(ends[0])
        better = check_higher(higher_is_better, scene, ends[0])
        sign = -1 if metric in better else 1
        recipe = _Recipe(scene, ends, metric, sign, kind, gate, definition, points, say)
        own = [recipe.value(end) for end in ends]
        order = sorted(range(len(own)), key=lambda i: (math.isnan(own[i]), sign * own[i]))
        members, steps = recipe.choose(order)
        chosen = [scene.networks[index] for index in members]
        measured = scene.scratch.measure_end(mean_of(chosen))[""]
        say()
    notes = [*scene.notes, *_notes_on_integers(chosen)]
    if kind == "greedy" and isinstance(data, str) and data == "test":
        notes.append("its members were chosen on test data, so its error there is too low for an estimate")
    notes += [f"{metric} of {scene.names[i]} is not finite" for i in order if not math.isfinite(own[i])]
    return Soup(
        state={name: tensor.detach() for name, tensor in state_tensors(scene.scratch.network).items()},
        members=tuple(scene.names[index] for index in members),
        steps=tuple(steps),
        outcomes={scene.names[index]: _means(ends[index]) for index in order},
        of_soup=_means(measured),
        metric=metric,
        kind=kind,
        gate=gate,
        higher_is_better=better,
        batchnorm=scene.scratch.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=scene.settings
        | {"alphas": list(points), "definition": definition}
        | {"examples": len(next(iter(measured.sums.values())))},
    )


def mean_of(networks: Sequence[Weights], shares: Sequence[float] | None = None) -> Weights:
    """The weighted average of networks with the same names, computed when it is read and not rounded: a tensor is at
    least float32. Shares are positive, and equal if None; integers are the first network's.
    """
    parts = [1.0] * len(networks) if shares is None else shares
    first = networks[0]
    layout = {name: torch.empty_like(shape, dtype=_wide(networks, name)) for name, shape in first.layout.items()}
    return Weights(layout, lambda name: _mean(networks, parts, name), "the average", aliases=first.aliases)


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How networks are chosen, once each has been measured alone."""

    scene: Scene
    ends: Sequence[Measured]
    metric: str
    sign: int  # -1 where higher is better
    kind: str
    gate: float | None
    definition: str
    points: Sequence[float]
    say: Callable[[], None]

    def choose(self, order: Sequence[int]) -> tuple[list[int], list[Step]]:
        """The members, best first, and what was done with each network; `order` is their rank."""
        scene, best = self.scene, order[0]
        members = [best]
        base, at_base = scene.networks[best], self.ends[best]
        steps = [Step(0, scene.names[best], self.value(at_base), math.nan, True, "best")]
        for number, index in enumerate(order[1:], start=1):
            # The average with one more network lies on the path from the soup to it.
            share = 1 / (len(members) + 1) if self.kind == "greedy" else None
            found = self._walk(base, at_base, index, share)
            value = math.nan if share is None else self.value(found[share])
            barrier = self._barrier(found)
            reason = self._judge(barrier, value, self.value(at_base))
            steps.append(Step(number, scene.names[index], value, barrier, reason == "joins", reason))
            if reason == "joins":
                members.append(index)
                if share is not None:
                    base, at_base = mean_of([scene.networks[member] for member in members]), found[share]
        return members, steps

    def value(self, measured: Measured) -> float:
        """The metric by which networks are chosen."""
        if self.metric not in measured.sums:
            raise DataError(f"evaluate gives {self.metric!r} for one network and not for another")
        return measured.mean(self.metric)

    def _walk(self, base: Weights, at_base: Measured, index: int, share: float | None) -> dict[float, Measured]:
        """The outcomes on the path to a network; at `share` too, if that is asked for."""
        found = {0.0: at_base, 1.0: self.ends[index]}
        inner = {*self.points, *([] if share is None else [share])} - found.keys()
        if inner:
            line = make_line(base, self.scene.networks[index], self.scene.parameters)
            for alpha in inner:
                found[alpha] = self.scene.scratch.measure_at(line, alpha)[""]
                self.say()
            if share in self.points:
                self.say()  # for both
        return dict(sorted(found.items()))

    def _barrier(self, found: Mapping[float, Measured]) -> float:
        if self.gate is None:
            return math.nan
        values = [self.sign * self.value(measured) for measured in found.values()]
        return float(getattr(barrier_heights(list(found), values), self.definition))

    def _judge(self, barrier: float, value: float, so_far: float) -> str:
        # What is not a number is worse than any.
        if self.gate is not None and not barrier <= self.gate:
            return "barrier"
        if self.kind == "greedy" and not self.sign * value <= self.sign * so_far:
            return "worse"
        return "joins"


def _counting(report: Report, networks: int, inner: int) -> Callable[[], None]:
    """Reports one more measurement at each call."""
    total, count = networks + (networks - 1) * inner + 1, itertools.count(1)

    def say() -> None:
        done = next(count)
        report(Progress(done, 0, total, done, total, ()))

    return say


def _listed(networks: Sequence[Source]) -> list[Source]:
    if isinstance(networks, nn.Module | Mapping | str | Path):
        raise OptionError(f"networks must be a list of networks; got one {type(networks).__name__}")
    sources = list(networks)
    if not sources:
        raise OptionError("there are no networks to average; give a list of at least one")
    return sources


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    try:
        shares = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {weights!r}") from error
    if len(shares) != count:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {len(shares)}")
    if not all(0 <= share < math.inf for share in shares) or abs(math.fsum(shares) - 1) > _SUM:
        raise OptionError(f"weights must not be negative and have a sum of 1; got {shares}")
    return shares


def _check_options(kind: str, gate: float | None, definition: str, alphas: Any, data: Any, how: How) -> None:
    if kind not in KINDS:
        raise unknown("kind of soup", str(kind), KINDS)
    if definition not in _DEFINITIONS:
        raise unknown("definition", str(definition), _DEFINITIONS)
    if gate is not None and (not isinstance(gate, Real) or isinstance(gate, bool) or not 0 <= float(gate) < math.inf):
        raise OptionError(f"gate must be a number of at least 0, or None for no gate; got {gate!r}")
    if isinstance(alphas, str) and alphas == "adaptive":
        raise OptionError("a soup's barriers are measured on a fixed grid; give alphas= a count or a list")
    grid(alphas)
    if how.get("batchnorm") == "repair":
        raise OptionError(
            'batchnorm="repair" is defined between two networks and not for an average of many; choose "recalibrate" '
            'or "interpolate"'
        )
    if kind == "greedy" and data is None:
        raise OptionError(
            "a greedy soup chooses its members on data=, which must be held out: give data that are neither training "
            "nor test data"
        )


def _fitted(
    sources: Sequence[Source],
    model: nn.Module | Callable[[], nn.Module] | None,
    names: Sequence[str] | None,
    data_dir: str | Path | None,
) -> list[Weights]:
    """The weights of each by the same names, without a network to put them into."""
    called = names_of(sources, names)
    stored = [stored_of(source, data_dir) for source in sources]
    origins = [
        found.weights if found else weights_of(source, name)  # type: ignore[arg-type]  # a run is found
        for source, found, name in zip(sources, stored, called, strict=True)
    ]
    original = _made(model) or next((source for source in sources if isinstance(source, nn.Module)), None)
    names_only = _Names(origins[0] if original is None else weights_of(original, "the network"))
    return [fit(origin, names_only, name, original) for origin, name in zip(origins, called, strict=True)]


def _made(model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module | None:
    if model is None or isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise OptionError(f"model= must be a module or a function that makes one; got {type(model).__name__}")
    with torch.random.fork_rng(devices=[]):
        made = model()
    if not isinstance(made, nn.Module):
        raise NetworkError(f"model= gave {type(made).__name__}, not a torch.nn.Module")
    return made


class _Names(nn.Module):
    """Stands for a network of which names, shapes and ties are all that matters."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.shapes = {name: weights.layout[weights.aliases.get(name, name)] for name in weights.layout}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Tensors on the meta device; tied ones are one object."""
        return dict(self.shapes)


@torch.no_grad()
def _mean(networks: Sequence[Weights], shares: Sequence[float], name: str) -> Tensor:
    """One tensor of the average: a tensor of its own, at least float32.

    The mean moves towards each next network, mean += (x - mean) w / (sum of weights so far). Unlike a sum of products,
    it stays what it is where networks are equal.
    """
    first = networks[0].read(name)
    if not _is_averaged(first):
        return first.clone()
    mean = first.to(_wide(networks, name), copy=True)
    moved = False
    total = shares[0]
    for network, share in zip(networks[1:], shares[1:], strict=True):
        tensor = network.read(name)
        total += share
        # Equal infinities, as in a mask for attention, would differ by NaN.
        if moved or not _equal(first, tensor):
            mean.lerp_(tensor.to(mean.device, mean.dtype), share / total)
            moved = True
        del tensor
    if moved and not bool(mean.isfinite().all()):
        bad = [one.origin for one in networks if not bool(one.read(name).isfinite().all())]
        raise NetworkError(f"weights are NaN or infinite: {', '.join(f'{name} in {origin}' for origin in bad)}")
    return mean


def _check_finite(scene: Scene) -> None:
    bad = [
        f"{name} in {called}"
        for called, network in zip(scene.names, scene.networks, strict=True)
        for name in scene.parameters
        if not bool(network.read(name).isfinite().all())
    ]
    if bad:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(bad)}")


def _notes_on_integers(networks: Sequence[Weights]) -> Iterator[str]:
    first = networks[0]
    names = [
        name
        for name, shape in first.layout.items()
        if not _is_averaged(shape) and not all(_equal(first.read(name), other.read(name)) for other in networks[1:])
    ]
    if names:
        yield f"integers are not averaged; of those that differ, {first.origin}'s are used: {', '.join(names)}"


def _means(measured: Measured) -> dict[str, float]:
    return {name: measured.mean(name) for name in measured.sums}


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _wide(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type to average in: at least float32."""
    dtypes = {network.layout[name].dtype for network in networks}
    first = networks[0].layout[name]
    if first.is_complex():
        return torch.complex128 if torch.complex128 in dtypes else torch.complex64
    if first.is_floating_point():
        return torch.float64 if torch.float64 in dtypes else torch.float32
    return first.dtype


def _common(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type of an average: that of all networks, or one that is wide enough for all."""
    dtypes = {network.layout[name].dtype for network in networks}
    return dtypes.pop() if len(dtypes) == 1 else _wide(networks, name)
