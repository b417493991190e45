"""The formats that a student can be written in, and how close to the live student each file must be."""

import dataclasses
import functools
import importlib.util
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from skd_tf.data import evenly_spaced
from skd_tf.errors import did_you_mean, input_error
from skd_tf.models.paths import STUDENT_FILE
from skd_tf.runtime import tf_logging
from skd_tf.runtime.console import say
from skd_tf.serving import saved_model

CALIBRATION_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class WriteContext:
    """What writing needs besides the student: class names, and un-augmented training images.

    From the images come the ranges of int8, and the size of the images of a student for any size.
    """

    class_names: Sequence[str]
    images: Any


@dataclasses.dataclass(frozen=True)
class ExportFile:
    """One file or folder of an export.

    Attributes:
      name: its name in the output folder.
      kind: how `reload.py` opens it.
      write: (student, path, `WriteContext`) -> None.
      least_agreement: required share of images with the live student's top-1 class, near ties excluded.
      largest_difference: allowed difference of any logit, as a fraction of the largest live logit.
      precision: of its numbers, in words for the model card.
      near_tie: an image's two best live logits may change places if they differ by at most this fraction of the largest
        live logit, and by no more than `largest_difference` allows. Half-precision arithmetic, which LiteRT uses on CPUs
        that have it (AVX512-FP16), moved logits by 0.7% and 1.4% of it.
    """

    name: str
    kind: str
    write: Callable[[keras.Model, pathlib.Path, WriteContext], None]
    least_agreement: float
    largest_difference: float
    precision: str = "float32"
    near_tie: float = 0.01


class ServingModel(keras.Model):
    """images uint8 `[batch, h, w, c]` -> {"logits", "probabilities", "class_id"}."""

    def __init__(self, student: keras.Model) -> None:
        super().__init__(name=student.name)
        self.student = student

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        del training
        return saved_model.serve(self.student, images)


def _export(student, path, context, format, **options):
    # The run's image size, also of a student for any size: LiteRT and ONNX files have one.
    served, shape = ServingModel(student), tuple(context.images.shape[1:])
    served(tf.zeros([1, *shape], tf.uint8))
    signature = [tf.TensorSpec([None, *shape], tf.uint8, name="images")]
    with warnings.catch_warnings(), tf_logging.without_notes():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx uses np.object
        served.export(str(path), format=format, verbose=False, input_signature=signature, **options)


_BUILTINS, _INT8_BUILTINS = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.TFLITE_BUILTINS_INT8
_QUANTIZED = {"optimizations": [tf.lite.Optimize.DEFAULT]}


def _float32(student, path, context):
    # LiteRT's own kernels only: the converter refuses what would need TensorFlow's.
    _export(student, path, context, "litert", target_spec={"supported_ops": [_BUILTINS]})


def _float16(student, path, context):
    target = {"supported_ops": [_BUILTINS], "supported_types": [tf.float16]}
    _export(student, path, context, "litert", target_spec=target, **_QUANTIZED)


def _int8(student, path, context):
    target = {"supported_ops": [_INT8_BUILTINS, _BUILTINS]}
    images = functools.partial(calibration_images, context.images)
    _export(student, path, context, "litert", target_spec=target, representative_dataset=images, **_QUANTIZED)


def calibration_images(images: Any) -> Iterable[list[Any]]:
    """The images, each a batch of one in a list, from which the converter takes the ranges of int8 activations."""
    return ([image[None]] for image in images[evenly_spaced(len(images), CALIBRATION_IMAGES)])


FORMATS = {
    "saved_model": (
        ExportFile(
            "saved_model",
            "saved_model",
            lambda student, path, context: saved_model.save_saved_model(student, path, context.class_names),
            1.0,
            1e-4,
        ),
    ),
    "keras": (ExportFile(STUDENT_FILE, "keras", lambda student, path, context: student.save(path), 1.0, 1e-4),),
    "litert": (
        ExportFile("student_float32.tflite", "litert", _float32, 1.0, 1e-4),
        # Rounded weights of an EfficientNet-Lite0 move its logits on the sphere by 5% of the largest: 50 layers, and
        # depthwise ones among them whose channels have weights of very different sizes.
        ExportFile("student_float16.tflite", "litert", _float16, 0.999, 0.1, "float16 weights", near_tie=0.03),
        # Activations are rounded. What counts is the accuracy, which is printed; these bounds only catch a broken file.
        # An EfficientNet-Lite0 that is right on 62% of its images is so on 60% in int8. Rounding moves its logits by 4% of
        # the largest on average, by 47% at most, and on the sphere by 108% at most. The class is the same for 97% of the
        # images whose best logits are 10% apart (on the sphere 87%), and for 84% of those 1% apart.
        ExportFile("student_int8.tflite", "litert", _int8, 0.8, 2.0, "int8 weights and activations", near_tie=0.1),
    ),
    "onnx": (
        ExportFile(
            "student.onnx", "onnx", lambda student, path, context: _export(student, path, context, "onnx"), 1.0, 1e-4
        ),
    ),
}
_NEEDED_PACKAGES = {"onnx": ("onnx", "tf2onnx", "onnxruntime")}


def files_of(formats: Iterable[str]) -> list[ExportFile]:
    """The files of some formats.

    Raises:
      InputError: an unknown format, or one whose packages are not installed.
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    for name in formats:
        if name not in FORMATS:
            raise input_error(
                "Unknown format",
                expected=f"one of {', '.join(FORMATS)}",
                received=f"--format={name}",
                remedy=did_you_mean(name, FORMATS, "Choose a listed name"),
            )
        needed = _NEEDED_PACKAGES.get(name, ())
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            raise input_error(
                f"--format={name} needs packages that are not installed",
                expected=", ".join(needed),
                received=f"no {', '.join(missing)}",
                remedy=f"Install them: pip install 'skd_tf[{name}]'",
            )
    return [file for name in dict.fromkeys(formats) for file in FORMATS[name]]


def write(student: keras.Model, files: Sequence[ExportFile], folder: str | os.PathLike, context: WriteContext) -> None:
    """Writes each file into a folder."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    for number, file in enumerate(files, start=1):
        say(f"Writing {file.name} ({number} of {len(files)})")
        file.write(student, pathlib.Path(folder) / file.name, context)
