"""Anyone's data as batches on a device, the same ones in the same order in every pass."""

import contextlib
import functools
import hashlib
import itertools
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from modeconn.data.batches import SplitBatches, as_batches
from modeconn.errors import DataError
from modeconn.evaluation.compute import generator_of
from modeconn.evaluation.structures import describe_batch, map_tensors, strided_parts, tensors_of

BATCH = 250  # examples; fits a core's cache, and being fixed keeps sums the same wherever they are computed
EMPTY = "the data are empty: there is not one batch in them"
_GONE = (
    "the data could be gone through once only, and are too large to be kept in memory; give data that can be read "
    "again, such as a DataLoader of a Dataset, or fewer of them"
)
# Orders of torch's own, which begin anew in every pass.
_SAMPLERS = (
    torch.utils.data.SequentialSampler,
    torch.utils.data.RandomSampler,
    torch.utils.data.SubsetRandomSampler,
    torch.utils.data.WeightedRandomSampler,
    torch.utils.data.BatchSampler,
    torch.utils.data.DistributedSampler,
)
_KEEP = 2 << 30  # bytes
_END = object()
_SEED = 0  # of whatever is random in a loader: the same in every pass


class Batches:
    """Data as batches on a device, the same ones in the same order in every pass.

    Batches are kept in memory after the first pass if they fit. Else the source is read again, with the random
    generators (those of PyTorch, NumPy, Python and the loader) as they were in the first pass, and a checksum tells
    whether the data were the same. Every batch is a fresh copy; networks may modify it in place.

    Args:
        data: a `DataLoader`; a `Dataset`; a tuple or mapping of tensors or arrays whose first dimension counts the
            examples; what `modeconn.load_data` gives, a split of it, or its name; or any iterable of batches. A batch
            is a tensor, or tuples, lists, mappings, dataclasses of them.
        device: where the batches go.
        batch_size: for data that are not batches yet.
        limit: how many batches to take; all if None.
        keep: bytes to keep in memory at most.
        split: which is taken of a whole data set: `"test"`, or `"train"` for statistics of training data.
        data_dir: where data sets are looked for by name.

    Attributes:
        notes: what was decided, for the user to read.
        scaling: how pixels were scaled, in words; empty of data that are taken as they are.

    Raises:
        DataError: no such data, no examples, or other data in a later pass than in the first.

    >>> batches = Batches((torch.arange(5.0), torch.arange(5)), torch.device("cpu"), batch_size=2)
    >>> [labels.tolist() for _, labels in batches]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        data: Any,
        device: torch.device,
        *,
        batch_size: int = BATCH,
        limit: int | None = None,
        keep: int = _KEEP,
        split: str = "test",
        data_dir: str | Path | None = None,
    ) -> None:
        self.device = device
        data = as_batches(data, split, data_dir)
        self.scaling: str = getattr(data, "scaling", "")
        self._source, self.generators, self.notes = _source(data, batch_size, limit)
        if isinstance(data, SplitBatches) and data.data.note:
            self.notes += (data.data.note,)
        self._states = [generator.get_state() for generator in self.generators]
        self._limit, self._keep = limit, keep
        self._rereads = _begins_anew(data)
        self._kept: list[Any] | None = None
        self._checksum: int | None = None

    def __iter__(self) -> Iterator[Any]:
        """Pass over the data once, from the same seeds each time: dropout in a network is the same in every pass."""
        seed_all(self.device)
        if self._kept is not None:
            yield from (map_tensors(torch.clone, batch) for batch in self._kept)
            return
        # The first pass collects copies, as long as they fit. Once they do not, it goes on with a checksum alone, which
        # every later pass must reproduce. Without that, two networks might be compared on different data.
        kept: list[Any] | None = [] if self._checksum is None else None
        size, checksum, count = 0, 0, 0
        for batch in self._read():
            count += 1
            if kept is None:
                checksum = _crc(batch, checksum)
            else:
                size += sum(part.nbytes for tensor in tensors_of(batch) for part in strided_parts(tensor))
                kept.append(map_tensors(torch.clone, batch))
                if size > self._keep:
                    checksum = functools.reduce(lambda so_far, one: _crc(one, so_far), kept, 0)
                    kept = None
            yield batch
        if not count:
            raise DataError(EMPTY if self._checksum is None else _GONE)
        self._kept = kept
        if self._checksum not in (None, checksum):
            raise DataError(
                "the data were other ones in a second pass than in the first, so that two networks would not be "
                "compared on the same examples; give a loader without random augmentation, or a list of batches"
            )
        self._checksum = checksum

    def first(self) -> Any:
        """Read the first batch, to see what there is.

        Raises:
            DataError: there is none.
        """
        # What was taken from a stream may be gone, so all of it is read, and kept or checked.
        if not self._rereads and self._kept is None and self._checksum is None:
            for _ in self:
                pass
        for batch in self if self._kept is not None else self._read():
            return batch
        raise DataError(EMPTY)

    def _read(self) -> Iterator[Any]:
        """Read the source from its beginning, its random numbers the same as ever and apart from the network's.

        A loader draws from the global generators, and so does dropout in the network between two batches. The state is
        therefore swapped around each reading: `of_source` goes on for the source, `of_others` for everybody else.
        """
        for generator, state in zip(self.generators, self._states, strict=True):
            generator.set_state(state)
        with preserving_random_state(self.device):
            seed_all(self.device)
            of_source = _random_state()
        batches: Iterator[Any] | None = None
        while True:
            of_others = _random_state()
            _set_random_state(of_source)
            try:
                batches = itertools.islice(self._source(), self._limit) if batches is None else batches
                batch = next(batches, _END)
            finally:
                of_source = _random_state()
                _set_random_state(of_others)
            if batch is _END:
                return
            yield map_tensors(lambda tensor: tensor.to(self.device, copy=True), batch)


@contextlib.contextmanager
def preserving_random_state(device: torch.device, *batches: Batches) -> Iterator[None]:
    """Put all random generators back afterwards: PyTorch's, NumPy's, Python's, and those of loaders."""
    generators = [generator for data in batches for generator in data.generators]
    states = [generator.get_state() for generator in generators]
    before = _random_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        _set_random_state(before)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def fingerprint_batches(batches: Iterable[Any]) -> str:
    """SHA-256 over the types, shapes and bytes of all tensors, batch by batch."""
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in tensors_of(batch):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            for part in strided_parts(tensor):
                digest.update(_bytes(part))
    return digest.hexdigest()


