"""PyTorch's transformer layers pass nested tensors on, in evaluation mode, where there is a padding mask."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from modeconn import error_barrier, feature_connectivity


class Tagger(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
        self.out = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.encoder(self.embedding(ids), src_key_padding_mask=ids == 0))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of nested tensors being a prototype
        yield Tagger(0), Tagger(1)


IDS = torch.randint(1, 20, (10, 8), generator=torch.Generator().manual_seed(0))
IDS[1:, 6:] = 0
TAGS = torch.where(IDS == 0, -100, IDS % 4)


def test_all_layers_have_features_and_the_ends_are_what_they_are(pair):
    result = feature_connectivity(*pair, [IDS], alpha=0.0)
    assert {"encoder.layers.0.linear1", "encoder.layers.0.norm2", "out"} <= set(result.layers)
    torch.testing.assert_close(torch.tensor(result.cosine), torch.ones(len(result.layers)).double())
    assert torch.backends.mha.get_fastpath_enabled()


def test_channels_are_repaired(pair):
    plain, repaired = (
        error_barrier(*pair, (IDS, TAGS), alphas=3, batchnorm=choice, calibration=[IDS])
        for choice in ("interpolate", "repair")
    )
    assert plain.loss[[0, 2]].tolist() == repaired.loss[[0, 2]].tolist()
    assert plain.loss[1] != repaired.loss[1]


def test_outside_of_the_encoder_features_are_those_of_evaluation_mode(pair):
    result = feature_connectivity(*pair, [IDS], alpha=0.0, layers=["out"])
    with torch.no_grad():
        a, b = (network.eval()(IDS).flatten(1) for network in pair)
    cosine = torch.nn.functional.cosine_similarity(a, b).mean().item()
    assert result.cosine_ends[0] == pytest.approx(cosine, rel=1e-5)
