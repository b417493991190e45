"""Images that stay on disk equal those in memory; ImageNet's shards and random crops."""

import dataclasses
import io
import logging

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, image_ops
from skd_tf.errors import InputError
from tests.helpers import images
from tests.helpers.images import equal, image_set, images_in, load, make_folder, stream

PLAIN = pytest.param({"augmentation": "none"}, marks=pytest.mark.slow)


@pytest.mark.parametrize("settings", [{}, pytest.param({"image_size": 12}, marks=pytest.mark.slow), PLAIN])
def test_images_on_disk_equal_those_in_memory(tmp_path, settings):
    """Splits, statistics, plain and augmented images are bit-equal, from any step and for any replica."""
    make_folder(tmp_path)
    settings |= {"validation_fraction": 0.25, "batch_size": 4}
    memory, disk = (load(tmp_path, cache_dataset=keep, **settings) for keep in ("memory", "none"))
    assert isinstance(memory.train.images, np.ndarray) and not isinstance(disk.train.images, np.ndarray)
    assert (memory.mean, memory.std, memory.augmentation) == (disk.mean, disk.std, disk.augmentation)
    for part in ("train", "validation", "test"):
        one, other = getattr(memory, part), getattr(disk, part)
        assert np.array_equal(one.images, other.images[:]) and one.images.shape == other.images.shape
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.index, other.index)
        assert np.array_equal(one.images[[2, 0, 2]], other.images[np.array([2, 0, 2])])
        assert np.array_equal(one.images[1], other.images[1])
    config = Config(**settings)
    whole = stream(memory, config)
    assert equal(whole, stream(disk, config))
    part = {"first_step": 3, "shards": 2, "shard_range": range(1, 2)}
    assert equal(stream(memory, config, **part), stream(disk, config, **part))
    for dataset in (memory, disk):
        view = data.AugmentedImages(dataset, 0, 1)
        assert len(view) == 18 and images_in(whole[4:]) <= image_set(view[np.arange(18)])


