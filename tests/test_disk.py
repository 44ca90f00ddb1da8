"""Files are written completely or not at all, and errors of the disk name the file."""

from __future__ import annotations

import os
import resource

import pytest

from tests.data.refusals import refused
from train.engine.disk import append, sweep, write_atomically


def names(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_files():
    """Limits the files of this process to 100 bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with refused(str(path), "No space left on device", "--run-dir"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_what_is_not_about_the_disk_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", lambda file: 1 // 0)
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("cannot be written"):
        write_atomically(tmp_path / "file" / "inside", lambda file: file.write(b""))
    with refused("cannot be written"):
        append(tmp_path / "file" / "inside", "line")


def test_a_disk_that_is_full_for_real(tmp_path, small_files):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(bytes(100)))
    with refused(str(path), "make room"):
        write_atomically(path, lambda file: file.write(bytes(101)))
    assert path.read_bytes() == bytes(100)
    assert names(tmp_path) == {"file"}


def test_no_half_line_is_left(tmp_path, small_files):
    """The mutation: without truncation, seven of the second line's sixty characters stay."""
    path = tmp_path / "log"
    append(path, "a" * 92)
    with refused(str(path), "make room"):
        append(path, "b" * 60)
    assert path.read_text() == "a" * 92 + "\n"
    append(path, "c")
    assert path.read_text().endswith("a\nc\n")


def test_a_line_can_be_read_at_once(tmp_path):
    append(tmp_path / "log", "first")
    with (tmp_path / "log").open() as follower:
        assert follower.read() == "first\n"
        append(tmp_path / "log", "second")
        assert follower.read() == "second\n"


def test_only_leftovers_are_swept(tmp_path):
    (tmp_path / "inside").mkdir()
    kept = {"model.part", ".hidden", "file", ".mine.part", "inside/.file.12.part"}
    for name in (*kept, ".file.12.part"):
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert names(tmp_path) == {name.removeprefix("inside/") for name in kept}
    assert not (tmp_path / ".file.12.part").exists()


def test_a_folder_that_may_not_be_written_to(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        if os.geteuid() == 0:
            # Root may write anywhere, so the folder becomes one where nobody can.
            folder.rmdir()
            folder.symlink_to("/proc/self")
        with refused(str(folder / "file"), "cannot be written"):
            write_atomically(folder / "file", lambda file: file.write(b""))
    finally:
        if not folder.is_symlink():
            folder.chmod(0o700)
