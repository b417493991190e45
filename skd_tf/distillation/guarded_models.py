"""Checks of a Distiller's two models and its data, with one clear error in place of a silently wrong result."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import inputs, labels
from skd_tf.distillation.batches import forward, given_logits
from skd_tf.distillation.multi_step import without_optional
from skd_tf.errors import counted, input_error
from skd_tf.models import heads, interface
from skd_tf.models.adapter import are_probabilities, log_probabilities, returns_probabilities
from skd_tf.runtime import compat

_PROBED_IMAGES = 8  # enough to tell whether outputs are probabilities


class GuardedModelsMixin:
    """What checks the models and data of a `Distiller`, which has the attributes below."""

    student: Any
    teacher: Any
    objective: Any
    distribute_strategy: Any
    _num_classes: int | None
    _inspected: bool
    _student_inspected: bool
    # Whether each batch must be checked when it arrives: it comes from a generator, a PyDataset or the like.
    _each_training_batch: bool
    _each_test_batch: bool
    _teacher_probabilities: list[bool]  # whether each teacher returns probabilities in place of logits
    _teacher_inspected: bool

    def _checked_student(self, student):
        """The number of classes of a student; None if it is known only from its first logits, as for a subclass."""
        self._inspected = self._student_inspected = False
        self._each_training_batch = self._each_test_batch = False
        self._teacher_inspected, self._teacher_probabilities = False, []
        interface.require_model(student, "student")
        interface.require_one_input(student, "student")
        classes = interface.classes_of(student, "student")
        self._require_raw_logits(student)
        shape = getattr(student, "output_shape", None)
        if shape and isinstance(shape, tuple) and len(shape) > 2:
            warnings.warn(f"The student's output {shape} is treated as logits [batch, {classes}].", stacklevel=3)
        _require_two_classes(classes)
        return classes

    def _require_raw_logits(self, student):
        heads.require_raw_logits(interface.with_logits(student, "student"), "student", softmax=False)

    @property
    def teachers(self) -> tuple:
        """The teachers: none, one or several."""
        several = isinstance(self.teacher, tuple)
        return self.teacher if several else () if self.teacher is None else (self.teacher,)

    def _check_teachers(self, teachers):
        """Checks the teachers as far as that is possible without calling them; whether each returns probabilities."""
        probabilities = []
        if teachers:
            self.objective.require_teachers(len(teachers))
        for teacher, who in _named(teachers):
            if teacher is self.student:
                raise input_error(
                    "The student is its own teacher",
                    expected="two models",
                    received=f"one model as student and {who}",
                    remedy="Give a trained copy: keras.models.clone_model(model), and set_weights",
                )
            interface.require_model(teacher, who)
            self._require_teacher_classes(interface.classes_of(teacher, who))
            found = heads.require_raw_logits(interface.with_logits(teacher, who), who)
            probabilities.append(found)
            if found:
                _warn_of_softmax()
        self._require_own_weights(teachers)
        return probabilities

    def _require_own_weights(self, teachers):
        """Refuses a teacher that training would change, because it has weights in common with the student.

        Weights of frozen layers may be shared. A subclassed model has its weights only once it is built.
        """
        layers = [layer for layer in compat.layers_of(self.student) if layer.trainable]
        changed = {id(weight): weight.path for layer in layers for weight in compat.own_weights(layer)}
        for teacher, who in _named(teachers):
            shared = [changed[id(weight)] for weight in getattr(teacher, "weights", ()) if id(weight) in changed]
            if shared:
                raise input_error(
                    f"The student shares weights with the {who}, so training would change the {who}",
                    expected="two models without common weights, or whose common layers are frozen",
                    received=f"{counted(len(shared), 'common weight')}, such as {shared[0]}",
                    remedy="Build the student from a copy of these layers (keras.models.clone_model, then set_weights), "
                    "or freeze them: layer.trainable = False",
                )

    def _require_teacher_classes(self, classes):
        if None not in (classes, self._num_classes) and classes != self._num_classes:
            raise input_error(
                "Teacher and student have different classes",
                expected=f"{self._num_classes} logits, as the student has",
                received=f"{classes} from the teacher",
                remedy="Use a teacher of the same classes",
            )

    def _teacher_forward(self, image):
        """The teacher's logits `[batch, classes]`; of several `[batch, teachers, classes]`."""
        each = [
            log_probabilities(logits) if is_probability else logits
            for is_probability, (teacher, who) in zip(self._teacher_probabilities, _named(self.teachers), strict=True)
            for logits in [forward(teacher, image, who=who)]
        ]
        if len(each) == 1:
            return each[0]
        dtype = tf.float64 if any(logits.dtype == tf.float64 for logits in each) else tf.float32
        return tf.stack([tf.cast(logits, dtype) for logits in each], axis=1)

    def _inspect_teacher(self, x):
        """Finds out from the first images whether teachers that cannot be inspected return probabilities."""
        if self._teacher_inspected or self.teacher is None or given_logits(x) is not None:
            return
        images = inputs.image_of(x)[:_PROBED_IMAGES]
        if not len(images):
            return
        inputs.require_finite_images(images)
        for i, (teacher, who) in enumerate(_named(self.teachers)):
            raw = functools.partial(forward, teacher, who=who)
            try:
                outputs = raw(images)
            except (ValueError, tf.errors.InvalidArgumentError) as error:
                raise _other_images(teacher, who, images) or error from None
            self._require_teacher_classes(outputs.shape[-1])
            if not bool(tf.reduce_all(tf.math.is_finite(outputs))):
                raise input_error(
                    f"The logits of the {who} are not finite",
                    expected="finite numbers for the first images",
                    received=f"x from {float(tf.reduce_min(tf.cast(images, tf.float32))):g} to "
                    f"{float(tf.reduce_max(tf.cast(images, tf.float32))):g}",
                    remedy="Check its weights, its precision, and the range of the images",
                )
            found = returns_probabilities(raw, images, who)
            if self._teacher_probabilities[i]:
                continue
            if found:
                self._teacher_probabilities[i] = True
                _warn_of_softmax()
            elif interface.graph_of(teacher) is None and _between_0_and_1(outputs):
                warnings.warn(f"All outputs of the {who} are in [0, 1]: are they its raw logits?", stacklevel=2)
        self._teacher_inspected = True

    def _inspect_batch(self, data, *, each=False):
        """Checks, on the host, the first batch of a call of fit, evaluate, train_on_batch or test_on_batch.

        Args:
          data: (x, y) or (x, y, sample_weight).
          each: whether to check the later batches too.
        """
        if self._inspected and not each:
            return
        parts = keras.utils.unpack_x_y_sample_weight(keras.tree.map_structure(without_optional, data))
        local = self.distribute_strategy.experimental_local_results
        replicas = max(len(local(part)) for part in keras.tree.flatten(parts))
        for replica in reversed(range(replicas)):  # the first one's part is inspected below
            x, y, weights = keras.tree.map_structure(
                lambda part, i=replica: local(part)[i] if part is not None else None, parts
            )
            inputs.check_batch(x, y, weights, names=interface.input_names(self.student), num_classes=self._num_classes)
        if self._inspected:
            return
        self._inspect_student(x)
        if self.objective.needs_teacher:
            self._inspect_teacher(x)
            self._require_own_weights(self.teachers)  # layers may have been built, or unfrozen, since
        self._inspected = True

    def _inspect_student(self, x):
        """Refuses a student that returns probabilities: its graph says so once it is built, or else its first logits."""
        if self._student_inspected:
            return
        self._require_raw_logits(self.student)
        outputs = forward(self.student, inputs.image_of(x)[:_PROBED_IMAGES])
        self._student_inspected = bool(len(outputs))
        is_new_head = bool(tf.reduce_all(outputs == outputs[:1, :1]))  # its logits are all 0
        if interface.graph_of(self.student) is None and _between_0_and_1(outputs) and not is_new_head:
            warnings.warn("All outputs of the student are in [0, 1]: are they its raw logits?", stacklevel=2)
        if len(outputs) > 1 and are_probabilities(outputs):
            raise input_error(
                "The student returns probabilities",
                expected="raw logits",
                received="outputs >= 0 that sum to 1 for each image",
                remedy="Remove its softmax",
            )

    def _learn_classes(self, image):
        """The logits of one image build a subclassed student, and give its number of classes."""
        with self.distribute_strategy.scope():
            classes = forward(self.student, image).shape[-1]
        _require_two_classes(classes)
        self._set_radius(classes)
        self._num_classes, self.built = classes, True  # after the checks: the next call refuses the student again
        if self.compiled:
            self._build_optimizer()

    def _checked_data(self, x, y, weights=None, where=("y", "sample_weight")):
        if self._num_classes is None:  # if the shape of the images is known, a black image is enough to learn it
            spec = keras.utils.unpack_x_y_sample_weight(x.element_spec)[0] if isinstance(x, tf.data.Dataset) else x
            images = inputs.image_of(spec)
            has_shape = isinstance(images, (np.ndarray, tf.Tensor, tf.TensorSpec)) and images.shape
            if has_shape and None not in images.shape[1:]:
                self._learn_classes(tf.zeros([1, *images.shape[1:]], images.dtype))
        names = interface.input_names(self.student)
        return inputs.checked(x, y, weights, names=names, num_classes=self._num_classes, where=where)

    def _checked_training(self, x, y, kwargs):
        """(x, y) and the other arguments of `fit`, with all data checked or marked to be checked batch by batch."""
        x, y, weights = self._checked_data(x, y, kwargs.get("sample_weight"))
        self._each_training_batch = not inputs.are_checked_whole(x, self._num_classes)
        self._each_test_batch = False
        kwargs |= {"sample_weight": weights}
        if (validation := kwargs.get("validation_data")) is not None:
            kwargs["validation_data"] = self._checked_validation(validation)
            self._each_test_batch = not inputs.are_checked_whole(kwargs["validation_data"], self._num_classes)
        return x, y, kwargs

    def _checked_validation(self, data):
        if isinstance(data, tf.data.Dataset):
            return self._checked_data(data, None, None, ("validation_data", "validation_data"))[0]
        if not isinstance(data, (tuple, list)):
            return data
        x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
        x, y, weights = self._checked_data(x, y, weights, ("validation_data[1]", "validation_data[2]"))
        return (x, y) if weights is None else (x, y, weights)

    @contextlib.contextmanager
    def _clear_label_errors(self) -> Iterator[None]:
        """Inside this context, a label that the input pipeline refuses is an `InputError`."""
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            clear = labels.translated(error, self._num_classes) or inputs.translated(error)
            raise (error if clear is None else clear) from None
        except ValueError as error:  # Keras' own, about what a generator or PyDataset yields
            clear = labels.translated_dtype(error, self._num_classes)
            if clear is None:
                raise
            raise clear from None


