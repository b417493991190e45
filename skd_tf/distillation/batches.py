"""What a Distiller takes as x: images, or {"image": ..., "teacher_logits": ...}."""

import keras
import numpy as np
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation.objective import class_numbers
from skd_tf.errors import InputError, input_error
from skd_tf.models.sync_batch_norm import counting
from skd_tf.runtime import replicas

NO_TEACHER = (
    "No teacher. Expected a teacher model or x = {'image', 'teacher_logits'}. Received neither. Set distiller.teacher."
)
READ_ONCE = (
    "The data can be read only once. Expected arrays or a tf.data.Dataset. Received a generator. "
    "Call adapt(...) first, with a student that is built."
)
NO_RADIUS = "The radius is not known yet. Expected adapt() or fit() before. Received 0. Call adapt()."
_ADAPT_EXAMPLES = 10_000


def image_of(x):
    return x["image"] if isinstance(x, dict) else x


def forward(model, image, *, training=False):
    """A model's logits, `[batch, classes]`.

    A ragged batch can leave a replica without examples, and oneDNN's convolutions give an empty batch a wrong shape: there
    a black image stands in, counts in no statistics over replicas, and its logits are dropped.
    """
    context = tf.distribute.get_replica_context()
    if image.shape[0] or context is None or context.num_replicas_in_sync == 1:
        return as_logits(model(image, training=training))
    count = tf.shape(image)[0]
    stand_in = tf.zeros([1 - tf.minimum(count, 1), *image.shape[1:]], image.dtype)
    with counting(count > 0):
        return as_logits(model(tf.concat([image, stand_in], axis=0), training=training))[:count]


def given_logits(x):
    return as_logits(x["teacher_logits"]) if isinstance(x, dict) and "teacher_logits" in x else None


def as_logits(output):
    """Half precision ends here: loss, softmax, norms and measurements are float32 (float64 stays)."""
    return output if output.dtype == tf.float64 else tf.cast(output, tf.float32)


def global_batch(image, replica_count, *, equal_parts):
    """Examples in the global batch, in replica context; where replicas may hold unequal parts, by asking all of them."""
    if image.shape[0] is not None and (equal_parts or replica_count == 1):
        return image.shape[0] * replica_count
    return replicas.sum_over_replicas([tf.shape(image)[0]])[0]


def batches_of_x(data):
    if isinstance(data, (np.ndarray, tf.Tensor)):
        return (data[i : i + 256] for i in range(0, len(data), 256))
    if isinstance(data, dict):
        count = len(data["image"])
        return ({k: v[i : i + 256] for k, v in data.items()} for i in range(0, count, 256))
    return (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in data)


def weighted_by_class(dataset, class_weight):
    """Batches (x, y) as (x, y, sample_weight), by the class of each label; what is not listed, -1 for one, has weight 1.

    Keras' own map looks -1 up in a table, which raises on a CPU.

    Raises:
      InputError: batches without labels, or with sample weights already.
    """
    _, y, sample_weight = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    if y is None or sample_weight is not None:
        raise input_error(
            "class_weight cannot be applied",
            expected="batches of (x, y)",
            received=f"{'x alone' if y is None else '(x, y, sample_weight)'}",
            remedy="Leave class_weight out",
        )
    listed, values = tf.constant([*class_weight], tf.int64), tf.constant([*class_weight.values()], tf.float32)

    def weighted(x, y):
        matches = class_numbers(y)[:, None] == listed
        return x, y, tf.where(tf.reduce_any(matches, 1), tf.linalg.matvec(tf.cast(matches, tf.float32), values), 1.0)

    return dataset.map(weighted).prefetch(tf.data.AUTOTUNE)


def one_part(strategy, iterator=None, data_batch=None, *, again=False):
    """(x, y) of one replica in the first batch of Keras' epoch iterator, or in a batch.

    Args:
      strategy: tf.distribute.Strategy.
      iterator: Keras' epoch iterator, or None.
      data_batch: (x, y) or (x, y, sample_weight), or None.
      again: whether data that can be read only once is refused.

    Raises:
      InputError: a generator, where `again`.
    """
    if data_batch is None:
        if again and hasattr(iterator.data_adapter, "generator"):
            raise InputError(READ_ONCE)
        data_batch = next(next(iter(iterator))[2])
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data_batch)
    return keras.tree.map_structure(lambda part: strategy.experimental_local_results(part)[0], (x, y))


def mean_logit_norm(data, logits_of, *, center):
    """The mean norm of a teacher's logits over the first 10,000 images.

    Args:
      data: batches (x, y) or x, or an array, of un-augmented images in fixed order.
      logits_of: x -> logits `[batch, classes]`, or None without a teacher.
      center: whether the mean over classes is taken off first.

    Raises:
      InputError: no teacher, or no data.
    """
    norms, seen = [], 0
    for x in batches_of_x(data):
        logits = logits_of(x)
        if logits is None:
            raise InputError(NO_TEACHER)
        norms.append(losses.logit_norm(logits, center=center).numpy()[: _ADAPT_EXAMPLES - seen])
        seen += len(norms[-1])
        if seen >= _ADAPT_EXAMPLES:
            break
    if not seen:
        raise input_error(
            "adapt() got no data", expected="training images", received="0 batches", remedy="Pass the training data"
        )
    return np.concatenate(norms).astype(np.float64).mean()
