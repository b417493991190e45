"""--freeze: the layers that it names stay bit for bit, their statistics too, also on two replicas and after a resume."""

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.models import frozen_layers
from skd_tf.training import experiment, nested_runs, train_student
from skd_tf.training.checkpoints import Checkpoints
from tests.helpers.runs import ALONE, SMALL, assert_same_run, train

SETTINGS = ALONE | {"student": "cnn_2", "epochs": 2, "freeze": "^stage1_", "keep_checkpoints": 9}


def weights(student):
    return {name: layer.get_weights() for name, layer in frozen_layers.layer_names(student).items()}


@pytest.mark.parametrize("strategy", ["one_device", pytest.param("mirrored", marks=pytest.mark.slow)])
def test_frozen_layers_stay_and_the_others_train(tmp_path, strategy):
    config = Config(**SETTINGS | {"strategy": strategy, "epochs": 1})
    resources = experiment.prepare(config, tmp_path)
    before = weights(train_student.build_student(config, resources))
    distiller, _ = train_student.train_student(config, resources, tmp_path)
    after = weights(distiller.student)
    assert before.keys() == after.keys()
    for name in before:
        same = [np.array_equal(*pair) for pair in zip(before[name], after[name], strict=True)]
        assert all(same) if name.startswith("stage1_") else not any(same), name
    assert any(name.startswith("stage1_bn") for name in before)  # whose statistics are among its weights
    trained = train_student.build_student(config.replace(freeze=""), resources)
    assert len(distiller.student.trainable_variables) == len(trained.trainable_variables)  # so parameters are counted


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--freeze matches no layer", {"freeze": "^nothing"}),
        ("--layer_rates has an expression that matches no", {"layer_rates": "^nothing: 2"}),
        ("cannot be built", {"student": "keras.applications:ResNet50"}),
    ],
)
def test_a_student_that_does_not_fit_is_refused_before_its_teacher_is_trained(words, settings, tmp_path):
    with pytest.raises(InputError, match=words):
        train(tmp_path, SMALL | {"teacher": "cnn_2"}, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_resumes_exactly(tmp_path):
    whole, resumed = train(tmp_path / "whole", SETTINGS), tmp_path / "resumed"
    assert (
        whole["student"]["parameters"]
        == train(tmp_path / "free", SETTINGS, freeze="", epochs=1)["student"]["parameters"]
    )
    train(resumed, SETTINGS)
    for name in ("result.json", "measurements.json"):
        (resumed / name).unlink()
    Checkpoints(resumed / "checkpoints").paths()[-1].unlink()
    train(resumed, SETTINGS)
    assert_same_run(resumed, tmp_path / "whole")


def test_names_do_not_depend_on_what_was_built_before():
    def build():
        return keras.Sequential([keras.Input([4, 4, 3]), *(keras.layers.Conv2D(2, 1) for _ in range(2))])

    first, second = build(), build()
    assert [*frozen_layers.layer_names(first)] == [*frozen_layers.layer_names(second)] == ["conv2d", "conv2d_1"]


@pytest.mark.parametrize(("pattern", "words"), [("nothing", "matches no layer"), (".", "leaves nothing to train")])
def test_a_pattern_that_fits_nothing_or_all_is_one_line(tmp_path, pattern, words):
    with pytest.raises(InputError, match=f"--freeze {words}.*stage1_conv.*--list_layers"):
        train(tmp_path, SETTINGS, freeze=pattern)


def test_a_teacher_that_the_run_trains_keeps_nothing_of_the_student():
    config = Config(student="resnet8", freeze="^stem_", layer_rates="^logits: 10", teacher="resnet20", loss="kd")
    teacher = nested_runs.teacher_config(config)
    assert (teacher.student, teacher.freeze, teacher.layer_rates) == ("resnet20", "", "")
