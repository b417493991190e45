"""TrivialAugment against Pillow, to the last bit: every operation at every strength, with the authors' parameters."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from skd_tf.data import trivial_augment
from skd_tf.data.trivial_augment import OPERATIONS, STRENGTHS

IMAGES = np.random.default_rng(0).integers(0, 256, [STRENGTHS * 2, 24, 31, 3]).astype(np.uint8)
IMAGES[::3] //= 3  # dark images, so that contrast and equalize have something to do
IMAGES[1::3] = np.sort(IMAGES[1::3], axis=2)  # with slopes, as photographs have them
IMAGES[4:7] = np.reshape([0, 0, 0, 90, 90, 90, 255, 0, 7], [3, 1, 1, 3])  # flat


def pillow(image, operation, strength, negative):
    """One image by Pillow, with the parameters of the authors' wide space."""
    sign = -1 if negative else 1
    picture = Image.fromarray(image.squeeze())
    factor, shear = strength * (2.0 - 0.01) / 30 + 0.01, sign * strength * 0.99 / 30
    pixels = sign * int(strength * 32 / 30)
    result = {
        "identity": lambda: picture,
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "rotate": lambda: picture.rotate(sign * int(strength * 135 / 30)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(strength * 256 / 30)),
        "color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "posterize": lambda: ImageOps.posterize(picture, 8 - int(strength * 6 / 30)),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "shear_x": lambda: picture.transform(picture.size, Image.Transform.AFFINE, (1, shear, 0, 0, 1, 0)),
        "shear_y": lambda: picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, 0, shear, 1, 0)),
        "translate_x": lambda: picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, pixels, 0, 1, 0)),
        "translate_y": lambda: picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, pixels)),
    }[operation]()
    return np.asarray(result).reshape(image.shape)


def draws_of(operation):
    """Every strength with both signs."""
    number = OPERATIONS.index(operation)
    return np.array([(number, strength, sign) for strength in range(STRENGTHS) for sign in (0, 1)], np.int32)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_pixels_are_pillows(operation):
    draws = draws_of(operation)
    for images in (IMAGES[..., 1:2], IMAGES[:, :17, :17], IMAGES[:, :2, :5], IMAGES):
        found = trivial_augment.trivial_augment(tf.constant(images), tf.constant(draws)).numpy()
        expected = np.stack([pillow(image, operation, *row[1:]) for image, row in zip(images, draws, strict=True)])
        assert np.array_equal(found, expected), (operation, images.shape, np.argwhere(found != expected)[:3])
    assert np.array_equal(expected, images) == (operation == "identity")
