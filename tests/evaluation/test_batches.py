import contextlib
import dataclasses
import itertools
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, TensorDataset

from modeconn.errors import DataError
from modeconn.evaluation.batches import Batches, fingerprint_batches, preserving_random_state
from modeconn.evaluation.sampling import random_access
from modeconn.evaluation.structures import tensors_of

CPU = torch.device("cpu")
X, Y = torch.arange(22.0).view(11, 2), torch.arange(11)
KEEP = {"kept": 1 << 30, "read again": 0}
Pair = namedtuple("Pair", ["x", "y"])
Record = dataclasses.make_dataclass("Record", ["x", "y"], frozen=True)


class Augmented(Dataset):
    """Noise from PyTorch, NumPy and Python at once."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index):
        return X[index] + torch.rand(2), np.random.rand(3), random.random(), index


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


class GoneThroughOnce(IterableDataset):
    """One and the same iterator, whoever asks (pytorch/text#1282)."""

    def __init__(self) -> None:
        self.examples = iter(zip(X, Y, strict=True))

    def __iter__(self):
        return self.examples


class OrderGoneThroughOnce(Sampler):
    def __init__(self) -> None:
        self.order = iter(range(len(X)))

    def __iter__(self):
        return self.order

    def __len__(self) -> int:
        return len(X)


class ShufflingItself(Sampler):
    def __iter__(self):
        return iter(torch.randperm(len(X)).tolist())

    def __len__(self) -> int:
        return len(X)


class OwnGenerator(Dataset):
    """Random in a way that nobody from outside can put back."""

    def __init__(self, draw) -> None:
        self.draw, self.generator_of_numpy = draw, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index):
        return self.draw(X[index].clone(), self.generator_of_numpy)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole_pass(batches) -> list[torch.Tensor]:
    return [tensor.clone() for batch in batches for tensor in tensors_of(batch)]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


ITEMS = TensorDataset(X, Y)
IN_ORDER = {
    "a tuple of tensors": lambda: (X, Y),
    "a tuple of arrays": lambda: (X.numpy(), Y.numpy()),
    "a mapping": lambda: {"x": X, "labels": Y},
    "a namedtuple of batches": lambda: [Pair(x, y) for x, y in zip(X.split(4), Y.split(4), strict=True)],
    "a data set": lambda: ITEMS,
    "a loader": lambda: DataLoader(ITEMS, 4),
    "an iterable data set": lambda: Stream(),
    "a loader of an iterable data set": lambda: DataLoader(Stream(), 4),
    "a list of batches": lambda: list(zip(X.split(4), Y.split(4), strict=True)),
    "a tuple of batches": lambda: tuple(zip(X.split(4), Y.split(4), strict=True)),
    "a generator": lambda: ((x, y) for x, y in zip(X.split(4), Y.split(4), strict=True)),
    "dataclasses": lambda: [Record(x, y) for x, y in zip(X.split(4), Y.split(4), strict=True)],
}
IN_SOME_ORDER = {
    "a shuffling loader": lambda: DataLoader(ITEMS, 4, shuffle=True),
    "a shuffling loader with a generator": lambda: DataLoader(ITEMS, 4, shuffle=True, generator=seeded()),
    "a sampler with a generator": lambda: DataLoader(ITEMS, 4, sampler=RandomSampler(ITEMS, generator=seeded())),
    "a sampler of one's own": lambda: DataLoader(ITEMS, 4, sampler=ShufflingItself()),
    "augmentation": lambda: DataLoader(Augmented(), 4, shuffle=True),
}


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("make", IN_ORDER.values(), ids=IN_ORDER)
def test_every_form_of_data_gives_all_examples_in_order_in_every_pass(make, keep):
    batches = Batches(make(), CPU, batch_size=4, keep=keep)
    for _ in range(3):
        found = whole_pass(batches)
        assert [len(tensor) for tensor in found[::2]] == [4, 4, 3]
        assert torch.equal(torch.cat(found[::2]), X)
        assert torch.equal(torch.cat(found[1::2]), Y)


