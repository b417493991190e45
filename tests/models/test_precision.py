"""Half precision: networks compute in it; weights, losses and metrics stay float32; all replicas skip a bad step."""

import contextlib
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation import update
from skd_tf.distillation.distiller import Distiller
from skd_tf.models import precision
from tests.helpers.nets import batches, conv_net, distance, run, weights_of
from tests.helpers.runs import train


def distiller_in(student_precision, teacher_precision="float32", strategy=None, *, batch_norm=True, jit_compile=False):
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = conv_net(1, batch_norm=batch_norm), conv_net(2, batch_norm=batch_norm)
        precision.set_precision(student, student_precision)
        precision.set_precision(teacher, teacher_precision)
        distiller = Distiller(student, teacher)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit_compile)
    return distiller


@pytest.mark.parametrize(
    ("student", "teacher"), [("bfloat16", "float16"), pytest.param("float16", "float32", marks=pytest.mark.slow)]
)
def test_each_network_computes_in_its_own_precision_and_everything_else_in_float32(student, teacher, monkeypatch):
    seen = []

    def spied(name, tensors):
        """Notes some of a method's arguments and results."""
        method = getattr(Distiller, name)

        def spy(self, *arguments):
            found = method(self, *arguments)
            seen.extend(tensors(arguments, found))
            return found

        monkeypatch.setattr(Distiller, name, spy)

    spied("_objective", lambda arguments, found: [*arguments[:2], *found])  # the logits, the losses
    spied("_loss_and_gradients", lambda _, found: found[2])
    distiller = distiller_in(student, teacher)
    for model, expected in ((distiller.student, student), (distiller.teacher, teacher)):
        assert {layer.compute_dtype for layer in model.layers} == {expected}
        assert model(np.zeros([1, 6, 6, 2])).dtype == expected
        assert {variable.dtype for variable in model.variables} == {"float32"}
    run(distiller, batches(1, size=16))
    assert len(seen) > 10 and {tensor.dtype for tensor in seen} == {tf.float32}
    assert {v.dtype for v in distiller.optimizer.variables if "float" in v.dtype} == {"float32"}


# 8 and 11 bits of mantissa: an error of 0.4% and 0.05% in every activation.
@pytest.mark.parametrize("mirrored", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("half", "tolerance"), [("bfloat16", 0.01), pytest.param("float16", 0.001, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_training_stays_near_float32(half, tolerance, mirrored, two_replicas):
    data, strategy = batches(10, size=16), two_replicas if mirrored else None
    full, distiller = distiller_in("float32", strategy=strategy), distiller_in(half, half, strategy)
    loss = run(full, data)["loss"]
    assert run(distiller, data, steps_per_call=5)["loss"] == pytest.approx(loss, rel=5 * tolerance)
    assert 1e-6 < distance(weights_of(full.student), weights_of(distiller.student)) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(("bad_half", "jit_compile"), [(0, False), pytest.param(1, True, marks=pytest.mark.slow)])
def test_a_bad_float16_step_is_skipped_by_all_replicas_alike(two_replicas, bad_half, jit_compile):
    """Pixels overflow float16 in one replica's half of a batch; only there activations and gradients are infinite."""
    good, bad, after = batches(3, size=16)
    bad[0][8 * bad_half : 8 * bad_half + 8] = 1e6
    distiller = distiller_in("float16", strategy=two_replicas, jit_compile=jit_compile)
    run(distiller, [good])

    def copies(*variables):
        """The values in every replica."""
        return [copy.numpy() for v in variables for copy in two_replicas.experimental_local_results(v.value)]

    def state():
        """Weights, BatchNorm's moving statistics, momentum and step count, and the loss scales."""
        inner = distiller.optimizer.inner_optimizer
        values = copies(*distiller.student.variables, *inner.momentums, inner.iterations)
        return values, copies(distiller.optimizer.dynamic_scale)

    (before, (scale, other)), means = state(), distiller.means.result()
    assert scale == other
    run(distiller, [bad])
    same, scales = state()
    assert scales == [scale / 2] * 2 and all(np.array_equal(*pair) for pair in zip(before, same, strict=True))
    assert distiller.means.result() == means and np.isfinite(means["loss"])
    run(distiller, [after])
    changed, scales = state()
    assert scales == [scale / 2] * 2 and not any(np.array_equal(*pair) for pair in zip(before, changed, strict=True))
    assert all(np.isfinite(value).all() for value in changed)


def test_the_loss_scale_stays_at_1_or_more():
    """Or an image that overflows in each epoch would lower it until no gradient is left."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=4.0)
    optimizer.build([keras.Variable(0.0)])
    scales = []
    for finite in (False, False, False, True, False):
        update._adjust_scale(optimizer, tf.constant(finite))
        scales.append(float(optimizer.dynamic_scale.numpy()))
    assert scales == [2, 1, 1, 1, 1]


def test_a_float16_student_gets_a_loss_scale_unless_compile_is_told_not_to():
    distiller = distiller_in("float16")
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    distiller.compile(keras.optimizers.SGD(0.05), auto_scale_loss=False)
    assert isinstance(distiller.optimizer, keras.optimizers.SGD)


@pytest.mark.slow
def test_the_loss_scale_leaves_gradients_as_they_are(two_replicas):
    """Gradients are scaled up before the sum over replicas and down after it: clipping must see the true norm."""
    data = batches(5, size=16)

    def trained(strategy, scale):
        with strategy.scope() if strategy else contextlib.nullcontext():
            distiller = Distiller(conv_net(1), conv_net(2))
            optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1)
            distiller.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale), jit_compile=False)
        run(distiller, data)
        return weights_of(distiller.student)

    unscaled = trained(None, 1.0)
    assert all(distance(unscaled, trained(strategy, 2.0**10)) < 1e-5 for strategy in (None, two_replicas))


@pytest.mark.slow
def test_skipped_steps_are_recorded_and_printed(tmp_path, monkeypatch, capsys):
    scaled = keras.optimizers.LossScaleOptimizer
    overflowing = functools.partialmethod(scaled.__init__, initial_scale=2.0**40)  # the first gradients overflow
    monkeypatch.setattr(scaled, "__init__", overflowing)
    train(tmp_path, precision="float16", epochs=1, batch_size=8)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < row["skipped_steps"] < row["step"]
    words = f"skipped {row['skipped_steps']} of {row['step']} steps"
    assert (words in capsys.readouterr().err) == (row["skipped_steps"] > 0.01 * row["step"])
