"""From what a Distiller is given to what a step computes with: logits, batch sizes, weights, the teacher's mean norm."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation.hyperparameters import number_in_range
from skd_tf.distillation.inputs import TEACHER_LOGITS, image_of
from skd_tf.distillation.objective import class_numbers
from skd_tf.errors import InputError, input_error
from skd_tf.losses.terms import Weights, over_teachers
from skd_tf.models import interface
from skd_tf.models.sync_batch_norm import counting
from skd_tf.runtime import replicas

_ADAPT_EXAMPLES = 10_000
_SLICE = 256  # images at a time from an array


def no_teacher() -> InputError:
    """Neither a teacher nor its logits are there."""
    return input_error(
        "No teacher", expected="a teacher, or x with teacher_logits", received="neither", remedy="Set distiller.teacher"
    )


def readable_once() -> InputError:
    """The radius must be measured before training, but the data can be read only once."""
    return input_error(
        "The data can be read only once",
        expected="arrays or a tf.data.Dataset",
        received="a generator",
        remedy="Call adapt() on arrays or a tf.data.Dataset first",
    )


def no_radius() -> InputError:
    """The radius is neither given nor measured."""
    return input_error(
        "The radius is not known yet", expected="adapt() or fit() first", received="radius=0", remedy="Call adapt()"
    )


def given_logits(x: Any) -> tf.Tensor | None:
    """The teachers' logits in x, `[batch, classes]` or `[batch, teachers, classes]`; None if there are none."""
    return as_logits(x[TEACHER_LOGITS]) if isinstance(x, dict) and TEACHER_LOGITS in x else None


def as_logits(output: tf.Tensor) -> tf.Tensor:
    """A model's output in float32 (or float64): loss, softmax, norms and measurements never use half precision."""
    return output if output.dtype == tf.float64 else tf.cast(output, tf.float32)


def forward(model: Any, image: tf.Tensor, *, training: bool = False, who: str = "student") -> tf.Tensor:
    """A model's logits, `[batch, classes]` float32 or float64.

    A short last batch can leave a replica without examples, and oneDNN's convolutions give an empty batch a wrong
    shape. Such a replica uses one black image as a placeholder. It does not count in BatchNorm's statistics over
    replicas, and its logits are dropped.
    """

    def logits_of(image):
        return as_logits(interface.logits_in(interface.call(model, image, training=training), who))

    context = tf.distribute.get_replica_context()
    if image.shape[0] or context is None or context.num_replicas_in_sync == 1:
        return logits_of(image)
    count = tf.shape(image)[0]
    placeholder = tf.zeros([1 - tf.minimum(count, 1), *image.shape[1:]], image.dtype)
    with counting(count > 0):
        return logits_of(tf.concat([image, placeholder], axis=0))[:count]


def global_batch_size(image: tf.Tensor, replica_count: int, *, equal_parts: bool) -> int | tf.Tensor:
    """The number of examples on all replicas; call it in replica context.

    If the replicas may hold different numbers of examples, this needs a collective.
    """
    if image.shape[0] is not None and (equal_parts or replica_count == 1):
        return image.shape[0] * replica_count
    return replicas.sum_over_replicas([tf.shape(image)[0]])[0]


