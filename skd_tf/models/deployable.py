"""The student as it ships: float32, stock Keras layers only, with preprocessing, sphere and temperature inside.

A loss on the sphere trains only the direction of the logits. Their probabilities are therefore taken after the logits
are scaled to norm R. `deployable` appends that scaling as stock layers, so that the file loads without skd_tf.
"""

import inspect
import json
import math
from typing import Any

import keras

from skd_tf.errors import InputError, input_error
from skd_tf.models import interface, precision
from skd_tf.models.graph import graph_of, rebuilt, replace_layers
from skd_tf.networks.batch_norm import FusedBatchNormalization
from skd_tf.runtime import compat

_CALIBRATION = "calibration"  # the name of the layer that divides by the temperature
SAVED_TEMPERATURE = "calibration_temperature"  # the variable of a SavedModel that holds it


def stock_copy(model: keras.Model) -> keras.Model:
    """A float32 copy of a Functional or Sequential model in Keras' own layers; returns any other model unchanged."""
    if graph_of(model) is None:
        return model

    def stock(layer):
        if from_keras_hub(layer):
            return precision.set_precision(rebuilt(layer), "float32")
        if not isinstance(layer, keras.layers.Layer):
            return rebuilt(layer)
        kind = keras.layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        return precision.set_precision(rebuilt(layer, kind, dtype="float32"), "float32")  # also the layer in a wrapper

    return replace_layers(model, stock, whole=from_keras_hub)[0]


def from_keras_hub(model: Any) -> bool:
    """Whether a model is a class of KerasHub. Only as a whole can it be saved: some of its layers cannot be loaded alone."""
    return type(model).__module__.startswith("keras_hub.") and graph_of(model) is not None


def own_modules(model: keras.Model) -> str:
    """The modules of a model's registered layers and functions that are not of Keras, with commas between; "" for none."""
    found = set()

    def search(value):
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            name = value.get("config") if value.get("class_name") == "function" else value.get("registered_name")
            known = keras.saving.get_registered_object(name) if isinstance(name, str) else None
            found.add(getattr(known, "__module__", None))
            for part in value.values():
                search(part)

    search(json.loads(model.to_json()))
    others = ("keras", "keras_hub", "__main__")
    return ",".join(sorted(name for name in found if name and name.partition(".")[0] not in others))


def deployable(student: keras.Model, readout: str, *, radius: Any, center: bool) -> keras.Model:
    """A stock copy of the student; the softmax of its output is the student's probability.

    On the sphere it returns, for the raw logits z:

        centred:     R (z - mean(z)) / ||z - mean(z)|| = LayerNormalization(z) * R / sqrt(classes)
        not centred: R z / ||z||                       = UnitNormalization(z) * R

    Args:
      student: built keras.Model that returns raw logits.
      readout: where probabilities are taken: "raw" (from the logits as they are) or "sphere"; see `LOSSES`.
      radius: R > 0, the norm of the logits on the sphere; ignored for "raw".
      center: whether the mean over classes is subtracted first; ignored for "raw".

    Returns:
      keras.Model from raw pixels `[batch, h, w, c]` to float32 logits `[batch, classes]`; loads without skd_tf.

    Raises:
      InputError: the student is not a Functional or Sequential model.

    Examples:
      >>> from skd_tf import networks
      >>> student = networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=10)
      >>> model = deployable(student, "sphere", radius=6.0, center=True)
      >>> logits = model(keras.random.uniform([5, 8, 8, 1], 0, 255))
      >>> print(keras.ops.norm(logits, axis=1).numpy().round(3))
      [6. 6. 6. 6. 6.]
    """
    if getattr(student, "input_shape", None) is None or not hasattr(student, "output_shape"):
        raise input_error(
            "The student cannot be written in stock layers",
            expected="a Functional or Sequential model",
            received=f"student={type(student).__name__}",
            remedy="Export it with its own export()",
        )
    try:
        copy = stock_copy(student)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise input_error(
            "The student cannot be written in stock layers",
            expected="layers that Keras can build again from their settings, so no Lambda",
            received=" ".join(str(error).split())[:200],
            remedy="Export it with its own export(): distiller.student.export(...)",
        ) from error
    images = keras.Input(_image_shape(student), dtype=_image_dtype(student), name="images")
    # Augmentation layers default to training=True. Without this, a call that does not say would augment its images.
    logits = interface.logits_in(interface.call(copy, images, training=False), "student")
    if readout == "sphere":
        if center:
            # epsilon only keeps the result finite if all logits are equal. It must be far below any real variance.
            unit = keras.layers.LayerNormalization(
                center=False, scale=False, epsilon=1e-12, name="sphere_unit", dtype="float32"
            )
            scale = radius / math.sqrt(logits.shape[-1])
        else:
            unit, scale = keras.layers.UnitNormalization(name="sphere_unit", dtype="float32"), radius
        logits = keras.layers.Rescaling(scale, name="sphere_radius", dtype="float32")(unit(logits))
    return keras.Model(images, logits, name=student.name)


def _image_shape(student):
    graph = graph_of(student)
    return (student.input_shape if graph is None else graph.inputs[0].shape)[1:]


def _image_dtype(student):
    graph = graph_of(student)
    return "float32" if graph is None else keras.backend.standardize_dtype(graph.inputs[0].dtype)


def at_inference(model: keras.Model) -> keras.Model:
    """The model such that a call without `training` runs in inference mode, also for augmentation layers inside.

    Returns:
      A copy of a Functional model with such layers, otherwise the model itself.
    """
    if not any(_trains_by_default(layer) for layer in compat.layers_of(model)) or graph_of(model) is not model:
        return model
    return replace_layers(model, rebuilt, training=False, whole=from_keras_hub)[0]


def _trains_by_default(layer):
    training = inspect.signature(layer.call).parameters.get("training")
    return training is not None and training.default is True


def with_temperature(model: keras.Model, temperature: float) -> keras.Model:
    """A deployable model whose logits are divided by a temperature, in one more stock layer."""
    divide = keras.layers.Rescaling(1 / temperature, name=_CALIBRATION, dtype="float32")
    return keras.Model(model.input, divide(model.output), name=model.name)


def without_temperature(model: Any) -> tuple[Any, float | None]:
    """The model without the last layer that `with_temperature` added, and that temperature; (model, None) for others.

    A teacher, start weights and every measurement before calibration take the logits as they were trained.
    """
    if not isinstance(model, keras.Model):  # a SavedModel, which says so itself
        return getattr(model, "uncalibrated", (model, None))
    graph = graph_of(model)
    if graph is None or len(graph.outputs) != 1:
        return model, None
    layer, inputs = compat.producer(graph.outputs[0])
    if not isinstance(layer, keras.layers.Rescaling) or layer.name != _CALIBRATION:
        return model, None
    return keras.Model(graph.inputs[0], inputs[0], name=model.name), 1 / layer.scale


def without_sphere(model: Any) -> keras.Model | None:
    """The model that returns the raw logits of a `deployable` on the sphere; None for any other model."""
    if not isinstance(model, keras.Model) or "sphere_unit" not in {layer.name for layer in model.layers}:
        return None
    return keras.Model(model.input, model.get_layer("sphere_unit").input, name=model.name)
