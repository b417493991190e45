"""What a student can be written as, and how near to the live one each must stay."""

import dataclasses
import logging
import pathlib
import typing
import warnings

import keras
import tensorflow as tf

from skd_tf import data
from skd_tf.errors import input_error
from skd_tf.runtime import tf_logging
from skd_tf.serving import saved_model

REPRESENTATIVE_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class File:
    """One file or folder of an export.

    Attributes:
      name: of it, in the output folder.
      kind: how `reload.py` opens it.
      write: (student, path, `Context`) -> None.
      least_agreement: with the live student's top-1, on images whose two best logits are no near tie.
      largest_difference: of any logit from the live one's, in units of the largest live logit's size.
      precision: in words, for the model card.
    """

    name: str
    kind: str
    write: typing.Callable
    least_agreement: float
    largest_difference: float
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Context:
    """What writing needs besides the student: class names, and un-augmented training images for the ranges of int8."""

    class_names: tuple
    images: typing.Any


class Served(keras.Model):
    """images uint8 `[batch, h, w, c]` -> {"logits", "probabilities", "class_id"}."""

    def __init__(self, student):
        super().__init__(name=student.name)
        self.student = student

    def call(self, images, training=False):
        del training
        return saved_model.serve(self.student, images)


def _saved_model(student, path, context):
    saved_model.save_saved_model(student, path, context.class_names)


def _keras(student, path, context):
    del context
    student.save(path)


def _litert(quantization):
    def write(student, path, context):
        options = quantization(context)
        # LiteRT's own kernels alone: what would need TensorFlow's is refused by the converter.
        target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]} | options.pop("target_spec", {})
        _export(student, path, "litert", target_spec=target, **options)

    return write


def _float16(context):
    del context
    return {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}}


def _int8(context):
    def representative():
        for image in context.images[data.evenly_spaced(len(context.images), REPRESENTATIVE_IMAGES)]:
            yield [image[None]]

    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": representative,
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]},
    }


def _onnx(student, path, context):
    del context
    _export(student, path, "onnx")


def _export(student, path, format, **options):
    served, shape = Served(student), student.input_shape[1:]
    served(tf.zeros([1, *shape], tf.uint8))
    signature = [tf.TensorSpec([None, *shape], tf.uint8, name="images")]
    with warnings.catch_warnings(), tf_logging.without_notes():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx asks for np.object
        served.export(str(path), format=format, verbose=False, input_signature=signature, **options)


FORMATS = {
    "saved_model": (File("saved_model", "saved_model", _saved_model, 1.0, 1e-4),),
    "keras": (File("student.keras", "keras", _keras, 1.0, 1e-4),),
    "litert": (
        File("student_float32.tflite", "litert", _litert(lambda context: {}), 1.0, 1e-4),
        File("student_float16.tflite", "litert", _litert(_float16), 0.999, 0.05, "float16 weights"),
        # Rounded activations: the accuracy is what counts, and is printed; these bounds only catch a broken file.
        File("student_int8.tflite", "litert", _litert(_int8), 0.9, 0.5, "int8 weights and activations"),
    ),
    "onnx": (File("student.onnx", "onnx", _onnx, 1.0, 1e-4),),
}
_NEEDED = {"onnx": ("onnx", "tf2onnx", "onnxruntime")}


def files_of(names):
    """The `File`s of some formats.

    Raises:
      InputError: an unknown format, or one whose extra packages are not installed.
    """
    import importlib.util

    for name in names:
        if name not in FORMATS:
            raise input_error(
                "Unknown format",
                expected=f"one of {', '.join(FORMATS)}",
                received=f"--format={name}",
                remedy="Check the name",
            )
        missing = [package for package in _NEEDED.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise input_error(
                f"--format={name} needs packages that are not there",
                expected=f"{', '.join(_NEEDED[name])}",
                received=f"no {', '.join(missing)}",
                remedy=f"Install them: pip install 'skd_tf[{name}]'",
            )
    return [file for name in dict.fromkeys(names) for file in FORMATS[name]]


def write(student, files, folder, context, say):
    """Writes each file into a folder; `say` is told of each."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    for number, file in enumerate(files, start=1):
        say(f"Writing {file.name} ({number} of {len(files)})")
        file.write(student, pathlib.Path(folder) / file.name, context)