def _between_0_and_1(outputs):
    return bool(tf.reduce_all((outputs >= 0) & (outputs <= 1)))


def _named(teachers):
    """(teacher, its name in messages) of each."""
    return [(teacher, f"teacher {i}" if len(teachers) > 1 else "teacher") for i, teacher in enumerate(teachers, 1)]


def _other_images(teacher, who, images):
    """The `InputError` of a teacher that takes images of another shape; None if its shape fits or is not known."""
    graph, shape = interface.graph_of(teacher), tuple(images.shape[1:])
    expected = shape if graph is None else tuple(graph.inputs[0].shape[1:])
    if len(expected) == len(shape) and all(size in (None, mine) for size, mine in zip(expected, shape, strict=True)):
        return None
    return input_error(
        f"{'The teacher' if who == 'teacher' else who.capitalize()} takes other images than the student",
        expected=f"{expected}",
        received=f"x of {shape}",
        remedy="Batch the images: dataset.batch(32)"
        if len(images.shape) == len(expected)
        else "Put layers before it that make its images from these, such as keras.layers.Resizing",
    )


def _require_two_classes(classes):
    if classes == 1:
        raise input_error(
            "The student has one logit",
            expected="at least 2 classes, one logit each",
            received="logits=1",
            remedy="End a student of two classes in Dense(2), and its teacher too",
        )


def _warn_of_softmax():
    warnings.warn(
        "The teacher returns probabilities, as after a softmax: their logarithms are taken as logits. Raw logits "
        "would be exact: remove the softmax (classifier_activation=None).",
        stacklevel=3,
    )
