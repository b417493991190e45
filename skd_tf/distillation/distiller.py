"""Distiller: the keras.Model that trains a student from a teacher, on one device or many."""

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation import batches, optimizers
from skd_tf.distillation.batches import NO_TEACHER, forward, given_logits, global_batch, image_of, mean_logit_norm
from skd_tf.distillation.hyperparameters import HyperparametersMixin
from skd_tf.distillation.mean_metrics import MeanMetrics
from skd_tf.distillation.multi_step import MultiStepFunction
from skd_tf.distillation.nonfinite_guard import NonFiniteGuard
from skd_tf.distillation.objective import Objective, class_numbers
from skd_tf.errors import InputError, input_error
from skd_tf.models import deployable as deploy
from skd_tf.models import precision
from skd_tf.models.sync_batch_norm import is_synchronized
from skd_tf.runtime import devices, replicas


@keras.saving.register_keras_serializable("skd_tf")
class Distiller(HyperparametersMixin, keras.Model):
    """Knowledge distillation as a Keras model; its weights are the student's.

    loss = label_weight * label + kd_weight * distill, per example, summed and divided by the global batch.

    Data is (x, y[, sample_weight]) with y integer labels (-1: unlabelled) or one-hot rows. x is what both nets take, or
    {"image": ..., "teacher_logits": ...}, whose logits then take the teacher's place. call() and predict() return raw
    logits; compiled metrics see the logits whose softmax is the probability (projected for a loss on the sphere).

    Args:
      student: keras.Model returning raw logits `[batch, classes]`.
      teacher: the same with any weights; never updated whatever its `trainable` says, and no part of this model's weights,
        saving, export or summary. None where x carries the logits.
      loss: a name in `LOSSES`, a row of it, or a callable of the same shape as its functions.
      temperature: softmax temperature, > 0.
      kd_weight: weight of the distill term, >= 0.
      label_weight: weight of the label term, >= 0; None keeps it at 1 - kd_weight. A loss without a distill term always
        has label weight 1.
      radius: a number > 0, "auto" = 2 * sqrt(classes), "teacher_mean", or "teacher_sample".
      center: whether the sphere is centred (the authors' code) or not (the paper's figure).
      label_smoothing: probability spread evenly over all classes in the label term, in [0, 1).
      loss_settings: numbers for what else the loss takes: {"alpha": 1.0, "beta": 2.0} for "dkd".

    `.temperature`, `.kd_weight`, `.label_weight` and `.radius` are variables: assigning never retraces, and refuses
    what is out of range.

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """

    def __init__(
        self,
        student,
        teacher=None,
        loss="spherical",
        *,
        temperature=4.0,
        kd_weight=0.9,
        label_weight=None,
        radius="auto",
        center=True,
        label_smoothing=0.0,
        loss_settings=None,
        name="distiller",
    ):
        super().__init__(name=name)
        self.student = student
        self.teacher = teacher
        self.objective = Objective(loss, center=center, label_smoothing=label_smoothing, settings=loss_settings)
        self.means = MeanMetrics(self.objective.mean_names)
        self.guard = NonFiniteGuard(self.objective.mean_names)
        self.built = student.built
        # A subclassed model has no output_shape: its classes are counted in the first logits.
        self._num_classes = (getattr(student, "output_shape", None) or [None])[-1]
        self._make_settings(temperature=temperature, kd_weight=kd_weight, label_weight=label_weight, radius=radius)

    def __setattr__(self, name, value):
        if name == "teacher":  # past Keras' and TensorFlow's tracking, so that no file ever holds it
            another = value is not vars(self).get(name)
            object.__setattr__(self, name, value)
            if another and getattr(self, "compiled", False):
                self._make_steps()  # the traced ones hold the teacher before
        else:
            super().__setattr__(name, value)

    def call(self, inputs, training=False):
        return forward(self.student, image_of(inputs), training=bool(training))

    def build(self, input_shape=None):
        if not self.student.built:
            self.student.build(input_shape["image"] if isinstance(input_shape, dict) else input_shape)
        self.built = True

    def compile(self, optimizer="sgd", *, metrics=None, jit_compile="auto", schedules=None, **kwargs):
        """As keras.Model.compile, without a loss: the Distiller has its own.

        Args:
          optimizer: any Keras optimizer; its clipping and its weight decay see the gradient summed over all replicas.
          metrics: Keras metrics of (y, logits on the student's readout), of the images with a label.
          jit_compile: True, False, or "auto": by device (`skd_tf.runtime.devices`). Compiles both forwards, loss and gradient, on
            any number of replicas; the reduction and the optimizer stay outside.
          schedules: {"kd_weight": f, ...}: any of the four variables is set to f(step) before each step. In a graph nobody
            checks what f gives; where label_weight is None it follows kd_weight, which then has to stay within [0, 1].
        """
        if "label_weight" in (schedules or {}) and self._label_follows:
            raise input_error(
                "label_weight follows kd_weight",
                expected="no schedule of its own",
                received="schedules with label_weight, and label_weight=None",
                remedy="Construct Distiller(..., label_weight=NUMBER)",
            )
        if kwargs.get("loss") is not None:
            raise input_error(
                "compile() takes no loss",
                expected="none",
                received="loss=",
                remedy="Construct Distiller(..., loss=...)",
            )
        super().compile(optimizer=optimizer, metrics=metrics, jit_compile=False, **kwargs)
        if precision.computes_in_float16(self.student) and not optimizers.may_skip(self.optimizer):
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        optimizers.take_gradients_as_summed(self.optimizer)
        collective = self.distribute_strategy.num_replicas_in_sync > 1 and is_synchronized(self.student)
        self.xla, self.xla_reason = devices.jit_compile_choice(
            jit_compile, replicas.device_kind(), collective=collective
        )
        self.schedules = dict(schedules or {})
        self._build_optimizer()
        self._make_steps()

    def _build_optimizer(self):
        if self.student.built and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.student.trainable_variables)

    def _make_steps(self):
        step = self._loss_and_gradients
        self._compiled_step = tf.function(step, jit_compile=True, autograph=False) if self.xla else step
        strategy, eager = self.distribute_strategy, self.run_eagerly
        around = {"before": self._assign_schedules, "stopped": self.guard.tripped}
        self._train_steps = MultiStepFunction(strategy, self.train_step, **around, eager=eager)
        self._test_steps = MultiStepFunction(strategy, self.test_step, eager=eager)
        self.train_function = self.test_function = None
        self.traces = 0  # of the training step, on any replica

    def fit(self, x=None, y=None, *, class_weight=None, **kwargs):
        if self._radius_argument in ("teacher_mean", "teacher_sample") and self._radius_is_missing():
            if hasattr(x, "__next__"):
                raise InputError(batches.READ_ONCE)
            self.adapt(x)
        if class_weight and isinstance(x, tf.data.Dataset):
            x, class_weight = batches.weighted_by_class(x, class_weight), None
        return super().fit(x, y, class_weight=class_weight, **kwargs)

    def export(self, filepath, **kwargs):
        """Exports the student alone: stock layers, readout inside."""
        return self.deployable().export(filepath, **kwargs)

    def deployable(self):
        """The student as a stock Keras model whose outputs' softmax are its probabilities."""
        radius, readout = float(self.radius.numpy()), self.objective.row.readout
        if readout == "sphere" and not radius:
            raise InputError(batches.NO_RADIUS)
        return deploy.deployable(self.student, readout, radius=radius, center=self.objective.center)

    def probability_logits(self, logits):
        """Raw logits `[batch, classes]` to those whose softmax is the probability (`skd_tf.losses.readout`)."""
        if tf.executing_eagerly() and self._radius_is_missing():
            raise InputError(batches.NO_RADIUS)
        return losses.readout(logits, self.objective.row.readout, self.radius.value, center=self.objective.center)

    def adapt(self, data):
        """Fixes the radius of "teacher_mean" and "teacher_sample": the mean norm of the teacher's logits.

        Args:
          data: un-augmented training images in fixed order: batches of (x, y) or of x, or an array; 10,000 count at most.
        """
        self.radius.assign(mean_logit_norm(data, self._teacher_logits_of, center=self.objective.center))
        return self

    def get_config(self):
        return (
            self.objective.get_config()
            | self._settings_config()
            | {"student": keras.saving.serialize_keras_object(self.student), "name": self.name}
        )

    def get_compile_config(self):
        """Nothing: a loaded Distiller has no teacher, and is compiled anew."""

    @classmethod
    def from_config(cls, config, custom_objects=None):
        objects = {k: v for k, v in config.items() if isinstance(v, dict)}
        return cls(**config | {k: keras.saving.deserialize_keras_object(v, custom_objects) for k, v in objects.items()})

    @property
    def metrics(self):
        compiled = self._compile_metrics if self.compiled else None
        return [self.means] if compiled is None else [self.means, compiled]

    @property
    def metrics_names(self):
        """In the order in which evaluate() lists them: the compiled ones first."""
        compiled = [metric.name for part in self.metrics[1:] for metric in part.metrics]
        return compiled + sorted(self.means.result().keys() - set(compiled))

    def train_step(self, data):
        """One update, in replica context: the compiled part, one collective, the optimizer."""
        self.traces += 1
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replica_count = tf.distribute.get_replica_context().num_replicas_in_sync
        image, weights = image_of(x), self.student.trainable_variables
        batch = global_batch(image, replica_count, equal_parts=self._train_steps.in_loop)
        moving = [variable for variable in self.student.non_trainable_variables if "float" in variable.dtype]
        before = [tf.identity(variable.value) for variable in moving]
        done = self._compiled_step(image, given_logits(x), y, sample_weight, batch, replica_count)
        sums, counts, gradients, student_logits = done
        local = replicas.unless_empty(image, [*gradients, sums, counts], [v.value for v in moving], before)
        summed = iter(replicas.sum_over_replicas(local))
        gradients = [next(summed) for _ in weights]
        sums, counts = next(summed), next(summed)
        finite = self.guard.check(sums, gradients, self.optimizer, in_loop=self._train_steps.in_loop)
        optimizers.apply_if(finite, self.optimizer, gradients, weights)
        self.means.update_state(*(tf.where(finite, total, tf.zeros_like(total)) for total in (sums, counts)))
        for variable, value in zip(
            moving, before, strict=True
        ):  # averaged every time: saving at any step changes nothing
            variable.assign(tf.where(finite, next(summed) / replica_count, value))
        self._update_compiled_metrics(y, student_logits, sample_weight)
        return self.means.result()

    def test_step(self, data):
        """The loss, where the teacher or its logits are at hand, and the measurements. Changes no weight."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        student_logits = forward(self.student, image_of(x))
        teacher_logits = self._teacher_logits_of(x) if self.objective.needs_teacher else None
        _, sums, counts = self._objective(student_logits, teacher_logits, y, sample_weight)
        self.means.update_state(*replicas.sum_over_replicas([sums, counts]))
        self._update_compiled_metrics(y, student_logits, sample_weight)
        return self.means.result()

    def _loss_and_gradients(self, image, teacher_logits, labels, sample_weight, global_batch, replica_count):
        """What XLA compiles: both forwards, loss, gradient. A collective cannot stand in here."""
        if teacher_logits is None and self.objective.needs_teacher:
            teacher_logits = self._teacher_logits_of(image)
            if teacher_logits is None:
                raise InputError(NO_TEACHER)
        weights = [variable.value for variable in self.student.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            student_logits = forward(self.student, image, training=True)
            per_example, sums, counts = self._objective(student_logits, teacher_logits, labels, sample_weight)
            # By the GLOBAL batch, here and nowhere else: the sum over replicas is then the batch's mean.
            whole = tf.cast(global_batch, per_example.dtype)
            loss = tf.reduce_sum(per_example) / whole
            share = tf.cast(tf.shape(per_example)[0], per_example.dtype) / whole  # not 1 / replicas: some may be empty
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
        """The given logits or the teacher's own, without a gradient; None where there are neither."""
        logits = given_logits(x)
        if logits is None and self.teacher is not None:
            logits = tf.stop_gradient(forward(self.teacher, image_of(x)))
        return logits

    def _update_compiled_metrics(self, y, student_logits, sample_weight):
        if self._compile_metrics is not None:
            labelled = class_numbers(y) >= 0
            parts = y, self.probability_logits(student_logits), sample_weight
            self._compile_metrics.update_state(*(None if part is None else part[labelled] for part in parts))

    def run_steps(self, iterator, steps):
        """Makes `steps` updates with global batches from a (distributed) iterator; returns the seconds waited for them."""
        return self._train_steps(iterator, steps)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self._train_steps.keras_function(self.steps_per_execution, self.get_metrics_result)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._test_steps.keras_function(self.steps_per_execution, self.get_metrics_result)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Makes from a batch what no replica's graph can make: a student's weights, the metrics'; asks for the radius.

        Keras would average a batch over replicas to learn its shape, which uneven parts do not survive.
        """
        metrics = None if self._compile_metrics is None or self._compile_metrics.built else self._compile_metrics
        unknown = self._num_classes is None
        if metrics is not None or (unknown and (not self.optimizer.built or self._radius_is_missing())):
            x, y = batches.one_part(self.distribute_strategy, iterator, data_batch, again=unknown)
            with self.distribute_strategy.scope():
                if unknown:
                    self._learn_classes(self.student(image_of(x)[:1]).shape[-1])
                if metrics is not None:
                    metrics.build(y, tf.zeros([len(y), self._num_classes]))
        if self._radius_is_missing():
            raise InputError(batches.NO_RADIUS)

    def _assign_schedules(self):
        for name, schedule in self.schedules.items():
            getattr(self, name).assign(schedule(self.optimizer.iterations))

    def _learn_classes(self, num_classes):
        """What a subclassed student tells with its first logits only: it is built, and "auto" has its number."""
        self._num_classes, self.built = num_classes, True
        self._build_optimizer()
        if not float(self.radius.numpy()):
            self._fix_radius()
