"""Private API of Keras and TensorFlow: each use is one function here, so that a new version breaks one place.

The comment of each function names the version it was seen in and, beside its own test in tests/runtime/test_compat.py,
a test that fails when the API moves. One private method is overridden instead of called:
`Distiller._maybe_symbolic_build` (keras 3.15.1; tests/distillation/test_keras_fit.py).

TensorFlow and Keras are imported inside the functions: modules that need neither import this one.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def layers_of(layer: Any, *, include_self: bool = True) -> list[Any]:
    """All layers inside a layer or model, however deeply nested, and itself."""
    # keras 3.15.1; tests/models/test_precision.py
    return list(layer._flatten_layers(include_self=include_self))


def layers_in_order(layer: Any) -> Iterator[Any]:
    """All layers inside a layer or model as they are called; `layers_of` turns the order of nested ones around."""
    # keras 3.15.1; tests/training/test_feature_runs.py
    for inner in layer._layers:
        yield inner
        yield from layers_in_order(inner)


def own_weights(layer: Any) -> list[Any]:
    """The weights of a layer itself, without those of the layers inside it and without states of random seeds."""
    # keras 3.15.1; tests/distillation/test_shared_weights.py
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def functional_class() -> type:
    """The class of models that are built from Keras tensors."""
    # keras 3.15.1; tests/models/test_fold_batch_norm.py
    from keras.src.models.functional import Functional

    return Functional


def sequential_graph(model: Any) -> Any:
    """The Functional model inside a Sequential one; None until it is built."""
    # keras 3.15.1; tests/models/test_fold_batch_norm.py
    return model._functional


def graph_nodes(model: Any) -> list[Any]:
    """The calls in a Functional model, each with `operation`, `arguments` and `input_tensors`."""
    # keras 3.15.1; tests/models/test_fold_batch_norm.py
    return [node for level in model._nodes_by_depth.values() for node in level]


def producer(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation that made a Keras tensor, and the tensors that it was called with."""
    # keras 3.15.1; tests/models/test_fold_batch_norm.py
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors


@contextlib.contextmanager
def replaced_download(download: Callable[..., Any]) -> Iterator[None]:
    """Inside this context, Keras calls `download(url, ...)` to fetch a file that its cache lacks."""
    # keras 3.15.1; tests/models/test_student.py
    from keras.src.utils import file_utils

    before = file_utils.urlretrieve
    file_utils.urlretrieve = download
    try:
        yield
    finally:
        file_utils.urlretrieve = before


@contextlib.contextmanager
def assigned_variables(model: Any, variables: Sequence[Any]) -> Iterator[Callable[[], list[bool]]]:
    """Watches which of a model's variables the code inside this context assigns, while a graph is traced.

    Eager code cannot be watched. There, every variable counts that was not created as a trainable one.

    Yields:
      A function that returns one bool per variable; call it after the context.
    """
    # keras 3.15.1, tensorflow 2.21.0; tests/distillation/test_inputs_frozen.py
    import tensorflow as tf
    from tensorflow.python.framework import auto_control_deps_utils

    if tf.executing_eagerly():
        weights = {id(weight) for layer in layers_of(model) for weight in layer._trainable_variables}
        yield lambda: [id(variable) not in weights for variable in variables]
        return
    graph = tf.compat.v1.get_default_graph()
    start = len(graph.get_operations())

    def is_assigned():
        operations = graph.get_operations()[start:]
        written = {id(t) for op in operations for t in auto_control_deps_utils.get_read_write_resource_inputs(op)[1]}
        return [id(graph.capture(variable.value.handle)) in written for variable in variables]

    yield is_assigned


def metrics_list_class() -> type:
    """The class of a metric that has several others in its attribute `metrics`, where callbacks look for their names."""
    # keras 3.15.1; tests/distillation/test_outputs_callbacks.py
    from keras.src.trainers.compile_utils import MetricsList

    return MetricsList


def with_direction(name: str, direction: str) -> Any:
    """What callbacks need of a metric to know whether it should rise ("up") or fall ("down")."""
    # keras 3.15.1; tests/distillation/test_outputs_callbacks.py
    import types

    return types.SimpleNamespace(name=name, _direction=direction)


