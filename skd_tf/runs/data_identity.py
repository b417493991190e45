"""The identity of a run's data, which a resumed run or search compares before it continues."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data.augmentation import key_of
from skd_tf.errors import input_error


def data_facts(dataset: data.Dataset) -> dict[str, Any]:
    """What identifies the data of a training, as JSON.

    Returns:
      {"data": [name, version, number of training images, digest of labels], with --unlabelled also [version, number of
      images], "images": digest of what a step
      sees besides labels, "images_in": "memory" or "none", as --cache_dataset names them}.
    """
    labels = data.digest_of(dataset.train.labels)
    more = dataset.unlabelled
    unlabelled = [[str(more.version), len(more.train)]] if more else []
    return {
        "data": [dataset.key_name, str(dataset.version), len(dataset.train), labels, *unlabelled],
        "images": _digest_of_images(dataset),
        "images_in": images_in(dataset),
    }


def images_in(dataset: data.Dataset) -> str:
    """ "memory" or "none", as --cache_dataset names where the images are; both if --unlabelled has others."""
    parts = [part for part in (dataset, dataset.unlabelled) if part]
    kinds = ["memory" if isinstance(part.train.images, np.ndarray) else "none" for part in parts]
    return kinds[0] if len({*kinds}) == 1 else f"{kinds[0]}, but {kinds[1]} for --unlabelled"


def _digest_of_images(dataset):
    """Digest of pixels, of mean and std (which are part of the networks) and of the augmentation."""
    numbers = [list(map(float, statistics)) for statistics in (dataset.mean, dataset.std)]
    version, *values = key_of(dataset.augmentation, dataset.extra)
    augmentation = [version, type(dataset.augmentation).__name__, *values]
    facts = [dataset.train.images_digest, numbers, augmentation]
    facts += [dataset.unlabelled.train.images_digest] if dataset.unlabelled else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def places_of(where: str, config: Config) -> dict[str, bool]:
    """{dataset: whether its images were in memory} from a recorded `images_in`, for `data.as_decided`."""
    kinds = re.findall(r"\b(memory|none)\b", where)
    names = [config.dataset, *([config.unlabelled] if config.unlabelled else [])]
    if len(kinds) == 1:
        kinds *= len(names)
    return {name: kind == "memory" for name, kind in zip(names, kinds, strict=False)}


def require_same_data(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises if the data of a run or search is not what it started with.

    Images in memory are identified by their pixels, images on disk by their files. The two digests cannot be compared.

    Args:
      what: "run" or "search".
      before: `data_facts` when it started.
      now: `data_facts` of the data at hand.

    Raises:
      InputError: the data differs, or the images are kept in another place.
    """
    changed = f"The data has changed since this {what} began"
    remedy = "Choose another --workdir, or add --overwrite to restart from scratch"
    if before.get("data") != now["data"]:
        expected = f"{before.get('data')} (name, version, images, digest of labels)"
        raise input_error(changed, expected=expected, received=now["data"], remedy=remedy)
    kept = before.get("images_in", now["images_in"])
    if kept != now["images_in"]:
        raise input_error(
            f"The images are not kept where they were when this {what} began, so they cannot be compared",
            expected=f"--cache_dataset={kept}",
            received=f"--cache_dataset={now['images_in']}",
            remedy="Omit --cache_dataset" if "," in kept else f"Add --cache_dataset={kept}",
        )
    if before.get("images", now["images"]) != now["images"]:
        expected = "the same training images, mean, std and augmentation"
        raise input_error(changed, expected=expected, received=f"others of {now['data'][0]}", remedy=remedy)
