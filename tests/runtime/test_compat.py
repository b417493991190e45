"""Each function on private API of Keras and TensorFlow still does what its docstring says."""

import contextlib
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf import schedules
from skd_tf.runtime import compat, replicas, streams

_PRIVATE = re.compile(
    r"keras\.src|tf\.__internal__|tensorflow\.(?:python|compiler)|_flatten_layers|_nodes_by_depth|_keras_history"
    r"|_inbound_nodes|\._functional|_compile_metrics|_get_variable_index|\._learning_rate"
    r"|_model_variables_moving_average|_seed_generators|_distribution_strategy|_clip_gradients|_apply_weight_decay|_exclude_from_weight_decay|_velocities"
)
# reload.py runs where skd_tf cannot be imported.
_MAY_USE_IT = ("runtime/compat.py", "serving/reload.py")


def net():
    inner = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, name="inner_dense")], name="inner")
    images = keras.Input([4])
    return keras.Model(images, keras.layers.ReLU(name="relu")(inner(images)))


def test_private_api_is_used_in_one_module():
    root = pathlib.Path(skd_tf.__file__).parent
    sources = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert all(_PRIVATE.search(sources.pop(name)) for name in _MAY_USE_IT)
    assert [name for name, source in sources.items() if _PRIVATE.search(source)] == []


def test_layers_of_a_model_include_nested_ones():
    model = net()
    names = [layer.name for layer in compat.layers_of(model)]
    assert model.name in names and {"inner", "inner_dense", "relu"} < set(names)
    assert model not in compat.layers_of(model, include_self=False)


def test_graphs_show_their_calls():
    model = net()
    inner, relu = model.layers[1:]
    assert isinstance(model, compat.functional_class()) and not isinstance(inner, compat.functional_class())
    graph = compat.sequential_graph(inner)
    assert isinstance(graph, compat.functional_class())
    assert inner.layers[0] in [node.operation for node in compat.graph_nodes(graph)]
    nodes = compat.graph_nodes(model)
    assert {node.operation for node in nodes} == set(model.layers)
    operation, inputs = compat.producer(model.outputs[0])
    assert operation is relu and compat.producer(inputs[0])[0] is inner
    assert all(hasattr(node, "input_tensors") and hasattr(node.arguments, "kwargs") for node in nodes)


def test_a_download_goes_through_the_given_function(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def download(url, *_, **__):
        raise LookupError(url)

    with compat.replaced_download(download), pytest.raises(LookupError, match="example"):
        keras.utils.get_file("weights", "http://example.invalid/weights", cache_dir=tmp_path)


def test_compiled_metrics_are_one_metric():
    model = net()
    model.compile("sgd", "mse")
    assert compat.compiled_metrics(model) is None
    model.compile("sgd", "mse", metrics=["mae"])
    assert not compat.compiled_metrics(model).built
    model.fit(np.ones([2, 4]), np.ones([2, 3]), verbose=0)
    assert [metric.name for metric in compat.compiled_metrics(model).metrics] == ["mae"]


def test_what_an_optimizer_keeps_is_found():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    optimizer = keras.optimizers.SGD(schedule, use_ema=True, ema_momentum=0.75)
    weights = [keras.Variable([0.0]), keras.Variable([4.0])]
    optimizer.build(weights)
    assert compat.learning_rate_schedule(optimizer) is schedule
    assert [compat.variable_index(optimizer, weight) for weight in weights] == [0, 1]
    for _ in range(2):
        optimizer.apply([tf.zeros([1]), tf.constant([-2.0])], weights)
    first, second = 5.0, 5.0 + 2.0 * 0.5 * 0.5**0.1
    averages = [float(average.numpy()[0]) for average in compat.moving_averages(optimizer)]
    assert averages == pytest.approx([0.0, 0.75 * first + 0.25 * second])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_replica_updates_its_own_copies(two_replicas, jit_compile):
    """The gradient on replica i is i + 1; the schedule is a variable of the strategy."""
    with two_replicas.scope():
        weight, rate = keras.Variable([0.0]), schedules.Table([1.0, 2.0])
        optimizer = keras.optimizers.SGD(rate)
        optimizer.build([weight])

    def step():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)

        def update():
            with compat.own_copies([weight, *optimizer.variables], optimizer):
                optimizer.apply([tf.fill([1], number + 1)], [weight])

        tf.function(update, jit_compile=jit_compile, autograph=False)()

    steps = tf.function(lambda: two_replicas.run(step), autograph=False)
    for _ in range(2):
        steps()
    copies = [float(copy.numpy()[0]) for copy in two_replicas.experimental_local_results(weight.value)]
    assert copies == [-1.0 - 2.0, -2.0 - 4.0]
    assert isinstance(weight.value, tf.distribute.DistributedValues) and int(optimizer.iterations.numpy()) == 2


def test_replicas_draw_their_own_numbers_and_store_one_state(two_replicas):
    with two_replicas.scope():
        layer = keras.layers.Dropout(0.5, seed=3)
    state = layer.seed_generator.state

    def draw(folded):
        number = replicas.this_replica()
        with compat.own_seeds(layer, number) if folded else contextlib.nullcontext():
            return layer(tf.ones([64]), training=True)

    for folded in (False, True):
        drawn = two_replicas.run(tf.function(draw, autograph=False), args=(folded,))
        one, two = (part.numpy() for part in two_replicas.experimental_local_results(drawn))
        assert np.array_equal(one, two) != folded
    states = [copy.numpy().tolist() for copy in two_replicas.experimental_local_results(state.value)]
    assert states == [[3, 2], [3, 2]]


def test_iterators_over_devices_have_no_autotuner(two_replicas, monkeypatch):
    untuned, made = streams.untuned, []
    monkeypatch.setattr(streams, "untuned", lambda dataset: made.append(untuned(dataset)) or made[-1])
    data = two_replicas.distribute_datasets_from_function(lambda _: tf.data.Dataset.range(4).batch(2))
    with compat.untuned_device_iterators():
        values = two_replicas.experimental_local_results(next(iter(data)))
    assert [dataset.options().autotune.enabled for dataset in made] == [False, False]
    assert [value.numpy().tolist() for value in values] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_xla_is_noticed_while_it_traces(jit_compile):
    seen = []
    tf.function(lambda: seen.append(compat.inside_xla()), jit_compile=jit_compile, autograph=False)()
    assert seen == [jit_compile] and not compat.inside_xla()


def test_a_graph_reads_variables_and_shows_its_operations():
    variable = tf.Variable(tf.ones([3, 2]))
    with compat.empty_graph("traced").as_default() as graph:
        tf.matmul(tf.zeros([5, 3]), variable)
    inner = tf.function(lambda x: tf.matmul(x, variable))
    outer = tf.function(lambda x: 2.0 * inner(x))
    inlined = compat.inlined_graph(outer.get_concrete_function(tf.TensorSpec([5, 3])))
    for found in (graph, inlined):
        assert [op.outputs[0].shape for op in found.get_operations() if op.type == "MatMul"] == [[5, 2]]
