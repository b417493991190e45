"""The image classifiers of KerasHub, from raw pixels to raw logits, each with its preset's own preprocessing."""

import contextlib
import functools
import pathlib
from typing import Any
from unittest import mock

import keras

from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime import user_code
from skd_tf.runtime.console import warn


def require(preset: str) -> Any:
    """The package keras_hub; `InputError` if it is not installed or has no such preset."""
    try:
        import keras_hub
    except ImportError as error:
        raise input_error(
            f"KerasHub cannot be imported ({error})",
            expected="the package keras-hub",
            received=f"{user_code.HUB}:{preset}",
            remedy="Run pip install keras-hub",
        ) from error
    known = keras_hub.models.ImageClassifier.presets
    if "://" not in preset and preset not in known and not pathlib.Path(preset).is_dir():
        raise input_error(
            "KerasHub has no such image classifier",
            expected=f"one of its {len(known)} presets, kaggle://..., hf://..., or a folder written by save_to_preset",
            received=f"{user_code.HUB}:{preset}",
            remedy=did_you_mean(preset, known, "print(keras_hub.models.ImageClassifier.presets) lists them"),
        )
    return keras_hub


def build(
    preset: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    download: bool = False,
) -> keras.Model:
    """Builds the image classifier of a KerasHub preset.

    Args:
      preset: a built-in preset such as "resnet_18_imagenet", kaggle://..., hf://..., or a folder written by
        `save_to_preset`.
      input_shape: (height, width, channels); None uses the preset's image size.
      num_classes: width of the logits; None keeps the preset's.
      pretrained: whether to load the preset's weights.
      download: whether KerasHub may download files that it has not cached.

    Returns:
      keras.Model from pixels `[batch, h, w, c]` in [0, 255] to what the preset's classifier returns. A softmax at its
      end is left there.

    Raises:
      InputError: KerasHub is not installed, has no such preset, or lacks its files; or the preset does not take such
        images.
    """
    hub, name = require(preset), f"{user_code.HUB}:{preset}"
    options: dict[str, Any] = {} if input_shape is None else {"image_shape": tuple(input_shape)}
    options |= {} if num_classes is None else {"num_classes": num_classes}
    try:
        with contextlib.nullcontext() if download else _cached_files_only(preset):
            classifier = hub.models.ImageClassifier.from_preset(preset, load_weights=pretrained, **options)
    except Exception as error:  # KerasHub, Kaggle and Hugging Face raise many kinds
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        if isinstance(error, FileNotFoundError) or "has no config.json" in reason:
            raise input_error(
                f"The files of {name} are not on this machine",
                expected="them in the cache of Kaggle or Hugging Face, or a folder written by save_to_preset",
                received=reason,
                remedy="Choose another preset" if download else "Add --download to let KerasHub fetch them",
            ) from error
        raise input_error(
            f"{name} cannot be built: {reason}",
            expected="a preset of an image classifier, and images of a size that it takes",
            received=f"input_shape={input_shape}",
            remedy="Set --image_size, or choose another preset",
        ) from error
    return _with_pixels(classifier, name, input_shape)


def _with_pixels(classifier, name, input_shape):
    """The classifier behind its preset's scaling of pixels, in a stock layer."""
    converter = getattr(classifier.preprocessor, "image_converter", None)
    if converter is None:
        warn(f"{name} has no preprocessing of its own: it gets raw pixels from 0 to 255.")
    shape = list(input_shape or classifier.input_shape[1:])
    if None in shape[:2] and converter is not None and converter.image_size:
        shape[:2] = converter.image_size
    images = keras.Input(shape, name="images")
    scale, offset = getattr(converter, "scale", None), getattr(converter, "offset", None)
    outputs = images
    if scale is not None or offset is not None:
        scale, offset = (_per_channel(value, shape[-1], blank) for value, blank in ((scale, 1.0), (offset, 0.0)))
        # Always float32: bfloat16 cannot hold the 256 pixel values.
        outputs = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(images)
    return keras.Model(images, classifier(outputs), name=classifier.name)


def _per_channel(value, count, blank):
    value = blank if value is None else value
    return [float(v) for v in value] if hasattr(value, "__len__") else [float(value)] * count


@contextlib.contextmanager
def _cached_files_only(preset):
    """Inside this context, KerasHub finds the files of a folder or of its cache and no others."""

    def cached(name, path=None, **_):
        file = cache.Cache().load_from_cache(handle.parse_model_handle(name), path)
        if file is None:  # KerasHub goes on without a file that presets need not have
            raise FileNotFoundError(f"{path} of {name}")
        return file

    if pathlib.Path(preset).is_dir():
        yield
    elif preset.startswith("hf://"):
        import huggingface_hub as hub

        local = functools.partial(hub.hf_hub_download, local_files_only=True)
        with mock.patch.object(hub, "hf_hub_download", local):
            yield
    elif preset.startswith("kaggle://") or "://" not in preset:
        import kagglehub
        from kagglehub import cache, handle

        with mock.patch.object(kagglehub, "model_download", cached):
            yield
    else:
        raise FileNotFoundError(preset)
