"""Streams: the order depends only on (seed, step), the pixels only on (data_seed, epoch, example)."""

import ctypes
import dataclasses
import functools
import gc
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data.augmentation import Augmentation, augment_batch, random_numbers
from skd_tf.data.memory_budget import aligned_empty
from skd_tf.errors import InputError
from tests.helpers import images as helpers
from tests.helpers.images import equal, images_in, load, write_tfds

STEPS = 20  # an epoch of 808 training digits at batch 40
CONFIG = Config(batch_size=40)
stream = functools.partial(helpers.stream, steps=STEPS)


@pytest.fixture(scope="module")
def whole(digits):
    return stream(digits, CONFIG)


def test_digits_are_whole_and_split_by_data_seed_alone(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (808, 90, 899)
    assert digits.image_shape == (8, 8, 1) and digits.num_classes == 10
    assert digits.train.images.dtype == np.uint8 and digits.train.images.max() == 255
    assert sorted([*digits.train.index, *digits.validation.index]) == list(range(898))
    assert np.array_equal(load(seed=7).validation.index, digits.validation.index)
    assert not np.array_equal(load(data_seed=7).validation.index, digits.validation.index)
    everything = load(validation_fraction=0, test=False)
    assert everything.validation is None and everything.test is None and len(everything.train) == 898
    pixels = everything.train.images / 255
    assert digits.mean == pytest.approx([pixels.mean()], abs=1e-3)
    assert digits.std == pytest.approx([pixels.std()], abs=1e-3)


def test_a_stream_starts_at_any_step(digits, whole):
    assert len(whole) == 2 * STEPS
    for first in (STEPS - 1, STEPS, STEPS + 7):
        assert equal(stream(digits, CONFIG, first_step=first), whole[first:])
    assert equal(stream(digits, CONFIG, first_step=3, last_step=9), whole[3:9])


def test_replicas_divide_the_same_global_batches(digits, whole):
    parts = stream(digits, CONFIG, last_step=5, shards=4)
    second_worker = stream(digits, CONFIG, last_step=5, shards=4, shard_range=range(2, 4))
    for step, batch in enumerate(whole[:5]):
        mine = parts[4 * step : 4 * step + 4]
        assert equal([np.concatenate(part) for part in zip(*mine, strict=True)], batch)
        assert equal(second_worker[2 * step : 2 * step + 2], mine[2:])


def test_each_epoch_has_each_example_at_most_once_and_its_own_order(digits):
    plain = dataclasses.replace(digits, augmentation=Augmentation(pad=0, flip=False))
    known = {image.tobytes(): i for i, image in enumerate(digits.train.images)}
    images, labels = (np.concatenate(part) for part in zip(*stream(plain, CONFIG), strict=True))
    first, second = np.array([known[image.tobytes()] for image in images]).reshape(2, -1)
    assert len(first) == len(set(first)) == len(set(second)) == 800
    assert not np.array_equal(first, second)
    assert np.array_equal(labels[:800], digits.train.labels[first])


def test_seed_changes_the_order_and_data_seed_the_pixels(digits, whole):
    def labels(batches):
        return [label for _, labels in batches for label in labels]

    base = whole[:STEPS]
    seed, data_seed = (stream(digits, CONFIG.replace(**{s: 1}), last_step=STEPS) for s in ("seed", "data_seed"))
    assert labels(seed) != labels(base) == labels(data_seed)
    assert not equal(base, data_seed)
    # Another order drops another eight images; the pixels of all others stay.
    assert len(images_in(base) & images_in(seed)) >= 780


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="Linux says how much memory a process has")
def test_an_epoch_holds_its_order_and_nothing_else_by_image():
    """4 bytes for each label, and 4 for the order of this epoch, of the next one and of the one that is being made."""
    count = 3_000_000
    pixels = aligned_empty(count, (1, 1, 1))
    pixels.fill(0)
    split = data.Split(pixels, np.zeros(count, np.int32), np.arange(count))
    dataset = data.Dataset("made", "1", ("a", "b"), (0.5,), (0.5,), Augmentation(1, True), split, None, None)

    def anonymous():
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed would hide what this one takes
    before, most, steps = anonymous(), 0, 40
    limits = {"steps_per_epoch": steps, "first_step": 0, "last_step": 3 * steps}
    for _ in data.train_stream(dataset, CONFIG.pick(data.StreamSettings), **limits):
        most = max(most, anonymous())
    assert 0 < (most - before) / count < 30  # with what the threads of a pipeline take


