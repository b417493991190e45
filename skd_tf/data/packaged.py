"""The datasets inside the package: digits, and a part of Fashion-MNIST."""

import pathlib
from collections.abc import Sequence

import numpy as np

from skd_tf.data.catalog import KNOWN_DATASETS, crops_originals
from skd_tf.data.dataset import Source, Split
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error

_ASSETS = pathlib.Path(__file__).with_name("assets")
_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Dataset: (brightest value in the file, class names).
_FACTS = {"digits": (16, _DIGITS), "fashion_mnist_10k": (255, _CLOTHES)}


def read(settings: DataSettings, data_dir: str | None, names: Sequence[str]) -> Source:
    """The `Source` of a dataset in the package. The file holds the training images first, then the test images.

    Raises:
      InputError: the settings resize its images.
    """
    del data_dir
    name, known = settings.dataset, KNOWN_DATASETS[settings.dataset]
    side = known.image_shape[0]
    if settings.image_size not in (0, side):
        problem = f"does not fit {name}: its images are {side}x{side}"
        raise flag_error("image_size", settings.image_size, problem, f"0 or {side}", "Omit it")
    if crops_originals(settings):
        problem = f"does not fit {name}: it has no larger originals to crop from"
        raise flag_error("augmentation", settings.augmentation, problem, "a list without resized_crop", "Omit it")
    brightest, class_names = _FACTS[name]
    with np.load(_ASSETS / f"{name}.npz", allow_pickle=False) as archive:
        images, labels = archive["images"][..., None], archive["labels"].astype(np.int32)
    if brightest != 255:
        images = np.rint(images.astype(np.float64) * (255 / brightest)).astype(np.uint8)
    # In the file's order, not shuffled: neighbouring digits are by the same writers, so most test writers are unseen.
    parts = {"train": slice(0, known.train), "test": slice(known.train, None)}
    splits = {
        part: Split(images[parts[part]], labels[parts[part]], np.arange(len(labels[parts[part]]))) for part in names
    }
    return Source("1.0.0", class_names, splits, known.mean, known.std, known.pad, known.flip)