@pytest.mark.parametrize("make", IN_SOME_ORDER.values(), ids=IN_SOME_ORDER)
def test_what_is_random_is_the_same_in_every_pass_whether_kept_or_read_again(make):
    """Two objects of the same data, too: nothing depends on how often anything random was drawn before."""
    passes = []
    for keep in KEEP.values():
        batches = Batches(make(), CPU, keep=keep)
        torch.rand(5), np.random.rand(5), random.random()
        first = tensors_of(batches.first())
        passes += [whole_pass(batches) for _ in range(3)]
        assert equal(first, passes[-1][: len(first)])
    assert all(equal(passes[0], other) for other in passes[1:])
    ordered = [int(i) for i in torch.cat(passes[0][len(passes[0]) // 3 - 1 :: len(passes[0]) // 3])]
    assert sorted(ordered) == list(range(11))
    assert ordered != list(range(11))


@pytest.mark.processes
@pytest.mark.parametrize(("persistent", "keep"), [(False, 0), (False, 1 << 30), (True, 1 << 30)])
def test_workers_see_the_same_noise_in_every_pass(persistent, keep):
    loader = DataLoader(Augmented(), 4, shuffle=True, num_workers=2, persistent_workers=persistent)
    batches = Batches(loader, CPU, keep=keep)
    one, two = whole_pass(batches), whole_pass(batches)
    assert equal(one, two)
    assert not torch.equal(one[0][:3], one[-4])


@pytest.mark.processes
def test_workers_that_go_on_where_they_were_are_refused_if_read_again():
    loader = DataLoader(Augmented(), 4, num_workers=1, persistent_workers=True)
    batches = Batches(loader, CPU, keep=0)
    whole_pass(batches)
    with pytest.raises(DataError, match="other ones in a second pass"):
        whole_pass(batches)


def test_a_loader_that_shuffles_differently_for_its_owner_still_does():
    """The generator's state counts when the data are given, and is put back."""
    loader = DataLoader(ITEMS, 4, shuffle=True, generator=seeded())
    first = [labels.tolist() for _, labels in loader]
    batches = Batches(loader, CPU)
    with preserving_random_state(CPU, batches):
        whole_pass(batches)
    following = [labels.tolist() for _, labels in loader]
    assert following != first
    expected = DataLoader(ITEMS, 4, shuffle=True, generator=seeded())
    assert [[labels.tolist() for _, labels in expected] for _ in range(2)] == [first, following]


def test_all_random_states_are_put_back_even_after_an_error():
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    expected = torch.rand(2), np.random.rand(2), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    batches = Batches(DataLoader(Augmented(), 4, shuffle=True), CPU)
    with contextlib.suppress(ZeroDivisionError), preserving_random_state(CPU, batches):
        whole_pass(batches)
        _ = 1 / 0
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])
    assert random.random() == expected[2]


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("form", ["a tuple of tensors", "a tuple of arrays", "a mapping", "a list of batches"])
def test_a_batch_may_be_written_to(form, keep):
    """Neither the caller's tensors nor later passes change."""
    before = X.clone(), Y.clone()
    batches = Batches(IN_ORDER[form](), CPU, batch_size=4, keep=keep)
    tensors_of(batches.first())[0].zero_()
    for _ in range(3):
        for start, batch in zip((0, 4, 8), batches, strict=True):
            x, y = tensors_of(batch)
            assert torch.equal(x, before[0][start : start + 4])
            x.zero_(), y.add_(1)
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])


def test_memory_is_bounded():
    """With room for all but a byte, nothing is kept: a pass is either from memory or from the source."""
    reads = []

    class Counting:
        def __iter__(self):
            for part in zip(X.split(4), Y.split(4), strict=True):
                reads.append(part)
                yield part

    size = sum(tensor.nbytes for tensor in (X, Y))
    for keep, passes_read in ((size, 1), (size - 1, 3)):
        reads.clear()
        batches = Batches(Counting(), CPU, keep=keep)
        assert all(len(list(batches)) == 3 for _ in range(3))
        assert len(reads) == 3 * passes_read


def test_a_pass_that_is_left_early_leaves_no_trace():
    batches = Batches(DataLoader(Augmented(), 2, shuffle=True), CPU)
    next(iter(batches))
    one = whole_pass(batches)
    next(iter(batches))
    assert equal(one, whole_pass(batches))
    assert len(one) == 6 * 4


ONCE = {
    "a data set": GoneThroughOnce,
    "a loader": lambda: DataLoader(GoneThroughOnce(), 4),
    "a loader of single examples": lambda: DataLoader(GoneThroughOnce(), batch_size=None),
    "an order": lambda: DataLoader(ITEMS, 4, sampler=OrderGoneThroughOnce()),
    "an iterator as the order": lambda: DataLoader(ITEMS, 4, sampler=iter(range(len(X)))),
    "batches of an iterator": lambda: DataLoader(ITEMS, batch_sampler=iter([[0, 1, 2], [3, 4, 5, 6, 7, 8, 9, 10]])),
}


