"""Structures of batches: kept and described."""

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple

import pytest
import torch

from modeconn.evaluation.batches import Batches
from modeconn.evaluation.structures import describe_batch, map_tensors, tensors_of

CPU = torch.device("cpu")
X, Y = torch.arange(22.0).view(11, 2), torch.arange(11)
Pair = namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "record"


def test_structures_stay_what_they_are():
    from transformers import BatchEncoding

    batch = [Pair(X, {"deep": (Record(Y, X), [Y, "text", None, 3.5])}), BatchEncoding({"input_ids": Y})]
    (found,) = Batches([batch], CPU)
    pair, encoding = found
    assert type(found) is list
    assert type(pair) is Pair
    record, rest = pair.y["deep"]
    assert (type(record), record.name, rest[1:]) == (Record, "record", ["text", None, 3.5])
    assert type(encoding) is BatchEncoding
    assert torch.equal(encoding.input_ids, Y)
    assert [len(tensor) for tensor in tensors_of(found)] == [11] * 5


def test_a_mapping_of_tensors_from_a_tokenizer_is_a_whole_data_set():
    from transformers import BatchEncoding

    found = list(Batches(BatchEncoding({"input_ids": X, "labels": Y}), CPU, batch_size=8))
    assert [type(batch) for batch in found] == [BatchEncoding] * 2
    assert torch.equal(torch.cat([batch["labels"] for batch in found]), Y)


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda items: defaultdict(list, items)])
def test_mappings_of_any_kind_keep_their_entries_in_order(kind):
    found = map_tensors(torch.clone, kind({"b": X, "a": Y, "n": 3}))
    assert list(found) == ["b", "a", "n"]
    assert torch.equal(found["b"], X)
    assert found["b"] is not X


def test_a_description_shows_types_and_shapes():
    batch = {"x": [X, (Y.bool(), "text")], "n": 3}
    assert describe_batch(batch) == "{x: (float32[11, 2], (bool[11], str)), n: int}"


def test_mapping_leaves_a_batch_unchanged():
    batch = {"x": X.clone(), "more": [Y.numpy().copy()]}
    doubled = map_tensors(lambda tensor: tensor * 2, batch)
    assert torch.equal(doubled["x"], 2 * X)
    assert torch.equal(doubled["more"][0], 2 * Y)
    assert torch.equal(batch["x"], X)
    assert batch["more"][0].tolist() == Y.tolist()
