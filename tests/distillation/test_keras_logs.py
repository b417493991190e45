"""What fit and evaluate report, beside a plain Keras model: the loss first, regularizers in it, a subclass's own values."""

import keras
import numpy as np
import pytest

from skd_tf.distillation.distiller import Distiller
from tests.helpers.nets import CLASSES, batches, conv_net

IMAGES, LABELS = batches(1, size=24)[0]
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


class Penalized(keras.layers.Layer):
    """Passes its input on, and adds its mean square to the loss."""

    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(inputs**2))
        return inputs


def regularized():
    layers = conv_net(3).layers
    initial = [layer.get_weights() for layer in layers]
    head = keras.layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(0.05))
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), *layers[:-1], Penalized(), head])
    head.set_weights(initial[-1])
    return model


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_loss_includes_regularizers_and_add_loss_as_in_keras(micro_batches):
    """Without a teacher's term, a Distiller's loss is the cross-entropy of a plain Keras model."""
    plain = regularized()
    plain.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    expected = plain.fit(IMAGES, LABELS, validation_data=(IMAGES[:20], LABELS[:20]), epochs=2, **FIT).history
    distiller = Distiller(regularized(), loss="cross_entropy")
    distiller.compile(keras.optimizers.SGD(0.05), micro_batches=micro_batches)
    history = distiller.fit(IMAGES, LABELS, validation_data=(IMAGES[:20], LABELS[:20]), epochs=2, **FIT).history
    if micro_batches == 1:  # of pieces, the mean square over a piece is not that over the batch in general
        assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert history["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-5)
    assert np.all(np.array(history["loss"]) > np.array(history["label_loss"]) + 0.01)


def test_the_loss_comes_first_in_a_list_of_results():
    teacher = conv_net(2)
    distiller = Distiller(conv_net(1), teacher)
    distiller.compile("sgd", metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")])
    for measured in ("evaluate", "test_on_batch", "train_on_batch"):
        options = {"verbose": 0} if measured == "evaluate" else {}
        values = getattr(distiller, measured)(IMAGES, LABELS, **options)
        assert distiller.metrics_names[:2] == ["loss", "top_2"]
        named = dict(zip(distiller.metrics_names, values, strict=True))
        assert named["loss"] == pytest.approx(0.1 * named["label_loss"] + 0.9 * named["distill_loss"], rel=1e-5)


class Logging(Distiller):
    """A subclass that returns values of its own."""

    def train_step(self, data):
        logs = super().train_step(data)
        return logs | {"rate": self.optimizer.learning_rate, "loss": 2 * logs["loss"]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps_per_execution": 2},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_what_a_subclass_returns_is_in_the_history(settings):
    histories = []
    for kind in (Distiller, Logging):
        distiller = kind(conv_net(1), conv_net(2))
        distiller.compile(keras.optimizers.SGD(0.25), metrics=["accuracy"], **settings)
        histories.append(distiller.fit(IMAGES, LABELS, **FIT).history)
    plain, own = histories
    assert own.pop("rate") == [0.25]
    assert own["loss"] == pytest.approx([2 * plain["loss"][0]], rel=1e-6)
    assert own.keys() == plain.keys()


def test_a_subclass_may_return_nothing():
    class Silent(Distiller):
        def train_step(self, data):
            super().train_step(data)

    distiller = Silent(conv_net(1), conv_net(2))
    distiller.compile(keras.optimizers.SGD(0.25))
    assert np.isfinite(distiller.fit(IMAGES, LABELS, **FIT).history["loss"]).all()


def test_what_a_subclass_returns_comes_from_the_first_replica(two_replicas):
    with two_replicas.scope():
        distiller = Logging(conv_net(1), conv_net(2))
        distiller.compile(keras.optimizers.SGD(0.25))
    assert distiller.fit(IMAGES, LABELS, **FIT).history["rate"] == [0.25]
