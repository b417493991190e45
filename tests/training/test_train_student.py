"""What a run gives its Distiller: every setting of the Config, and the radius."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.training import train_student

GIVEN = {  # settings -> what the Distiller or its compile() is given
    "sphere": (
        {"loss": "spherical", "label_smoothing": 0.1, "gradient_scale": "student_norm", "center": False}
        | {"temperature": 3.0, "radius": 7.0},
        {"label_smoothing": 0.1, "gradient_scale": "student_norm", "center": False, "temperature": 3.0, "radius": 7.0},
    ),
    "weights": (
        {"loss": "kd", "kd_weight": "linear 0.25 to 0.75 over 1 epochs", "label_weight": 0.5},
        {"loss": "kd", "kd_weight": 0.25, "label_weight": 0.5, "schedules": ["kd_weight"]},
    ),
    "loss": ({"loss": "dkd", "loss_settings": "beta=2"}, {"loss": "dkd", "loss_settings": {"beta": 2.0}}),
    "step": (
        {"micro_batches": 2, "layer_rates": "^dense: 2", "jit_compile": "false"},
        {"micro_batches": 2, "layer_rates": "^dense: 2", "jit_compile": "false"},
    ),
    "teachers": (
        {"loss": "kd", "teacher_checkpoint": "a.keras,b.keras", "teacher_weights": "1,3"},
        {"teacher_weights": (1.0, 3.0)},
    ),
    "features": (
        {"feature_pairs": "a:b", "feature_loss": "cosine", "feature_weight": 0.5, "seed": 3},
        {"feature_pairs": "a:b", "feature_loss": "cosine", "feature_weight": 0.5, "feature_seed": 3},
    ),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_every_setting_reaches_the_distiller(kind, monkeypatch):
    settings, expected = GIVEN[kind]
    given = {}

    class Recorder:
        objective = types.SimpleNamespace(needs_teacher=True, needs_radius=False)

        def __init__(self, student, teacher, loss, **arguments):
            given.update(arguments, loss=loss)

        def compile(self, optimizer, *, schedules, **arguments):
            given.update(arguments, schedules=[*schedules])

    monkeypatch.setattr(train_student, "Distiller", Recorder)
    monkeypatch.setattr(train_student, "build_student", lambda *_: None)
    teacher = types.SimpleNamespace(members=[types.SimpleNamespace(network=lambda keep: keep)])
    resources = types.SimpleNamespace(strategy=tf.distribute.get_strategy(), teacher=teacher)
    config = {"teacher_checkpoint": "a.keras", "epochs": 2} | settings
    train_student.build_distiller(Config(**config), resources, 5)
    assert {name: given[name] for name in expected} == expected


def test_the_radius_is_measured_on_images_from_the_whole_split(monkeypatch):
    monkeypatch.setattr(train_student, "_ADAPT_EXAMPLES", 3)
    train, seen = data.Split(np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1), np.zeros(9, int), np.arange(9)), []
    distiller = types.SimpleNamespace(
        objective=types.SimpleNamespace(needs_radius=True),
        adapt=lambda x: seen.extend(x["image"].ravel().tolist()),
        radius=keras.Variable(1.0),
    )
    teacher = types.SimpleNamespace(logits_of_each=lambda images: np.zeros([len(images), 2]))
    resources = types.SimpleNamespace(dataset=types.SimpleNamespace(train=train), teacher=teacher)
    train_student.adapt_radius(distiller, types.SimpleNamespace(radius="teacher_mean"), resources)
    assert seen == [0, 4, 8]
