"""Spherical Knowledge Distillation as a loss of Keras' own keras.distillation.Distiller."""

import keras

from skd_tf import losses
from skd_tf.distillation.hyperparameters import number
from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.terms import distill_term


class _MeanOverBatch(keras.losses.Loss):
    """Values of `[batch]` to their mean, with Keras' own division by the number of replicas."""

    def __init__(self, per_example):
        super().__init__(name="spherical_distillation")
        self._per_example = per_example

    def call(self, y_true, y_pred):
        return self._per_example(y_true, y_pred)


@keras.saving.register_keras_serializable("skd_tf")
class SphericalDistillation(keras.distillation.DistillationLoss):
    """The distill term of `skd_tf.losses.spherical_kd`, averaged over the batch.

        T^2 * KL( softmax(project(z_t; R) / T) || softmax(project(z_s; R) / T) )

        keras.distillation.Distiller(teacher, student, SphericalDistillation(), student_loss_weight=0.1)

    What Keras' Distiller then trains on is

        student_loss_weight * CE( softmax(z_s), y ) + (1 - student_loss_weight) * this

    so, unlike `skd_tf.Distiller`, the label term takes the RAW logits (compile with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`). The authors' own takes the projected ones, which a
    loss of Keras' Distiller cannot change: it gets no labels. So the student's raw softmax is the one to measure and to
    export, and sample weights count for nothing, as everywhere in Keras' Distiller.

    Args:
      temperature: softmax temperature T, > 0.
      radius: norm R that both nets' logits are scaled to: a number > 0, "auto" = 2 * sqrt(classes), or
        "teacher_sample". "teacher_mean" needs data to be measured on: give the number.
      center: whether the mean over classes is taken off before the norm.

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """

    def __init__(self, temperature=4.0, radius="auto", center=True):
        self.temperature = number("temperature", temperature, above=0.0)
        losses.resolve_radius(radius, num_classes=2)
        if radius == "teacher_mean":
            raise input_error(
                "Nothing measures the teacher here",
                expected="a number > 0, auto or teacher_sample",
                received="radius=teacher_mean",
                remedy="Give the number that skd_tf.Distiller.adapt measures",
            )
        self.radius, self.center = radius, bool(center)
        self._mean = _MeanOverBatch(self._per_example)

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        """The mean over the batch, a scalar in nats.

        Args:
          teacher_outputs: raw logits `[batch, classes]`; receives no gradient.
          student_outputs: raw logits `[batch, classes]`.
          **kwargs: unused.
        """
        return self._mean(teacher_outputs, student_outputs)

    def _per_example(self, teacher_logits, student_logits):
        sphere_geometry.require_room(student_logits.shape[-1], self.center)
        radius = losses.resolve_radius(self.radius, student_logits.shape[-1])
        student, teacher = losses.on_one_sphere(student_logits, teacher_logits, radius, center=self.center)
        return distill_term(student, teacher, self.temperature)

    def get_config(self):
        return {"temperature": self.temperature, "radius": self.radius, "center": self.center}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
