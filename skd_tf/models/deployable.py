"""The student as it ships: float32, stock Keras layers only, preprocessing and readout inside."""

import math

import keras

from skd_tf.errors import input_error
from skd_tf.models.graph import copy_state, exchange_layers, graph_of
from skd_tf.networks.batch_norm import FusedBatchNormalization


def stock_copy(model):
    """A float32 copy, in Keras' own layers, of a Functional or Sequential model; other models are returned as they are."""
    if graph_of(model) is None:
        return model

    def stock(layer):
        if not isinstance(layer, keras.layers.Layer):
            return type(layer).from_config(layer.get_config())
        kind = keras.layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        return kind.from_config(layer.get_config() | {"dtype": "float32"})

    copy, copies = exchange_layers(model, stock)
    for layer, stock_layer in copies.items():
        copy_state(layer, stock_layer)
    return copy


def deployable(student, readout, *, radius, center):
    """The student with its readout: softmax of the output is the student's probability.

    sphere, centred:     R (z - m(z)) / ||z - m(z)|| = LayerNormalization(z) * R / sqrt(classes)
    sphere, not centred: R z / ||z||                 = UnitNormalization(z) * R

    Args:
      student: built keras.Model, raw logits out.
      readout: "raw" or "sphere" (the loss' row in `LOSSES`).
      radius: R, > 0; unused for "raw".
      center: which of the two spheres.

    Returns:
      keras.Model of raw pixels `[batch, h, w, c]` to float32 logits `[batch, classes]`; loads without skd_tf.
    """
    if getattr(student, "input_shape", None) is None or not hasattr(student, "output_shape"):
        raise input_error(
            "The student cannot be written in stock layers",
            expected="a Functional or Sequential model",
            received=f"{type(student).__name__}",
            remedy="Export it with its own export()",
        )
    copy = stock_copy(student)
    images = keras.Input(student.input_shape[1:], name="images")
    logits = copy(images)
    if readout == "sphere":
        classes = logits.shape[-1]
        if center:
            # epsilon only keeps an all-equal row finite: it must stay far below the variance of any real row.
            unit = keras.layers.LayerNormalization(center=False, scale=False, epsilon=1e-12, name="sphere_unit")
            scale = radius / math.sqrt(classes)
        else:
            unit, scale = keras.layers.UnitNormalization(name="sphere_unit"), radius
        logits = keras.layers.Rescaling(scale, name="sphere_radius")(unit(logits))
    return keras.Model(images, logits, name=student.name)


def calibrated(model, temperature):
    """A deployable model whose logits are divided by a temperature: one stock layer more."""
    divide = keras.layers.Rescaling(1 / temperature, name="calibration")
    return keras.Model(model.input, divide(model.output), name=model.name)


def before_readout(model):
    """The raw logits of a model that `deployable` put on a sphere, as a keras.Model; None for any other model."""
    if not isinstance(model, keras.Model) or "sphere_unit" not in {layer.name for layer in model.layers}:
        return None
    return keras.Model(model.input, model.get_layer("sphere_unit").input)
