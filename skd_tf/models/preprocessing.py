"""What a foreign network wants its pixels to be, in stock layers: raw pixels in, as everywhere here."""

import keras
import numpy as np

from skd_tf.errors import InputError, input_error
from skd_tf.networks.layers import channels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)  # of red, green and blue, in pixels


def _unit(count, mean, std):
    return {"scale": [1 / 255] * count, "offset": [0.0] * count}


def _symmetric(count, mean, std):
    return {"scale": [1 / 127.5] * count, "offset": [-1.0] * count}


def _torch(count, mean, std):
    return _standard(count, IMAGENET_MEAN, IMAGENET_STD)


def _standard(count, mean, std):
    return {"scale": [1 / (255 * s) for s in std], "offset": [-m / s for m, s in zip(mean, std, strict=True)]}


def _caffe(count, mean, std):
    return {"scale": [1.0] * count, "offset": [-m for m in _CAFFE_MEAN]}


# Name -> (pixels to keras.layers.Rescaling's arguments, channels in reverse).
_KINDS = {
    "raw": None,
    "unit": (_unit, False),
    "tf": (_symmetric, False),
    "torch": (_torch, False),
    "standard": (_standard, False),
    "caffe": (_caffe, True),
}
_NEED_RGB = ("torch", "caffe")


def preprocessed(model, kind, *, mean, std):
    """A model of raw pixels `[batch, h, w, c]` around one of preprocessed images.

    Args:
      model: keras.Model with one image input.
      kind: "raw" (the model itself), "unit" (to [0, 1]), "tf" (to [-1, 1]), "torch" (ImageNet's mean and std), "caffe"
        (blue, green, red minus ImageNet's mean), "standard" (`mean` and `std`).
      mean, std: per channel, of pixels scaled to [0, 1].

    Raises:
      InputError: a kind for RGB images with others.
    """
    if _KINDS[kind] is None:
        return model
    shape = model.input_shape[1:]
    images = keras.Input(shape, name="images")
    return keras.Model(images, model(apply(images, kind, mean=mean, std=std)), name=model.name)


def apply(images, kind, *, mean=None, std=None):
    """Raw pixels, a Keras tensor `[batch, h, w, c]`, preprocessed."""
    if _KINDS[kind] is None:
        return images
    rescaling, reverse = _KINDS[kind]
    count = images.shape[-1]
    if kind in _NEED_RGB and count != 3:
        raise input_error(
            f"Preprocessing {kind} is for RGB images",
            expected="3 channels",
            received=f"images of {count}",
            remedy="Choose another kind",
        )
    # Always float32: bfloat16 cannot hold the 256 pixel values.
    outputs = keras.layers.Rescaling(**rescaling(count, mean, std), dtype="float32", name="preprocessing")(images)
    if reverse:
        parts = [channels(outputs, c, c + 1, name=f"preprocessing_channel{c}") for c in reversed(range(count))]
        outputs = keras.layers.Concatenate(name="preprocessing_reversed")(parts)
    return outputs


def preprocessing_kind(preprocess_input):
    """Which kind a keras.applications preprocess_input is, by what it does to some pixels."""
    pixels = np.linspace(0, 255, 2 * 2 * 3).reshape(1, 2, 2, 3).astype("float32")
    wanted = np.asarray(preprocess_input(pixels.copy()))
    for kind in ("raw", "tf", "torch", "caffe"):
        images = keras.Input((2, 2, 3))
        model = keras.Model(images, apply(images, kind) if kind != "raw" else keras.layers.Identity()(images))
        if np.allclose(model(pixels), wanted, atol=1e-3):
            return kind
    raise InputError("Its preprocessing is none of raw, tf, torch, caffe. Expected a network of keras.applications.")


def normalises(model):
    """Whether a model has a layer that scales pixels."""
    kinds = keras.layers.Rescaling, keras.layers.Normalization
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())
