"""A set that TFDS has prepared as ArrayRecord gives the images, labels, order and cache keys of the TFRecord form."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from skd_tf.config import Config
from skd_tf.data import array_record
from skd_tf.errors import InputError
from tests.helpers.images import equal, load, stream, write_tfds

pytest.importorskip("array_record")  # TFDS brings it on Linux only
FORMATS = ("array_record", "tfrecord")
MEMORY, DISK = {"image_size": 8}, {"image_size": 8, "cache_dataset": "none"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same JPEG files of two sizes, in both formats, two files each; as in ImageNet, test images have no label."""
    random = np.random.default_rng(0)
    sizes = [(12, 10), (9, 20)]
    splits = {
        part: [
            (random.integers(0, 256, (*sizes[i % 2], 3), np.uint8), i % 3 if part != "test" else -1) for i in range(n)
        ]
        for part, n in (("train", 40), ("validation", 9), ("test", 4))
    }
    folders = {kind: str(tmp_path_factory.mktemp(kind)) for kind in FORMATS}
    for kind, folder in folders.items():
        image = {"shape": (None, None, 3), "encoding_format": "jpeg"}
        write_tfds(folder, "photos", splits, class_names=["a", "b", "c"], shards=2, file_format=kind, **image)
        assert tfds.builder("photos", data_dir=folder).info.file_format.value == kind
    return folders


@pytest.fixture
def files(folders, tmp_path, monkeypatch):
    """A cache folder of its own, and the ArrayRecord files of the training split; their content is put back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = tfds.builder("photos", data_dir=folders["array_record"]).info.splits["train"].filepaths
    before = [path.read_bytes() for path in found]
    yield found
    for path, content in zip(found, before, strict=True):
        path.write_bytes(content)


def assert_equal(one, other):
    assert one.images_digest == other.images_digest  # part of a cache's key
    for name in ("labels", "index"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.array_equal(one.images[:], other.images[:])


@pytest.mark.slow
def test_in_memory_both_formats_are_the_same_set(folders, files):
    records, shards = (load("photos", folders[kind], validation_fraction=0.25, **MEMORY) for kind in FORMATS)
    assert (len(records.train), len(records.validation), len(records.test)) == (30, 10, 9)
    for part in ("train", "validation", "test"):
        assert_equal(getattr(records, part), getattr(shards, part))


@pytest.mark.slow
def test_windows_of_the_originals_are_equal_and_labels_are_read_once(folders, files, monkeypatch):
    settings = {"image_size": 6, "augmentation": "resized_crop"}
    records, shards = (load("photos", folders[kind], **settings) for kind in FORMATS)
    assert_equal(records.test, shards.test)
    assert records.train.images_digest == shards.train.images_digest
    config = Config(batch_size=8, **settings)
    assert equal(stream(records, config), stream(shards, config))
    monkeypatch.setattr(array_record.ArrayRecordImages, "_scan", None)
    again = load("photos", folders["array_record"], **settings).train
    assert again.images_digest == records.train.images_digest and np.array_equal(again.labels, records.train.labels)


@pytest.mark.parametrize("settings", [MEMORY, DISK])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_file_is_one_line(folders, files, settings, damage):
    content = bytearray(files[0].read_bytes())
    content[content.find(b"label") + 40] ^= 1
    files[0].write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(InputError, match=r"The train split of photos is damaged.*Prepare it again"):
        load("photos", folders["array_record"], **settings)


def test_without_the_package_one_line_says_what_to_install(folders, monkeypatch):
    def missing(*_, **__):
        raise ImportError("No module named 'array_record'")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", missing)
    with pytest.raises(InputError, match=r"photos is prepared as ArrayRecord.*pip install array_record"):
        load("photos", folders["array_record"], **MEMORY)
