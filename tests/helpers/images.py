"""Random images and folders of them, and streams as lists of batches."""

import pathlib

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config

CLASSES = ("cat", "dog", "eel")
FORMATS = (".png", ".jpg", ".JPEG")


def random_image(seed, height=20, width=16, channels=3):
    return np.random.default_rng(seed).integers(0, 256, [height, width, channels], np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())


def make_folder(root, parts=("train", "test"), per_class=8, size=lambda i: (20, 16), formats=FORMATS):
    """A folder of CLASSES. In every part, image i of class c is `random_image(1000 * c + i, *size(i))`."""
    for part in parts:
        for number, name in enumerate(CLASSES):
            for i in range(per_class):
                path = root / part / name / f"{i}{formats[i % len(formats)]}"
                write_image(path, random_image(1000 * number + i, *size(i)))
    return root


def write_tfds(folder, name, splits, *, class_names, version="1.0.0", shards=1, file_format=None, **image):
    """Prepares a TFDS dataset. `splits` maps each split's name to its (image, label) pairs."""
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(**image), "file_name": tfds.features.Text()}
    features["label"] = tfds.features.ClassLabel(names=class_names)
    facts = {"features": tfds.features.FeaturesDict(features), "supervised_keys": ("image", "label")}

    def examples(builder, part):
        for i, (image, label) in enumerate(splits[part]):
            yield i, {"image": image, "label": label, "file_name": f"{i}.jpg"}

    members = {"name": name, "VERSION": tfds.core.Version(version), "_generate_examples": examples}
    members["_info"] = lambda builder: tfds.core.DatasetInfo(builder=builder, **facts)
    members["_split_generators"] = lambda builder, _: {part: examples(builder, part) for part in splits}
    kind = type(name.title(), (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    how = tfds.download.DownloadConfig(num_shards=shards)
    kind(data_dir=folder, file_format=file_format).download_and_prepare(download_config=how)


def load(dataset="digits", data_dir=None, *, test=True, class_names=(), **settings):
    """`data.load` of a name, or of a folder of images given as a path."""
    dataset = f"folder:{dataset}" if isinstance(dataset, pathlib.Path) else dataset
    return data.load(
        Config(dataset=dataset, **settings).pick(data.DataSettings), data_dir, test=test, class_names=class_names
    )


def stream(dataset, config, steps=4, **options):
    """The batches of two epochs of `steps` steps each, or of [first_step, last_step)."""
    options = {"steps_per_epoch": steps, "first_step": 0, "last_step": 2 * steps} | options
    return list(data.train_stream(dataset, config.pick(data.StreamSettings), **options).as_numpy_iterator())


def equal(one, other):
    one, other = tf.nest.flatten(one), tf.nest.flatten(other)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def image_set(images):
    """The images as a set that can be compared: their bytes."""
    return {image.tobytes() for image in images}


def images_in(batches):
    return image_set(np.concatenate([images for images, _ in batches]))
