"""Datasets from folders and functions; each mistake in them is reported in one line."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, catalog, image_ops
from skd_tf.errors import InputError
from skd_tf.training import dry_run, preflight
from tests.helpers.images import CLASSES, image_set, images_in, load, make_folder, random_image, stream, write_image

refused = functools.partial(pytest.raises, InputError, check=lambda error: "\n" not in str(error))


def add_images(folder, count):
    for i in range(count):
        write_image(folder / f"{i}.png", random_image(i))


def test_a_folder_with_train_and_test(tmp_path):
    dataset = load(make_folder(tmp_path), validation_fraction=0.25)
    assert dataset.class_names == CLASSES and dataset.image_shape == (20, 16, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 6, 24)
    assert list(dataset.test.labels) == [0] * 8 + [1] * 8 + [2] * 8
    assert np.array_equal(dataset.test.images[0], random_image(0))  # a PNG, pixel for pixel
    assert np.array_equal(dataset.test.images[8 + 3], random_image(1003))
    write_image(tmp_path / "train" / "cat" / "9.png", random_image(9))
    assert load(tmp_path).version != dataset.version


def test_one_folder_is_split_by_data_seed_class_by_class(tmp_path):
    make_folder(tmp_path, parts=("",), per_class=10)
    splits = [load(tmp_path, data_seed=seed, validation_fraction=0) for seed in (0, 0, 1)]
    for dataset in splits:
        assert list(np.bincount(dataset.train.labels)) == [8] * 3 and list(np.bincount(dataset.test.labels)) == [2] * 3
    known = [image_set(dataset.test.images) for dataset in splits]
    assert known[0] == known[1] != known[2]
    assert not known[0] & image_set(splits[0].train.images)


def test_grey_files_make_a_grey_set(tmp_path):
    for path in (tmp_path / part / name / f"{i}.png" for part in ("train", "test") for name in "01" for i in range(3)):
        write_image(path, random_image(0, channels=1))
    assert load(tmp_path).image_shape == (20, 16, 1)
    write_image(tmp_path / "train" / "0" / "colour.png", random_image(7))
    assert load(tmp_path).image_shape == (20, 16, 3)


def test_images_of_several_sizes_need_image_size_and_keep_their_middle(tmp_path):
    make_folder(tmp_path, size=lambda i: [(20, 16), (30, 40)][i % 2])
    with pytest.raises(InputError, match=r"several sizes.*--image_size"):
        load(tmp_path)
    assert load(tmp_path, image_size=10).image_shape == (10, 10, 3)
    flat = np.full([40, 80, 3], 200, np.uint8)
    flat[:, :20], flat[:, 60:] = 0, 0  # only the middle square stays 200
    assert (image_ops.fit(tf.constant(flat), (10, 10, 3), 10).numpy() == 200).mean() > 0.7


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_an_unreadable_file_is_named_and_skipped_and_too_many_are_an_error(tmp_path, capsys, keep):
    make_folder(tmp_path, per_class=40, size=lambda i: (4, 4), formats=(".png",))
    whole = load(tmp_path, validation_fraction=0)
    bad = tmp_path / "train" / "dog" / "3.png"
    place = 40 + sorted(path.name for path in bad.parent.iterdir()).index(bad.name)
    bad.write_bytes(bad.read_bytes()[:40])  # truncated, with an intact header
    (bad.parent / "notes.txt").write_text("")
    capsys.readouterr()
    rest = load(tmp_path, validation_fraction=0, cache_dataset=keep)
    printed = capsys.readouterr().err
    assert str(bad) in printed and "notes.txt" in printed
    assert len(rest.train) == 119 and place not in rest.train.index
    # The other images are augmented as before.
    augmented, before = (
        images_in(stream(dataset, Config(batch_size=len(dataset.train)), steps=1, last_step=1))
        for dataset in (rest, whole)
    )
    assert augmented <= before
    for i in (5, 6, 7, 8, 9):
        (bad.parent / f"{i}.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"do not decode: 6 of 120.*dog.3\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: make_folder(root, parts=("train",)), "one part only"),
        (lambda root: add_images(root / "cat", 1), "too few classes"),
        (lambda root: (make_folder(root), (root / "train" / "empty").mkdir()), "no images"),
        (lambda root: (make_folder(root), add_images(root / "test" / "fox", 1)), "not trained on.*cat.*fox"),
        (lambda root: make_folder(root, parts=("",), per_class=1), "too small to be split"),
    ],
)
def test_a_wrong_folder_is_reported_in_one_line(tmp_path, make, words):
    make(tmp_path / "set")
    with refused(match=words):
        load(tmp_path / "set")


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_unlabelled_images_are_neither_held_out_nor_tested(tmp_path, keep):
    """Accuracy, agreement, their intervals and the check of an export are then all measured on the same images."""
    tested = load(make_folder(tmp_path), cache_dataset=keep).test
    add_images(tmp_path / "train" / "-1", 24)
    add_images(tmp_path / "test" / "-1", 5)
    settings = {"validation_fraction": 0.5, "cache_dataset": keep}
    dataset = load(tmp_path, **settings)
    assert dataset.class_names == CLASSES
    assert (dataset.train.labels == -1).sum() == 24 and (dataset.validation.labels >= 0).all()
    assert len(dataset.validation) == 12 and len(dataset.train.labelled()) == 12
    assert np.array_equal(dataset.test.labels, tested.labels)
    assert np.array_equal(dataset.test.images[:], tested.images[:])
    config = Config(dataset=f"folder:{tmp_path}", batch_size=4, **settings)
    assert preflight.dataset_sizes(config).test == len(tested) == 24
    assert "36 to train, 12 to validate, 24 to test" in dry_run.describe(config)


def split(n, channels=3):
    """n random images and their labels -1, 0, 1, 2, -1, ..."""
    random = np.random.default_rng(n)
    return random.integers(0, 256, [n, 8, 8, channels], np.uint8), np.arange(n) % 4 - 1


ARRAYS = {"class_names": ["a", "b", "c"], "train": split(40), "test": split(8)}


def streamed(part):
    return tf.data.Dataset.from_tensor_slices(ARRAYS[part])


@pytest.fixture
def load_returned(monkeypatch):
    """`load_returned(returned, **settings)` loads MODULE:FUNCTION, whose function returns `returned`."""

    def load_it(returned, **settings):
        monkeypatch.setitem(globals(), "function", lambda data_dir: returned)
        return load(f"{__name__}:function", **settings)

    return load_it


def test_a_test_split_without_labels_is_refused_before_training(tmp_path, load_returned):
    make_folder(tmp_path, parts=("train",))
    add_images(tmp_path / "test" / "-1", 1)
    images, labels = split(8)
    for open_it, given in ((load, tmp_path), (load_returned, ARRAYS | {"test": (images, labels * 0 - 1)})):
        with refused(match="No test image has a label"):
            open_it(given)
        assert open_it(given, test=False).test is None  # a search does not read the test split


def test_a_function_returns_arrays_or_a_stream(load_returned):
    facts = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "pad": 2, "flip": False}
    arrays = load_returned(ARRAYS | facts, validation_fraction=0)
    assert arrays.class_names == ("a", "b", "c") and arrays.mean == (0.5,) * 3
    assert arrays.augmentation == augmentation.Augmentation(pad=2, flip=False)
    assert list(arrays.train.labels[:5]) == [-1, 0, 1, 2, -1]
    streams = {"class_names": ["a", "b", "c"], "train": streamed("train"), "test": streamed("test")}
    dataset = load_returned(streams, validation_fraction=0)
    assert np.array_equal(arrays.train.images, dataset.train.images) and dataset.augmentation.flip
    assert load_returned(streams, image_size=4).image_shape == (4, 4, 3)


def test_a_function_returns_paths(load_returned, tmp_path):
    returned = {"class_names": CLASSES}
    for part in ("train", "test"):
        files = sorted((make_folder(tmp_path) / part).glob("*/*"))
        returned[part] = files, [CLASSES.index(file.parent.name) for file in files]
    tests = load_returned(returned, cache_dataset="none").test, load(tmp_path).test
    one, other = ([(int(y), x.tobytes()) for x, y in zip(test.images[:], test.labels, strict=True)] for test in tests)
    assert sorted(one) == sorted(other) and len(one) == 24
    arrays = {
        part: (np.array([str(path) for path in returned[part][0]]), returned[part][1]) for part in ("train", "test")
    }
    whole, searched = (load_returned(returned | arrays, cache_dataset="none", test=test) for test in (True, False))
    assert whole.train.images_digest == searched.train.images_digest  # a search and its final run share a cache


def test_a_function_with_wrong_splits_is_refused(load_returned):
    endless, cropped = streamed("train").repeat(), {"augmentation": "resized_crop", "image_size": 8}
    for returned, settings, words in (
        (ARRAYS | {"class_names": ["a", "b"]}, {}, "from 0 to 1, or -1"),
        (ARRAYS | {"train": endless}, {}, "finite"),
        ({"train": split(40)}, {}, "class_names"),
        (ARRAYS, cropped, "already decoded"),
    ):
        with refused(match=words):
            load_returned(returned, **settings)


def test_a_function_is_imported_by_its_name():
    module = "tests.helpers.bad_data"
    for name, words in ((f"{module}:floats", "uint8"), (f"{module}:none", "no such function"), ("a:b", "no module")):
        with refused(match=words):
            load(name)


HALF = [0.5] * 3
AS_NUMPY = {"mean": np.full(3, 0.5), "std": np.full(3, 0.25, np.float32), "pad": np.int64(2), "flip": np.False_}
AS_NUMBERS = {"mean": [0, 0.5, 1], "std": HALF, "pad": 0, "flip": 1}


@pytest.mark.parametrize(
    ("facts", "expected"), [(AS_NUMPY, [HALF, [0.25] * 3, 2, False]), (AS_NUMBERS, [[0.0, 0.5, 1.0], HALF, 0, True])]
)
def test_facts_of_a_function_become_plain_numbers(load_returned, facts, expected):
    dataset = load_returned(ARRAYS | facts)
    found = [dataset.mean, dataset.std, *dataset.augmentation]
    assert json.loads(json.dumps(found)) == expected  # teacher caches write them as JSON
    assert [type(value) for value in (*found, *dataset.mean, *dataset.std)] == [tuple, tuple, int, bool] + [float] * 6


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mean": HALF}, "mean entry.*std as well"),
        ({"std": HALF}, "std entry.*mean as well"),
        ({"mean": [0.5], "std": [0.5]}, "3 numbers, one per channel, from 0 to 1"),
        ({"mean": "grey", "std": 1}, "mean='grey'"),
        ({"mean": [127] * 3, "std": [60] * 3}, r"from 0 to 1.*mean=\[127"),
        ({"mean": [0.5, np.nan, 0.5], "std": HALF}, "mean entry"),
        ({"mean": np.full([3, 3], 0.5), "std": HALF}, "mean entry"),
        ({"mean": HALF, "std": [0.2, 0, 0.2]}, "std entry.*above 0"),
        ({"pad": -1}, "pad entry.*from 0"),
        ({"pad": 1.5}, r"pad=1\.5"),
        ({"flip": "no"}, "flip entry.*True or False"),
    ],
)
def test_wrong_facts_of_a_function_are_refused(load_returned, facts, words):
    with refused(match=words):
        load_returned(ARRAYS | facts)


def test_a_name_decides_the_reader():
    names = {
        "digits": "packaged",
        "fashion_mnist_10k": "packaged",
        "cifar10": "tfds",
        "cifar10:3.0.2": "tfds",
        "cats_vs_dogs/x:1.*.*": "tfds",
    }
    names |= {"folder:a/b": "folder", "folder:C:/x y": "folder", "my.module:function": "function"}
    assert {name: catalog.source_kind(name) for name in names} == names


def test_a_name_with_a_pinned_version_is_the_same_known_dataset():
    for name, known in catalog.KNOWN_DATASETS.items():
        assert catalog.known_of(name) == catalog.known_of(f"{name}:3.0.2") == known
        assert catalog.known_of(f"{name}:3.*.*") == known and catalog.known_of(f"{name}:load") is None


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({"dataset": "imagenet2012"}, (None, None, 3), ((224, 224, 3), 256)),
        ({}, (32, 32, 3), ((32, 32, 3), 0)),
        ({"image_size": 16}, (32, 32, 3), ((16, 16, 3), 16)),
        ({"image_size": 14, "augmentation": "resized_crop"}, (32, 32, 3), ((14, 14, 3), 16)),
    ],
)
def test_the_shape_of_images_and_the_side_before_the_centre_crop(settings, own, expected):
    assert catalog.fixed_shape(data.DataSettings(**{"dataset": "cifar10"} | settings), own) == expected
