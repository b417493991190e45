"""StepModel: one training or test step of student and teacher, in replica context."""

import contextlib
import types
from typing import Any

import keras
import tensorflow as tf

from skd_tf.distillation import batches, features, labels, optimizers, update
from skd_tf.distillation.batches import forward, given_logits
from skd_tf.distillation.inputs import image_of
from skd_tf.distillation.objective import class_numbers
from skd_tf.losses.terms import Tensor
from skd_tf.runtime import compat, replicas


class StepModel(keras.Model):
    """The step of a `Distiller`, which has the networks, the objective and the hyperparameters."""

    features: Any = None  # a `Features`
    _rate_factors: tuple[float, ...] = ()  # of the learning rate, one per trained variable; none: 1 each

    @property
    def trained_variables(self) -> list[keras.Variable]:
        """What the optimizer updates: the student's weights, and those of the projectors of its features."""
        return self.student.trainable_variables + ([] if self.features is None else self.features.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One update in replica context. XLA compiles what is before the sum over replicas, and what is after it.

        On one replica nothing is between the two, and the whole step is one compiled function.

        Args:
          data: this replica's part of a batch, (x, y) or (x, y, sample_weight).

        Returns:
          {name: mean since the start of the epoch}.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = labels.as_numbers(y)
        replica_count = tf.distribute.get_replica_context().num_replicas_in_sync
        batch = image_of(x), given_logits(x), y, sample_weight
        batch_size = batches.global_batch_size(batch[0], replica_count, equal_parts=self._train_steps.in_loop)
        if replica_count == 1:
            finite, logits = self._compiled(self._whole_step)(batch, batch_size)
        else:
            local, before, logits = self._compiled(self._compute)(batch, batch_size)
            summed = replicas.sum_over_replicas(tf.nest.flatten(local))
            summed = tf.nest.pack_sequence_as(local, summed)
            finite = self._compiled(self._update)(summed, before, batch, logits)
        if not self._compiles_metrics:
            self._update_compiled_metrics(finite, self._measured(batch, logits))
        return self.means.result()

    def _whole_step(self, batch, batch_size):
        local, before, logits = self._compute(batch, batch_size)
        return self._update(local, before, batch, logits), logits

    def _compute(self, batch, batch_size):
        """Both forward passes, loss and gradient: ({name: what to sum over replicas}, statistics before, logits)."""
        self.traces += 1
        self._assign_schedules()
        image, (student, weights) = batch[0], (self.student, self.trained_variables)
        variables = student.non_trainable_variables
        before = [tf.identity(variable.value) for variable in variables]
        own_seeds = compat.own_seeds(student, replicas.this_replica())
        with compat.assigned_variables(student, variables) as is_assigned, own_seeds:
            sums, counts, gradients, student_logits = self._in_pieces(batch, batch_size)
        # Frozen weights are not assigned by the forward pass. Averaging them would cost time, and would round them.
        assigned = [pair for pair, yes in zip(zip(variables, before, strict=True), is_assigned(), strict=True) if yes]
        # Statistics are averaged over replicas. Others, such as the state of random seeds, are equal on all of them.
        statistics, others = ([p for p in assigned if ("float" in p[0].dtype) == yes] for yes in (True, False))
        # Keras would take a list among the attributes for variables of the Distiller's own.
        self._moved = types.SimpleNamespace(statistics=[v for v, _ in statistics], others=[v for v, _ in others])
        before, others_before = ([value for _, value in part] for part in (statistics, others))
        after = [variable.value for variable in self._moved.statistics]
        local = iter(replicas.unless_empty(image, [*gradients, sums, counts], after, before))
        gradients, sums, counts = [next(local) for _ in weights], next(local), next(local)
        parts = {"gradients": replicas.pack(gradients, self._largest), "statistics": replicas.pack(local)}
        return parts | {"sums": sums, "counts": counts}, (replicas.pack(before), others_before), student_logits

    def _update(self, summed, before, batch, student_logits):
        """Optimizer, means, moving statistics and metrics from the sums over replicas; whether the step was finite."""
        replica_count = tf.distribute.get_replica_context().num_replicas_in_sync
        weights, optimizer = self.trained_variables, optimizers.updating(self.optimizer)
        statistics, in_loop = summed["statistics"], self._train_steps.in_loop
        totals = summed["sums"], summed["counts"]
        gradients = self.objective.scaled(summed["gradients"], *totals, self.radius.value)
        if replica_count > 1:
            statistics = [vector / replica_count for vector in statistics]
        measured = self._measured(batch, student_logits) if self._compiles_metrics else None
        with compat.own_copies(self._stepped_variables(), optimizer):
            finite = self.guard.check(summed["sums"], gradients, statistics, self.optimizer, in_loop=in_loop)
            options = {"flat": not self.xla, "largest": self._largest, "factors": self._rate_factors}
            update.apply(self.optimizer, gradients, weights, finite, **options)
            keep = (lambda new, _: new) if finite is True else (lambda new, old: tf.where(finite, new, old))
            self.means.update_state(*(keep(summed[name], tf.zeros_like(summed[name])) for name in ("sums", "counts")))
            # The moving statistics are averaged over replicas at every step, so saving after any step changes nothing.
            if replica_count > 1 or finite is not True:
                new = [keep(*pair) for pair in zip(statistics, before[0], strict=True)]
                variables = self._moved.statistics
                for variable, value in zip(variables, replicas.unpack(new, variables), strict=True):
                    variable.assign(value)
            if finite is not True:
                for variable, value in zip(self._moved.others, before[1], strict=True):
                    variable.assign(keep(variable.value, value))
            self._update_compiled_metrics(finite, measured)
        return tf.convert_to_tensor(finite)

    @property
    def _largest(self):
        """Of `replicas.pack`. A sum over replicas wants one vector, and XLA copies nothing that it can fuse."""
        alone = tf.distribute.get_replica_context().num_replicas_in_sync == 1
        return replicas.LARGE if alone and not self.xla else None

    def _stepped_variables(self):
        """What a step may assign."""
        metrics = compat.compiled_metrics(self)
        own = [*self.student.variables, *self.optimizer.variables, *self.means.variables, self.guard.variable]
        own += [] if self.features is None else self.features.trainable_variables
        return own + (list(metrics.variables) if metrics is not None else [])

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Measures one batch in replica context; changes no weight.

        Args:
          data: this replica's part of a batch, (x, y) or (x, y, sample_weight).

        Returns:
          {name: mean since the start of the evaluation}; without a teacher or its logits, the loss is not among them.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = labels.as_numbers(y)
        with self._recorded("student") as mine:
            student_logits = forward(self.student, image_of(x))
        with self._recorded("teacher") as its:
            teacher_logits = self._teacher_logits_of(x) if self.objective.needs_teacher else None
        feature = None if teacher_logits is None else self._feature_term(mine, its, student_logits)
        _, sums, counts = self._objective(student_logits, teacher_logits, y, sample_weight, feature)
        sums, _ = self._with_penalty(sums, counts)
        self.means.update_state(*replicas.sum_over_replicas([sums, counts]))
        self._update_compiled_metrics(True, self._measured((None, None, y, sample_weight), student_logits))
        return self.means.result()

    def _in_pieces(self, batch, batch_size):
        """`_loss_and_gradients`, computed in `micro_batches` pieces one after the other, which need less memory."""
        pieces = self.micro_batches
        if pieces == 1:
            return self._loss_and_gradients(*batch, batch_size)
        size = batches.piece_size(batch[0].shape[0], pieces)
        full, rest = divmod(batch[0].shape[0], size)
        stacked = [None if p is None else tf.reshape(p[: full * size], [full, size, *p.shape[1:]]) for p in batch]
        weights = self.trained_variables
        dtype = tf.float64 if any(weight.dtype == "float64" for weight in weights) else tf.float32

        def added(totals, parts):
            return [total + tf.cast(part, total.dtype) for total, part in zip(totals, parts, strict=True)]

        def piece(i, totals, logits):
            part = [None if p is None else p[i] for p in stacked]
            sums, counts, gradients, student_logits = self._loss_and_gradients(*part, batch_size)
            return i + 1, added(totals, [sums, counts, *gradients]), logits.write(i, tf.cast(student_logits, dtype))

        zeros = [tf.zeros(len(self.means.names), dtype)] * 2 + [tf.zeros(w.shape, w.dtype) for w in weights]
        start = tf.constant(0), zeros, tf.TensorArray(dtype, full, element_shape=[size, self._num_classes])
        _, totals, logits = tf.while_loop(lambda i, *_: i < full, piece, start, parallel_iterations=1)
        logits = logits.concat()
        if rest:
            part = [None if p is None else p[full * size :] for p in batch]
            sums, counts, gradients, last = self._loss_and_gradients(*part, batch_size)
            totals, logits = added(totals, [sums, counts, *gradients]), tf.concat([logits, tf.cast(last, dtype)], 0)
        return totals[0], totals[1], totals[2:], logits

    def _loss_and_gradients(self, image, teacher_logits, labels, sample_weight, batch_size):
        """(sums, counts, gradients, the student's logits) of this replica's part of a batch."""
        with self._recorded("teacher") as its:
            if teacher_logits is None and self.objective.needs_teacher:
                teacher_logits = self._teacher_logits_of(image)
                if teacher_logits is None:
                    raise batches.no_teacher()
        weights = [variable.value for variable in self.trained_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            with self._recorded("student") as mine:
                student_logits = forward(self.student, image, training=True)
            feature = self._feature_term(mine, its, student_logits)
            per_example, sums, counts = self._objective(student_logits, teacher_logits, labels, sample_weight, feature)
            # The only division by the GLOBAL batch size: the sum over replicas is then the mean over the batch.
            batch_size = tf.cast(batch_size, per_example.dtype)
            loss = tf.reduce_sum(per_example) / batch_size
            # This replica's part of the batch. It is not 1 / replicas: replicas may be empty.
            share = tf.cast(tf.shape(per_example)[0], per_example.dtype) / batch_size
            sums, penalty = self._with_penalty(sums, counts)
            if penalty is not None:
                loss += tf.cast(penalty, loss.dtype) * share
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        for gradient, weight in zip(gradients, weights, strict=True):
            gradient.set_shape(weight.shape)  # that of a broadcast product is lost if the batch size is not known
        return sums, counts, gradients, student_logits

    def _with_penalty(self, sums, counts):
        """(sums whose "loss" includes the student's regularizers and add_loss, as in Keras; these added up, or None)."""
        if not self.student.losses:
            return sums, None
        penalty = tf.add_n([tf.cast(part, sums.dtype) for part in self.student.losses])
        is_loss = tf.constant([name == "loss" for name in self.means.names])
        return sums + tf.where(is_loss, penalty * counts, 0), penalty  # "loss" is a mean over images

    def _recorded(self, who):
        """A context in which the features that are compared are recorded; empty without any."""
        return contextlib.nullcontext(()) if self.features is None else self.features.recorded(who)

    def _feature_term(self, mine, its, logits):
        """The feature term of each image, from what was recorded; None without features."""
        if self.features is None:
            return None
        if not its or any(part is None for part in its):
            raise features.not_live()
        return self.features.term(mine, its, tf.shape(logits)[0])

    def _objective(self, student_logits, teacher_logits, labels, sample_weight, feature):
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
            feature=feature,
            feature_weight=0.0 if feature is None else self.feature_weight.value,
        )

    def _teacher_logits_of(self, x):
        """The logits in x, or else those of the teacher, without a gradient; None if there are neither."""
        logits = given_logits(x)
        if logits is None and self.teacher is not None:
            logits = tf.stop_gradient(self._teacher_forward(image_of(x)))
        return logits

    def _measured(self, batch, student_logits):
        """What the compiled metrics are of: the labelled examples' (labels, logits, weights). None without metrics."""
        if compat.compiled_metrics(self) is None:
            return None
        _, _, y, sample_weight = batch
        labelled = class_numbers(y) >= 0
        parts = y, self.probability_logits(student_logits), sample_weight
        return [None if part is None else part[labelled] for part in parts]

    def _update_compiled_metrics(self, finite, measured):
        metrics = compat.compiled_metrics(self)
        if measured is not None:
            # Steps that loss scaling skips count: its forward pass was an ordinary one.
            finite = finite if self._train_steps.in_loop and not optimizers.may_skip(self.optimizer) else True
            with update.undone_unless(finite, metrics.variables):
                metrics.update_state(*measured)
