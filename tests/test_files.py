"""Files are written whole or not at all, and errors of a disk say what to do."""

import errno

import pytest

from modeconn.errors import StoreError
from modeconn.files import replacing, write_atomically, writing


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path, sync):
    path = tmp_path / "file"
    for content in (b"one", b"other"):
        write_atomically(path, content, sync)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_the_file_is_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # another file system would have to copy it
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_file_is_the_old_one_and_nothing_else_is_left(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left for .*file; what is finished is safe, free some and repeat"),
        (errno.EDQUOT, "no space left for .*file"),
        (errno.EACCES, "cannot write .*file: Permission denied; choose another folder"),
    ],
)
def test_errors_of_a_disk_say_what_to_do(tmp_path, number, says):
    with pytest.raises(StoreError, match=says), writing(tmp_path / "file"):
        raise OSError(number, "Permission denied")