def _source(
    data: Any, batch_size: int, limit: int | None
) -> tuple[Callable[[], Iterable[Any]], list[torch.Generator], tuple[str, ...]]:
    """Find out what the data are: a function that iterates over them, the generators it draws from, and notes."""
    if isinstance(data, DataLoader):
        # A loader's own generator may be the loader's, its sampler's, or its data set's.
        owners = (data, data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None), data.dataset)
        found = (getattr(owner, "generator", None) for owner in owners)
        generators = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return lambda: data, list(generators.values()), _notes_on(data)
    if isinstance(data, Dataset):
        if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
            return lambda: DataLoader(data, batch_size), [], ()
        return lambda: DataLoader(data, batch_sampler=even_stretches(len(data), batch_size)), [], ()  # type: ignore[arg-type]
    if _is_whole(data):
        return lambda: _slices(data, batch_size), [], ()
    if isinstance(data, Mapping):
        raise DataError(f"a mapping as data must hold tensors or arrays alone; got {describe_batch(data)}")
    if isinstance(data, str | bytes | Tensor | np.ndarray) or not isinstance(data, Iterable):
        alone = "; a batch of inputs alone goes into a list" if isinstance(data, Tensor | np.ndarray) else ""
        raise DataError(
            f"data of type {type(data).__name__} are not known; give a DataLoader, a Dataset, a tuple of tensors "
            f"(inputs, targets), what modeconn.load_data gives or its name, or an iterable of batches{alone}"
        )
    if isinstance(data, list) and data and _is_example(data[0]):
        raise DataError(
            f"each item of a list is a batch, and the first {describe_batch(data[0])} looks like one example; give "
            "DataLoader(the list, batch_size)"
        )
    if isinstance(data, Iterator):
        # Not read here, but when the data are first gone through: there the random generators are preserved.
        batches = functools.cache(lambda: list(itertools.islice(data, limit)))
        return batches, [], ("the data could be gone through once only; their batches are kept in memory",)
    return lambda: data, [], ()