@pytest.mark.parametrize("make", ONCE.values(), ids=ONCE)
def test_to_look_at_data_that_can_be_gone_through_once_uses_nothing_up(make):
    batches = Batches(make(), CPU, batch_size=4)
    assert torch.equal(tensors_of(batches.first())[0].reshape(-1, 2)[0], X[0])
    for _ in range(2):
        assert torch.equal(torch.cat([x.reshape(-1, 2) for x, _ in batches]), X)


def test_data_that_are_gone_and_too_large_to_be_kept_are_refused_as_what_they_are():
    batches = Batches(DataLoader(GoneThroughOnce(), 4), CPU, keep=0)
    assert len(list(batches)) == 3
    with pytest.raises(DataError, match="gone through once only, and are too large"):
        list(batches)


@pytest.mark.parametrize("form", ["tensors", "a data set"])
@example(examples=993, batch_size=32)
@settings(max_examples=10, deadline=None)
@given(examples=st.integers(1, 400), batch_size=st.integers(1, 50))
def test_batches_are_as_few_as_can_be_and_differ_by_one_example_at_most(form, examples, batch_size):
    """993 examples in batches of 32 had one of a single example, which BatchNorm in training mode refuses."""
    whole = torch.arange(examples)
    batches = Batches((whole,) if form == "tensors" else TensorDataset(whole), CPU, batch_size=batch_size)
    sizes = [len(part) for (part,) in batches]
    assert sum(sizes) == examples
    assert len(sizes) == -(-examples // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_batches_may_hold_sparse_tensors(layout, keep):
    """Such as a graph's adjacency, which cannot be taken apart into examples."""
    adjacency = torch.eye(11).roll(1, 0)
    batches = Batches([((X, getattr(adjacency, layout)()), Y)], CPU, keep=keep)
    for _ in range(2):
        ((_, found), _) = next(iter([*batches]))
        assert torch.equal(found.to_dense(), adjacency)
    assert random_access(batches, len(X)) is None
    other = [((X, getattr(adjacency.roll(1, 0), layout)()), Y)]
    assert fingerprint_batches(batches) != fingerprint_batches(Batches(other, CPU))


def test_a_limit_takes_the_first_batches():
    assert [labels.tolist() for _, labels in Batches((X, Y), CPU, batch_size=2, limit=2)] == [[0, 1], [2, 3]]
    assert len(list(Batches((X, Y), CPU, batch_size=2, limit=100))) == 6


CHANGES = {
    "noise": lambda x, generator: x + float(generator.random()),
    "flips": lambda x, generator: x.flip(0) if generator.random() < 0.5 else x,
    "shapes": lambda x, generator: x[: 1 + int(10 * generator.random()) % 2],
}


@pytest.mark.parametrize("change", ["noise", "flips", "shapes"])
def test_data_that_change_from_pass_to_pass_are_refused(change):
    batches = Batches(DataLoader(OwnGenerator(CHANGES[change]), 1), CPU, keep=0)
    whole_pass(batches)
    with pytest.raises(DataError, match="other ones in a second pass"):
        whole_pass(batches)


def test_data_with_nan_that_change_are_refused():
    nan = lambda x, generator: torch.tensor([torch.nan, generator.random()])  # noqa: E731
    batches = Batches(DataLoader(OwnGenerator(nan), 4), CPU, keep=0)
    whole_pass(batches)
    with pytest.raises(DataError, match="other ones in a second pass"):
        whole_pass(batches)


def test_another_order_or_fewer_batches_are_refused():
    class Changing:
        def __init__(self, change) -> None:
            self.change, self.turns = change, itertools.count()

        def __iter__(self):
            parts = list(zip(X.split(4), Y.split(4), strict=True))
            yield from self.change(parts) if next(self.turns) else parts

    for change in (lambda parts: parts[::-1], lambda parts: parts[:2]):
        batches = Batches(Changing(change), CPU, keep=0)
        whole_pass(batches)
        with pytest.raises(DataError, match="other ones"):
            whole_pass(batches)


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_data_may_hold_what_is_not_finite(value, keep):
    x = X.clone()
    x[3, 0] = value
    batches = Batches((x, Y), CPU, keep=keep)
    for _ in range(2):
        torch.testing.assert_close(whole_pass(batches)[0], x, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    "data",
    [None, X, X.numpy(), 3, Pair],
    ids=["nothing", "a tensor", "an array", "a number", "a class"],
)
def test_what_is_no_data_is_refused_with_what_would_be(data):
    with pytest.raises(DataError, match=r"not known; give a DataLoader, a Dataset, a tuple of tensors"):
        Batches(data, CPU)


def test_a_path_to_no_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"no data file {tmp_path}/test.npz"):
        Batches(str(tmp_path / "test.npz"), CPU)


