"""Functions are named by all that decides what they compute."""

import collections
import dataclasses
import enum
import functools
import importlib
import logging
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from torch import nn

from modeconn.errors import OptionError
from modeconn.training.content import content_hash

MODULE = """
    import torch
    import helpers_of_mine as helpers
    from torch import nn

    RATE = 0.1
    WEIGHTS = torch.zeros(4000)

    class Net(nn.Module):
        hidden = 16

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, self.hidden)

        def forward(self, x):
            return self.activation(self.layer(x))

        @staticmethod
        def activation(x):
            return torch.relu(x)

    def step(x):
        '''Words.'''
        def inner():
            from helpers_of_mine import late
            return RATE * Net()(x) + helpers.shift(x) + WEIGHTS.sum() + late
        return inner()

    @torch.no_grad()
    def decorated(x):
        return step(x)
"""
HELPERS = """
    late, unused = 1, 1

    def shift(x):
        return x + 1
"""


def hash_of(folder, module=MODULE, helpers=HELPERS, function="step"):
    """In this process, from files that were written anew."""
    for name, text in (("loop_of_mine", module), ("helpers_of_mine", helpers)):
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    try:
        return content_hash(getattr(importlib.import_module("loop_of_mine"), function), "train")
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = before


@pytest.mark.parametrize("function", ["step", "decorated"])
def test_whatever_a_function_names_is_part_of_it_and_nothing_else_is(tmp_path, function):
    def of(**texts):
        return hash_of(tmp_path, function=function, **texts)

    first = of()
    changes = {
        "RATE = 0.1": "RATE = 0.5",
        "zeros(4000)": "zeros(4000).index_fill_(0, torch.tensor([2000]), 1.0)",
        "hidden = 16": "hidden = 64",
        "torch.relu(x)": "torch.tanh(x)",
        "nn.Linear(3, self.hidden)": "nn.Linear(3, self.hidden, bias=False)",
        "def forward(self, x):": "def forward(self, x, scale=2):",
    }
    found = {of(module=MODULE.replace(old, new)) for old, new in changes.items()}
    found |= {
        of(helpers=HELPERS.replace(*change))
        for change in (("x + 1", "x - 1"), ("late, unused = 1", "late, unused = 2"))
    }
    assert len(found - {first}) == len(changes) + 2
    same = MODULE.replace("'''Words.'''", "'''Other words.'''\n        # and a comment\n")
    assert of(module=same, helpers=HELPERS.replace("= 1, 1", "= 1, 2") + "\n    def new(): pass\n") == first


class Mode(enum.Enum):
    SLOW = 1
    FAST = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    names: tuple = ("a",)


class Slots:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


Pair = collections.namedtuple("Pair", "a b")


def network(bias):
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        made[0].weight.fill_(1.0)
        made[0].bias.fill_(bias)
    return made


KINDS = {
    "number": lambda n: n,
    "text": lambda n: f"{n}",
    "nested": lambda n: {"a": [1, (2, {n})]},
    "tensor": lambda n: torch.arange(3000) == 1500 + n,
    "half": lambda n: torch.full((2,), 1.0 + n, dtype=torch.bfloat16),
    "shape": lambda n: torch.zeros(2 + n, 4 - n),
    "sparse": lambda n: torch.eye(3 + n).to_sparse(),
    "array": lambda n: np.arange(3000) == 1500 + n,
    "objects": lambda n: np.array([n, None], dtype=object),
    "module": lambda n: network(float(n)),
    "dataclass": lambda n: Settings(names=("a", n)),
    "slots": lambda n: Slots(n),
    "enum": lambda n: list(Mode)[n],
    "named tuple": lambda n: Pair(1, n),
    "ordered": lambda n: collections.OrderedDict(a=n),
    "torch generator": lambda n: torch.Generator().manual_seed(n),
    "generator": lambda n: np.random.default_rng(n),
    "method": lambda n: Slots(n).__init__,
    "partial": lambda n: functools.partial(max, 1, key=n),
    "cached": lambda n: functools.lru_cache(lambda x: x + n),
    "loader": lambda n: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4) + n), batch_size=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_count_by_their_content(kind):
    def of(n):
        value = KINDS[kind](n)
        return content_hash(lambda: value, "train")

    assert of(0) == of(0) != of(1)


def test_what_contains_itself_has_a_content():
    def countdown(n):
        return countdown(n - 1) if n else ring

    ring = [1]
    ring.append(ring)
    first = content_hash(countdown, "train")
    assert content_hash(countdown, "train") == first
    ring[0] = 2
    assert content_hash(countdown, "train") != first


def test_libraries_count_by_name():
    log = logging.getLogger("a logger, which holds a lock")
    assert content_hash(lambda: log, "train") == content_hash(lambda: log, "train")
    assert content_hash(nn.functional.relu, "train") != content_hash(nn.functional.gelu, "train")


def test_what_has_no_content_is_refused_until_it_has_a_name():
    lock = threading.Lock()

    def loop():
        return lock

    with pytest.raises(OptionError, match=r"train refers to an object of type lock .* train\.modeconn_name = "):
        content_hash(loop, "train")
    loop.modeconn_name = "first"
    first = content_hash(loop, "train")
    loop.modeconn_name = "second"
    assert content_hash(loop, "train") != first


@pytest.mark.processes
def test_another_process_gives_the_same_name(tmp_path):
    """Whatever the seed of Python's hashes: sets have an order of their own in every process."""
    text = MODULE.replace("RATE = 0.1", "RATE = len({'a', 'b', 'c'} | {'d'})") + "\n    NAMES = {'a', 'b', 'c'}\n"
    expected = hash_of(tmp_path, text.replace("RATE *", "len(NAMES) *"))
    code = "import loop_of_mine; from modeconn.training.content import content_hash; "
    code += "print(content_hash(loop_of_mine.step, 'train'))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            cwd=tmp_path, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected, done.stderr
