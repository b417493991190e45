"""The SavedModel of a student: what it takes, what it returns, and how it is written."""

import os
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from skd_tf.models import deployable


def serve(model: Any, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """The outputs of every export for images `[batch, h, w, c]`: {"logits", "probabilities", "class_id"}."""
    logits = model(tf.cast(images, tf.float32), training=False)
    # tf.argmax, because onnxruntime does not know the ops of Keras' argmax.
    return {"logits": logits, "probabilities": tf.nn.softmax(logits), "class_id": tf.argmax(logits, axis=-1)}


def save_saved_model(model: keras.Model, path: str | os.PathLike, class_names: Iterable[str]) -> None:
    """Writes a SavedModel for serving.

    Signature `serving_default`: `images` uint8 `[batch, h, w, c]` -> `logits` and `probabilities` float32
    `[batch, classes]`, `class_id` int64 `[batch]`, `label` string `[batch]`.

    Args:
      model: what `deployable` returns.
      path: folder to write.
      class_names: one name per class.
    """
    names = list(class_names)

    def labelled(images):
        served = serve(model, images)
        return served | {"label": tf.gather(tf.constant(names), served["class_id"])}

    images = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8, name="images")
    module = tf.Module()
    module.serve = tf.function(labelled, input_signature=[images], autograph=False)
    module.weights = [variable.value for variable in model.variables]  # keras.export.ExportArchive stores each twice
    temperature = deployable.without_temperature(model)[1]
    if temperature is not None:
        setattr(module, deployable.SAVED_TEMPERATURE, tf.Variable(temperature, trainable=False))
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