def smooth_image(i):
    """A JPEG whose pixels hardly depend on which part of it is decoded. The blue channel is 8 * i."""
    y, x = np.mgrid[: 240 + 10 * (i % 3), : 280 - 20 * (i % 2)]
    image = np.stack([y, x, 0 * y + 8 * i], axis=-1).clip(0, 255).astype(np.uint8)
    return io.BytesIO(tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False).numpy())


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A prepared TFDS dataset "imagenet2012" of several shards. As in version 5.1.0, test images have no labels."""
    folder = tmp_path_factory.mktemp("tfds")
    splits = {
        part: [(smooth_image(i), 300 * (i % 3)) for i in range(n)] for part, n in (("train", 30), ("validation", 7))
    }
    splits["test"] = [(smooth_image(i), -1) for i in range(5)]
    facts = {"class_names": [f"n{i:04d}" for i in range(1000)], "version": "5.1.0", "encoding_format": "jpeg"}
    images.write_tfds(folder, "imagenet2012", splits, shards=4, **facts)
    assert len(list(folder.glob("**/*train.tfrecord*"))) == 4
    return str(folder)


IMAGENET = {"batch_size": 5, "image_size": 32, "validation_fraction": 0.2}


def load_imagenet(folder, name="imagenet2012", test=True, **changes):
    return load(name, folder, test=test, **IMAGENET | changes)


@pytest.mark.parametrize("name", ["imagenet2012", pytest.param("imagenet2012:5.1.0", marks=pytest.mark.slow)])
def test_imagenet_is_read_from_its_shards(imagenet, name):
    dataset = data.load(data.DataSettings(dataset=name), imagenet)
    assert dataset.image_shape == (224, 224, 3) and dataset.num_classes == 1000
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (27, 3, 7)
    assert isinstance(dataset.augmentation, augmentation.ResizedCrop) and dataset.mean == (0.485, 0.456, 0.406)
    whole = load_imagenet(imagenet, name, validation_fraction=0)
    number = np.rint(whole.train.images[:].astype(float)[..., 2].mean(axis=(1, 2)) / 8)
    assert np.array_equal(300 * (number % 3), whole.train.labels) and len(set(number)) == 30
    with pytest.raises(InputError, match="--cache_dataset"):
        load_imagenet(imagenet, name, cache_dataset="memory")


@pytest.mark.slow
def test_imagenet_in_memory_equals_imagenet_on_disk(imagenet):
    """Without resized crops both are possible: the shards are read in the order of TFDS."""
    memory, disk = (load_imagenet(imagenet, augmentation="pad_crop", cache_dataset=keep) for keep in ("memory", "none"))
    assert np.array_equal(memory.train.images, disk.train.images[:])
    assert np.array_equal(memory.train.labels, disk.train.labels)
    assert equal(*(stream(dataset, Config(**IMAGENET)) for dataset in (memory, disk)))


@pytest.mark.slow
def test_crops_are_a_function_of_example_epoch_and_data_seed(imagenet):
    config, everything = Config(**IMAGENET), np.arange(24)
    dataset = load_imagenet(imagenet)
    batches = stream(dataset, config)
    assert equal(stream(dataset, config, first_step=3), batches[3:])
    view = data.AugmentedImages(dataset, 0, 0)
    plain = dataclasses.replace(dataset, augmentation=augmentation.ResizedCrop(flip=False))
    unflipped = data.AugmentedImages(plain, 0, 0)[everything]
    flipped = augmentation.random_numbers(0, 0, dataset.train.index).numpy()[:, 2] % 2 == 1
    expected = np.where(flipped[:, None, None, None], unflipped[:, :, ::-1], unflipped)
    assert 4 < flipped.sum() < 20 and len(view) == 24 and np.array_equal(view[everything], expected)
    assert np.array_equal(view[everything][:3], [view[np.array([i])][0] for i in range(3)])  # the same in any batch
    first, later = images_in(batches[:4]), images_in(batches[4:])
    assert first <= image_set(expected)
    assert not first & later and not first & image_set(data.AugmentedImages(dataset, 1, 0)[everything])
    reseeded = images_in(stream(dataset, config.replace(seed=3), last_step=4))
    assert len(first & reseeded) >= 16  # the seed changes the order, not the crops


def test_windows_are_distributed_as_in_torchvision():
    """The area is uniform in [0.1, 1] and the log ratio uniform, among windows that fit; so is the position."""
    how = augmentation.ResizedCrop(flip=True)
    size = tf.constant([1000, 1000])
    rows = augmentation.random_numbers(0, 0, tf.range(3000))[:, :2]
    windows = tf.function(lambda rows: tf.map_fn(lambda row: image_ops.random_window(size, row, how), rows))(rows)
    top, left, height, width = windows.numpy().T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 1000).all() and (left + width <= 1000).all()
    area, ratio = height * width / 1e6, width / height
    assert area.min() >= 0.0995 and ratio.min() > 0.745 and ratio.max() < 1.341
    random = np.random.default_rng(0)
    areas, ratios = random.uniform(0.1, 1, 40_000), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 40_000))
    fits = (areas * ratios <= 1) & (areas / ratios <= 1)  # one of ten tries almost always fits
    assert area.mean() == pytest.approx(areas[fits].mean(), abs=0.012)
    assert np.log(ratio).std() == pytest.approx(np.log(ratios[fits]).std(), abs=0.006)
    assert (left / np.maximum(1000 - width, 1)).mean() == pytest.approx(0.5, abs=0.03)
    height, width = image_ops.random_window(size, rows[0], how._replace(ratio=(2.0, 3.0))).numpy()[2:]
    assert 1.9 < width / height < 3.1
    narrow = image_ops.random_window(tf.constant([1000, 20]), rows[0], how).numpy()
    assert list(narrow) == [(1000 - 27) // 2, 0, 27, 20]  # nothing fits: the centre, at the nearest ratio


def test_decoding_a_window_equals_cropping_the_whole_image():
    y, x = np.mgrid[:240, :280]
    image = np.stack([y, x, (x + y) // 3], axis=-1).clip(0, 255).astype(np.uint8)
    top, left, height, width = 40, 64, 120, 96
    expected = tf.image.resize(image[top : top + height, left : left + width], [32, 32], antialias=True).numpy()
    for encode, tolerance in ((tf.io.encode_png, 0.51), (lambda i: tf.io.encode_jpeg(i, quality=100), 4)):
        got = image_ops.decode_window(encode(image), tf.constant([top, left, height, width]), (32, 32, 3)).numpy()
        assert np.abs(got.astype(float) - expected).max() <= tolerance


def test_tfds_mock_data_is_read(imagenet):
    import tensorflow_datasets as tfds

    options = {"augmentation": "pad_crop", "download": True, "test": False, "validation_fraction": 0}
    with tfds.testing.mock_data(num_examples=30, data_dir=imagenet):
        dataset = load_imagenet(imagenet, **options)
    assert dataset.num_classes == 1000 and dataset.image_shape == (32, 32, 3) and len(dataset.train) == 30
    assert not np.array_equal(dataset.train.images, load_imagenet(imagenet, **options).train.images)


@pytest.mark.slow
def test_a_folder_of_images_trains_and_exports(tmp_path):
    """Resized crops of images on disk, with a live teacher and a teacher cache; the export returns class names."""
    from skd_tf.training import experiment

    for part, count in (("train", 24), ("test", 6)):
        for number, name in enumerate(images.CLASSES):
            for i in range(count):
                y, x = np.mgrid[: 30 + i, : 40 - i % 7]
                image = np.stack([(y * x * (number + 1)) % 256, x * 5 % 256, 0 * x + 60 * number], axis=-1)
                images.write_image(tmp_path / "set" / part / name / f"{i}.jpg", image.astype(np.uint8))
    settings = {"dataset": f"folder:{tmp_path / 'set'}", "image_size": 16, "augmentation": "resized_crop"}
    settings |= {"epochs": 6, "batch_size": 12, "learning_rate": 0.05, "validation_fraction": 0.25}
    settings |= {"strategy": "one_device", "report": False}
    alone = experiment.run(Config(student="cnn_16", loss="cross_entropy", **settings), tmp_path / "teacher")
    assert alone["student"]["accuracy"] > 0.8 and alone["class_names"] == list(images.CLASSES)
    config = Config(student="cnn_4", teacher_checkpoint=str(tmp_path / "teacher"), loss="kd", **settings)
    live = experiment.run(config, tmp_path / "live")
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "teacher_cache_dtype": "float32"}
    cached = experiment.run(config.replace(**cache), tmp_path / "cached")
    assert cached["student"]["nll"] == pytest.approx(live["student"]["nll"], rel=1e-3)
    served = tf.saved_model.load(str(tmp_path / "live" / "saved_model")).signatures["serving_default"]
    labels = served(images=tf.zeros([1, 16, 16, 3], tf.uint8))["label"].numpy()
    assert labels[0].decode() in images.CLASSES


@pytest.mark.slow
def test_many_splits_on_disk_bring_no_warning_of_retracing(tmp_path, caplog):
    """Each split has a graph of its own that decodes it; TensorFlow would take them for one that is traced again."""
    make_folder(tmp_path)
    caplog.set_level(logging.WARNING)
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        train = load(tmp_path, cache_dataset="none").train.images
        for row in range(6):
            train.take(np.array([row]))[:]
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.messages
