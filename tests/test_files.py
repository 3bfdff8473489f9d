"""Files are written whole or not at all, and errors of a disk say what to do."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from modeconn.errors import StoreError
from modeconn.files import is_abandoned, is_damage, remove_abandoned, replacing, write_atomically, writing
from modeconn.style import save_figure


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


# What stands at the path


def test_a_file_is_written_through_a_link(tmp_path):
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to("far/target")
    for content in (b"one", b"other"):  # at first the link's target is missing
        write_atomically(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to a pipe", "loop"])
def test_what_is_no_regular_file_stays_what_it_is(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    before = os.lstat(path)
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(StoreError, match=r"cannot write .*file: "), writing(path):
        write_atomically(path, b"content")
    assert (os.lstat(path).st_ino, os.lstat(path).st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir(tmp_path)) == names


def test_temporary_names_do_not_depend_on_the_process(tmp_path, monkeypatch):
    """Two containers that share a folder may have one number for their processes, and one clock."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr("time.monotonic_ns", lambda: 7)
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        assert one != other


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


# What killed processes leave

KILLED = """
import os, sys
from pathlib import Path
from modeconn.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)
"""


def left(tmp_path):
    return sorted(path.name for path in tmp_path.glob("*.tmp-*"))


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_file(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "other")], check=False)
    (tmp_path / "file.tmp-mine").write_bytes(b"somebody's own")
    assert len(left(tmp_path)) == 3
    write_atomically(tmp_path / "file", b"content")
    assert [name[:10] for name in left(tmp_path)] == ["file.tmp-m", "other.tmp-"]
    remove_abandoned(tmp_path)
    assert left(tmp_path) == ["file.tmp-mine"]


def test_what_is_being_written_stays_however_old_it_looks(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        os.utime(temporary, (0, 0))
        assert not is_abandoned(temporary)
        write_atomically(tmp_path / "file", b"others may write the same file")
        assert temporary.exists()


def test_what_is_removed_before_it_is_locked_is_begun_anew(tmp_path, monkeypatch):
    lock, seen = fcntl.flock, []

    def slowly(handle, how):
        if how == fcntl.LOCK_EX and not seen:  # another process comes first
            seen.extend(left(tmp_path))
            remove_abandoned(tmp_path)
            assert left(tmp_path) == []
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", slowly)
    write_atomically(tmp_path / "file", b"content")
    assert seen
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"content"}


def test_where_files_cannot_be_locked_time_tells(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, young = tmp_path / "a.tmp-77-1", tmp_path / f"a.tmp-{'0' * 16}"
    old.touch()
    os.utime(old, (0, 0))
    young.touch()
    assert (is_abandoned(old), is_abandoned(young)) == (True, False)


# Figures


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "plot.png").write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"no space left for .*plot\.png; what is finished is safe"):
        save_figure(Figure(), tmp_path / "plot")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"plot.png": b"old"}


# What a disk says


@pytest.mark.parametrize(
    ("number", "damage"),
    [
        *((number, True) for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)),
        *((number, False) for number in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE)),
    ],
)
def test_what_may_not_be_read_is_not_damaged(number, damage):
    assert is_damage(OSError(number, "")) == damage
