"""Random images and folders of them, and streams as lists of batches."""

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config

CLASSES = ("cat", "dog", "eel")


def random_image(seed, height=20, width=16, channels=3):
    return np.random.default_rng(seed).integers(0, 256, [height, width, channels], np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())


def make_folder(
    root, parts=("train", "test"), per_class=8, size=lambda i: (20, 16), suffixes=(".png", ".jpg", ".JPEG")
):
    """A folder of CLASSES; the image at place i of class c is `random_image(1000 * c + i, *size(i))` in every part."""
    for part in parts:
        for number, name in enumerate(CLASSES):
            for i in range(per_class):
                image = random_image(1000 * number + i, *size(i))
                write_image(root / part / name / f"{i}{suffixes[i % len(suffixes)]}", image)
    return root


def load(root, **settings):
    return data.load(Config(dataset=f"folder:{root}", **settings).pick(data.DataSettings))


def stream(dataset, config, steps=4, **options):
    """The batches of two epochs of `steps` steps each, or of [first_step, last_step)."""
    options = {"steps_per_epoch": steps, "first_step": 0, "last_step": 2 * steps} | options
    return list(data.train_stream(dataset, config.pick(data.StreamSettings), **options).as_numpy_iterator())


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


def image_set(images):
    """The images as a set that can be compared: their bytes."""
    return {image.tobytes() for image in images}
