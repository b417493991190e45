"""The index of a set's shards is kept between processes, and made again when a shard has changed."""

import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from skd_tf.data import kept_arrays, loading, shard_index, tfds_source
from skd_tf.data.settings import DataSettings
from tests.helpers import images


def picture(i):
    return io.BytesIO(tf.io.encode_jpeg(np.full((30, 40, 3), 8 * i, np.uint8)).numpy())


@pytest.fixture
def shards(tmp_path):
    """A prepared set like ImageNet: several shards, and test images without labels."""
    counts, folder = {"train": 12, "validation": 6, "test": 3}, tmp_path / "tfds"
    splits = {part: [(picture(i), -1 if part == "test" else i % 3) for i in range(n)] for part, n in counts.items()}
    names = [f"n{i:04d}" for i in range(1000)]
    images.write_tfds(
        folder, "imagenet2012", splits, shards=3, class_names=names, version="5.1.0", encoding_format="jpeg"
    )
    return str(folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "skd_tf"


@pytest.mark.slow
def test_shards_are_scanned_once_until_one_of_them_changes(shards, cache, monkeypatch, capsys):
    settings = DataSettings(dataset="imagenet2012", image_size=24)
    scans = []
    scan = shard_index._scan
    monkeypatch.setattr(shard_index, "_scan", lambda shards, key: scans.append(len(shards)) or scan(shards, key))
    first = loading.load(settings, shards)
    assert len(scans) == 2 and "Reading the labels" in capsys.readouterr().out
    again = loading.load(settings, shards)
    assert len(scans) == 2 and "Reading the labels" not in capsys.readouterr().out
    for split in ("train", "validation", "test"):
        one, two = getattr(first, split), getattr(again, split)
        assert np.array_equal(one.images[:], two.images[:]) and np.array_equal(one.labels, two.labels)
        assert one.images.digest() == two.images.digest()
    shard = next(pathlib.Path(shards).rglob("*train*tfrecord*"))
    os.utime(shard, ns=(0, 10**18))
    loading.load(settings, shards)
    assert len(scans) == 3
    for kept in (cache / "shards").glob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:50])
    loading.load(settings, shards)
    assert len(scans) == 5


def test_whether_a_split_has_labels_is_asked_once(shards, cache, monkeypatch):
    settings = DataSettings(dataset="imagenet2012", image_size=24)
    loading.load(settings, shards)
    monkeypatch.setattr(tfds_source, "_damage_as_input_error", None)  # only used where records are read
    import tensorflow_datasets as tfds

    builder = tfds_source._prepared(tfds, settings, shards)
    assert tfds_source._has_labels(tfds, settings, builder, "test", ("image", "label")) is False


def test_a_cache_folder_that_cannot_be_written_is_no_problem(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    place = kept_arrays.place("shards", "x")
    kept_arrays.save(place, one=np.zeros(3))
    assert kept_arrays.load(place) == {} and isinstance(place, pathlib.Path)


def test_a_damaged_kept_file_is_no_problem(cache):
    place = kept_arrays.place("shards", "x")
    kept_arrays.save(place, one=np.zeros(3))
    content = bytearray(place.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 0x40  # says that it is encrypted
    place.write_bytes(content)
    assert kept_arrays.load(place) == {}


def test_a_kept_file_that_is_read_is_not_removed_for_its_age(cache):
    read, unused = (kept_arrays.place("shards", name) for name in ("read", "unused"))
    for place in (read, unused):
        kept_arrays.save(place, one=np.zeros(3))
    for place in (read, unused):
        os.utime(place, ns=(0, 10**18))  # in 2001
    assert kept_arrays.load(read)["one"].shape == (3,)
    kept_arrays.save(kept_arrays.place("shards", "new"), one=np.zeros(3))
    assert read.exists() and not unused.exists()
