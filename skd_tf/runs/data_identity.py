"""The identity of a run's data: what a resumed run or search compares before it goes on."""

import hashlib
import json

import numpy as np

from skd_tf import data
from skd_tf.data.augmentation import VERSION
from skd_tf.errors import input_error


def data_facts(dataset):
    """What tells, later, whether training goes on with the same data; JSON-able."""
    labels = data.digest_of(dataset.train.labels)
    return {
        "data": [dataset.name, str(dataset.version), len(dataset.train), labels],
        "images": _identity_of_images(dataset),
        "images_in": "memory" if isinstance(dataset.train.images, np.ndarray) else "none",
    }


def _identity_of_images(dataset):
    """Digest of what a training step sees beside labels: pixels, mean and std (inside the networks), augmentation."""
    numbers = [list(map(float, statistics)) for statistics in (dataset.mean, dataset.std)]
    augmentation = [VERSION, type(dataset.augmentation).__name__, *dataset.augmentation]
    facts = [data.digest_of(dataset.train.images), numbers, augmentation]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def require_same_data(what, before, now):
    """InputError where a "run" or "search" that began with the `bookkeeping.data_facts` in `before` has others `now`.

    Images in memory are known by their pixels and others by their files: where a run had the one and has the other, they
    cannot be compared.
    """
    began = f"since this {what} began"
    remedy = "Choose another --workdir, or add --overwrite to begin anew."
    if before.get("data") != now["data"]:
        raise input_error(
            f"The data has changed {began}",
            expected=f"{before.get('data')} (name, version, images, digest of labels)",
            received=f"{now['data']}",
            remedy=f"{remedy}",
        )
    kept = before.get("images_in", now["images_in"])
    if kept != now["images_in"]:
        raise input_error(
            f"The images are kept elsewhere than when this {what} began: whether they are the same cannot be told",
            expected=f"--cache_dataset={kept}",
            received=f"--cache_dataset={now['images_in']}",
            remedy=f"Add --cache_dataset={kept}",
        )
    if before.get("images", now["images"]) != now["images"]:
        raise input_error(
            f"The data has changed {began}",
            expected="the same training images, mean, std and augmentation",
            received=f"others of {now['data'][0]}",
            remedy=f"{remedy}",
        )
