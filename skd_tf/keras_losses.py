"""Spherical Knowledge Distillation as a loss for Keras' own keras.distillation.Distiller."""

from typing import Any

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation.hyperparameters import number_in_range
from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.terms import distill_term


class _MeanOverBatch(keras.losses.Loss):
    """The mean of `[batch]` values, with Keras' own division by the number of replicas."""

    def __init__(self, per_example):
        super().__init__(name="spherical_distillation")
        self._per_example = per_example

    def call(self, y_true, y_pred):
        return self._per_example(y_true, y_pred)


@keras.saving.register_keras_serializable("skd_tf")
class SphericalDistillation(keras.distillation.DistillationLoss):
    """The distill term of `skd_tf.losses.spherical_kd`, averaged over the batch.

        T^2 * KL( softmax(project(z_t; R) / T) || softmax(project(z_s; R) / T) )

    Use it in Keras' Distiller:

        keras.distillation.Distiller(teacher, student, SphericalDistillation(), student_loss_weight=0.1)

    Keras' Distiller then minimizes

        student_loss_weight * CE( softmax(z_s), y ) + (1 - student_loss_weight) * this

    Unlike in `skd_tf.Distiller`, the label term therefore uses the RAW logits: compile with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. The authors' label term uses the projected logits. A
    loss of Keras' Distiller cannot change that, because it gets no labels. Hence measure and export the student's raw
    softmax. Sample weights are ignored, as everywhere in Keras' Distiller.

    Args:
      temperature: softmax temperature T > 0.
      radius: norm R that the logits of both networks are scaled to: a number > 0, "auto" = 2 * sqrt(classes), or
        "teacher_sample" (each image's own teacher norm). "teacher_mean" must be measured on data: give the number.
      center: whether to subtract the mean over classes before the norm.

    Raises:
      InputError: a temperature or radius outside these; when called, a centred sphere of two classes.

    Examples:
      >>> import numpy as np
      >>> from skd_tf.keras_losses import SphericalDistillation
      >>> loss = SphericalDistillation(temperature=4.0, radius=3.0)
      >>> round(float(loss.compute_loss(np.array([[3.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 0.0]]))), 3)
      0.047

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """

    def __init__(self, temperature: float = 4.0, radius: float | str = "auto", center: bool = True):
        self.temperature = number_in_range("temperature", temperature, above=0.0)
        losses.resolve_radius(radius, num_classes=2)
        if radius == "teacher_mean":
            raise input_error(
                "This loss cannot measure the teacher's mean norm",
                expected="a number > 0, auto or teacher_sample",
                received="radius=teacher_mean",
                remedy="Pass the number that skd_tf.Distiller.adapt measures",
            )
        self.radius, self.center = radius, bool(center)
        self._mean = _MeanOverBatch(self._per_example)

    def compute_loss(self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        """The mean over the batch.

        Args:
          teacher_outputs: raw logits `[batch, classes]`; receives no gradient.
          student_outputs: raw logits `[batch, classes]`.
          **kwargs: unused.

        Returns:
          A float32 scalar, in nats.
        """
        return self._mean(teacher_outputs, student_outputs)

    def _per_example(self, teacher_logits, student_logits):
        sphere_geometry.reject_two_classes(student_logits.shape[-1], self.center)
        radius = losses.resolve_radius(self.radius, student_logits.shape[-1])
        student, teacher = losses.on_one_sphere(student_logits, teacher_logits, radius, center=self.center)
        return distill_term(student, teacher, self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "radius": self.radius, "center": self.center}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SphericalDistillation":
        return cls(**config)
