"""A SavedModel as evaluation and teaching need it: with a model's attributes, called on pixels, returning logits."""

import copy
import os
import pathlib
from typing import Any

import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.models import deployable, interface
from skd_tf.models.opaque_model import OpaqueModel


class SavedModel(OpaqueModel):
    """A SavedModel that is called by its signature `serving_default`."""

    def __init__(self, path: str | os.PathLike) -> None:
        loaded = tf.saved_model.load(str(path))
        if "serving_default" not in loaded.signatures:
            raise self._refusal(path, "a signature serving_default", f"{', '.join(loaded.signatures) or 'none'}")
        self._loaded, self._signature = loaded, loaded.signatures["serving_default"]
        inputs = self._signature.structured_input_signature[1]
        if len(inputs) != 1:
            raise self._refusal(path, "one input, the images", f"the inputs {', '.join(sorted(inputs))}")
        ((self._input, spec),) = inputs.items()
        if spec.shape.rank is None:
            expected = "an input with a fixed number of axes, as [batch, height, width, channels]"
            raise self._refusal(path, expected, "one with any number of axes")
        outputs = self._signature.structured_outputs
        if "logits" not in outputs and len(outputs) > 1:
            raise self._refusal(path, "one output, or one named logits", f"the outputs {', '.join(outputs)}")
        self._output = "logits" if "logits" in outputs else next(iter(outputs))
        self.name = pathlib.Path(path).name
        self.input_shape, self.dtype = tuple(spec.shape), spec.dtype
        shape = outputs[self._output].shape
        self.output_shape = (None, interface.classes_in(shape, f"SavedModel {self.name}"))
        self._scale = 1.0

    @staticmethod
    def _refusal(path, expected, received):
        remedy = "Export one with these: keras.Model(model.input, model.output[NAME]).export(FOLDER)"
        return input_error(
            "skd_tf cannot use this SavedModel", expected=expected, received=f"{received} from {path}", remedy=remedy
        )

    @property
    def uncalibrated(self) -> "tuple[SavedModel, float | None]":
        """As `deployable.without_temperature`: the temperature is a variable beside the weights."""
        temperature = getattr(self._loaded, deployable.SAVED_TEMPERATURE, None)
        if temperature is None:
            return self, None
        model = copy.copy(self)
        model._scale = float(temperature.numpy())
        return model, model._scale

    @property
    def trainable_variables(self) -> Any:  # type: ignore[override]
        return self._signature.trainable_variables or getattr(self._loaded, "trainable_variables", ())  # or constants

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        del training
        outputs = self._signature(**{self._input: self.as_pixels(images)})
        return interface.logits_in(outputs[self._output], f"SavedModel {self.name}") * self._scale
