"""Inputs, targets and logits are found in every layout."""

import pytest
import torch
from torch import nn

from modeconn.errors import DataError, NetworkError
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


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), lambda t: {"logits": t}, lambda t: [t, t + 1]])
def test_logits_are_found_in_what_a_network_gives(wrap):
    network = Passing()
    network.forward = lambda x: wrap(x)
    assert torch.equal(call(network, (torch.ones(2), 0))[0], torch.ones(2))


def test_an_output_without_logits_and_a_failing_network_are_told():
    network = Passing()
    network.forward = lambda x: {"hidden": x}
    with pytest.raises(NetworkError, match="without a tensor of logits"):
        call(network, (torch.ones(2), 0))
    with pytest.raises(DataError, match=r"\(float32\[4, 3\], int64\[4\]\): RuntimeError: mat1 and mat2"):
        call(nn.Linear(5, 2), (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))