def compiled_metrics(model: Any) -> Any:
    """The metrics given to `model.compile`, as one metric; None if there are none."""
    # keras 3.15.1; tests/distillation/test_keras_fit.py
    return model._compile_metrics


def variable_index(optimizer: Any, variable: Any) -> int:
    """The place of a variable in the lists that an optimizer keeps, one entry per variable."""
    # keras 3.15.1; tests/distillation/test_optimizers.py
    return optimizer._get_variable_index(variable)


def batches_seen(optimizer: Any) -> Any:
    """How many batches an optimizer was given; `iterations` counts updates, one for several accumulated batches."""
    # keras 3.15.1; tests/distillation/test_mistakes.py
    return optimizer._iterations


def learning_rate_schedule(optimizer: Any) -> Any:
    """The object given to an optimizer as its learning rate; `optimizer.learning_rate` is its value."""
    # keras 3.15.1; tests/search/test_trial_runner.py
    return optimizer._learning_rate


def moving_averages(optimizer: Any) -> list[Any]:
    """The moving averages of the weights that an optimizer with use_ema=True keeps."""
    # keras 3.15.1; tests/training/test_ema.py
    return optimizer._model_variables_moving_average


@contextlib.contextmanager
def own_copies(variables: Sequence[Any], optimizer: Any) -> Iterator[None]:
    """Inside this context, variables are this replica's copies and there is no strategy; enter it in replica context.

    Keras' optimizers and metrics then update the variables of one device, which XLA can compile. Under a strategy, they
    leave the replica context to update, which a compiled function cannot. Gradients count as summed over the replicas.

    Args:
      variables: keras.Variable each.
      optimizer: updates them; not a LossScaleOptimizer.
    """
    # keras 3.15.1, tensorflow 2.21.0; tests/runtime/test_replicas.py
    import tensorflow as tf
    from tensorflow.python.distribute import distribute_lib

    if not tf.distribute.has_strategy():
        yield
        return
    # The schedule's own variables are read here; inside, they would be those of the first replica.
    rate = tf.convert_to_tensor(optimizer.learning_rate)
    copies = {id(variable): (variable, variable._value) for variable in variables}
    known = {name: vars(optimizer)[name] for name in ("_distribution_strategy", "_learning_rate")}
    for variable, value in copies.values():
        variable._value = value._get() if isinstance(value, tf.distribute.DistributedValues) else value
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    inside = {"_distribution_strategy": tf.distribute.get_strategy(), "_learning_rate": lambda: rate}
    try:
        for name, value in inside.items():
            object.__setattr__(optimizer, name, value)
        yield
    finally:
        distribute_lib._pop_per_thread_mode()
        for name, value in known.items():
            object.__setattr__(optimizer, name, value)
        for variable, value in copies.values():
            variable._value = value


@contextlib.contextmanager
def scaled_rates(optimizer: Any, variables: Sequence[Any], factors: Sequence[float]) -> Iterator[None]:
    """Inside this context, `optimizer.apply` multiplies the learning rate of each variable by its factor.

    This also scales a decoupled weight decay, which is a multiple of the rate.

    Args:
      optimizer: any Keras optimizer, but no LossScaleOptimizer.
      variables: those that are updated. The optimizer may know more.
      factors: one for each of them; none leave the rate as it is.
    """
    # keras 3.15.1; tests/distillation/test_layer_rates.py
    if not factors:
        yield
        return
    import tensorflow as tf

    rate, known = tf.convert_to_tensor(optimizer.learning_rate), vars(optimizer)["_learning_rate"]
    update_step, decay = optimizer.update_step, optimizer._apply_weight_decay

    factor_of = {variable_index(optimizer, v): factor for v, factor in zip(variables, factors, strict=True)}

    def scaled_step(gradient, variable, learning_rate):
        factor = factor_of[variable_index(optimizer, variable)]
        update_step(gradient, variable, learning_rate * tf.cast(factor, learning_rate.dtype))

    def scaled_decay(variables):
        for variable in variables:
            scaled = rate * tf.cast(factor_of[variable_index(optimizer, variable)], rate.dtype)
            object.__setattr__(optimizer, "_learning_rate", lambda scaled=scaled: scaled)
            decay([variable])
        object.__setattr__(optimizer, "_learning_rate", lambda: rate)

    object.__setattr__(optimizer, "update_step", scaled_step)
    object.__setattr__(optimizer, "_apply_weight_decay", scaled_decay)
    try:
        yield
    finally:
        object.__delattr__(optimizer, "update_step")
        object.__delattr__(optimizer, "_apply_weight_decay")
        object.__setattr__(optimizer, "_learning_rate", known)


