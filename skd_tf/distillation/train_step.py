"""StepModel: one training or test step of student and teacher, in replica context."""

from typing import Any

import keras
import tensorflow as tf

from skd_tf.distillation import batches, labels, optimizers
from skd_tf.distillation.batches import forward, given_logits
from skd_tf.distillation.inputs import image_of
from skd_tf.distillation.objective import class_numbers
from skd_tf.losses.terms import Tensor
from skd_tf.runtime import compat, replicas


class StepModel(keras.Model):
    """The step of a `Distiller`, which has the networks, the objective and the hyperparameters."""

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One update in replica context: the part that XLA compiles, one collective, the optimizer.

        Args:
          data: this replica's part of a batch, (x, y) or (x, y, sample_weight).

        Returns:
          {name: mean since the start of the epoch}.
        """
        self.traces += 1
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = labels.as_numbers(y)
        replica_count = tf.distribute.get_replica_context().num_replicas_in_sync
        image, weights = image_of(x), self.student.trainable_variables
        batch_size = batches.global_batch_size(image, replica_count, equal_parts=self._train_steps.in_loop)
        moving = [variable for variable in self.student.non_trainable_variables if "float" in variable.dtype]
        before = [tf.identity(variable.value) for variable in moving]
        with compat.assigned_variables(self.student, moving) as is_assigned:
            sums, counts, gradients, student_logits = self._compiled_step(
                image, given_logits(x), y, sample_weight, batch_size, replica_count
            )
        # Frozen weights are not assigned by the forward pass. Averaging them would cost time, and would round them.
        assigned = is_assigned()
        moving, before = ([part for part, yes in zip(p, assigned, strict=True) if yes] for p in (moving, before))
        after = [variable.value for variable in moving]
        local = replicas.unless_empty(image, [*gradients, sums, counts], after, before)
        summed = iter(replicas.sum_over_replicas(local))
        gradients = [next(summed) for _ in weights]
        sums, counts = next(summed), next(summed)
        finite = self.guard.check(sums, gradients, self.optimizer, in_loop=self._train_steps.in_loop)
        optimizers.apply_if(finite, self.optimizer, gradients, weights)
        self.means.update_state(*(tf.where(finite, total, tf.zeros_like(total)) for total in (sums, counts)))
        # The moving statistics are averaged over replicas at every step, so saving after any step changes nothing.
        for variable, value in zip(moving, before, strict=True):
            mean = next(summed) / replica_count if replica_count > 1 else next(summed)
            variable.assign(tf.where(finite, mean, value))
        self._update_compiled_metrics(y, student_logits, sample_weight)
        return self.means.result()

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Measures one batch in replica context; changes no weight.

        Args:
          data: this replica's part of a batch, (x, y) or (x, y, sample_weight).

        Returns:
          {name: mean since the start of the evaluation}; without a teacher or its logits, the loss is not among them.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = labels.as_numbers(y)
        student_logits = forward(self.student, image_of(x))
        teacher_logits = self._teacher_logits_of(x) if self.objective.needs_teacher else None
        _, sums, counts = self._objective(student_logits, teacher_logits, y, sample_weight)
        self.means.update_state(*replicas.sum_over_replicas([sums, counts]))
        self._update_compiled_metrics(y, student_logits, sample_weight)
        return self.means.result()

    def _loss_and_gradients(self, image, teacher_logits, labels, sample_weight, batch_size, replica_count):
        """What XLA compiles: both forward passes, loss and gradient. XLA cannot compile a collective."""
        if teacher_logits is None and self.objective.needs_teacher:
            teacher_logits = self._teacher_logits_of(image)
            if teacher_logits is None:
                raise batches.no_teacher()
        weights = [variable.value for variable in self.student.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            student_logits = forward(self.student, image, training=True)
            per_example, sums, counts = self._objective(student_logits, teacher_logits, labels, sample_weight)
            # The only division by the GLOBAL batch size: the sum over replicas is then the mean over the batch.
            batch_size = tf.cast(batch_size, per_example.dtype)
            loss = tf.reduce_sum(per_example) / batch_size
            # This replica's part of the batch. It is not 1 / replicas: replicas may be empty.
            share = tf.cast(tf.shape(per_example)[0], per_example.dtype) / batch_size
            for regularizer in self.student.losses:
                loss += tf.cast(regularizer, loss.dtype) * share
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return sums, counts, [tf.convert_to_tensor(gradient) for gradient in gradients], student_logits

    def _objective(self, student_logits, teacher_logits, labels, sample_weight):
        radius = self.radius.value
        return self.objective(
            student_logits,
            teacher_logits,
            labels,
            sample_weight,
            temperature=self.temperature.value,
            radius="teacher_sample" if self._radius_argument == "teacher_sample" else radius,
            readout_radius=radius,
            kd_weight=self.kd_weight.value,
            label_weight=self.label_weight.value,
        )

    def _teacher_logits_of(self, x):
        """The logits in x, or else those of the teacher, without a gradient; None if there are neither."""
        logits = given_logits(x)
        if logits is None and self.teacher is not None:
            logits = tf.stop_gradient(self._teacher_forward(image_of(x)))
        return logits

    def _update_compiled_metrics(self, y, student_logits, sample_weight):
        metrics = compat.compiled_metrics(self)
        if metrics is not None:
            labelled = class_numbers(y) >= 0
            parts = y, self.probability_logits(student_logits), sample_weight
            metrics.update_state(*(None if part is None else part[labelled] for part in parts))
