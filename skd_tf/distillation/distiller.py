"""Distiller: the keras.Model that trains a student from a teacher, on one device or many."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.distillation import batches, features, fit_display, inputs, optimizers
from skd_tf.distillation import layer_rates as rates
from skd_tf.distillation.batches import forward
from skd_tf.distillation.compilation import CompilationMixin
from skd_tf.distillation.guarded_models import GuardedModelsMixin
from skd_tf.distillation.hyperparameters import MEASURED, HyperparametersMixin, ScalarVariable, restoring, whole_number
from skd_tf.distillation.inputs import image_of
from skd_tf.distillation.loss_function import LossLike
from skd_tf.distillation.mean_metrics import MeanMetrics
from skd_tf.distillation.multi_step import MultiStepFunction
from skd_tf.distillation.nonfinite_guard import NonFiniteGuard
from skd_tf.distillation.objective import Objective
from skd_tf.distillation.train_step import StepModel
from skd_tf.errors import input_error
from skd_tf.losses.terms import Tensor
from skd_tf.models import deployable as deploy
from skd_tf.models import frozen_layers, interface, precision
from skd_tf.runtime import compat, keras_state
from skd_tf.serving import live_check


@keras.saving.register_keras_serializable("skd_tf")
class Distiller(GuardedModelsMixin, HyperparametersMixin, CompilationMixin, StepModel):
    """Trains a student network from a teacher network: knowledge distillation as a Keras model.

        loss = label_weight * label + kd_weight * distill

    Both terms are per example. The loss of a batch is the sum over its examples, divided by the global batch size. The
    student's regularizers and `add_loss` are added to it. The default loss is "kd". With the logits z_s of the student and
    z_t of the teacher, labels y and temperature T, its terms are:

        label   = CE( softmax(z_s), y )
        distill = T^2 * KL( softmax(z_t / T) || softmax(z_s / T) )

    With "spherical", Spherical Knowledge Distillation, both take project(z; R) in place of z, on a sphere of radius R:

        project(z; R) = R * (z - mean(z)) / ||z - mean(z)||

    Compile it without a loss, then fit, evaluate, predict and save it like any Keras model. `export` writes the
    student. The data is `(x, y)` or `(x, y, sample_weight)`, in arrays or a tf.data.Dataset:

        x               the input of both networks; or {"image": input, "teacher_logits": `[batch, classes]`}, whose
                        logits are used instead of the teacher's; "image" may also be the name of the student's input.
                        Of several teachers `[batch, teachers, classes]`
        y               class numbers, -1 for an image without a label; or one-hot or soft `[batch, classes]`
        sample_weight   `[batch]`, finite and >= 0; multiplies the loss of each example

    The output of the model, and of `predict`, is the student's raw logits. Compiled metrics get the logits whose
    softmax is the student's probability: the raw logits, or with "spherical" the projected ones.

    The weights are those of the student and the four scalars `.temperature`, `.kd_weight`, `.label_weight` and
    `.radius`. Each of them has `.assign(number)`, which checks the number and does not retrace.

    The teacher is never updated, even if it is trainable: a student that shares weights with it is refused, unless their
    layers are frozen. It is not part of the weights, of saved files or of the summary; set `.teacher` after loading. Of
    several teachers, the target is the weighted mean of their softmaxes at T, with "spherical" of the softmaxes of their
    projected logits.

    Args:
      student: network that returns raw logits `[batch, classes]`, without a softmax. The logits may be the only entry of
        a dict or list, the entry "logits" of a dict, or `[batch, 1, 1, classes]`.
      teacher: the same for the teacher, or a keras.layers.TFSMLayer; or a list of several teachers. A softmax at its
        end is undone, with a warning. None if x contains its logits, or if the loss needs no teacher.
      loss: a name in `skd_tf.LOSSES`; a `skd_tf.losses.Loss`; or a function
        `(student_logits, teacher_logits, labels, ...)` that returns {"label": `[batch]`, "distill": `[batch]`}. It names
        the settings that it takes: any of temperature, radius, center, teacher_weights, and its own.
      temperature: softmax temperature T > 0 of the distill term.
      kd_weight: weight of the distill term, >= 0; at most 1 if `label_weight` is None.
      label_weight: weight of the label term, >= 0. None: 1 - kd_weight, also after kd_weight changes. A loss without a
        distill term always has label weight 1.
      radius: norm R that the logits are scaled to, if the loss uses one: a number > 0; "auto" = 2 * sqrt(classes), the
        authors' constant; "teacher_mean", the mean norm of the teacher's logits, measured once by `adapt` or `fit`; or
        "teacher_sample", each image's own teacher norm.
      center: whether to subtract the mean over classes before the norm, as in the authors' code. The paper's figure
        does not.
      label_smoothing: probability spread evenly over all classes in the label term, in [0, 1).
      gradient_scale: "student_norm" multiplies the gradient by the mean norm of the student's logits over the global
        batch, divided by the radius; with "spherical" only. It also scales the student's own regularizers. "none": by 1.
      loss_settings: {name: number} for the loss function's own arguments, such as {"beta": 2.0} or "beta=2" for "dkd".
      teacher_weights: a number > 0 for each of several teachers, or as in "2,1"; None: all are equal. Losses that take
        several teachers have the argument teacher_weights: "spherical", "kd", "logit_standardization", "dkd" and "dist".
      feature_pairs: (teacher's layer, student's layer), each by its `name`, or as in "stage3_relu:stage2_relu": adds
        feature_weight * feature to the loss, as `skd_tf.distillation.features.Features` defines it. Its projectors are
        trained, saved and loaded with the Distiller, and are in no export. The teacher must be live. A layer without a
        name of its own may also be named by its number within the model, as --list_layers does.
      feature_weight: weight of the feature term, >= 0; `.feature_weight` is a variable like the others.
      feature_loss: "mse" or "cosine".
      feature_seed: of the projectors' initial weights.
      name: of the model.

    Raises:
      InputError: an unknown loss, a setting that the loss does not have, a number out of range, a layer that does not
        exist, a student or teacher that is not a model with raw logits as its output, common weights of the two, or
        several teachers for a loss that takes one.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import skd_tf
      >>> student = skd_tf.networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=10, seed=0)
      >>> teacher = skd_tf.networks.build("cnn_4", input_shape=(8, 8, 1), num_classes=10, seed=1)
      >>> distiller = skd_tf.Distiller(student, teacher, temperature=4.0, kd_weight=0.9)
      >>> distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9))
      >>> random = np.random.default_rng(0)
      >>> images, labels = random.integers(0, 256, [64, 8, 8, 1]), random.integers(0, 10, 64)
      >>> history = distiller.fit(images, labels, batch_size=16, epochs=2, verbose=0)
      >>> sorted(history.history)[:4]
      ['accuracy', 'agreement', 'distill_loss', 'label_loss']
      >>> distiller.predict(images, verbose=0).shape
      (64, 10)

      Another temperature, from the next step on:

      >>> distiller.temperature = 2.0

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """

    optimizer: keras.optimizers.Optimizer
    micro_batches = 1

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Sequence[keras.Model] | None = None,
        loss: LossLike = "kd",
        *,
        temperature: float = 4.0,
        kd_weight: float = 0.9,
        label_weight: float | None = None,
        radius: float | str = "auto",
        center: bool = True,
        label_smoothing: float = 0.0,
        gradient_scale: str = "none",
        loss_settings: str | dict[str, float] | None = None,
        teacher_weights: str | Sequence[float] | None = None,
        feature_pairs: str | Sequence[tuple[str, str]] = (),
        feature_weight: float = 1.0,
        feature_loss: str = "mse",
        feature_seed: int = 0,
        name: str = "distiller",
    ):
        keras_state.require()
        # No cast to a global dtype policy: it would round the images before the student's first layer.
        super().__init__(name=name, autocast=False)
        self._num_classes = self._checked_student(student)
        self.student = student
        self.features = features.of_arguments(student, feature_pairs, feature_loss, feature_weight, feature_seed)
        self.objective = Objective(
            loss,
            center=center,
            label_smoothing=label_smoothing,
            gradient_scale=gradient_scale,
            settings=loss_settings,
            teacher_weights=teacher_weights,
            features=self.features is not None,
        )
        self.teacher = teacher
        self.means = MeanMetrics(self.objective.mean_names)
        self.guard = NonFiniteGuard(self.objective.mean_names)
        self.built = student.built
        self._make_hyperparameters(
            temperature=temperature, kd_weight=kd_weight, label_weight=label_weight, radius=radius
        )
        if self.features is not None:
            self.feature_weight = ScalarVariable("feature_weight", feature_weight)

    def __setattr__(self, name, value):
        if name == "teacher":  # bypasses the tracking of Keras and TensorFlow, so that no file contains the teacher
            before = vars(self).get(name)
            is_new = value is not before
            if is_new:
                teachers = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
                probabilities = self._check_teachers(teachers)
                # A calibrated student teaches what it was trained to say.
                raw = tuple(deploy.without_temperature(teacher)[0] for teacher in teachers)
                value = raw if len(raw) > 1 else next(iter(raw), None)
            if is_new and self.features is not None:
                with self.distribute_strategy.scope():
                    self.features.connect(self.student, value)
            if is_new:  # a teacher that is refused above changes nothing
                self._teacher_inspected, self._teacher_probabilities = False, probabilities
            object.__setattr__(self, name, value)
            if is_new and getattr(self, "compiled", False):
                self._build_optimizer()
                self._make_step_functions()  # the traced ones contain the previous teacher
            if is_new and before is not None and getattr(self, "_radius_argument", "auto") in MEASURED:
                with restoring():
                    self.radius.assign(0.0)  # it was the norm of the previous teacher's logits
        elif name == "student" and vars(self).get(name, value) is not value:
            raise input_error(
                "The student cannot change in a Distiller",
                expected="Distiller(student, teacher)",
                received="distiller.student = another model",
                remedy="Make another Distiller",
            )
        elif not self._assigned(name, value):
            super().__setattr__(name, value)

    def __dir__(self):
        """Without the teacher: Keras saves to, and loads from, every attribute that is listed here (seen in 3.15)."""
        return [name for name in super().__dir__() if name not in ("teacher", "teachers")]

    def call(self, inputs: Any, training: bool = False) -> Tensor:
        """The student's raw logits, `[batch, classes]` float32 or float64.

        Args:
          inputs: images, or {"image": images, ...}.
          training: whether BatchNorm and dropout run in training mode.
        """
        return forward(self.student, image_of(inputs), training=bool(training))

    def build(self, input_shape: Any = None) -> None:
        """Builds the student, if it is not built; called by Keras."""
        if not self.student.built:
            self.student.build(image_of(input_shape) if isinstance(input_shape, dict) else input_shape)
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "sgd",
        *,
        metrics: list | None = None,
        jit_compile: str | bool = "auto",
        schedules: dict[str, Callable[[Tensor], Tensor]] | None = None,
        micro_batches: int = 1,
        layer_rates: str | Mapping[str, float] = "",
        **kwargs: Any,
    ) -> None:
        """As keras.Model.compile, but without a loss: the Distiller has its own.

        Args:
          optimizer: any Keras optimizer. Its clipping and weight decay get the gradient summed over all replicas.
          metrics: Keras metrics of (y, logits), for the images that have a label. The softmax of these logits is the
            student's probability.
          jit_compile: True, False, or "auto": True on a GPU, False on a CPU, with a synchronized BatchNorm, or with a
            layer that XLA cannot compile. On one replica, XLA compiles the whole step. On several, it compiles what is
            before the sum over replicas, and what is after it.
          schedules: {"kd_weight": f, ...} sets temperature, kd_weight, label_weight, radius or, with feature_pairs,
            feature_weight to f(step) before each step. These values are not checked. If `label_weight` is None, it
            follows kd_weight, which must then stay within [0, 1].
          micro_batches: number of pieces that each replica computes its part of a batch in, one after the other; one
            update follows. More pieces need less memory, and change the result by rounding only. But BatchNorm takes
            its statistics over a piece, and Dropout and a loss that compares images draw or compare within a piece.
          layer_rates: {regular expression: factor >= 0}, or as in "^logits: 10, ^stage1_: 0.1": factors of the learning
            rate, and of a weight decay that is decoupled from the gradient, for the student's layers whose names contain
            a match. The first match counts; other layers have 1. Names are those of `feature_pairs`.
          **kwargs: the other arguments of keras.Model.compile. With run_eagerly=True nothing is compiled.

        Raises:
          InputError: `loss` is given; `schedules` names another scalar, or holds something that is no function;
            `label_weight` has a schedule although it follows kd_weight; `jit_compile` is True with a synchronized
            BatchNorm, or with a layer that XLA cannot compile; `micro_batches` is no whole number >= 1; an expression in
            `layer_rates` matches no trained layer; or the optimizer has been built for another model.
        """
        schedules = self._checked_schedules(schedules or {})
        for name, arguments in (("loss", "loss=..."), ("loss_weights", "kd_weight=..., label_weight=...")):
            if kwargs.get(name) is not None:
                raise input_error(
                    f"compile() takes no {name}",
                    expected="none",
                    received=f"{name}={kwargs[name]}",
                    remedy=f"Construct Distiller(..., {arguments})",
                )
        pieces = whole_number("micro_batches", micro_batches, low=1, remedy="Use 1 for whole batches")
        if kwargs.get("steps_per_execution") is not None:
            whole_number("steps_per_execution", kwargs["steps_per_execution"], low=1, remedy="Leave it out")
        if type(self).compute_loss is not keras.Model.compute_loss:
            raise input_error(
                "A Distiller does not call compute_loss",
                expected="a subclass without it",
                received=f"{type(self).__name__}.compute_loss",
                remedy="Give the function as Distiller(..., loss=function), or override train_step",
            )
        if optimizer is None:
            remedy = "Try keras.optimizers.SGD(0.1, momentum=0.9)"
            raise input_error("No optimizer", expected="an optimizer", received="optimizer=None", remedy=remedy)
        batches.check_metric_names([metrics, kwargs.get("weighted_metrics")], self.means.names)
        super().compile(optimizer=optimizer, metrics=metrics, jit_compile=False, **kwargs)
        scales = kwargs.get("auto_scale_loss", True) and precision.computes_in_float16(self.student)
        if scales and not optimizers.may_skip(self.optimizer):
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        self._jit_compile = jit_compile
        self.schedules = schedules
        self.micro_batches = pieces
        for name, value in (("_layer_rates", rates.as_rates(layer_rates)), ("_rate_layers", None)):
            object.__setattr__(self, name, value)  # Keras would track a dict
        self._build_optimizer()
        self._make_step_functions()

    def _build_optimizer(self):
        waits = self.features is not None and not self.features.projectors  # for a teacher
        if self.student.built and not waits:
            if self._rate_layers is None:  # their names are read once, when the student is built
                object.__setattr__(self, "_rate_layers", rates.layers_of(self.student, self._layer_rates))
            factors = rates.factors_of(self.student, self._rate_layers)
            projectors = len(self.trained_variables) - len(self.student.trainable_variables)
            object.__setattr__(self, "_rate_factors", factors + (1.0,) * projectors if factors else ())
            optimizers.require_own(self.optimizer, self.trained_variables)
        if self.student.built and not self.optimizer.built and not waits:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trained_variables)

    def _make_step_functions(self):
        strategy, eager = self.distribute_strategy, self.run_eagerly
        self._choose_xla()
        first = self._try_first if self.xla else None
        own = [getattr(type(self), name) is not getattr(StepModel, name) for name in ("train_step", "test_step")]
        self._train_steps = MultiStepFunction(strategy, self.train_step, first=first, eager=eager, returns=own[0])
        self._test_steps = MultiStepFunction(strategy, self.test_step, eager=eager, returns=own[1])
        self.train_function = self.test_function = None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        *,
        class_weight: dict[int, float] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As keras.Model.fit. First measures a radius of "teacher_mean" or "teacher_sample" on x, unless `adapt` did.

        Args:
          x: see the class; an array, a dict of arrays, a tf.data.Dataset of batches, or a generator of batches.
          y: labels; None if x contains them.
          batch_size, epochs, verbose, callbacks: as for keras.Model.fit.
          class_weight: {class: weight} of the loss. Classes not listed and unlabelled images have weight 1.
          **kwargs: the other arguments of keras.Model.fit.

        Returns:
          The history: `.history` is {name: [value per epoch]}.

        Raises:
          InputError: there is no teacher; the structure of x is another one; a label does not exist; the radius must be
            measured on a generator; a sample weight is not a finite number >= 0; or `class_weight` has a class that does
            not exist, or is given with batches that have sample weights.
        """
        x, y, kwargs = self._checked_training(x, y, kwargs)
        if class_weight:
            batches.check_class_weight(class_weight, self._num_classes)
        if self._radius_argument in MEASURED and self._radius_is_missing():
            if hasattr(x, "__next__"):
                raise batches.readable_once()
            with self._clear_label_errors():
                self.adapt(x)
        if class_weight:
            x, y, kwargs = batches.with_class_weight(x, y, class_weight, kwargs)
        callbacks = fit_display.with_display(callbacks, self.means.names, verbose)
        with self._clear_label_errors(), compat.untuned_device_iterators():
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """As keras.Model.train_on_batch, with `class_weight` as for `fit`."""
        if class_weight:
            x, y, sample_weight = self._checked_data(x, y, sample_weight)
            batches.check_class_weight(class_weight, self._num_classes)
            given = batches.with_class_weight(x, y, class_weight, {"sample_weight": sample_weight})[2]
            sample_weight = given["sample_weight"]
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As keras.Model.evaluate.

        Args:
          x, y, batch_size, verbose, sample_weight: as for `fit`.
          *args, **kwargs: the other arguments of keras.Model.evaluate.

        Raises:
          InputError: as for `fit`.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # otherwise called by fit, which has checked the data
            x, y, sample_weight = self._checked_data(x, y, sample_weight)
            self._each_test_batch = not inputs.are_checked_whole(x, self._num_classes)
        with self._clear_label_errors(), compat.untuned_device_iterators():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, *args, **kwargs)

    def export(self, filepath: str | os.PathLike, *, images: Any = None, **kwargs: Any) -> Any:
        """Writes `deployable()`, the student alone, as a SavedModel, and checks that it gives the live student's logits.

        Args:
          filepath: the folder to write.
          images: a few images `[n, h, w, c]` to compare on; None generates random pixels.
          **kwargs: the other arguments of keras.Model.export. Only a SavedModel with the default signature is run for
            the comparison; with others, the model is compared before it is written.

        Raises:
          InputError: as for `deployable`; or `images` are not images that the student takes.
          ExportError: the export differs from the live student, or from itself in a second call.
        """
        model, bound = self.deployable(), live_check.bound_of(self.student)
        images = live_check.generated_images(model) if images is None else live_check.as_images(images, model)

        def live(images):
            return self.probability_logits(self(tf.constant(images)))

        live_check.require_same_answers(model, live, images, name="deployable()", bound=bound)
        result = model.export(filepath, **kwargs)
        if kwargs.get("format", "tf_saved_model") == "tf_saved_model" and kwargs.get("input_signature") is None:
            answers = live_check.served(filepath)
            live_check.require_same_answers(answers, live, images, name=str(filepath), bound=bound)
        return result

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model.save, but not to HDF5, which a Distiller cannot be loaded from.

        Raises:
          InputError: the file ends in .h5 or .hdf5.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise input_error(
                "A Distiller in an HDF5 file cannot be loaded again",
                expected="a file that ends in .keras",
                received=f"filepath={str(filepath)!r}",
                remedy="Rename it; save_weights takes .weights.h5",
            )
        return super().save(filepath, *args, **kwargs)

    def deployable(self) -> keras.Model:
        """The student as a Keras model of stock layers; the softmax of its output is the student's probability.

        Returns:
          A float32 model from images to logits `[batch, classes]`: the raw logits, or with "spherical" the projected
          ones. Its files load without skd_tf.

        Raises:
          InputError: the radius is not known yet; or the student is a subclassed model.
        """
        radius, readout = float(self.radius.numpy()), self.objective.loss.readout
        if readout == "sphere" and not radius:
            raise batches.no_radius()
        return deploy.deployable(self.student, readout, radius=radius, center=self.objective.center)

    def probability_logits(self, logits: Tensor) -> Tensor:
        """The logits whose softmax is the student's probability.

        Args:
          logits: the student's raw logits, `[batch, classes]`.

        Returns:
          `[batch, classes]`: the raw logits, or with "spherical" the projected ones (`skd_tf.losses.readout`).

        Raises:
          InputError: the radius is not known yet.
        """
        if tf.executing_eagerly() and self._radius_is_missing():
            raise batches.no_radius()
        return losses.readout(logits, self.objective.loss.readout, self.radius.value, center=self.objective.center)

    def adapt(self, data: Any) -> "Distiller":
        """Sets the radius to the mean norm of the teachers' logits, for "teacher_mean" and "teacher_sample".

        The norm is that of the centred logits if `center`. With "teacher_sample", probabilities and exports use this mean,
        and the losses each image's own norm.

        Args:
          data: un-augmented training images in a fixed order: an array, (x, y) of arrays, or batches of (x, y) or x. At
            most 10,000 images are used.

        Returns:
          The Distiller itself.

        Raises:
          InputError: the radius is not one of these two, or there is no teacher or no data.
        """
        if self._radius_argument not in MEASURED:
            raise input_error(
                "The radius is not one that is measured",
                expected=" or ".join(f"radius={name!r}" for name in MEASURED),
                received=f"radius={self._radius_argument!r}",
                remedy="Leave out adapt()",
            )

        def logits_of(x):
            self._inspect_teacher(x)
            return self._teacher_logits_of(x)

        radius = batches.mean_logit_norm(
            data, logits_of, center=self.objective.center, teacher_weights=self.objective.teacher_weights
        )
        self.radius.assign(radius)
        return self

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this Distiller, without the teacher."""
        return (
            self.objective.get_config()
            | self._hyperparameters_config()
            | ({} if self.features is None else self.features.get_config())
            | {"student": keras.saving.serialize_keras_object(self.student), "name": self.name}
        )

    def get_compile_config(self) -> None:
        """None: a loaded Distiller has no teacher and must be compiled again."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "Distiller":
        """A Distiller from the result of `get_config`.

        Args:
          config: the dict.
          custom_objects: {name: class or function} that are not registered with Keras.
        """
        objects = {k: v for k, v in config.items() if isinstance(v, dict)}
        arguments = config | {k: keras.saving.deserialize_keras_object(v, custom_objects) for k, v in objects.items()}
        channels = arguments.pop("feature_channels", ())
        with frozen_layers.numbered_in_the_model():  # as saved, since Keras numbers layers otherwise in each process
            distiller = cls(**arguments)
        if channels:  # a saved file has no teacher to tell them
            distiller.features.make(channels)
        return distiller

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means of the loss and its measurements, and the compiled metrics if there are any."""
        compiled = compat.compiled_metrics(self) if self.compiled else None
        return [self.means] if compiled is None else [self.means, compiled]

    @property
    def metrics_names(self) -> list[str]:
        """The names in the order of the values that evaluate() returns: the loss, then compiled metrics, then others."""
        measured = self.means.result().keys()
        first = [self.means.name] if self.means.name in measured else []
        first += [metric.name for part in self.metrics[1:] for metric in part.metrics]
        return first + sorted(measured - set(first))

    def run_steps(self, iterator: Iterator, steps: int) -> Tensor | float:
        """Runs several training steps in one call. It stops early if the loss or a gradient is not finite.

        Args:
          iterator: of global batches of one static shape; distributed if there are several replicas.
          steps: how many.

        Returns:
          Seconds spent waiting for data: a float64 tensor `[]`, or a float if eager.
        """
        return self._train_steps(iterator, steps)

    def make_train_function(self, force: bool = False) -> None:
        """Makes `train_function`; called by Keras."""
        if self.train_function is None or force:
            self.train_function = self._keras_function(self._train_steps, lambda: self._each_training_batch)

    def make_test_function(self, force: bool = False) -> None:
        """Makes `test_function`; called by Keras."""
        if self.test_function is None or force:
            self.test_function = self._keras_function(self._test_steps, lambda: self._each_test_batch)

    def _keras_function(self, steps, checks_each):
        return steps.keras_function(
            self.steps_per_execution,
            lambda: self._logs(steps.outputs),
            inspect=lambda data: self._inspect_batch(data, each=checks_each()),
            is_inspected=lambda: self._inspected and not checks_each(),
        )

    def _logs(self, outputs):
        """The means and compiled metrics, and what a subclass's step returned beside or instead of them."""
        logs = self.get_metrics_result()
        own = {name: value for name, value in outputs.items() if name in logs or name not in self.means.names}
        return logs | own

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds from a batch what a replica's graph cannot build: a student's weights and the metrics' variables.

        Keras' own version averages a batch over replicas to find its shape, which fails if their parts differ in size.

        Raises:
          InputError: the radius is not known yet.
        """
        self._inspected = False
        metrics = compat.compiled_metrics(self)
        metrics = None if metrics is None or metrics.built else metrics
        unknown = self._num_classes is None
        if metrics is not None or unknown:
            x, y = batches.first_batch(self.distribute_strategy, iterator, data_batch)
            names = interface.input_names(self.student)
            inputs.check_structure(x, names)
            if unknown:
                self._learn_classes(image_of(x)[:1])
            if metrics is not None:
                inputs.check_batch(x, y, names=names, num_classes=self._num_classes)
                with self.distribute_strategy.scope():
                    metrics.build(y, tf.zeros([len(y), self._num_classes]))
        if data_batch is not None:
            self._inspect_batch(data_batch)
        if self._radius_is_missing():
            raise batches.no_radius()

    def _assign_schedules(self):
        for name, schedule in self.schedules.items():
            getattr(self, name).assign(schedule(compat.batches_seen(optimizers.updating(self.optimizer))))