def piece_size(examples: int | None, pieces: int) -> int:
    """The number of examples in each piece of a replica's part of a batch, except in a smaller last one.

    A batch of fewer examples than pieces, as the last one of an epoch may be, has pieces of one example.

    Raises:
      InputError: the number of examples is not known before the step.
    """
    if examples is None:
        raise input_error(
            "The batch cannot be divided into micro-batches",
            expected="batches of a fixed size",
            received=f"micro_batches={pieces} with an unknown number of examples",
            remedy="Batch the data with drop_remainder=True, or use micro_batches=1",
        )
    return max(-(-examples // pieces), 1)


def check_metric_names(metrics: Any, own: Sequence[str]) -> None:
    """Raises `InputError` if a metric would replace a value of the Distiller's own. An accuracy may."""
    for metric in keras.tree.flatten(metrics):
        name = getattr(metric, "name", getattr(metric, "__name__", metric))
        if name in own and name != "accuracy":
            raise input_error(
                "A metric has the name of a value that a Distiller measures itself",
                expected=f"another name than {', '.join(own)}",
                received=f"metrics with {name!r}",
                remedy="Rename it, or leave it out",
            )


def check_class_weight(class_weight: dict[int, float], num_classes: int | None) -> None:
    """Raises `InputError` if a key is not a class, or a weight is not a number >= 0."""
    if not isinstance(class_weight, Mapping):
        raise input_error(
            "class_weight is not a dict",
            expected="{class number: weight}",
            received=f"class_weight={class_weight!r:.60}",
            remedy="Use dict(enumerate(weights))",
        )
    for key, weight in class_weight.items():
        whole = isinstance(key, (int, np.integer)) and key >= 0
        if not whole or (num_classes is not None and key >= num_classes):
            raise input_error(
                "class_weight has a class that does not exist",
                expected=f"class numbers from 0 to {num_classes - 1 if num_classes else 'classes - 1'}",
                received=f"class_weight[{key!r}]={weight}",
                remedy="Remove it",
            )
        number_in_range(f"class_weight[{key}]", weight)


def with_class_weight(
    x: Any, y: Any, class_weight: dict[int, float], arguments: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """What `fit` is given, with a sample weight for each example, by the class of its label.

    Classes that are not listed have weight 1, and so have unlabelled images. Keras' own version gives them the weight of
    class 0 if labels are one-hot, and looks up -1 in a table. As with it, validation data is not weighted.

    Args:
      x, y: as `fit` takes them.
      class_weight: {class: weight}.
      arguments: the other arguments of `fit`.

    Returns:
      (x, y, arguments).

    Raises:
      InputError: there are no labels, or already sample weights.
    """
    if isinstance(x, tf.data.Dataset):
        _, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(x.element_spec)
        _require_class_weight_fits(labels, sample_weight)
        return x.map(lambda x, y: (x, y, _weights_in_graph(y, class_weight))).prefetch(tf.data.AUTOTUNE), y, arguments
    if isinstance(x, keras.utils.PyDataset):
        return _WeightedPyDataset(x, class_weight), y, arguments
    if hasattr(x, "__next__"):
        return (_weighted(batch, class_weight) for batch in x), y, arguments
    _require_class_weight_fits(y, arguments.get("sample_weight"))
    arguments = {"validation_split": 0.0, "validation_data": None} | arguments
    if arguments["validation_split"] and arguments["validation_data"] is None:  # the last images, as Keras takes them
        place = math.floor(len(y) * (1 - arguments["validation_split"]))
        if not 0 < place < len(y):
            raise input_error(
                "The images cannot be split",
                expected="at least one for training and one for validation",
                received=f"validation_split={arguments['validation_split']} of {len(y)} images",
                remedy="Change it",
            )
        arguments["validation_data"] = keras.tree.map_structure(lambda part: part[place:], (x, y))
        x, y = keras.tree.map_structure(lambda part: part[:place], (x, y))
    arguments["validation_split"] = 0.0
    return x, y, arguments | {"sample_weight": _weights(y, class_weight)}


def _require_class_weight_fits(labels, sample_weight):
    if labels is None or sample_weight is not None:
        raise input_error(
            "class_weight does not fit the data",
            expected="(x, y)",
            received="x alone" if labels is None else "(x, y, sample_weight)",
            remedy="Leave it out",
        )


def _weights_in_graph(y, class_weight):
    listed, values = tf.constant([*class_weight], tf.int64), tf.constant([*class_weight.values()], tf.float32)
    matches = class_numbers(y)[:, None] == listed
    return tf.where(tf.reduce_any(matches, 1), tf.linalg.matvec(tf.cast(matches, tf.float32), values), 1.0)


def _weights(y, class_weight):
    """The same in NumPy, since Keras' forked workers cannot call TensorFlow."""
    y = np.asarray(y)
    if y.ndim > 1 and y.shape[-1] > 1:
        y = np.where((y != 0).any(axis=-1), y.argmax(axis=-1), -1)
    weights = np.ones(y.size, "float32")
    for number, weight in class_weight.items():
        weights[y.ravel() == number] = weight
    return weights


def _weighted(batch, class_weight):
    """A batch (x, y) with sample weights."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    _require_class_weight_fits(y, sample_weight)
    return x, y, _weights(y, class_weight)


class _WeightedPyDataset(keras.utils.PyDataset):
    """The batches of another PyDataset with sample weights."""

    def __init__(self, dataset, class_weight):
        names = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(dataset, name) for name in names})
        self._dataset, self._class_weight = dataset, class_weight

    @property
    def num_batches(self):
        return self._dataset.num_batches

    def __getitem__(self, index):
        return _weighted(self._dataset[index], self._class_weight)

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()


def first_batch(strategy: tf.distribute.Strategy, iterator: Any = None, data_batch: Any = None) -> tuple[Any, Any]:
    """The first replica's part of a batch. No batch is missing from the data afterwards.

    Args:
      strategy: tf.distribute.Strategy.
      iterator: Keras' epoch iterator; its first batch is used if `data_batch` is None.
      data_batch: (x, y) or (x, y, sample_weight), or None.

    Returns:
      (x, y).
    """
    if data_batch is None:
        # Keras has read the first batches of a generator, and yields them again.
        generator = getattr(iterator.data_adapter, "generator", None)
        data_batch = next(next(iter(iterator))[2] if generator is None else iter(generator()))
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data_batch)
    return keras.tree.map_structure(lambda part: strategy.experimental_local_results(part)[0], (x, y))


def mean_logit_norm(
    data: Any, logits_of: Callable[[Any], tf.Tensor | None], *, center: bool, teacher_weights: Weights = None
) -> float:
    """The mean norm of a teacher's logits over the first 10,000 images.

    Args:
      data: un-augmented images in a fixed order: an array, (x, y) of arrays, or batches of (x, y) or x.
      logits_of: from x to logits `[batch, classes]` or `[batch, teachers, classes]`, or to None without a teacher.
      center: whether to subtract the mean over classes first.
      teacher_weights: of several teachers, whose norms are averaged; None: equal.

    Raises:
      InputError: there is no teacher, or no data.
    """
    norms: list[np.ndarray] = []
    seen = 0
    for x in _batches_of_x(data):
        logits = logits_of(x)
        if logits is None:
            raise no_teacher()
        norm = over_teachers(losses.logit_norm(logits, center=center), teacher_weights)
        norms.append(norm.numpy()[: _ADAPT_EXAMPLES - seen])
        seen += len(norms[-1])
        if seen >= _ADAPT_EXAMPLES:
            break
    if not seen:
        raise input_error(
            "adapt() got no data", expected="training images", received="0 images", remedy="Pass the training data"
        )
    return np.concatenate(norms).astype(np.float64).mean()


def _batches_of_x(data) -> Iterator[Any]:
    arrays = (np.ndarray, tf.Tensor, dict)
    if isinstance(data, list) and len(data) == 1:
        (data,) = data
    if isinstance(data, tuple) and data and isinstance(data[0], arrays):  # (x, y), not batches
        data = data[0]
    if isinstance(data, arrays):
        for start in range(0, len(image_of(data)), _SLICE):
            part = slice(start, start + _SLICE)
            yield {name: value[part] for name, value in data.items()} if isinstance(data, dict) else data[part]
    else:
        for batch in data:
            yield batch[0] if isinstance(batch, (tuple, list)) else batch
