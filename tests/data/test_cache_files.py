"""Files of the teacher cache, without a teacher: every damaged byte is detected, several writers share one folder."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import weakref
from concurrent import futures

import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.data import epoch_logits, logit_records, logit_shards, teacher_cache
from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.logit_shards import LogitShards, Shard
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runtime.files import sha256_of_json
from tests.data.cache_cases import flipped, open_cache


def test_any_flipped_byte_of_a_shard_is_detected(tmp_path):
    shards = small_shards(tmp_path)
    shard = Shard(3, 1)
    shards.write(shard, np.arange(88, dtype=np.uint8).reshape(44, 2))
    whole = shards.path(shard).read_bytes()
    for place in range(len(whole)):
        shards.path(shard).write_bytes(flipped(whole, place))
        with pytest.raises(logit_shards.DamagedError):
            shards.open(shard).verify(0)
    shards.path(shard).write_bytes(whole)
    shards.open(shard).verify(0)


def small_shards(folder, images=300):
    return logit_shards.LogitShards(folder, "key", images, logit_records.LogitRecord(1, "float16"), 256)


def test_a_file_in_the_place_of_another_is_detected(tmp_path):
    shards = LogitShards(tmp_path, "key", 4, LogitRecord(2, "float32"), 2)
    places = [Shard(epoch, number) for epoch in range(2) for number in range(2)]
    for place in places:
        shards.write(place, shards.record.encode(np.ones([2, 2])))
    whole = {place: shards.path(place).read_bytes() for place in places}
    for place in places[1:]:
        shards.path(place).write_bytes(whole[places[0]])
        with pytest.raises(logit_shards.DamagedError, match="another key"):
            shards.open(place)


def test_a_shard_has_about_16_mb_and_whole_batches():
    lengths = {classes: logit_shards.shard_rows(2 * classes) for classes in (10, 100, 1000, 21841, 10**6)}
    assert lengths == {10: 8192, 100: 8192, 1000: 8192, 21841: 256, 10**6: 256}


def test_a_block_is_verified_before_its_first_record_is_used_and_once(tmp_path, monkeypatch):
    """By the reader, as the thread that verifies ahead does nothing here."""
    shards = small_shards(tmp_path, images=70_000)
    shards = dataclasses.replace(shards, rows=70_000)
    shards.write(Shard(0, 0), np.zeros([70_000, 2], np.uint8))
    verified = []
    monkeypatch.setattr(epoch_logits.EpochLogits, "_verify_ahead", lambda self: None)
    monkeypatch.setattr(logit_shards.OpenShard, "verify", lambda self, block: verified.append(block))
    logits = epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail)
    for rows in ([1, 69_999, 0], [0, 2], [40_000]):
        logits.records(0, np.array(rows))
    assert sorted(verified[:2]) == [0, 2] and verified[2:] == [1]


def test_files_that_cannot_be_read_are_not_damaged(tmp_path, monkeypatch):
    """They stay, and nothing is computed again."""
    shards = small_shards(tmp_path)
    for number in range(2):
        shards.write(Shard(0, number), np.zeros([len(shards.images_in(number)), 2], np.uint8))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    logits = epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(logit_shards.mmap, "mmap", out_of_files)
        logits.records(0, np.array([0]))
    assert isinstance(logits.error, OSError)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(teacher_cache, "open", out_of_files, raising=False)
        (tmp_path / "key.logits").touch()
        open_cache(tmp_path).has("key", (1, 2))
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.name != "key.logits"] == before


def out_of_files(*_, **__):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_as_many_files_are_kept_open_as_the_process_may(tmp_path, monkeypatch):
    shards = small_shards(tmp_path, images=256 * 9)
    records = np.arange(2 * shards.images, dtype=np.uint16).astype("<u2").view(np.uint8).reshape(-1, 2) & 0x3F
    for number in range(9):
        shards.write(Shard(0, number), records[number * 256 : (number + 1) * 256].copy())
    monkeypatch.setattr(epoch_logits.EpochLogits, "_verify_ahead", lambda self: None)
    monkeypatch.setattr(epoch_logits._OpenFiles, "_instances", weakref.WeakSet())
    monkeypatch.setattr(epoch_logits, "most_open", lambda: 8)
    one, other = (epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail) for _ in range(2))
    order = np.random.default_rng(0).permutation(shards.images)
    for logits in (one, other):
        np.testing.assert_array_equal(logits.records(0, order), records[order])
        assert len(logits._open._files) == 2  # half of 8, for two


def test_every_flipped_byte_of_a_small_file_is_detected(tmp_path):
    cache, key, logits = open_cache(tmp_path), sha256_of_json({"a": 1}), np.arange(6).reshape(3, 2)
    cache.write(key, logits)
    assert np.array_equal(cache.read(key, (3, 2)), logits)
    whole = cache.path(key).read_bytes()
    for place in range(len(whole)):
        cache.path(key).write_bytes(flipped(whole, place))
        assert not open_cache(tmp_path).has(key, (3, 2)), place


def test_no_space_no_permission_and_overflow_are_input_errors(tmp_path):
    cache = open_cache(tmp_path / "new")
    with pytest.raises(InputError, match="float32"):
        cache.write("k", np.full([2, 2], 1e6))
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(EnvironmentFailure, match="disk is too small"):
        teacher_cache.require_space(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        open_cache(tmp_path / "file" / "sub")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        Config(teacher_cache_epochs=3)


def test_a_file_that_goes_while_the_folder_is_listed_hides_no_other(tmp_path, monkeypatch):
    shards = LogitShards(tmp_path, "key", 6, LogitRecord(3, "float32", 0), 2)
    for shard in (wanted := [Shard(0, number) for number in range(3)]):
        shards.write(shard, np.zeros((2, 12), np.uint8))
    scandir = os.scandir

    @contextlib.contextmanager
    def with_one_that_goes(folder):
        gone = pathlib.Path(folder, "0000-00000.logits.0123.tmp")
        gone.touch()
        with scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name != gone.name)
            gone.unlink()
            yield listed

    monkeypatch.setattr(os, "scandir", with_one_that_goes)
    assert shards.missing(wanted) == []


def test_two_writers_can_share_one_folder(tmp_path):
    """Neither sees an incomplete file, although both write the same files at the same time."""

    def write_and_read(folder):
        cache = teacher_cache.TeacherCache(folder, "float16", pytest.fail)
        for i in range(200):
            key, logits = sha256_of_json({"epoch": i}), np.full([200, 10], i)
            if not cache.has(key, logits.shape):
                cache.write(key, logits)
            assert np.array_equal(cache.read(key, logits.shape), logits)

    with futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(write_and_read, [tmp_path] * 2))
    assert len([*tmp_path.iterdir()]) == 200
