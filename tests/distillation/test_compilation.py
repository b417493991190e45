"""XLA asks first: what it cannot compile runs without it, and the reason is one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.runtime import replicas
from tests.helpers.nets import CLASSES, batches, run


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What a machine with a GPU answers; the choice of XLA follows it."""
    monkeypatch.setattr(replicas, "device_kind", lambda: "GPU")


def net(*layers):
    return keras.Sequential(
        [keras.Input([6, 6, 2]), *layers, keras.layers.Flatten(), keras.layers.Dense(CLASSES)], name="net"
    )


def compiled(student, teacher, **settings):
    distiller = Distiller(student, teacher, "kd")
    distiller.compile("sgd", **settings)
    return distiller


@pytest.mark.parametrize("layer", [keras.layers.RandomRotation, keras.layers.RandomZoom])
def test_a_layer_that_says_that_it_has_no_kernel(layer, on_a_gpu):
    for networks, place in (((net(layer(0.1)), net()), "student"), ((net(), net(layer(0.1))), "teacher")):
        distiller = compiled(*networks)
        assert (distiller.xla, distiller.xla_reason) == (
            False,
            f"auto: XLA cannot compile {layer.__name__} in the {place}",
        )
        with pytest.raises(InputError, match=f"XLA cannot compile this layer.*{layer.__name__} in the {place}"):
            compiled(*networks, jit_compile=True)
    distiller = compiled(net(), None)
    assert distiller.xla
    distiller.teacher = net(layer(0.1))
    assert not distiller.xla


def test_a_step_that_does_not_compile_runs_without_xla_and_loses_no_batch(on_a_gpu):
    """Keras says of this layer that XLA can compile it. The BatchNorm would move twice if the state were not restored."""
    data, students = batches(3), []
    for setting in ("auto", False):
        keras.utils.set_random_seed(0)
        distiller = compiled(
            net(keras.layers.BatchNormalization(), keras.layers.Resizing(4, 4, antialias=True)),
            net(),
            jit_compile=setting,
        )
        if setting == "auto":
            assert distiller.xla
            with pytest.warns(UserWarning, match="Training without XLA.*no kernel for ScaleAndTranslate"):
                run(distiller, data, steps_per_call=2)
        else:
            run(distiller, data, steps_per_call=2)
        assert not distiller.xla and int(distiller.optimizer.iterations.numpy()) == 3
        students.append(distiller.student.get_weights())
    assert all(np.array_equal(*pair) for pair in zip(*students, strict=True))


def test_an_error_that_is_not_of_xla_is_not_blamed_on_it():
    """One-hot labels with a metric of class numbers."""
    for setting in (True, False):
        distiller = compiled(
            net(), net(), jit_compile=setting, metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2)]
        )
        ((images, labels),) = batches(1)
        with pytest.raises(Exception) as caught:
            distiller.fit(images, np.eye(CLASSES, dtype="float32")[labels], batch_size=4, verbose=0)
        assert "XLA" not in str(caught.value)


def test_asking_for_xla_that_cannot_be_is_one_line():
    distiller = compiled(net(keras.layers.Resizing(4, 4, antialias=True)), net(), jit_compile=True)
    with pytest.raises(InputError, match=r"XLA cannot compile this training step.*ScaleAndTranslate") as caught:
        run(distiller, batches(1))
    assert len(str(caught.value).splitlines()) == 1


class Digits(keras.metrics.Mean):
    """The number of digits of the predicted class: strings have no XLA kernel."""

    def update_state(self, y, logits, sample_weight=None):
        digits = tf.strings.length(tf.strings.as_string(tf.argmax(logits, axis=-1)))
        return super().update_state(tf.cast(digits, tf.float32))


@pytest.mark.parametrize("one_fails", [pytest.param(False, marks=pytest.mark.slow), True])
def test_replicas_stay_equal_with_compiled_metrics(one_fails, two_replicas, monkeypatch):
    """Also if one of them fails to compile after the other has made its step."""
    update = Distiller._update

    def failing_on_one(self, summed, before, batch, logits):
        finite = update(self, summed, before, batch, logits)
        if replicas.this_replica() == 1 and self._compiles_metrics:
            texts = tf.strings.as_string(tf.argmax(logits, axis=-1))
            finite = tf.logical_and(finite, tf.reduce_all(tf.strings.length(texts) > 0))
        return finite

    if one_fails:
        monkeypatch.setattr(Distiller, "_update", failing_on_one)
    with two_replicas.scope():
        distiller = Distiller(net(keras.layers.BatchNormalization()), net(), "spherical")
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        distiller.compile(optimizer, jit_compile=True, metrics=["accuracy"])
    images, labels = (np.concatenate(parts) for parts in zip(*batches(3), strict=True))
    distiller.fit(images, labels, batch_size=len(images) // 3, epochs=1, verbose=0, shuffle=False)
    assert distiller.xla and ("outside" in distiller.xla_reason) == one_fails
    copies = two_replicas.experimental_local_results
    assert [int(copy) for copy in copies(distiller.optimizer.iterations.value)] == [3, 3]
    for variable in [*distiller.student.variables, *distiller.optimizer.variables]:
        one, other = (copy.numpy() for copy in copies(variable.value))
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_a_metric_without_a_kernel_runs_outside():
    distiller = compiled(net(), net(), jit_compile=True, metrics=[Digits(name="digits")])
    ((images, labels),) = batches(1)
    history = distiller.fit(images, labels, batch_size=4, verbose=0).history
    assert history["digits"] == [1.0] and distiller.xla and "outside" in distiller.xla_reason
