"""From logits and labels to the loss of each example, and to the values whose epoch means are recorded."""

import inspect

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation.hyperparameters import finite
from skd_tf.errors import input_error

LABEL_MEANS = ("loss", "label_loss", "accuracy", "student_logit_norm")
TEACHER_MEANS = ("distill_loss", "agreement", "teacher_accuracy", "teacher_logit_norm")


class Objective:
    """A row of `LOSSES` with its settings: label_weight * label + kd_weight * distill, per example.

    Args:
      loss: a name in `LOSSES`, a `Loss` row, or a callable of the same shape as the rows' functions.
      center: whether logit norms, and the sphere, are centred.
      label_smoothing: probability spread evenly over all classes in the label term, in [0, 1).
      settings: numbers for the function's further keyword arguments, {name: number}.
    """

    def __init__(self, loss, *, center, label_smoothing, settings=None):
        self.row = _row(loss)
        self.center, self.label_smoothing = bool(center), float(label_smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise input_error(
                "Label smoothing is a probability",
                expected="a number in [0, 1)",
                received=f"label_smoothing={label_smoothing}",
                remedy="Try 0.1",
            )
        self._accepted = set(inspect.signature(self.row.function).parameters)
        further = self._accepted - {"student_logits", "teacher_logits", "labels", "temperature", "radius", "center"}
        self.settings = {name: finite(name, value) for name, value in (settings or {}).items()}
        if not self.settings.keys() <= further:
            raise input_error(
                "The loss does not take all of its settings",
                expected=f"{', '.join(sorted(further)) or 'none'}",
                received=f"loss_settings={self.settings}",
                remedy="Leave out what is not listed",
            )

    def get_config(self):
        """The Distiller's arguments that made it; to be read back, a loss of one's own is registered with Keras."""
        name = next((name for name, row in losses.LOSSES.items() if row is self.row), None)
        own = {} if name else self.row._asdict() | {"function": keras.saving.serialize_keras_object(self.row.function)}
        return {
            "loss": name or own,
            "center": self.center,
            "label_smoothing": self.label_smoothing,
            "loss_settings": self.settings,
        }

    @property
    def needs_teacher(self):
        return self.row.needs_teacher

    @property
    def needs_radius(self):
        """Whether a radius changes any value: the loss takes one, or the student is read on the sphere."""
        return self.row.readout == "sphere" or "radius" in self._accepted

    @property
    def mean_names(self):
        return LABEL_MEANS + (TEACHER_MEANS if self.needs_teacher else ())

    def __call__(
        self,
        student_logits,
        teacher_logits,
        labels,
        sample_weight=None,
        *,
        temperature,
        radius,
        readout_radius,
        kd_weight,
        label_weight,
    ):
        """Loss and measurements of a batch.

        Args:
          student_logits: `[batch, classes]`.
          teacher_logits: the same, or None: then there is a label term alone and nothing counts towards "loss".
          labels: integer `[batch]`, -1 = unlabelled, or one-hot `[batch, classes]`.
          sample_weight: `[batch]`, `[batch, 1]` or None; multiplies the loss, not the measurements.
          temperature, radius, kd_weight, label_weight: as in `Distiller`; scalars.
          readout_radius: a number, also where radius is "teacher_sample".

        Returns:
          (loss `[batch]`, sums `[means]`, counts `[means]`) with means in the order of `mean_names`.
        """
        given = {"temperature": temperature, "radius": radius, "center": self.center} | self.settings
        targets = self._smooth(labels, student_logits)
        if self.needs_teacher and teacher_logits is None:
            logits = losses.readout(student_logits, self.row.readout, readout_radius, self.center)
            terms = losses.cross_entropy(logits, None, targets)
        else:
            settings = {name: value for name, value in given.items() if name in self._accepted}
            terms = self.row.function(student_logits, teacher_logits, targets, **settings)
        wanted = {"label", "distill"} if self.needs_teacher and teacher_logits is not None else {"label"}
        if set(terms) != wanted:
            raise input_error(
                "The loss returns other terms",
                expected=f"{', '.join(sorted(wanted))}",
                received=f"{', '.join(sorted(terms))}",
                remedy="Return a dict with just these, one value an example",
            )
        if sample_weight is not None:
            weight = tf.reshape(sample_weight, [-1])
            terms = {name: term * tf.cast(weight, term.dtype) for name, term in terms.items()}
        dtype = terms["label"].dtype
        loss = tf.cast(label_weight, dtype) * terms["label"]
        if "distill" in terms:
            loss += tf.cast(kd_weight, dtype) * terms["distill"]

        classes = class_numbers(labels)
        labelled = tf.cast(classes >= 0, dtype)
        everyone = tf.ones_like(labelled)
        prediction = tf.argmax(student_logits, axis=-1)
        values = {  # name -> (value, how much the example counts)
            "label_loss": (terms["label"], labelled),
            "accuracy": (tf.cast(prediction == classes, dtype) * labelled, labelled),
            "student_logit_norm": (losses.logit_norm(student_logits, center=self.center), everyone),
        }
        if teacher_logits is not None or not self.needs_teacher:
            values["loss"] = (loss, everyone)
        if teacher_logits is not None and self.needs_teacher:
            guess = tf.argmax(teacher_logits, axis=-1)
            values |= {
                "agreement": (tf.cast(prediction == guess, dtype), everyone),
                "teacher_accuracy": (tf.cast(guess == classes, dtype) * labelled, labelled),
                "teacher_logit_norm": (losses.logit_norm(teacher_logits, center=self.center), everyone),
            }
            if "distill" in terms:
                values["distill_loss"] = (terms["distill"], everyone)
        absent = (tf.zeros_like(everyone),) * 2
        sums, counts = zip(*(values.get(name, absent) for name in self.mean_names), strict=True)
        sums = tf.reduce_sum(tf.stack([tf.cast(value, dtype) for value in sums]), axis=1)
        return loss, sums, tf.reduce_sum(tf.stack(counts), axis=1)

    def _smooth(self, labels, logits):
        if not self.label_smoothing:
            return labels
        # An unlabelled image is a row of zeros, and stays one: it has no label term.
        targets = losses.target_probabilities(labels, logits.shape[-1], logits.dtype)
        spread = tf.reduce_sum(targets, axis=-1, keepdims=True) / logits.shape[-1]
        return (1 - self.label_smoothing) * targets + self.label_smoothing * spread


def class_numbers(labels):
    """Class numbers int64 `[batch]` of labels in any form; -1 for unlabelled."""
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        return tf.cast(tf.reshape(labels, [-1]), tf.int64)
    return tf.where(tf.reduce_any(labels != 0, axis=-1), tf.argmax(labels, axis=-1), -1)


def _row(loss):
    if isinstance(loss, losses.Loss):
        return loss
    if isinstance(loss, dict):  # of get_config
        return losses.Loss(**loss)
    if isinstance(loss, str):
        if loss not in losses.LOSSES:
            raise input_error(
                "Unknown loss",
                expected=f"one of {', '.join(losses.LOSSES)}",
                received=f"loss={loss}",
                remedy="Check the name",
            )
        return losses.LOSSES[loss]
    if callable(loss):
        return losses.Loss(loss, readout="raw", needs_teacher=True, defaults={})
    raise input_error(
        "Not a loss", expected="a name, a row of LOSSES or a callable", received=f"loss={loss!r}", remedy="See LOSSES"
    )
