"""What XLA compiles of a training step, and what happens if it cannot."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from skd_tf.errors import input_error, reason
from skd_tf.models.sync_batch_norm import is_synchronized
from skd_tf.runtime import compat, devices, replicas

_NO_KERNEL = re.compile(r"No registered '(\w+)' OpKernel")
_LONGEST_REASON = 160  # characters of an error message that names no operation


class CompilationMixin:
    """Compiles the step of a `Distiller`, which has the networks and the step functions."""

    student: Any
    teachers: Any
    run_eagerly: bool
    distribute_strategy: Any
    _jit_compile: str | bool
    _train_steps: Any
    _stepped_variables: Callable[[], list]

    def _choose_xla(self) -> None:
        """Decides whether XLA compiles the step, from the setting, the device and the layers of both networks."""
        several = self.distribute_strategy.num_replicas_in_sync > 1
        self.xla, self.xla_reason = devices.jit_compile_choice(
            self._jit_compile,
            replicas.device_kind(),
            collective=several and is_synchronized(self.student),
            unsupported=_unsupported_layer(self.student, "student")
            or next(filter(None, (_unsupported_layer(teacher, "teacher") for teacher in self.teachers)), ""),
        )
        if self.run_eagerly:
            self.xla, self.xla_reason = False, "run_eagerly=True was asked for"
        self._forget_traces()
        self._compiles_metrics = True
        self._tried = False  # whether a step has run as it is compiled

    def _forget_traces(self) -> None:
        self._clusters: dict[Any, Any] = {}
        self.traces = 0  # of the training step, counted on each replica

    def _compiled(self, function: Callable) -> Callable:
        """The method as a function that XLA compiles, if it is to; one for each replica, whose variables it has."""
        if not self.xla:
            return function
        key = function.__name__, replicas.this_replica(), self._train_steps.in_loop
        if key not in self._clusters:
            self._clusters[key] = tf.function(function, jit_compile=True, autograph=False)
        return self._clusters[key]

    def _try_first(self, run: Callable[[], Any]) -> None:
        """Runs a step. If XLA cannot compile it, runs it again without the metrics in what is compiled, then without XLA.

        Args:
          run: runs the step on a batch that it holds.

        Raises:
          InputError: XLA cannot compile the step, and jit_compile is True.
        """
        if self._tried or not self.xla:
            run()
            return
        strategy = self.distribute_strategy
        # With several replicas, one may have made the whole step before another one fails to compile.
        whole = strategy.num_replicas_in_sync > 1
        variables = self._stepped_variables() if whole else self.student.non_trainable_variables
        copies = [copy for variable in variables for copy in strategy.experimental_local_results(variable.value)]
        before = [tf.identity(copy) for copy in copies]
        while not self._tried:
            try:
                run()
                self._tried = True
            except tf.errors.OpError as error:
                if not self.xla or isinstance(error, (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError)):
                    raise
                self._compile_less(_reason_in(error))
                if not self.xla and str(self._jit_compile).lower() == "true":
                    run()  # raises what is no fault of XLA's
                    raise input_error(
                        "XLA cannot compile this training step",
                        expected="operations that XLA has kernels for",
                        received=f"jit_compile=true; {_reason_in(error)}",
                        remedy="Use jit_compile=auto, or replace the layer",
                    ) from error
                for copy, value in zip(copies, before, strict=True):
                    copy.assign(value)
                metrics = compat.compiled_metrics(self)
                if whole and metrics is not None and len(self._stepped_variables()) > len(variables):
                    metrics.reset_state()  # it was built in this step
        if not self.xla:
            warnings.warn(f"Training without XLA. {self.xla_reason}.", stacklevel=2)

    def _compile_less(self, reason):
        self._forget_traces()
        self._train_steps.forget_traces()
        if self._compiles_metrics and compat.compiled_metrics(self) is not None:
            self._compiles_metrics = False
            self.xla_reason += f"; the compiled metrics are computed outside, since {reason}"
            return
        self.xla, self.xla_reason = False, f"XLA cannot compile this training step: {reason}"


def _unsupported_layer(model, who):
    """ "RandomRotation in the student" for the first layer that says that XLA cannot compile it, else ""."""
    layers = compat.layers_of(model) if hasattr(model, "supports_jit") else []
    return next((f"{type(layer).__name__} in the {who}" for layer in layers if not layer.supports_jit), "")


def _reason_in(error):
    text = " ".join(str(error).split())
    missing = sorted({*_NO_KERNEL.findall(text)})
    return f"it has no kernel for {', '.join(missing)}" if missing else reason(str(error))[:_LONGEST_REASON]