@pytest.mark.parametrize(
    "example",
    [
        {"input_ids": [101, 7, 102], "label": 1},  # as Hugging Face's data sets give them
        {"input_ids": X[0], "labels": torch.tensor(1)},
        {"text": "so", "idx": 3},
        (X[0], 1),
        (X[0], Y[0]),
        (X[0].numpy(), np.int64(1)),
    ],
)
def test_a_list_of_examples_is_not_taken_for_batches(example):
    with pytest.raises(DataError, match=r"each item of a list is a batch, and the first .* looks like one example"):
        Batches([example, example], CPU)
    Batches(DataLoader([example, example], 2), CPU)


@pytest.mark.parametrize(
    "batch", [(X, Y), {"x": X, "y": Y, "epoch": 3}, {"input_ids": X}, [X, Y], "text", (X, {"y": Y}), X, (X,), ()]
)
def test_a_list_of_batches_is_taken_for_such(batch):
    Batches([batch], CPU)


@pytest.mark.parametrize("data", [{"x": X, "y": Y, "name": "train"}, {"x": [1, 2], "y": [0, 1]}], ids=["text", "lists"])
def test_a_mapping_that_is_no_data_set_of_tensors_is_refused(data):
    with pytest.raises(DataError, match="mapping"):
        Batches(data, CPU)


@pytest.mark.parametrize("data", [[], (X[:0], Y[:0]), iter(()), DataLoader(ITEMS, 20, drop_last=True)])
def test_empty_data_are_refused(data):
    for look in (list, Batches.first):
        with pytest.raises(DataError, match="not one batch"):
            look(Batches(data, CPU))


def test_tensors_of_different_lengths_are_refused_with_their_shapes():
    with pytest.raises(DataError, match=r"float32\[11, 2\], int64\[10\]"):
        Batches((X, Y[:10]), CPU)


def test_what_was_decided_is_noted():
    assert Batches(DataLoader(ITEMS, 4), CPU).notes == ()
    assert "same order" in Batches(DataLoader(ITEMS, 4, shuffle=True), CPU).notes[0]
    assert "do not count" in Batches(DataLoader(ITEMS, 4, drop_last=True), CPU).notes[0]
    assert "once only" in Batches(iter([(X, Y)]), CPU).notes[0]


@pytest.mark.parametrize("keep", [1 << 30, 0], ids=KEEP)
def test_every_pass_begins_with_the_same_random_state(keep):
    """So that what is random in a network's evaluation is the same at every alpha."""
    batches = Batches((X, Y), CPU, batch_size=4, keep=keep)
    draws = []
    for _ in range(3):
        draws.append([(float(torch.rand(())), np.random.rand(), random.random()) for _ in batches])
        torch.rand(1)
    assert draws[0] == draws[1] == draws[2]


def test_what_a_network_draws_does_not_change_the_data():
    batches = Batches(DataLoader(Augmented(), 4), CPU, keep=0)
    one, two = whole_pass(batches), []
    for batch in batches:
        two += [tensor.clone() for tensor in tensors_of(batch)]
        torch.rand(3), np.random.rand(), random.random()
    assert equal(one, two)


def test_no_more_is_taken_from_an_iterator_than_is_wanted():
    def endless():
        yield from [(X, Y)] * 2
        raise AssertionError("read on")

    assert len(list(Batches(endless(), CPU, limit=2))) == 2


# --- fingerprints


@given(st.integers(0, 10), st.integers(0, 31))
def test_a_fingerprint_changes_with_any_bit(place, bit):
    changed = Y.int()
    changed[place] ^= -(2**31) if bit == 31 else 1 << bit
    assert fingerprint_batches([(X, changed)]) != fingerprint_batches([(X, Y.int())])


def test_a_fingerprint_is_of_types_shapes_and_order_and_of_nothing_else():
    floats = torch.zeros(2, 3)
    others = [
        [floats.int()], [floats.view(3, 2)], [floats, floats], [floats[:1], floats[1:]], [floats[:0]], [-floats],
    ]  # fmt: skip
    prints = [fingerprint_batches(data) for data in ([floats], *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint_batches([(X, Y)]) != fingerprint_batches([(Y, X)])
    assert fingerprint_batches([X, Y]) != fingerprint_batches([Y, X])
    assert fingerprint_batches([(X.T.contiguous().T, "text")]) == fingerprint_batches([X])
    assert fingerprint_batches([X.bfloat16()]) == fingerprint_batches([X.bfloat16()])


def test_a_scalar_has_a_fingerprint():
    assert fingerprint_batches([torch.tensor(1.0)]) != fingerprint_batches([torch.tensor(2.0)])
