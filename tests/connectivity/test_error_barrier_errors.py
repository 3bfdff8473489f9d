"""Networks that cannot be compared are refused with a message that says why; odd but allowed ones get a note."""

import copy
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from direct import barrier_of, refused
from modeconn import ModeconnError, error_barrier
from modeconn.errors import DataError, NetworkError, OptionError
from networks import CLASSES, by_name, each_network, quantised

MLP = by_name("mlp")


# --- networks that do not fit


def test_every_missing_extra_and_differently_shaped_name_is_listed() -> None:
    other = nn.Sequential(nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    other.register_parameter("scale", nn.Parameter(torch.ones(2)))
    parts = [
        "0.bias is only in the network",
        "scale is only in b",
        "2.weight is [9, 12] in b and [12, 12] in the network",
        "2.bias is [9] in b and [12] in the network",
        "4.weight is [4, 9] in b and [4, 12] in the network",
    ]
    message = refused(NetworkError, *parts, b=other)
    assert "0.weight" not in message
    assert "4.bias" not in message
    refused(NetworkError, *parts, b=other.state_dict())


def test_a_problem_is_named_after_the_file_that_has_it(tmp_path: Path) -> None:
    save_file({"0.weight": torch.ones(2, 2)}, tmp_path / "half.safetensors")
    refused(
        NetworkError, "half.safetensors does not fit", "4.bias is only in the network", b=tmp_path / "half.safetensors"
    )


def test_different_class_counts_are_refused() -> None:
    other = nn.Sequential(*list(MLP.network(2))[:-1], nn.Linear(12, 7))
    refused(NetworkError, "4.weight is [7, 12] in b and [4, 12]", "4.bias is [7] in b and [4]", b=other)


@each_network
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(case: Any, value: float) -> None:
    a, b = case.pair()
    name, parameter = list(b.named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    plain = name.replace("_orig", "").replace("parametrizations.", "").replace(".original1", "")
    with pytest.raises(NetworkError, match=rf"NaN or infinite: {re.escape(plain)} in b$"):
        error_barrier(a, b, case.batches(), evaluate=case.evaluate, alphas=3)


def test_not_finite_weights_of_both_ends_are_all_named() -> None:
    a, b = MLP.pair()
    with torch.no_grad():
        a[0].weight[0, 0], a[4].bias[1], b[0].weight[1, 1] = torch.nan, torch.inf, -torch.inf
    refused(NetworkError, "0.weight in a", "0.weight in b", "4.bias in a", a=a, b=b)
    refused(NetworkError, "0.weight in a", "4.bias in a", a=a, b=a)


def test_quantised_weights_are_refused_with_the_reason() -> None:
    refused(NetworkError, "quantised weights", "a path between quantised weights is not defined", a=quantised())
    refused(NetworkError, "b has quantised weights", b=quantised())
    refused(NetworkError, "b has quantised weights", b=quantised().state_dict())


def test_weights_without_an_architecture_are_refused() -> None:
    states = {name: network.state_dict() for name, network in zip("ab", MLP.pair(), strict=True)}
    refused(OptionError, "give model=", **states)
    refused(NetworkError, "model= gave str, not a torch.nn.Module", **states, model=lambda: "net")
    refused(ModeconnError, "model", **states, model=3)


@pytest.mark.parametrize("wrong", [3, [torch.ones(2)], nn.ReLU()])
def test_what_is_no_network_is_refused(wrong: Any) -> None:
    refused(NetworkError, "b is a ", b=wrong)


# --- checkpoints


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    refused(NetworkError, "lost.pt", "No such file", b=tmp_path / "lost.pt")
    refused(NetworkError, "model.safetensors", "is in the folder", b=tmp_path)


@pytest.mark.parametrize("end", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(end: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{end}"
    (torch.save if end == "pt" else save_file)(dict(MLP.network(2).state_dict()), path)
    whole = path.read_bytes()
    barrier_of(b=path)
    path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    message = refused(NetworkError, f"cut.{end}", b=path)
    assert "damaged" in message or "is empty" in message


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("end", ["pt", "pth", "ckpt", "safetensors", "bin"])
@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_not_run(end: str, new: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / f"evil.{end}", tmp_path / "run"
    content = {"state_dict": dict(MLP.network(2).state_dict()), "extra": Evil(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    refused(NetworkError, "is refused", "mkdir", "nothing was run", b=path)
    assert not mark.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)  # it would have
    assert mark.exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(MLP.network(2), tmp_path / "whole.pt")
    refused(NetworkError, "holds a whole pickled module", "network.state_dict()", b=tmp_path / "whole.pt")


# --- options


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ({"evaluate": "clasification"}, ["unknown evaluation", "did you mean 'classification'"]),
        ({"evaluate": 3}, ["evaluat", "3"]),
        ({"batchnorm": "recalibrat"}, ["unknown choice for BatchNorm", "did you mean 'recalibrate'"]),
        ({"precision": "bf16"}, ["unknown precision", "did you mean 'bfloat16'"]),
        ({"higher_is_better": ["eror"]}, ["unknown metric 'eror'", "did you mean 'error'"]),
        ({"higher_is_better": True}, ["for metrics of your evaluate="]),
        ({"higher_is_better": 3}, ["higher_is_better"]),
        ({"alphas": [-0.1, 0.5]}, ["between 0 and 1", "extrapolate=True", "-0.1"]),
        ({"alphas": [0.5, 1.2]}, ["between 0 and 1", "extrapolate=True", "1.2"]),
        ({"alphas": [0.5, float("nan")], "extrapolate": True}, ["nan"]),
        ({"alphas": 2}, ["at least 3 alphas"]),
        ({"alphas": [0, 1]}, ["at least 3 alphas"]),
        ({"alphas": "papr"}, ['"paper"', "'papr'"]),
        ({"alphas": 31.5}, ["31.5"]),
        ({"tolerance": 0.0}, ["tolerance", "positive"]),
        ({"batch_size": 0}, ["batch_size must be a whole number of at least 1; got 0"]),
        ({"calibration_batches": -1}, ["calibration_batches must be a whole number"]),
        ({"device": "gpu"}, ["unknown device 'gpu'", "auto, cpu, cuda"]),
        ({"names": ["a", "a"]}, ["2 different names"]),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(how: dict[str, Any], parts: list[str]) -> None:
    refused(OptionError, *parts, **how)


@pytest.mark.parametrize("choice", ["recalibrate", "repair"])
def test_normalization_that_needs_data_asks_for_them(choice: str) -> None:
    case = by_name("batchnorm")
    a, b = case.pair()
    with pytest.raises(OptionError, match=f'batchnorm="{choice}" needs calibration= data'):
        error_barrier(a, b, case.data, batchnorm=choice, alphas=3)
    for empty in ([], (case.data[0][:0],)):
        with pytest.raises(DataError, match="empty"):
            error_barrier(a, b, case.data, batchnorm=choice, calibration=empty, alphas=3)


def test_points_outside_are_measured_when_asked_for_and_do_not_count_for_the_barrier() -> None:
    outside, inside = barrier_of(alphas=[-0.5, 0.5, 2], extrapolate=True), barrier_of(alphas=3)
    assert outside.alphas.tolist() == [-0.5, 0, 0.5, 1, 2]
    assert np.array_equal(outside.loss[1:-1], inside.loss)
    assert (outside.barrier, outside.heights("loss")) == (inside.barrier, inside.heights("loss"))


# --- allowed, and said aloud


def test_the_same_network_shared_storage_and_equal_weights_are_allowed_and_said_aloud() -> None:
    a, shares = MLP.network(1), MLP.network(2)
    shares[0].weight = a[0].weight
    equal = "all weights and buffers are equal: the path is one point"
    same, sharing, copied = barrier_of(a=a, b=a), barrier_of(a=a, b=shares), barrier_of(a=a, b=copy.deepcopy(a))
    assert any("the same object" in note for note in same.notes)
    assert any("share the memory of 1 parameters" in note for note in sharing.notes)
    assert all(any(equal in note for note in result.notes) for result in (same, copied))
    assert not any(equal in note for note in sharing.notes)
    assert (same.barrier, copied.barrier, same.ends.l2, copied.ends.l2) == (0, 0, 0, 0)
    assert sharing.ends.l2 > 0
    assert any(equal in note for note in barrier_of(a=a.state_dict(), b=a.state_dict(), model=a).notes)


def test_ends_that_differ_in_buffers_alone_are_said_to() -> None:
    case = by_name("batchnorm")
    a, b = case.network(1), case.network(1)
    b[1].running_mean.add_(1)
    result = error_barrier(a, b, case.data, alphas=3)
    assert "all parameters are equal; only buffers differ" in result.notes
    assert result.ends.l2 == 0
    assert any("BatchNorm" in note for note in result.notes)


def test_ties_and_integer_buffers_are_in_the_notes_once() -> None:
    tied, counted = (error_barrier(*case.pair(), case.data, alphas=3) for case in map(by_name, ("tied", "batchnorm")))
    assert len([note for note in tied.notes if "head.weight" in note and "embedding.weight" in note]) == 1
    assert len([note for note in counted.notes if "num_batches_tracked" in note and "not interpolated" in note]) == 1


def test_the_code_of_the_first_network_is_run_between_the_ends_which_is_said() -> None:
    class Other(nn.Sequential):
        pass

    result = barrier_of(b=Other(*MLP.network(2)))
    assert np.array_equal(result.loss, barrier_of().loss)
    assert any("b a Other" in note and "the code of a is run" in note for note in result.notes)


# --- what modules may have


def test_an_extra_state_that_is_a_tensor_does_not_matter() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> torch.Tensor:
            return torch.tensor([1, 2])

        def set_extra_state(self, state: torch.Tensor) -> None:
            pass

    a, b = (nn.Sequential(Extra(6, 12), *list(MLP.network(seed))[1:]) for seed in (1, 2))
    plain = [network.state_dict() for network in (a, b)]
    result, expected = barrier_of(a, b), barrier_of(*plain, model=MLP.network(1))
    assert np.array_equal(result.loss, expected.loss)


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16])
def test_an_infinite_buffer_is_equal_to_itself_in_another_type(other: torch.dtype) -> None:
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, CLASSES)
            self.register_buffer("mask", torch.full((6, 6), -torch.inf).triu(1))

    a, b = Masked(), Masked().to(other)
    assert np.isfinite(barrier_of(a, b).loss).all()


def test_complex_weights_stay_complex_where_real_ones_differ_in_type() -> None:
    class Both(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, CLASSES)
            self.turn = nn.Parameter(torch.randn(CLASSES, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (super().forward(x) * self.turn).abs()

    a, b = Both(), Both()
    np.testing.assert_allclose(barrier_of(a, copy.deepcopy(b).double()).loss, barrier_of(a, b).loss, rtol=1e-5)
