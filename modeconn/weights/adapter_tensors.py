"""The tensors of a LoRA adapter, by the names of its base model: low-rank updates, and what replaces the base's own."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Size

from modeconn.errors import NetworkError
from modeconn.weights.adapter_config import CONFIGURATION, MERGE, AdapterConfig
from modeconn.weights.low_rank import LowRank
from modeconn.weights.names import find_names
from modeconn.weights.state_dicts import Weights

_PREFIX = "base_model.model."
_BESIDE = ("base_layer", "modules_to_save")  # segments that PEFT puts into names of what is trained whole
_FACTOR = re.compile(r"(?P<module>.+)\.(lora_(?P<side>[AB])\.weight|lora_embedding_(?P<row>[AB]))")


@dataclass(frozen=True, eq=False)
class AdapterTensors:
    """What an adapter changes, by the base's names.

    Attributes:
        updates: weights that get a product of factors.
        whole: tensors that the adapter has itself, and their names in its file.
        note: how names were changed; empty if they were not.
    """

    updates: Mapping[str, LowRank]
    whole: Mapping[str, str]
    note: str


def match_tensors(saved: Weights, config: AdapterConfig, base: Weights, origin: str) -> AdapterTensors:
    """Match the tensors of an adapter's file to its base model's.

    Raises:
        NetworkError: tensors of another kind, or that do not fit the base in name or shape; all are listed.
    """
    factors, whole = _contents(saved, origin)
    wanted = [*(f"{module}.weight" for module in factors), *whole]
    names, note = find_names(wanted, list(base.layout))
    _check_names(wanted, names, base, origin)
    problems = [
        f"{name} is {_shape(saved, stored)}, and {_shape(base, names[name])} in the base"
        for name, stored in whole.items()
        if saved.layout[stored].shape != base.layout[names[name]].shape
    ]
    of_module = {
        module: _Shapes.of(saved, pair, base.layout[names[f"{module}.weight"]].shape)
        for module, pair in factors.items()
    }
    problems += [
        text for module, shapes in of_module.items() for text in shapes.problems(module, config.rank_of(module))
    ]
    if problems:
        raise NetworkError(f"{origin} does not fit its base model: {'; '.join(problems)}")
    linear = {module: shapes for module, shapes in of_module.items() if not factors[module].embedding}
    _check_orientation(linear, config, origin)
    updates = {
        names[f"{module}.weight"]: LowRank(
            base=partial(base.read, names[f"{module}.weight"]),
            a=partial(saved.read, pair.a),
            b=partial(saved.read, pair.b),
            scale=config.scale_of(module),
            transposed=pair.embedding or (config.transposed if of_module[module].square else of_module[module].turned),
        )
        for module, pair in factors.items()
    }
    return AdapterTensors(updates, {names[name]: stored for name, stored in whole.items()}, note)


@dataclass(frozen=True)
class _Pair:
    """The names of a module's two factors in the file."""

    a: str
    b: str
    embedding: bool


@dataclass(frozen=True)
class _Shapes:
    """The shapes of a module's factors, and of the base's weight."""

    a: Size
    b: Size
    base: Size

    @staticmethod
    def of(saved: Weights, pair: _Pair, base: Size) -> "_Shapes":
        """Those of two factors; B of a convolution has a kernel of 1, which is left out."""
        a, b = saved.layout[pair.a].shape, saved.layout[pair.b].shape
        return _Shapes(a, b[:2] if all(size == 1 for size in b[2:]) else b, base)

    @property
    def plain(self) -> bool:
        """Whether the weight is [outputs, inputs]."""
        return tuple(self.base) == (self.b[0], *self.a[1:])

    @property
    def turned(self) -> bool:
        """Whether the weight is [inputs, outputs]."""
        return len(self.base) == 2 and tuple(self.base) == (*self.a[1:], self.b[0])

    @property
    def square(self) -> bool:
        """Whether shapes do not tell which of the two it is."""
        return self.plain and self.turned

    def problems(self, module: str, rank: int) -> list[str]:
        """What does not fit, in words."""
        of = f"the factors of {module} are {list(self.a)} and {list(self.b)}"
        if len(self.b) != 2 or self.a[0] != self.b[1] or self.a[0] != rank:
            return [f"{of}, and its rank is {rank} in {CONFIGURATION}"]
        return [] if self.plain or self.turned else [f"{of}, and the base's weight is {list(self.base)}"]


def _contents(saved: Weights, origin: str) -> tuple[dict[str, _Pair], dict[str, str]]:
    """The factors by module, and the names in the file of whole tensors by what they replace."""
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    whole: dict[str, str] = {}
    unknown = []
    for name in saved.layout:
        plain = name.removeprefix(_PREFIX)
        if (found := _FACTOR.fullmatch(plain)) is not None:
            embedding = found["row"] is not None
            sides.setdefault((found["module"], embedding), {})[found["row"] or found["side"]] = name
        elif re.search(r"(^|\.)lora_", plain):
            unknown.append(plain)
        elif "original_module" not in plain.split("."):  # what PEFT keeps of the base beside `modules_to_save`
            replaced = ".".join(segment for segment in plain.split(".") if segment not in _BESIDE)
            if replaced not in whole or "modules_to_save" in plain.split("."):
                whole[replaced] = name
    if unknown:
        raise NetworkError(f"{origin} has tensors that are no factors of low-rank updates, {_few(unknown)}: {MERGE}")
    if single := [module for (module, _), pair in sides.items() if len(pair) < 2]:
        raise NetworkError(f"{origin} is damaged: one of the two factors of {_few(single)} is missing")
    return {module: _Pair(pair["A"], pair["B"], embedding) for (module, embedding), pair in sides.items()}, whole


def _check_names(wanted: Collection[str], names: Mapping[str, str], base: Weights, origin: str) -> None:
    if absent := [name for name in wanted if name not in names]:
        raise NetworkError(
            f"{origin} does not fit its base model, which has no {_few(absent)}; give model= the base model that it "
            "was trained on, with its heads"
        )
    tied = {*base.aliases, *base.aliases.values()}
    if both := [name for name in wanted if names[name] in tied]:
        raise NetworkError(f"{origin} changes {_few(both)}, which its base model ties to another weight: {MERGE}")


def _check_orientation(linear: Mapping[str, _Shapes], config: AdapterConfig, origin: str) -> None:
    """See that the flag by which square weights are read goes with those that show it by their shape.

    PEFT sets it by the last layer that it came to, so that where both kinds of layers have updates it says nothing.
    """
    square = [module for module, shapes in linear.items() if shapes.square]
    against = [module for module, shapes in linear.items() if not shapes.square and shapes.turned != config.transposed]
    if square and against:
        raise NetworkError(
            f"{origin}: fan_in_fan_out={config.transposed} in its {CONFIGURATION} does not go with {_few(against)}, so "
            f"that it cannot be told how the square weights {_few(square)} are stored: {MERGE}"
        )


def _shape(weights: Weights, name: str) -> list[int]:
    return list(weights.layout[name].shape)


def _few(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
