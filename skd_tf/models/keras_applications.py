"""The networks of keras.applications: raw pixels in, raw logits out, each with its own preprocessing."""

import contextlib
import importlib
import inspect
import io

import keras

from skd_tf.errors import InputError, did_you_mean, input_error
from skd_tf.models import preprocessing

IMAGENET_CLASSES = 1000


def names():
    """Network -> its module in keras.applications."""
    found = {}
    for module in vars(keras.applications).values():
        if inspect.ismodule(module) and hasattr(module, "preprocess_input"):
            for name, member in vars(module).items():
                if inspect.isfunction(member) and "classifier_activation" in inspect.signature(member).parameters:
                    found[name] = module
    return found


def build(name, *, input_shape=None, num_classes=IMAGENET_CLASSES, pretrained=False, download=False):
    """One of them as keras.Model.

    Args:
      name: as "ResNet152".
      input_shape: (height, width, channels); None is the network's own.
      num_classes: width of the logits.
      pretrained: whether with ImageNet's weights, then of 1000 classes.
      download: whether weights that Keras has not cached may be fetched.

    Returns:
      keras.Model, pixels `[batch, h, w, c]` in [0, 255] -> logits `[batch, num_classes]`.

    Raises:
      InputError: an unknown name, images that it cannot take, or weights that are not there.
    """
    known = names()
    if name not in known:
        raise input_error(
            "keras.applications has no such network",
            expected=f"one of {', '.join(sorted(known))}",
            received=f"{name}",
            remedy=f"{did_you_mean(name, {n.lower(): n for n in known}, 'Choose a listed name.')}",
        )
    options = {"weights": "imagenet" if pretrained else None, "classes": num_classes, "classifier_activation": None}
    if input_shape is not None:
        options["input_shape"] = tuple(input_shape)
    try:
        with contextlib.nullcontext() if download else _without_network(name):
            network = getattr(known[name], name)(**options)
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise input_error(
            f"keras.applications:{name} cannot be built: {reason}",
            expected="images that it takes",
            received=f"input_shape={input_shape}",
            remedy="Set --image_size, or choose another network",
        ) from error
    kind = preprocessing.preprocessing_kind(importlib.import_module(known[name].__name__).preprocess_input)
    if network.input_shape[-1] != 3 and kind != "raw":
        raise input_error(
            f"keras.applications:{name} preprocesses RGB images",
            expected="3 channels",
            received=f"{input_shape}",
            remedy="Choose another network",
        )
    network = preprocessing.preprocessed(network, kind, mean=None, std=None)
    return keras.Model(network.input, network.output, name=name.lower())


@contextlib.contextmanager
def _without_network(name):
    """Keras' downloads of weights are refused inside; what it has cached is used."""
    from keras.src.utils import file_utils

    def refuse(url, *_, **__):
        raise input_error(
            f"The weights of keras.applications:{name} are not there",
            expected="them cached by Keras",
            received=f"no {url.rpartition('/')[2]}",
            remedy="Add --download, where Keras may fetch them",
        )

    before = file_utils.urlretrieve
    file_utils.urlretrieve = refuse
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Keras says that it downloads before it tries
            yield
    finally:
        file_utils.urlretrieve = before