@pytest.mark.parametrize(("pad", "flip"), [(2, True), (1, False), (0, True)])
def test_augmentation_is_pad_crop_and_mirror(pad, flip):
    augmentation = Augmentation(pad, flip)
    images = np.random.default_rng(0).integers(0, 256, [64, 6, 5, 3], np.uint8)
    draws = random_numbers(3, 4, range(64)).numpy()
    expected = []
    for image, (dy, dx, mirror) in zip(images, draws, strict=True):
        dy, dx = dy % (2 * pad + 1), dx % (2 * pad + 1)
        crop = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])[dy : dy + 6, dx : dx + 5]
        expected.append(crop[:, ::-1] if flip and mirror % 2 else crop)
    assert np.array_equal(augment_batch(tf.constant(images), tf.constant(draws), augmentation), expected)


def test_random_numbers_are_those_of_the_whole_table():
    """What `stateless_uniform` draws for a table that holds all examples."""
    examples, streams = np.array([9, 0, 70_000, 3, 3]), [(1, 3), (4, 4), (5, 5)]
    tables = [
        tf.random.stateless_uniform([70_001, n], [6, 2 + (s << 32)], None, None, tf.int32, "philox") for s, n in streams
    ]
    expected = np.concatenate([table.numpy()[examples] & 0x7FFFFFFF for table in tables], axis=1)
    assert np.array_equal(random_numbers(6, 2, examples, streams), expected)


def test_random_numbers_are_uniform():
    draws = random_numbers(0, 5, range(20_000)).numpy()
    for column, values in ((0, 9), (1, 9), (2, 2)):
        share = np.bincount(draws[:, column] % values, minlength=values) / len(draws)
        assert np.abs(share - 1 / values).max() < 0.01
    assert np.abs(np.corrcoef((draws % 9).T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "no_such_set"}, ["Unknown dataset", "no_such_set", "cifar10", "--data_dir"]),
        ({"dataset": "cifar10:9.9.9"}, ["Unknown dataset", "cifar10:9.9.9", "its version"]),
        ({"dataset": "cifar10"}, ["not prepared", "--data_dir", "--download"]),
        ({"image_size": 16}, ["8x8", "--image_size"]),
        ({"augmentation": "resized_crop"}, ["no larger originals", "resized_crop"]),
    ],
)
def test_errors_name_what_to_do(settings, words, tmp_path):
    with pytest.raises(InputError) as caught:
        data.load(data.DataSettings(**settings), str(tmp_path))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS folder with two prepared datasets: "even" has one image size, "mixed" several."""
    folder, random = str(tmp_path_factory.mktemp("tfds")), np.random.default_rng(0)
    for name, shape, sizes in (("even", (12, 10, 3), [(12, 10)]), ("mixed", (None, None, 3), [(12, 10), (9, 20)])):
        splits = {
            part: [(random.integers(0, 256, (*sizes[i % len(sizes)], 3), np.uint8), i % 2) for i in range(count)]
            for part, count in (("train", 40), ("test", 9))
        }
        write_tfds(folder, name, splits, class_names=["cat", "dog"], shape=shape)
    return folder


def test_facts_of_any_tfds_dataset(prepared):
    even, again = (load("even", prepared, validation_fraction=0.25) for _ in range(2))
    assert even.image_shape == (12, 10, 3) and even.class_names == ("cat", "dog") and even.version == "1.0.0"
    assert (len(even.train), len(even.validation), len(even.test)) == (30, 10, 9)
    assert sorted(np.bincount(np.concatenate([even.train.labels, even.validation.labels]))) == [20, 20]
    pixels = even.train.images.reshape(-1, 3) / 255
    assert even.mean == pytest.approx(pixels.mean(0), abs=1e-3) and even.std == pytest.approx(pixels.std(0), abs=1e-3)
    assert np.array_equal(even.train.images, again.train.images)  # the same order each time


def test_images_of_several_sizes_need_a_size(prepared):
    with pytest.raises(InputError, match=r"several sizes.*--image_size"):
        load("mixed", prepared)
    assert load("mixed", prepared, image_size=8).image_shape == (8, 8, 3)


@pytest.mark.parametrize("cache_dataset", ["auto", pytest.param("none", marks=pytest.mark.slow)])
def test_no_thread_of_the_autotuner_can_delay_the_end_of_a_run(tmp_path, cache_dataset):
    """It has kept finished runs from ending for up to a minute: see `streams.untuned`."""
    folder = helpers.make_folder(tmp_path, size=lambda i: (8, 8))
    settings = Config(batch_size=4, cache_dataset=cache_dataset)
    dataset = load(folder, cache_dataset=cache_dataset)
    found = data.train_stream(dataset, settings.pick(data.StreamSettings), steps_per_epoch=2, first_step=0, last_step=2)
    assert found.options().autotune.enabled is False and len(list(found)) == 2
