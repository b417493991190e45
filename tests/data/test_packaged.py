"""The datasets in the package: what they hold, by which rule it was chosen, and what does not fit them."""

import hashlib
import pathlib

import numpy as np
import pytest

from skd_tf import data
from skd_tf.data.catalog import KNOWN_DATASETS, PACKAGED
from skd_tf.errors import InputError
from tools.package_fashion_mnist import chosen

ASSETS = pathlib.Path(data.__file__).with_name("assets")


def load(name, **settings):
    return data.load(data.DataSettings(dataset=name, validation_fraction=0.1, **settings))


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_set_is_as_the_catalogue_says(name):
    known, found = KNOWN_DATASETS[name], load(name)
    assert len(found.train) + len(found.validation) == known.train and len(found.test) == known.test
    assert found.image_shape == known.image_shape and found.num_classes == known.num_classes == len(found.class_names)
    assert found.train.images.dtype == np.uint8 and found.train.images.max() == 255
    pixels = load(name, validation_split="uniform").train.images / 255
    assert pixels.mean() == pytest.approx(known.mean[0], abs=0.005) and pixels.std() == pytest.approx(
        known.std[0], abs=0.005
    )


def test_fashion_mnist_is_balanced_small_and_licensed():
    found = load("fashion_mnist_10k")
    train = np.concatenate([found.train.labels, found.validation.labels])
    assert np.bincount(train).tolist() == [800] * 10 and np.bincount(found.test.labels).tolist() == [200] * 10
    assert found.class_names[0] == "T-shirt/top" and found.class_names[9] == "Ankle boot"
    file = ASSETS / "fashion_mnist_10k.npz"
    assert file.stat().st_size <= 4_400_000
    assert (
        "Zalando" in (ASSETS / "fashion_mnist_LICENSE").read_text() and file.name in (ASSETS / "README.md").read_text()
    )
    with np.load(file, allow_pickle=False) as archive:
        digest = hashlib.sha256(archive["images"].tobytes() + archive["labels"].tobytes()).hexdigest()
    assert digest == "bf2b93e126a57666ef59aa40592b55c1f277322fe5159b810ffb0ddbb49467f3"


def test_the_first_of_each_class_are_chosen_in_the_order_of_the_file():
    assert chosen(np.array([1, 0, 1, 1, 0, 2]), 2).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("settings", [{"image_size": 64}, {"augmentation": "resized_crop"}])
def test_packaged_images_are_not_resized(name, settings):
    with pytest.raises(InputError, match=f"does not fit {name}"):
        load(name, **settings)
    assert load(name, image_size=KNOWN_DATASETS[name].image_shape[0]).image_shape == KNOWN_DATASETS[name].image_shape