def _begins_anew(data: Any) -> bool:
    """Whether data surely give all their batches in every pass, however many were taken in an earlier one."""
    if isinstance(data, DataLoader):
        # A loader without a batch sampler takes single examples, or batches, from its data set as they are.
        orders = [data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None)]
        known = all(order is None or type(order) in (*_SAMPLERS, list, range) for order in orders)
        return known and not isinstance(data.dataset, IterableDataset)
    return isinstance(data, Dataset | list | tuple | Mapping | SplitBatches) and not isinstance(data, IterableDataset)


def _notes_on(loader: DataLoader[Any]) -> tuple[str, ...]:
    notes = []
    if isinstance(loader.sampler, torch.utils.data.RandomSampler):
        notes.append("the loader shuffles; every pass sees the same order")
    if loader.drop_last:
        notes.append("the loader drops its last, incomplete batch; those examples do not count")
    return tuple(notes)


def _is_whole(data: Any) -> bool:
    """Whether data are one tuple or mapping of tensors with an entry per example, and not a list of batches."""
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if type(data) is tuple else []
    arrays = [part for part in parts if isinstance(part, Tensor | np.ndarray)]
    if not arrays or len(arrays) < len(parts) or any(array.ndim == 0 for array in arrays):
        return False
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise DataError(f"the tensors of the data have different numbers of examples: {describe_batch(data)}")
    return True


def _is_example(item: Any) -> bool:
    """Whether an item is surely one example and no batch: its label is one number, or it is numbers and text alone."""
    parts = dict(item) if isinstance(item, Mapping) else dict(enumerate(item)) if isinstance(item, list | tuple) else {}
    if not parts:
        return False
    labels = [parts[name] for name in ("label", "labels", "y", "target") if name in parts]
    label = (labels or [None])[0] if isinstance(item, Mapping) else parts[len(parts) - 1] if len(parts) > 1 else None
    if isinstance(label, int | float | np.generic) or (isinstance(label, Tensor | np.ndarray) and label.ndim == 0):
        return True
    return isinstance(item, Mapping) and all(isinstance(part, int | float | str | list) for part in parts.values())


def _slices(data: Any, batch_size: int) -> Iterator[Any]:
    for part in even_stretches(len(tensors_of(data)[0]), batch_size):
        yield map_tensors(lambda tensor, at=part: tensor[at.start : at.stop], data)  # type: ignore[misc]


def even_stretches(examples: int, batch_size: int) -> list[range]:
    """Cut examples into as few batches as can be, whose sizes differ by one at most.

    BatchNorm in training mode could not normalize a last batch of one example.

    >>> [len(part) for part in even_stretches(9, 4)]
    [3, 3, 3]
    >>> [len(part) for part in even_stretches(10, 4)]
    [4, 3, 3]
    """
    count = -(-examples // batch_size)
    stops = [0]
    for number in range(count):  # the first ones are the longer ones
        stops.append(stops[-1] + examples // count + (number < examples % count))
    return [range(start, stop) for start, stop in itertools.pairwise(stops)]


def seed_all(device: torch.device) -> None:
    """Seed all global generators, as at the beginning of every pass over data."""
    torch.default_generator.manual_seed(_SEED)
    if device.type == "cuda":
        generator_of(device).manual_seed(_SEED)
    np.random.seed(_SEED)
    random.seed(_SEED)


def _random_state() -> tuple[Any, ...]:
    return torch.default_generator.get_state(), np.random.get_state(), random.getstate()


def _set_random_state(state: tuple[Any, ...]) -> None:
    torch.default_generator.set_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _crc(batch: Any, so_far: int) -> int:
    parts = (part for tensor in tensors_of(batch) for part in strided_parts(tensor))
    return functools.reduce(lambda crc, part: zlib.crc32(_bytes(part), crc), parts, so_far)


def _bytes(tensor: Tensor) -> bytes | memoryview:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""
