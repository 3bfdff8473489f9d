"""The one list of networks that every test runs over: modeconn's own, with their sizes, and somebody's."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A network by name, the images it is for, and its number of parameters."""

    model: str
    shape: tuple[int, int, int]
    classes: int
    parameters: int
    norm: str = "batch"


# Sizes: LeNet, ResNet-20 and VGG-16 as in Frankle et al. 2020; the others by hand from their definitions.
NAMED = (
    Case("lenet-300-100", (1, 28, 28), 10, 266_610, "none"),
    Case("lenet-16", (1, 8, 8), 10, 65 * 16 + 17 * 10, "none"),
    Case("conv-2", (3, 32, 32), 10, 4_301_642, "none"),
    Case("conv-4", (3, 32, 32), 10, 2_425_930, "none"),
    Case("conv-6", (3, 32, 32), 10, 2_262_602, "none"),
    Case("resnet-20", (3, 32, 32), 10, 272_474),
    Case("resnet-32", (3, 32, 32), 10, 466_906),
    Case("resnet-44", (3, 32, 32), 10, 661_338),
    Case("resnet-56", (3, 32, 32), 10, 855_770),
    Case("resnet-110", (3, 32, 32), 100, 1_736_564),
    Case("vgg-11", (3, 32, 32), 10, 9_231_114),
    Case("vgg-13", (3, 32, 32), 10, 9_416_010),
    Case("vgg-16", (3, 32, 32), 10, 14_728_266),
    Case("vgg-19", (3, 32, 32), 10, 20_040_522),
    Case("vit-4", (3, 32, 32), 10, 6 * (8 * 128**2 + 11 * 128) + 128 * (48 + 1 + 64 + 2 + 10) + 10, "layer"),
    Case("digits-conv", (1, 8, 8), 10, 3_138),
)
DEEP = ("resnet-44", "resnet-56", "resnet-110", "vgg-13", "vgg-16", "vgg-19")  # more of the same layers
LARGE = (
    Case("imagenet-resnet50", (3, 64, 64), 1000, 25_557_032),
    Case("imagenet-inception-v3", (3, 75, 75), 1000, 27_161_264),
)
OWN = (
    Case("cases:with_dropout", (1, 8, 8), 10, 64 * 16 + 16 + 16 * 10 + 10),
    Case("cases:with_batchnorm", (1, 8, 8), 10, 9 * 4 + 4 + 4 + 4 + 4 * 36 * 10 + 10),
    Case("cases:with_tied_weights", (1, 8, 8), 10, 64 * 64 + 64 * 10 + 10),
)


def each_of(cases: tuple[Case, ...] | list[Case]) -> pytest.MarkDecorator:
    """A test that runs with each `case`; with the deep ones in the full suite alone."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.model, marks=slow if case.model in DEEP else ()) for case in cases]
    )


def with_dropout(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    features = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))


def with_batchnorm(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, classes)
    )


class TiedWeights(nn.Module):
    """One matrix used twice, and a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(64, 10)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x.flatten(1)).relu()).relu())


def with_tied_weights() -> nn.Module:
    return TiedWeights()


def with_batchnorm_1d() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def with_lazy_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


class WritingToItsInput(nn.Module):
    """Changes the batch that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(144, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.5).relu_()
        return self.last(self.norm(self.conv(x)).relu().flatten(1))


def writing_to_its_input() -> nn.Module:
    return WritingToItsInput()


def without_parameters() -> nn.Module:
    return nn.Flatten()


def not_a_module() -> str:
    return "a string"


def without_shapes(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def failing() -> nn.Module:
    raise RuntimeError("out of paint")


def with_nine_outputs() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))


class Exploding(nn.Module):
    """Its loss becomes NaN as soon as a weight has grown, so that training diverges after a few iterations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.flatten(1))
        moved = self.layer.weight.abs().max() > 0.45
        return y + torch.where(moved, torch.nan, 0.0)


def exploding() -> nn.Module:
    return Exploding()


class Fragile(nn.Module):
    """In training, its output is NaN once in about 60 iterations, as its dropout noise decides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.flatten(1))
        return y + torch.where(torch.rand(()) < 1 / 60, torch.nan, 0.0) if self.training else y


def fragile() -> nn.Module:
    return Fragile()


class ReplacingItsBuffer(nn.Module):
    """Counts its calls in a tensor that is another one each time, which a recording cannot know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return self.layer(x.flatten(1)) / (1 + self.calls / 100)


def replacing_its_buffer() -> nn.Module:
    return ReplacingItsBuffer()


class Waiting(nn.Module):
    """Looks at what it computed, and goes on by it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.flatten(1))
        return y * 0.5 if y.sum().item() > 0 else y


def waiting() -> nn.Module:
    return Waiting()


class Recurrent(nn.Module):
    """Reads an image row by row, with dropout between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 8, num_layers=2, dropout=0.5, batch_first=True)
        self.last = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.rows(x[:, 0])[0][:, -1])


def recurrent() -> nn.Module:
    return Recurrent()
