"""Images that stay on disk equal those in memory; ImageNet's shards and random crops."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, image_ops
from skd_tf.errors import InputError
from tests.helpers.images import CLASSES, equal, image_set, load, make_folder, stream, write_image


@pytest.mark.parametrize(
    "settings", [{}, {"image_size": 12}, pytest.param({"augmentation": "none"}, marks=pytest.mark.slow)]
)
def test_images_on_disk_equal_those_in_memory(tmp_path, settings):
    """Splits, statistics, plain and augmented images are bit-equal, from any step and for any replica."""
    make_folder(tmp_path)
    settings |= {"validation_fraction": 0.25, "batch_size": 4}
    memory, disk = (load(tmp_path, cache_dataset=keep, **settings) for keep in ("memory", "none"))
    assert isinstance(memory.train.images, np.ndarray) and not isinstance(disk.train.images, np.ndarray)
    assert (memory.mean, memory.std, memory.augmentation) == (disk.mean, disk.std, disk.augmentation)
    for one, other in ((memory.train, disk.train), (memory.validation, disk.validation), (memory.test, disk.test)):
        assert one.images.shape == other.images.shape and np.array_equal(one.images, other.images[:])
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.index, other.index)
        assert np.array_equal(one.images[[2, 0, 2]], other.images[np.array([2, 0, 2])])
        assert np.array_equal(one.images[1], other.images[1])
    config = Config(**settings)
    for options in ({}, {"first_step": 3}, {"shards": 2, "shard_range": range(1, 2)}):
        assert equal(stream(memory, config, **options), stream(disk, config, **options))
    for dataset in (memory, disk):
        view = data.AugmentedImages(dataset, 0, 1)
        trained = {image.tobytes() for images, _ in stream(dataset, config, first_step=4) for image in images}
        assert len(view) == 18 and trained <= image_set(view[np.arange(18)])


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A prepared TFDS dataset "imagenet2012": several shards and image sizes; as in 5.1.0 test images have no labels."""
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))
    names = [f"n{i:04d}" for i in range(1000)]

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {"image": tfds.features.Image(encoding_format="jpeg"), "file_name": tfds.features.Text()}
            features["label"] = tfds.features.ClassLabel(names=names)
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, _):
            test = self._generate_examples(5, labelled=False)
            return {"train": self._generate_examples(30), "validation": self._generate_examples(7), "test": test}

        def _generate_examples(self, count, labelled=True):
            for i in range(count):
                # Smooth images, so a JPEG's pixels hardly depend on which part of it is decoded.
                y, x = np.mgrid[: 240 + 10 * (i % 3), : 280 - 20 * (i % 2)]
                image = np.stack([y, x, 0 * y + 8 * i], axis=-1).clip(0, 255).astype(np.uint8)
                encoded = tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False).numpy()
                yield i, {"image": io.BytesIO(encoded), "label": 7 * i if labelled else -1, "file_name": f"{i}.jpg"}

    config = tfds.download.DownloadConfig(num_shards=4)
    Imagenet2012(data_dir=folder).download_and_prepare(download_config=config)
    assert len(list(pathlib.Path(folder).glob("**/*train.tfrecord*"))) == 4
    return folder


IMAGENET = {"dataset": "imagenet2012", "batch_size": 5, "image_size": 32, "validation_fraction": 0.2}


@pytest.mark.parametrize("name", ["imagenet2012", "imagenet2012:5.1.0"])
def test_imagenet_is_read_from_its_shards(imagenet, name):
    dataset = data.load(data.DataSettings(dataset=name), imagenet)
    assert dataset.image_shape == (224, 224, 3) and dataset.num_classes == 1000
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (27, 3, 7)
    assert isinstance(dataset.augmentation, augmentation.ResizedCrop) and dataset.mean == (0.485, 0.456, 0.406)
    whole = data.load(Config(**IMAGENET | {"validation_fraction": 0}).pick(data.DataSettings), imagenet)
    # The blue channel encodes the number of the example, and so does the label.
    number = np.rint(whole.train.images[:].astype(float)[..., 2].mean(axis=(1, 2)) / 8)
    assert np.array_equal(7 * number, whole.train.labels) and len(set(number)) == 30
    with pytest.raises(InputError, match="--cache_dataset"):
        data.load(Config(**IMAGENET, cache_dataset="memory").pick(data.DataSettings), imagenet)


