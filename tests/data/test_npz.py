"""Arrays from an .npz of anyone's: damage, headers that lie, types that PyTorch has not, and bombs."""

from pathlib import Path

import numpy as np
import pytest

from modeconn.cli.sources import load_given
from modeconn.data import load_data
from modeconn.data.npz import names_in_npz, read_npz
from modeconn.errors import DataError
from mutations import archive, header, member

X, Y = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([0, 1, 0])
PIXELS, LABELS = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
PREPARED = {f"{s}_{k}": v for s in ("train", "test") for k, v in (("images", PIXELS), ("labels", LABELS))}


def head(dtype: str, shape: str) -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "|u1", ">i8", "<u8", "<c8", "|b1", "<U3"])
@pytest.mark.parametrize("order", "CF")
def test_arrays_are_read_as_numpy_reads_them_in_the_order_of_the_machine(tmp_path: Path, save, dtype, order) -> None:
    given = {
        "a": np.asarray(X.astype(dtype), order=order),
        "scalar": np.array(3, dtype),
        "empty": np.zeros((0, 5), dtype),
    }
    save(tmp_path / "x.npz", **given)
    found = read_npz(tmp_path / "x.npz")
    assert names_in_npz(tmp_path / "x.npz") == list(found) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].dtype.isnative


PLAIN = archive({"inputs": member(X), "targets": member(Y)})
BAD = {
    "empty": (b"", "no .npz"),
    "cut": (PLAIN[:-30], "no .npz"),
    "flipped": (PLAIN[:200] + bytes([PLAIN[200] ^ 1]) + PLAIN[201:], "CRC"),
    "another format": (member(X), "no .npz"),
    "a text": (archive({"inputs": b"abc", "targets": member(Y)}), "magic"),
    "16 TB": (
        archive({"inputs": head("<f4", "(1099511627776, 4)"), "targets": member(Y)}),
        "by its header 17,592,186,044,416",
    ),
    "too many": (archive({"inputs": head("<f4", f"({10**30}, 0)"), "targets": member(Y)}), "dimension|large"),
    "negative": (archive({"inputs": head("<f4", "(-1, 4)"), "targets": member(Y)}), "has the shape"),
    "longer": (archive({"inputs": member(X) + b"x", "targets": member(Y)}), "other than the 48 bytes"),
    "not closed": (archive({"inputs": header("{'descr'"), "targets": member(Y)}), "damaged"),
    "objects": (archive({"inputs": head("|O", "(1,)") + bytes(8), "targets": member(Y)}), "neither numbers nor text"),
    "dates": (
        archive({"inputs": member(X), "targets": member(Y.astype("timedelta64[s]"))}),
        "neither numbers nor text",
    ),
    "one name twice": (archive({"inputs": member(X), "inputs.npy": member(Y)}, ending=""), "one name"),
    "long doubles": (
        archive({"inputs": member(X.astype(np.longdouble)), "targets": member(Y)}),
        "numbers that PyTorch has",
    ),
    "complex labels": (
        archive({"inputs": member(X), "targets": member(Y.astype(complex))}),
        "numbers that PyTorch has",
    ),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_an_npz_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.npz: .*({words})"):
        load_given(str(tmp_path / "x.npz"))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeconn.reading.UNPACKED", 1 << 20)
    zeros = head("|u1", "(3000000,)") + bytes(3_000_000)
    (tmp_path / "x.npz").write_bytes(archive({"inputs": zeros, "targets": member(Y)}, packed=True))
    with pytest.raises(DataError, match="over 200 times"):
        load_given(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("label", "dtype", "words"),
    [
        (2**31, "i8", "go up to 2,147,483,648, with 6 images"),
        (2**64 - 1, "u8", "go up to"),
        (1000, "i8", "go up to 1,000"),
    ],
)
def test_one_stray_label_is_no_number_of_classes(tmp_path: Path, label: int, dtype: str, words: str) -> None:
    labels = np.array([0, 1, 0, 1, 0, label], dtype)
    np.savez(tmp_path / "x.npz", **PREPARED | {"train_labels": labels})
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", **PREPARED | {"train_labels": np.minimum(labels, 999)})
    assert load_data(tmp_path / "y.npz").classes == 1000
