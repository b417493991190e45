"""What fit displays: at most eight values, and the history keeps all."""

import keras
import numpy as np
import pytest

from skd_tf.distillation.distiller import Distiller
from skd_tf.distillation.fit_display import ShortProgress


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return random.integers(0, 256, [64, 8, 8, 1]).astype(np.uint8), random.integers(0, 4, 64)


def test_fit_displays_eight_values_without_metrics_and_logs_all(data, capsys):
    def net():
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])

    distiller = Distiller(net(), net())
    distiller.compile("sgd")
    history = distiller.fit(*data, validation_data=data, epochs=2, batch_size=32, verbose=2).history
    lines = [line for line in capsys.readouterr().out.splitlines() if " - loss: " in line]
    assert len(lines) == 2
    names = [piece.split(":")[0] for piece in lines[-1].split(" - ") if ": " in piece]
    each = ["loss", "accuracy", "agreement", "distill_loss"]
    assert names == [*each, *(f"val_{name}" for name in each)]
    assert {"label_loss", "teacher_accuracy", "student_logit_norm", "val_label_loss"} < set(history)
    distiller.fit(*data, verbose=0)
    assert capsys.readouterr().out == ""


def test_what_the_user_asked_for_comes_right_after_the_loss():
    own = ["loss", "label_loss", "distill_loss", "accuracy", "agreement", "teacher_accuracy", "student_logit_norm"]
    logs = dict.fromkeys([*own, "top_k", "learning_rate", "val_loss", "val_top_k", "val_accuracy"], 0.5)
    shown = list(ShortProgress(own).displayed(logs))
    assert shown == ["loss", "top_k", "accuracy", "agreement", "val_loss", "val_top_k", "val_accuracy"]
    assert ShortProgress(own).displayed(None) == {}


def test_a_display_of_the_user_s_own_is_kept(data):
    shown = []

    class Mine(keras.callbacks.ProgbarLogger):
        def on_epoch_end(self, epoch, logs=None):
            shown.append(set(logs))

    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    distiller = Distiller(net, None, "cross_entropy")
    distiller.compile("sgd")
    distiller.fit(*data, callbacks=[Mine()])
    assert len(shown) == 1 and len(shown[0]) > 2