def test_imagenet_in_memory_equals_imagenet_on_disk(imagenet):
    """Without resized crops both are possible: the shards are read in the order of TFDS."""
    settings = IMAGENET | {"augmentation": "pad_crop"}
    memory, disk = (
        data.load(Config(**settings, cache_dataset=keep).pick(data.DataSettings), imagenet)
        for keep in ("memory", "none")
    )
    assert np.array_equal(memory.train.images, disk.train.images[:])
    assert np.array_equal(memory.train.labels, disk.train.labels)
    assert equal(stream(memory, Config(**settings)), stream(disk, Config(**settings)))


def test_crops_are_a_function_of_example_epoch_and_data_seed(imagenet):
    config = Config(**IMAGENET)
    dataset = data.load(config.pick(data.DataSettings), imagenet)
    batches = stream(dataset, config)
    assert equal(stream(dataset, config, first_step=3), batches[3:])
    plain = dataclasses.replace(dataset, augmentation=augmentation.ResizedCrop(flip=False))
    unflipped = data.AugmentedImages(plain, 0, 0)[np.arange(24)]
    flipped = augmentation.draw_table(0, 0, 30).numpy()[dataset.train.index, 2] % 2 == 1
    expected = np.where(flipped[:, None, None, None], unflipped[:, :, ::-1], unflipped)
    assert 4 < flipped.sum() < 20 and np.array_equal(data.AugmentedImages(dataset, 0, 0)[np.arange(24)], expected)
    epoch = {x.tobytes() for images, _ in batches[:4] for x in images}
    view = data.AugmentedImages(dataset, 0, 0)
    single = [view[np.array([i])][0].tobytes() for i in range(len(view))]
    assert epoch <= set(single)
    assert [x.tobytes() for x in view[np.arange(24)]] == single  # the same in any batch
    other = image_set(data.AugmentedImages(dataset, 1, 0)[np.arange(24)])
    later = {x.tobytes() for images, _ in batches[4:] for x in images}
    assert not epoch & later and not epoch & other
    reseeded = {x.tobytes() for images, _ in stream(dataset, config.replace(seed=3), last_step=4) for x in images}
    assert len(epoch & reseeded) >= 16  # the seed changes the order, not the crops


def test_windows_are_distributed_as_in_torchvision():
    """The area is uniform in [0.1, 1] and the log ratio uniform, among windows that fit; so is the position."""
    how = augmentation.ResizedCrop(flip=True)
    size = tf.constant([1000, 1000])
    rows = augmentation.draw_table(0, 0, 3000)[:, :2]
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

    config = Config(**IMAGENET | {"augmentation": "pad_crop", "download": True})
    with tfds.testing.mock_data(num_examples=30, data_dir=imagenet):
        dataset = data.load(config.pick(data.DataSettings), imagenet, test=False)
    assert dataset.num_classes == 1000 and dataset.image_shape == (32, 32, 3) and len(dataset.train) == 24
    real = data.load(config.pick(data.DataSettings), imagenet, test=False)
    assert not np.array_equal(dataset.train.images, real.train.images)


@pytest.mark.slow
def test_a_folder_of_images_trains_and_exports(tmp_path):
    """Resized crops of images on disk, with a live teacher and a teacher cache; the export returns class names."""
    from skd_tf.training import experiment

    for part, count in (("train", 24), ("test", 6)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                y, x = np.mgrid[: 30 + i, : 40 - i % 7]
                image = np.stack([(y * x * (number + 1)) % 256, x * 5 % 256, 0 * x + 60 * number], axis=-1)
                write_image(tmp_path / "set" / part / name / f"{i}.jpg", image.astype(np.uint8))
    settings = {"dataset": f"folder:{tmp_path / 'set'}", "image_size": 16, "augmentation": "resized_crop"}
    settings |= {"epochs": 6, "batch_size": 12, "learning_rate": 0.05, "strategy": "one_device"}
    settings |= {"validation_fraction": 0.25, "report": False}
    alone = experiment.run(Config(student="cnn_16", loss="cross_entropy", **settings), tmp_path / "teacher")
    assert alone["student"]["accuracy"] > 0.8 and alone["class_names"] == list(CLASSES)
    config = Config(student="cnn_4", teacher_checkpoint=str(tmp_path / "teacher"), loss="kd", **settings)
    live = experiment.run(config, tmp_path / "live")
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "teacher_cache_dtype": "float32"}
    cached = experiment.run(config.replace(**cache), tmp_path / "cached")
    assert cached["student"]["nll"] == pytest.approx(live["student"]["nll"], rel=1e-3)
    served = tf.saved_model.load(str(tmp_path / "live" / "saved_model")).signatures["serving_default"]
    labels = served(images=tf.zeros([1, 16, 16, 3], tf.uint8))["label"].numpy()
    assert labels[0].decode() in CLASSES
