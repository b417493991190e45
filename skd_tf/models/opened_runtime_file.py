"""A LiteRT or ONNX file as evaluation needs it: with a model's attributes, called on pixels, returning logits."""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from skd_tf.errors import InputError, input_error
from skd_tf.models import interface
from skd_tf.models.opaque_model import OpaqueModel

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}  # by their names in ONNX Runtime


class RuntimeFile(OpaqueModel):
    """A `.tflite` file, run by LiteRT, or an `.onnx` file, run by ONNX Runtime, on the CPU.

    It can be measured, but it cannot teach. A temperature inside it cannot be taken out.

    Args:
      path: of a file with one input, images uint8 or float32 `[batch, h, w, c]`, and one output, or one named "logits".

    Raises:
      InputError: it has other inputs or outputs, or its runtime is not installed.
    """

    unfolded_parameters = None  # the file does not tell how many parameters it has

    def __init__(self, path: str | os.PathLike) -> None:
        self.name = pathlib.Path(path).name
        opened = _litert(path) if self.name.lower().endswith(".tflite") else _onnx(path)
        self._run, self.dtype = opened.run, tf.as_dtype(opened.dtype)
        self._one_by_one = opened.input_shape[0] == 1
        self.input_shape = (None if self._one_by_one else opened.input_shape[0], *opened.input_shape[1:])
        self.output_shape = (None, interface.classes_in((None, *opened.output_shape[1:]), f"file {path}"))

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        del training
        return tf.ensure_shape(tf.numpy_function(self._logits, [self.as_pixels(images)], tf.float32), self.output_shape)

    def _logits(self, images):
        parts = np.split(images, len(images)) if self._one_by_one else [images]
        return np.concatenate([self._run(part) for part in parts]).reshape(len(images), -1).astype(np.float32)


class _Opened(NamedTuple):
    """An opened file: its function from images to logits, the shapes of both (None: any size), and the images' type."""

    run: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int | None, ...]
    dtype: Any
    output_shape: tuple[int | None, ...]


def _litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=str(path))
    signatures = interpreter.get_signature_list()
    if not signatures:
        raise _refusal(path, "a signature, as Keras' export writes", "none")
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures))
    runner = interpreter.get_signature_runner(name)
    images, given = _only(path, runner.get_input_details())
    logits, answer = _logits_among(path, runner.get_output_details())
    for tensor, detail in ((images, given), (logits, answer)):
        if detail["quantization"][0]:
            raise _refusal(path, "images and logits that are not quantized", f"quantized {tensor}")
    shape = tuple(None if side < 0 else int(side) for side in given["shape_signature"])
    _require_images(path, shape, given["dtype"])
    return _Opened(lambda batch: runner(**{images: batch})[logits], shape, given["dtype"], tuple(answer["shape"]))


def _onnx(path):
    if importlib.util.find_spec("onnxruntime") is None:
        raise input_error(
            "An .onnx file needs ONNX Runtime",
            expected="the package onnxruntime",
            received=f"path={path}",
            remedy="Install it: pip install 'skd_tf[onnx]'",
        )
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images, given = _only(path, {tensor.name: tensor for tensor in session.get_inputs()})
    logits, answer = _logits_among(path, {tensor.name: tensor for tensor in session.get_outputs()})
    shape = tuple(side if isinstance(side, int) else None for side in given.shape)
    dtype = _TYPES.get(given.type, given.type)
    _require_images(path, shape, dtype)
    return _Opened(lambda batch: session.run([logits], {images: batch})[0], shape, dtype, tuple(answer.shape))


def _only(path, inputs: Mapping[str, Any]):
    """(name, details) of the only input."""
    if len(inputs) != 1:
        raise _refusal(path, "one input, the images", f"the inputs {', '.join(sorted(inputs))}")
    return next(iter(inputs.items()))


def _logits_among(path, outputs: Mapping[str, Any]):
    """(name, details) of the output named "logits", or of the only one."""
    name = interface.LOGITS if interface.LOGITS in outputs else next(iter(outputs))
    if name != interface.LOGITS and len(outputs) > 1:
        raise _refusal(path, "one output, or one named logits", f"the outputs {', '.join(sorted(outputs))}")
    return name, outputs[name]


def _require_images(path, shape: Sequence[int | None], dtype: Any) -> None:
    if len(shape) != 4 or dtype not in _TYPES.values():
        sides = ", ".join("any" if side is None else str(side) for side in shape)
        kind = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        raise _refusal(path, "images uint8 or float32 [batch, height, width, channels]", f"{kind} [{sides}]")


def _refusal(path, expected, received) -> InputError:
    return input_error(
        "skd_tf cannot use this file",
        expected=expected,
        received=f"{received} from {path}",
        remedy="Measure the model that it was made from",
    )
