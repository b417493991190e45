"""Objective: from logits and labels to the loss of each example, and to the values whose epoch means are logged."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf import losses
from skd_tf.config import grammar
from skd_tf.distillation import loss_function
from skd_tf.distillation.hyperparameters import finite_number, number_in_range
from skd_tf.distillation.labels import as_numbers
from skd_tf.distillation.loss_function import LossLike
from skd_tf.errors import InputError, input_error
from skd_tf.losses.names import OF_SEVERAL_TEACHERS, LossFacts, facts_of
from skd_tf.losses.teacher_shares import teacher_shares
from skd_tf.losses.terms import Scalar, Tensor, over_teachers, softened

LABEL_MEANS = ("loss", "label_loss", "accuracy", "student_logit_norm")
TEACHER_MEANS = ("distill_loss", "agreement", "teacher_accuracy", "teacher_logit_norm")


class Objective:
    """One loss with its settings.

        loss = label_weight * label + kd_weight * distill        per example

    Args:
      loss: a name in `LOSSES`, a `Loss`, or a function like theirs.
      center: whether logit norms, and the sphere, use logits from which the mean over classes is subtracted.
      label_smoothing: probability spread evenly over all classes in the label term, in [0, 1).
      gradient_scale: "none", or "student_norm" for a loss on the sphere; see `scaled`.
      settings: {name: number} for the loss function's own keyword arguments, also as text.
      teacher_weights: a number > 0 for each of several teachers, also as text; None: equal.
      features: whether there is a feature term too, which the loss function does not see.

    Raises:
      InputError: an unknown loss, a setting that the loss does not have, or a value out of range.
    """

    def __init__(
        self,
        loss: LossLike,
        *,
        center: bool,
        label_smoothing: float,
        gradient_scale: str = "none",
        settings: str | dict[str, float] | None = None,
        teacher_weights: str | Sequence[float] | None = None,
        features: bool = False,
    ):
        self.loss, self.features = loss_function.as_loss(loss), features
        if not isinstance(center, (bool, np.bool_)):
            received = f"center={center!r}"
            raise input_error(
                "center is not valid", expected="True or False", received=received, remedy="Give one of them"
            )
        self.center, self.label_smoothing = bool(center), finite_number("label_smoothing", label_smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise input_error(
                "Label smoothing is out of range",
                expected="a number in [0, 1)",
                received=f"label_smoothing={label_smoothing}",
                remedy="Try 0.1",
            )
        if self.label_smoothing and self.facts.needs_one_class:
            raise input_error(
                f"The loss {self._name} needs a single class per image, which label smoothing spreads",
                expected="label_smoothing=0",
                received=f"label_smoothing={label_smoothing}",
                remedy="Leave it out, or use another loss",
            )
        self.gradient_scale = gradient_scale
        allowed = ("none", "student_norm") if self.loss.readout == "sphere" else ("none",)
        if gradient_scale not in allowed:
            raise input_error(
                "The gradient cannot be scaled like this",
                expected=f"{' or '.join(allowed)} for a loss on {'the sphere' if len(allowed) > 1 else 'raw logits'}",
                received=f"gradient_scale={gradient_scale!r}",
                remedy="Leave it out, or use the spherical loss",
            )
        if features and not self.loss.needs_teacher:
            raise input_error(
                "Features are those of a teacher, which the loss does not use",
                expected="a loss with a teacher",
                received=f"feature_pairs with loss={loss!r}",
                remedy='Use loss="kd", kd_weight=0 for labels and features alone',
            )
        settings = grammar.parse_loss_settings(settings) if isinstance(settings, str) else settings or {}
        if not isinstance(settings, Mapping):
            raise input_error(
                "loss_settings is not a dict",
                expected='{name: number}, such as {"beta": 2.0}',
                received=f"loss_settings={settings!r:.60}",
                remedy="Name each setting",
            )
        self.settings = {name: finite_number(name, value) for name, value in settings.items()}
        for setting in set(self.settings) & set(self.facts.settings if self._name else ()):
            above = 0.0 if setting in self.facts.positive else None
            number_in_range(setting, self.settings[setting], above=above)
        self.accepted = loss_function.accepted_arguments(self.loss.function, self.settings)
        if isinstance(teacher_weights, str):
            teacher_weights = grammar.parse_teacher_weights(teacher_weights) or None
        self.teacher_weights = None
        if teacher_weights is not None:
            if not hasattr(teacher_weights, "__len__"):
                raise input_error(
                    "teacher_weights are not a list",
                    expected="a number > 0 for each teacher",
                    received=f"teacher_weights={teacher_weights!r:.60}",
                    remedy="Give a list, or None for equal weights",
                )
            self.teacher_weights = tuple(finite_number("teacher_weights", weight) for weight in teacher_weights)
            self.require_teachers(len(self.teacher_weights))

    @property
    def _name(self):
        return next((name for name, loss in losses.LOSSES.items() if loss is self.loss), None)

    @property
    def facts(self) -> LossFacts:
        """What is known about the loss."""
        return facts_of(self._name or "")

    def get_config(self) -> dict[str, Any]:
        """The Distiller's arguments that make this objective; your own loss function must be registered with Keras."""
        name = self._name
        own = (
            {} if name else self.loss._asdict() | {"function": keras.saving.serialize_keras_object(self.loss.function)}
        )
        return {
            "loss": name or own,
            "center": self.center,
            "label_smoothing": self.label_smoothing,
            "gradient_scale": self.gradient_scale,
            "loss_settings": self.settings,
        } | ({} if self.teacher_weights is None else {"teacher_weights": list(self.teacher_weights)})

    def require_teachers(self, count: int) -> None:
        """Raises `InputError` if the loss takes one teacher and there are more, or not as many as weights."""
        if not self.needs_teacher:
            return
        if count > 1 and "teacher_weights" not in self.accepted:
            able = ", ".join(OF_SEVERAL_TEACHERS)
            raise input_error(
                "The loss takes one teacher",
                expected=f"one, or a loss of several: {able}, or your own with the argument teacher_weights",
                received=f"{count} teachers",
                remedy="Choose one of the teachers, or another loss",
            )
        teacher_shares(self.teacher_weights, count)

    def try_out(self, batch: int, classes: int, teachers: int = 1) -> bool:
        """Calls the loss once on random logits and labels, to find out before hours of computing whether it works.

        It is traced, as in training, and run.

        Args:
          batch: images in a step of each replica.
          classes, teachers: how many.

        Returns:
          Whether all its values are finite.

        Raises:
          InputError: it raises an error, or returns something else than it must.
        """
        random = np.random.default_rng(0)
        shape = [batch, classes] if teachers == 1 else [batch, teachers, classes]
        student, teacher = (tf.constant(random.normal(size=size), tf.float32) for size in ([batch, classes], shape))
        labels = tf.constant(random.integers(0, classes, batch), tf.int32)
        try:
            return bool(np.isfinite(self._traced(student, teacher if self.needs_teacher else None, labels)).all())
        except InputError:
            raise
        except Exception as error:
            if not self.needs_teacher and self._runs_with(student, teacher, labels):
                raise _needs_a_teacher(error) from None
            raise loss_function.own_error(self.loss.function, error) from error

    def _traced(self, student, teacher, labels):
        """The loss of each example, computed in a graph."""
        scalars = dict.fromkeys(("temperature", "radius", "readout_radius", "kd_weight", "label_weight"), 1.0)
        return tf.function(functools.partial(self, **scalars), autograph=False)(student, teacher, labels)[0].numpy()

    def _runs_with(self, student, teacher, labels):
        """Whether the loss function raises no error of its own with a teacher, whatever it returns."""
        try:
            self._traced(student, teacher, labels)
        except InputError:  # of a distill term, which is not wanted without a teacher
            return True
        except Exception:
            return False
        return True

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss has a distill term."""
        return self.loss.needs_teacher

    @property
    def needs_radius(self) -> bool:
        """Whether the radius changes any value: the loss takes one, or probabilities are taken on the sphere."""
        return self.loss.readout == "sphere" or "radius" in self.accepted

    @property
    def mean_names(self) -> tuple[str, ...]:
        """The names of the logged means, in the order of `__call__`'s sums and counts."""
        return LABEL_MEANS + (TEACHER_MEANS if self.needs_teacher else ()) + ("feature_loss",) * self.features

    def scaled(self, gradients: list[Tensor], sums: Tensor, counts: Tensor, radius: Scalar) -> list[Tensor]:
        """With "student_norm" the gradients times (mean norm of the student's logits) / R, else as they are.

        The gradient of a loss on the sphere is R / norm times that of the same error on raw logits. The factor cancels
        this for the batch as a whole. It is one number for all weights, so it changes the learning rate and no direction.

        Args:
          gradients: summed over replicas, any shapes.
          sums, counts: of the global batch, `[means]`, as `__call__` returns them, summed over replicas.
          radius: R, a scalar.
        """
        if self.gradient_scale == "none":
            return gradients
        place = self.mean_names.index("student_logit_norm")
        norm = sums[place] / counts[place]
        # If all logits are equal, the norm is 0, and `project` divides by 1/2: the student must be able to leave.
        factor = tf.where(norm > 0, norm, 0.5) / tf.cast(radius, norm.dtype)
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        sample_weight: Tensor | None = None,
        *,
        temperature: Scalar,
        radius: Scalar | str,
        readout_radius: Scalar,
        kd_weight: Scalar,
        label_weight: Scalar,
        feature: Tensor | None = None,
        feature_weight: Scalar = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each example of a batch, and what the batch adds to the logged means.

        Args:
          student_logits: `[batch, classes]`.
          teacher_logits: `[batch, classes]`, or of several teachers `[batch, teachers, classes]`; or None: then there
            is only a label term, and no example counts in the mean "loss" of a loss that needs a teacher.
          labels: class numbers `[batch]`, -1 for unlabelled; or one-hot or soft `[batch, classes]`.
          sample_weight: `[batch]`, `[batch, 1]` or None; multiplies both terms of the loss, but no other measurement.
          temperature: as in `Distiller`, a scalar.
          radius: as in `Distiller`: a scalar or "teacher_sample".
          readout_radius: the radius for the student's probabilities if there is no teacher: a scalar, even if `radius`
            is "teacher_sample".
          kd_weight: as in `Distiller`, a scalar.
          label_weight: as in `Distiller`, a scalar.
          feature: the feature term, `[batch]`, or None.
          feature_weight: as in `Distiller`, a scalar.

        Returns:
          (loss `[batch]`, sums `[means]`, counts `[means]`), with the means in the order of `mean_names`.

        Raises:
          InputError: the loss function returns other terms than "label" and, with a teacher, "distill"; or there are
            several teachers, and it takes one or another number.
        """
        distills = self.needs_teacher and teacher_logits is not None
        several = False
        if teacher_logits is not None:
            is_several = len(teacher_logits.shape) > 2
            self.require_teachers(teacher_logits.shape[1] if is_several else 1)
            several = distills and is_several
        targets = self._smooth(labels, student_logits)
        if self.needs_teacher and teacher_logits is None:
            logits = losses.readout(student_logits, self.loss.readout, readout_radius, self.center)
            terms = losses.cross_entropy(logits, None, targets)
        else:
            known = {"temperature": temperature, "radius": radius, "center": self.center} | self.settings
            known["teacher_weights"] = self.teacher_weights if several else None
            settings = {name: value for name, value in known.items() if name in self.accepted}
            terms = self.loss.function(student_logits, teacher_logits, targets, **settings)
        wanted = {"label", "distill"} if distills else {"label"}
        terms = loss_function.checked_terms(terms, wanted, student_logits)
        if feature is not None:
            terms = terms | {"feature": tf.cast(feature, terms["label"].dtype)}
        if sample_weight is not None:
            weight = tf.reshape(sample_weight, [-1])
            terms = {name: term * tf.cast(weight, term.dtype) for name, term in terms.items()}
        dtype = terms["label"].dtype
        loss = tf.cast(label_weight, dtype) * terms["label"]
        if distills:
            loss += tf.cast(kd_weight, dtype) * terms["distill"]
        if feature is not None:
            loss += tf.cast(feature_weight, dtype) * terms["feature"]

        classes = class_numbers(labels)
        labelled = tf.cast(classes >= 0, dtype)
        everyone = tf.ones_like(labelled)
        # An answer that is not finite is wrong, and agrees with none.
        answers = tf.reduce_all(tf.math.is_finite(student_logits), axis=-1)
        prediction = tf.where(answers, tf.argmax(student_logits, axis=-1), -2)
        values = {  # name -> (value, weight in the mean), each [batch]
            "label_loss": (terms["label"], labelled),
            "accuracy": (tf.cast(prediction == classes, dtype) * labelled, labelled),
            "student_logit_norm": (losses.logit_norm(student_logits, center=self.center), everyone),
        }
        if distills or not self.needs_teacher:
            values["loss"] = (loss, everyone)
        if distills:
            # Several teachers together say the class of the mean of their softmaxes.
            whole = softened(teacher_logits, 1.0, self.teacher_weights) if several else teacher_logits
            guess = tf.argmax(whole, axis=-1)
            values |= {
                "distill_loss": (terms["distill"], everyone),
                "agreement": (tf.cast(prediction == guess, dtype), everyone),
                "teacher_accuracy": (tf.cast(guess == classes, dtype) * labelled, labelled),
                "teacher_logit_norm": (self._norm(teacher_logits), everyone),
            }
        if feature is not None:
            values["feature_loss"] = (terms["feature"], everyone)
        absent = (tf.zeros_like(everyone),) * 2
        sums, counts = zip(*(values.get(name, absent) for name in self.mean_names), strict=True)
        sums = tf.reduce_sum(tf.stack([tf.cast(value, dtype) for value in sums]), axis=1)
        return loss, sums, tf.reduce_sum(tf.stack(counts), axis=1)

    def _norm(self, teacher_logits):
        return over_teachers(losses.logit_norm(teacher_logits, center=self.center), self.teacher_weights)

    def _smooth(self, labels, logits):
        if not self.label_smoothing:
            return labels
        # The row of an unlabelled image is all zeros and stays so: it has no label term.
        targets = losses.target_probabilities(labels, logits.shape[-1], logits.dtype)
        spread = tf.reduce_sum(targets, axis=-1, keepdims=True) / logits.shape[-1]
        return (1 - self.label_smoothing) * targets + self.label_smoothing * spread


def _needs_a_teacher(error):
    return input_error(
        "The loss function fails without a teacher",
        expected='teacher_logits=None to give a dict of "label" alone',
        received=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        remedy="Give a teacher (--teacher or --teacher_checkpoint), or handle teacher_logits=None in the function",
    )


def class_numbers(labels: Tensor) -> Tensor:
    """The class numbers of labels in any form, int64 `[batch]`; -1 for unlabelled.

    Args:
      labels: class numbers `[batch]` or `[batch, 1]`, or one-hot or soft `[batch, classes]`; all zeros for unlabelled.
    """
    labels = as_numbers(labels)
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        return tf.cast(tf.reshape(labels, [-1]), tf.int64)
    return tf.where(tf.reduce_any(labels != 0, axis=-1), tf.argmax(labels, axis=-1), -1)
