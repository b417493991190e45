"""The traced training step: what stays outside XLA's clusters, and that nothing in it waits for the host."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import schedules
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from tests.helpers.nets import CLASSES

# Reading a variable or passing a value on launches nothing.
_FREE = {*("Const", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "Shape", "StopGradient"), "_Arg", "_Retval"}


def student(blocks):
    layers = [keras.Input([6, 6, 2])]
    for _ in range(blocks):
        layers += [keras.layers.Conv2D(2, 3, padding="same"), keras.layers.BatchNormalization()]
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)])


def traced(strategy, optimizer, *, jit_compile, blocks=2):
    """(ops in the loop's body outside XLA, of them the names of branches; ops in the loop's condition)."""
    with strategy.scope():
        distiller = Distiller(student(blocks), None, "kd")
        distiller.compile(
            optimizer(schedules.Table(np.ones(3))),
            jit_compile=jit_compile,
            schedules={"temperature": schedules.Table(np.ones(3))},
            metrics=["sparse_categorical_accuracy"],
        )
        for metric in distiller.metrics[1:]:
            metric.build(tf.zeros([8], tf.int32), tf.zeros([8, CLASSES]))
    size = 8 // strategy.num_replicas_in_sync
    x = {"image": tf.zeros([size, 6, 6, 2]), "teacher_logits": tf.zeros([size, CLASSES])}
    data = tf.data.Dataset.from_tensors((x, tf.zeros([size], tf.int32))).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: data))
    graph = distiller._train_steps._many.get_concrete_function(iterator, tf.constant(1, tf.int64)).graph
    functions = {function.signature.name: function for function in graph.as_graph_def().library.function}
    (loop,) = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]

    def counted(name):
        ops = collections.Counter()
        for node in functions[name].node_def:
            called = node.attr["f"].func.name if "Call" in node.op else ""
            if called and functions[called].attr["_XlaMustCompile"].b:
                ops["cluster"] += 1
            elif called:
                ops += counted(called)
            elif node.op not in _FREE:
                ops[node.op] += 1
        return ops

    return counted(loop.get_attr("body").name), counted(loop.get_attr("cond").name)


def sgd(rate):
    return optimizers.make_optimizer(optimizers.OptimizerSettings(clip_norm=1.0, ema_momentum=0.9), rate)


def adamw(rate):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(rate, use_ema=True))


@pytest.mark.parametrize("optimizer", [sgd, pytest.param(adamw, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mirrored", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_few_operations_are_outside_of_xla_and_none_per_variable(optimizer, mirrored, two_replicas):
    strategy, most, clusters = (two_replicas, 2 * 80, 4) if mirrored else (tf.distribute.get_strategy(), 15, 1)
    body, _ = traced(strategy, optimizer, jit_compile=True, blocks=1)
    assert body["cluster"] == clusters and body.total() <= most, body
    assert body == traced(strategy, optimizer, jit_compile=True)[0]
    assert body["CollectiveReduceV2"] == 2 * mirrored  # one on each replica


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "jit_compile"),
    [
        (sgd, False),
        pytest.param(sgd, True, marks=pytest.mark.slow),
        *(pytest.param(adamw, jit, marks=pytest.mark.slow) for jit in (False, True)),
        *(pytest.param(keras.optimizers.Lion, jit, marks=pytest.mark.slow) for jit in (False, True)),
    ],
)
def test_no_step_waits_for_the_host(optimizer, jit_compile, two_replicas):
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        body, condition = traced(strategy, optimizer, jit_compile=jit_compile)
        assert not {"If", "StatelessIf", "While", "StatelessWhile", "Switch"} & {*body}
        assert {*condition} == {"Less"}  # steps done, a number of the host
