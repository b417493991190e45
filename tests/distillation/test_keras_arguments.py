"""Arguments of a Distiller, of compile and fit: as in Keras, or refused in one line; an optimizer belongs to one model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net, make_distiller, weights_of


@pytest.mark.parametrize("pieces", [0, -1, 2.5, "2", None])
def test_micro_batches_are_a_whole_number(pieces):
    with pytest.raises(InputError, match=r"whole number >= 1.*micro_batches="):
        make_distiller().compile("sgd", micro_batches=pieces)


@pytest.mark.parametrize("schedule", [0.5, "linear 0 to 0.9 over 5 epochs", np.ones(3)])
def test_a_schedule_is_a_function(schedule):
    with pytest.raises(
        InputError, match=r"not a function of the step.*skd_tf\.schedules\.Table.*kd_weight of the type"
    ):
        make_distiller().compile("sgd", schedules={"kd_weight": schedule})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": None}, "label_smoothing is not a number"),
        ({"feature_pairs": ["conv2d"]}, r"not pairs of layer names.*also for one pair"),
        ({"feature_pairs": ("conv2d", "conv2d")}, "not pairs of layer names"),
        (
            {"loss": lambda student, teacher: {}},
            r"other arguments.*\(student, teacher\): too many positional arguments",
        ),
        ({"loss": "dkd", "loss_settings": "beta"}, "not a list of loss settings"),
        ({"teacher_weights": ["2"]}, "teacher_weights is not a number"),
    ],
)
def test_wrong_arguments_of_a_distiller_are_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        Distiller(conv_net(1), conv_net(2), **arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_may_be_written_as_in_the_flags():
    one = Distiller(conv_net(1), None, "dkd", loss_settings="beta=2", teacher_weights="2,1")
    other = Distiller(conv_net(1), None, "dkd", loss_settings={"beta": 2.0}, teacher_weights=(2, 1))
    assert one.get_config() | {"student": 0} == other.get_config() | {"student": 0}


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimizer_of_another_model_is_refused(wrapped):
    """Its moments and its step count are those of the other model."""
    optimizer = keras.optimizers.AdamW(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer
    one, other = (Distiller(conv_net(1), conv_net(2)) for _ in range(2))
    one.compile(optimizer, jit_compile=False)
    one.compile(optimizer, jit_compile=False)
    with pytest.raises(InputError, match=r"built for another model.*a new optimizer"):
        other.compile(optimizer, jit_compile=False)


def test_an_optimizer_continues_after_layers_are_frozen():
    optimizer, ((images, labels),) = keras.optimizers.AdamW(0.01), batches(1)
    distiller = make_distiller(optimizer=lambda: optimizer)
    first = distiller.student.layers[0]
    kernel = first.kernel.numpy()
    first.trainable = False
    distiller.compile(optimizer, jit_compile=False)
    before = weights_of(distiller.student)
    distiller.train_on_batch(images, labels)
    assert np.array_equal(first.kernel.numpy(), kernel) and not np.array_equal(weights_of(distiller.student), before)


def test_run_eagerly_compiles_nothing():
    eager = []

    class Seen(keras.layers.Layer):
        def call(self, inputs):
            eager.append(tf.executing_eagerly())
            return inputs

    student = keras.Sequential([keras.Input([6, 6, 2]), Seen(), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    distiller = Distiller(student, conv_net(2))
    distiller.compile("sgd", run_eagerly=True, jit_compile=True)
    eager.clear()
    distiller.train_on_batch(*batches(1)[0])
    assert eager and all(eager) and not distiller.xla


def test_train_on_batch_gives_unlabelled_rows_weight_one():
    ((images, _),) = batches(1, size=24)
    still, rows = make_distiller(optimizer=lambda: keras.optimizers.SGD(0.0)), np.zeros([24, CLASSES], "float32")
    found = [still.train_on_batch(images, rows, class_weight=w, return_dict=True)["loss"] for w in (None, {0: 100.0})]
    assert found[0] == pytest.approx(found[1])


def test_fit_takes_keras_first_arguments_by_position():
    ((images, labels),) = batches(1, size=24)
    distiller = make_distiller()
    assert len(distiller.fit(images, labels, 8, 2, 0).history["loss"]) == 2
    assert int(distiller.optimizer.iterations.numpy()) == 6
