"""Preprocessing as stock layers in front of a network, so that every model takes raw pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from skd_tf.errors import InputError, input_error
from skd_tf.networks.layers import channels
from skd_tf.runtime import compat

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)  # of red, green and blue, in pixels
NEED_RGB = ("torch", "caffe")
PerChannel = Sequence[float] | None


def _rescaling(kind, count, mean, std):
    """The scale and offset of each of `count` channels, as keras.layers.Rescaling takes them."""
    if kind in ("torch", "standard"):
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if kind == "torch" else (mean, std)
        return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if kind == "caffe":
        return [1.0] * count, [-m for m in _CAFFE_MEAN]
    scale, offset = {"unit": (1 / 255, 0.0), "tf": (1 / 127.5, -1.0)}[kind]
    return [scale] * count, [offset] * count


def with_preprocessing(model: keras.Model, kind: str, *, mean: PerChannel, std: PerChannel) -> keras.Model:
    """Puts preprocessing in front of a model, so that it takes raw pixels `[batch, h, w, c]`.

    Args:
      model: keras.Model with one image input.
      kind: "raw" (returns the model itself), "unit" (to [0, 1]), "tf" (to [-1, 1]), "torch" (ImageNet's mean and std),
        "caffe" (blue, green, red minus ImageNet's mean) or "standard" (`mean` and `std`).
      mean, std: per channel, of pixels scaled to [0, 1].

    Raises:
      InputError: the kind is for RGB images and the model's images are not.
    """
    if kind == "raw":
        return model
    images = keras.Input(model.input_shape[1:], name="images")
    return keras.Model(images, model(preprocess(images, kind, mean=mean, std=std)), name=model.name)


def preprocess(images: Any, kind: str, *, mean: PerChannel = None, std: PerChannel = None) -> Any:
    """Preprocesses raw pixels, a Keras tensor `[batch, h, w, c]`; arguments as in `with_preprocessing`."""
    if kind == "raw":
        return images
    count = images.shape[-1]
    if kind in NEED_RGB and count != 3:
        raise input_error(
            f"Preprocessing {kind} is for RGB images",
            expected="3 channels",
            received=f"channels={count}",
            remedy="Choose another kind",
        )
    scale, offset = _rescaling(kind, count, mean, std)
    # Always float32: bfloat16 cannot hold the 256 pixel values.
    outputs = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(images)
    if kind == "caffe":
        parts = [channels(outputs, c, c + 1, name=f"preprocessing_channel{c}") for c in reversed(range(count))]
        outputs = keras.layers.Concatenate(name="preprocessing_reversed")(parts)
    return outputs


def takes_rgb_for_grey(model: Any, image_shape: Sequence[int]) -> bool:
    """Whether a model is for RGB images and images `[height, width, channels]` are grey."""
    return model.input_shape[-1] == 3 and image_shape[-1] == 1


def repeat_grey(images: Any) -> Any:
    """Grey images, a Keras tensor `[batch, h, w, 1]`, as equal red, green and blue `[batch, h, w, 3]`, by a stock layer."""
    return keras.layers.Concatenate(name="grey_to_rgb")([images] * 3)


def for_grey_images(model: keras.Model) -> keras.Model:
    """A model for RGB images that takes grey ones `[batch, h, w, 1]`, each as equal red, green and blue."""
    images = keras.Input((*model.input_shape[1:3], 1), name="images")
    return keras.Model(images, model(repeat_grey(images)), name=model.name)


def preprocessing_kind(preprocess_input: Callable[[np.ndarray], Any]) -> str:
    """The kind of a keras.applications `preprocess_input`, found by what it does to some pixels."""
    pixels = np.linspace(0, 255, 2 * 2 * 3).reshape(1, 2, 2, 3).astype("float32")
    wanted = np.asarray(preprocess_input(pixels.copy()))
    for kind in ("raw", "tf", "torch", "caffe"):
        if np.allclose(preprocess(keras.ops.convert_to_tensor(pixels), kind), wanted, atol=1e-3):
            return kind
    raise InputError("Its preprocessing is none of raw, tf, torch, caffe. Expected a network of keras.applications.")


def scales_pixels(model: keras.Model) -> bool:
    """Whether a model has a layer that scales pixels."""
    kinds = keras.layers.Rescaling, keras.layers.Normalization
    return any(isinstance(layer, kinds) for layer in compat.layers_of(model))