@contextlib.contextmanager
def own_seeds(model: Any, replica: int) -> Iterator[None]:
    """Inside this context, a model's layers draw other random numbers on each replica.

    The replica's number is added to the seeds and subtracted afterwards, so all replicas store the same state.
    """
    # keras 3.15.1; tests/runtime/test_replicas.py
    import tensorflow as tf

    generators = [generator for layer in layers_of(model) for generator in layer._seed_generators]
    states = {id(generator.state): generator.state for generator in generators if replica}.values()
    for state in states:
        state.assign(state.value + tf.constant([replica, 0], state.dtype))
    try:
        yield
    finally:
        for state in states:
            state.assign(state.value - tf.constant([replica, 0], state.dtype))


@contextlib.contextmanager
def untuned_device_iterators() -> Iterator[None]:
    """Inside this context, an iterator over several devices has no autotuner on any of them; see `streams.untuned`."""
    # tensorflow 2.21.0; tests/runtime/test_compat.py
    from tensorflow.python.data.ops import multi_device_iterator_ops

    from skd_tf.runtime.streams import untuned

    before = multi_device_iterator_ops._create_device_dataset
    multi_device_iterator_ops._create_device_dataset = lambda *arguments: untuned(before(*arguments))
    try:
        yield
    finally:
        multi_device_iterator_ops._create_device_dataset = before


def excludes_from_weight_decay(optimizer: Any) -> bool:
    """Whether the optimizer was told to leave some variables out of its weight decay."""
    # keras 3.15.1; tests/distillation/test_update.py
    names = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    return any(getattr(optimizer, name, None) for name in names)


def clipped(optimizer: Any, gradients: list[Any]) -> list[Any]:
    """The gradients, clipped as the optimizer does it."""
    # keras 3.15.1; tests/distillation/test_update.py
    return optimizer._clip_gradients(gradients)


def adam_moments(optimizer: Any) -> tuple[list[Any], list[Any]]:
    """The first and the second moments that an Adam or AdamW optimizer keeps, one variable per weight."""
    # keras 3.15.1; tests/distillation/test_update.py
    return optimizer._momentums, optimizer._velocities


def op_determinism() -> bool:
    """Whether TensorFlow was told to use deterministic kernels only."""
    # tensorflow 2.21.0; tests/runtime/test_replicas.py
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def inside_xla() -> bool:
    """Whether XLA compiles what is being traced."""
    # tensorflow 2.21.0; tests/networks/test_batch_norm.py
    import tensorflow as tf

    return tf.__internal__.get_enclosing_xla_context() is not None


def empty_graph(name: str) -> Any:
    """A graph to trace into; unlike tf.Graph, it can read the variables of eager code."""
    # tensorflow 2.21.0; tests/evaluation/test_metrics.py
    import tensorflow as tf

    return tf.__internal__.FuncGraph(name)


def inlined_graph(concrete_function: Any) -> Any:
    """The graph of a tf.function's trace, with the functions that it calls inlined."""
    # tensorflow 2.21.0; tests/evaluation/test_metrics.py
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete_function).graph


def configure_heartbeat(jobs: Sequence[tuple[str, Sequence[str]]], seconds: int) -> None:
    """Sets how long a worker may be silent before the others take it for dead; works once per process.

    MultiWorkerMirroredStrategy configures the same service with 10 seconds, unless it is configured already.

    Args:
      jobs: (name, addresses) of each job of the cluster; the leader's first.
      seconds: the longest silence.
    """
    # tensorflow 2.21.0; tests/end_to_end/test_multi_worker.py
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    if context.context().coordination_service is None:
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=f"/job:{jobs[0][0]}/replica:0/task:0",
            heartbeat_timeout_in_ms=1000 * seconds,
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(addresses)) for name, addresses in jobs
            ],
        )
