"""A file is written whole or not at all, whatever interrupts it; what was there before stays until then."""

import errno
import fcntl
import os
import time

import pytest

from skd_tf.runtime import atomic_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_keeps_the_previous_file(tmp_path, end):
    path = tmp_path / "a b ä.json"
    with atomic_files.writing(path) as file:
        file.write(b"before")
        assert not path.exists()
    with pytest.raises(end if isinstance(end, type) else OSError) as caught, atomic_files.writing(path) as file:
        file.write(b"half")
        file.flush()
        raise end
    assert path.read_bytes() == b"before" and names(tmp_path) == [path.name]
    assert not isinstance(caught.value, OSError) or caught.value.filename == str(path)


def test_the_file_that_a_link_names_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("file")
    for content in (b"one", b"two"):
        with atomic_files.writing(tmp_path / "link") as file:
            file.write(content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == content


def test_two_processes_may_write_the_same_file(tmp_path):
    with atomic_files.writing(tmp_path / "file") as one, atomic_files.writing(tmp_path / "file") as other:
        one.write(b"one" * 1000)
        other.write(b"other")
    assert (tmp_path / "file").read_bytes() == b"one" * 1000 and names(tmp_path) == ["file"]


def test_the_error_about_a_missing_folder_names_the_requested_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_files.writing(tmp_path / "none" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "none" / "file")


def test_the_file_gets_the_permissions_that_the_umask_leaves(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with atomic_files.writing(tmp_path / "file"):
                pass
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_the_bytes_are_flushed_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda one, other: done.append("renamed") or replace(one, other))
    with atomic_files.writing(tmp_path / "file"):
        pass
    assert done[0].startswith(f"{tmp_path}/file.") and done[1:] == ["renamed", str(tmp_path)]


def test_a_file_system_may_refuse_to_flush_folders_but_not_fail_to(tmp_path, monkeypatch):
    def answer(number):
        def fsync(descriptor):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    answer(errno.EINVAL)
    with atomic_files.writing(tmp_path / "file"):
        pass
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), atomic_files.writing(tmp_path / "file"):
        pass


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_on_windows_no_folder_is_opened_and_no_read_only_file_flushed(tmp_path, monkeypatch, kind):
    def fsync(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_RDWR | os.O_WRONLY)

    def open_unless_folder(path, *arguments, open=os.open, **options):
        assert path != tmp_path
        return open(path, *arguments, **options)

    monkeypatch.setattr(atomic_files, "_WINDOWS", True)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", open_unless_folder)
    with atomic_files.replacing(tmp_path / "made") as path:
        if kind == "folder":
            path.mkdir()
        (path / "inside" if kind == "folder" else path).write_text("text")
    assert names(tmp_path) == ["made"]


def test_a_sweep_removes_abandoned_files_and_nothing_else(tmp_path):
    others = ["notes.tmp", "old.json", "results.0123abcz.tmp"]
    for name, age in (("old.json.0123abcd.tmp", 100), ("new.json.0123abcd.tmp", 0), *((name, 100) for name in others)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    atomic_files.sweep(tmp_path, older_than_seconds=50)
    assert names(tmp_path) == ["new.json.0123abcd.tmp", *others]
    atomic_files.sweep(tmp_path)
    assert names(tmp_path) == others
    atomic_files.sweep(tmp_path / "none")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_library_writes_is_written_whole_or_not_at_all(tmp_path, kind):
    path = tmp_path / "model.keras"

    def write(place, text):
        assert place.name == path.name  # libraries look at the suffix
        if kind == "folder":
            place.mkdir()
        (place / "inside" if kind == "folder" else place).write_text(text)

    def text():
        return (path / "inside" if kind == "folder" else path).read_text()

    with atomic_files.replacing(path) as place:
        write(place, "before")
        assert not path.exists()
    with pytest.raises(OSError, match="No space") as caught, atomic_files.replacing(path) as place:
        write(place, "half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path) and text() == "before" and names(tmp_path) == [path.name]
    with atomic_files.replacing(path) as place:
        write(place, "after")
    assert text() == "after" and names(tmp_path) == [path.name]
    (tmp_path / "model.keras.0123abcd.tmp").mkdir()  # left by a killed process
    (tmp_path / "model.keras.0123abcd.tmp" / "half").touch()
    atomic_files.sweep(tmp_path)
    assert names(tmp_path) == [path.name]


def test_the_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_files.replacing(tmp_path / "link") as folder:
        folder.mkdir()
        (folder / "file").write_bytes(b"new")
    assert (tmp_path / "real" / "file").read_bytes() == b"new" and (tmp_path / "link").is_symlink()
