"""Inputs, targets and logits are found in every layout."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeconn.errors import DataError, NetworkError, OptionError
from modeconn.evaluation.forward import call


class Passing(nn.Module):
    """Gives its input back as logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return x + 2 * z


@pytest.mark.parametrize(
    "batch",
    [
        (1.0, 2.0, "t"),
        ((1.0, 2.0), "t"),
        ([1.0, 2.0], "t"),
        ({"x": 1.0, "z": 2.0}, "t"),
        {"z": 2.0, "x": 1.0, "y": "t"},
    ],
)
def test_inputs_and_targets_are_found_in_every_layout(batch):
    def tensors(part):
        if isinstance(part, float):
            return torch.tensor([part])
        if isinstance(part, dict):
            return {name: tensors(value) for name, value in part.items()}
        return type(part)(map(tensors, part)) if isinstance(part, list | tuple) else part

    output, target = call(TwoInputs(), tensors(batch))
    assert (output.item(), target) == (5.0, "t")


class TakesTokensSecond(nn.Module):
    def forward(self, inputs_embeds: torch.Tensor | None = None, input_ids: torch.Tensor | None = None) -> torch.Tensor:
        return 3.0 * input_ids


def test_a_single_input_may_have_any_name_but_tokens_are_passed_by_theirs():
    assert call(nn.Identity(), {"whatever": torch.ones(2), "y": 0})[0].tolist() == [1, 1]
    assert call(TakesTokensSecond(), {"input_ids": torch.ones(2), "labels": 0})[0].tolist() == [3, 3]


class Giving(nn.Module):
    """Gives what is made of its input."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, *inputs: torch.Tensor):
        return self.make(*inputs)


LOGITS, LABELS = torch.arange(12.0).view(4, 3), torch.tensor([0, 2, 1, 1])
Pair = namedtuple("Pair", ["logits", "features"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: (t, None),
        lambda t: (None, t),
        lambda t: {"logits": t, "features": t + 1},
        lambda t: {"out": t},
        lambda t: Pair(t, t + 1),
        lambda t: SimpleNamespace(logits=t, features=t + 1),
        lambda t: (t, t.sum()),  # a loss beside them
        lambda t: (t.sum(), t, (t + 1, t + 2)),
        lambda t: (t, torch.ones(1, 4, 5)),  # a recurrent network's last state
        lambda t: (LABELS, t),
    ],
)
def test_logits_are_found_in_what_a_network_gives(wrap):
    assert torch.equal(call(Giving(wrap), (LOGITS, LABELS))[0], LOGITS)


@pytest.mark.parametrize("wrap", [lambda t: (t + 1, t), lambda t: {"features": t.repeat(1, 2), "1": t}])
def test_which_of_several_outputs_is_measured_is_asked(wrap):
    """(features, logits) and (logits, features) look alike; the first was measured whatever it was."""
    with pytest.raises(
        OptionError, match=r"which of the network's outputs.*1: float32\[4, 3\].*the target is int64\[4\]"
    ):
        call(Giving(wrap), (LOGITS, LABELS))
    assert torch.equal(call(Giving(wrap), (LOGITS, LABELS), "1")[0], LOGITS)
    with pytest.raises(OptionError, match="no tensor '7'"):
        call(Giving(wrap), (LOGITS, LABELS), "7")


@pytest.mark.parametrize(
    ("output", "example"),
    [
        ((torch.ones(4), LOGITS, LOGITS), "1"),
        ((torch.ones(4, 3, 5), LOGITS), "1"),
        ({"boxes": torch.ones(4, 3, 2), "ids": torch.ones(4, 3).long(), "scores": torch.ones(4, 3)}, "scores"),
        ({"features": LOGITS, "class_logits": LOGITS}, "class_logits"),
        ({"start_logits": LOGITS, "end_logits": LOGITS}, "start_logits"),
        ((torch.ones(4, 3, 5), torch.ones(4)), "0"),
    ],
)
def test_the_entry_named_as_an_example_is_the_likeliest(output, example):
    goes_with_none = torch.ones(4, 7, 7)
    with pytest.raises(OptionError) as raised:
        call(Giving(lambda x: output), (LOGITS, goes_with_none))
    assert f'evaluate="classification[{example}]"' in str(raised.value)


def test_an_output_without_tensors_is_told():
    with pytest.raises(NetworkError, match="without a tensor of logits"):
        call(Giving(lambda x: {"hidden": [x]}), (LOGITS, LABELS))


def test_a_failing_network_is_told_with_its_module_and_without_blame_of_targets():
    network = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(DataError) as raised:
        call(network, (LOGITS, LABELS))
    told = str(raised.value)
    assert "fails in its module 1.0 on a batch (float32[4, 3], int64[4]): RuntimeError: mat1 and mat2" in told
    assert "target" not in told
    assert "evaluate" not in told


@pytest.mark.parametrize(
    ("batch", "shown"),
    [
        ((LOGITS, LABELS, torch.arange(4)), "last entry is taken for the target.*float32.4, 3., int64.4."),
        (
            {"a": LOGITS, "b": LOGITS, "label": LABELS},
            "entry 'label' is taken for the target.*given to the network is a, b",
        ),
    ],
)
def test_how_a_batch_was_read_is_told_where_that_may_be_at_fault(batch, shown):
    with pytest.raises(DataError, match=shown + "; if that is wrong, say with evaluate="):
        call(nn.Linear(3, 2), batch)


def test_gradients_that_a_forward_pass_needs_are_named():
    with pytest.raises(DataError, match=r"torch.enable_grad\(\)"), torch.no_grad():
        call(Giving(lambda x: torch.autograd.grad(x.sum(), x)), (LOGITS, LABELS))


class ShiftsLabels(nn.Module):
    """Takes what Hugging Face's encoder-decoder networks take, and makes it as they do."""

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.roll(1, 1)

    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        return decoder_input_ids.float()


def test_encoder_decoder_networks_get_the_shifted_labels_that_they_would_make():
    labels = torch.arange(6).view(2, 3)
    output, target = call(ShiftsLabels(), {"input_ids": torch.ones(2, 4), "labels": labels})
    assert output.tolist() == [[2, 0, 1], [5, 3, 4]]
    assert target is labels
    given = {"input_ids": torch.ones(2, 4), "decoder_input_ids": torch.zeros(2, 3), "labels": labels}
    assert call(ShiftsLabels(), given)[0].tolist() == [[0] * 3] * 2
