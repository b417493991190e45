"""Models that were trained on scaled pixels and do not scale them: evaluate and predict with --preprocessing."""

import csv
import re

import keras
import numpy as np
import pytest

from skd_tf import data, evaluate, predict
from skd_tf.errors import InputError
from skd_tf.evaluation.evaluate_models import evaluate_and_print, evaluate_models
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.models import loading
from skd_tf.runs import lineage
from tests.helpers.images import write_image

QUICK = {"timing": False, "bootstrap_samples": 0}


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Files of one network that scales its pixels to [0, 1], and of the same without that layer."""
    folder = tmp_path_factory.mktemp("nets")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(10)]
    bare = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    whole = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), *layers])
    bare.save(folder / "bare.keras")
    whole.save(folder / "whole.keras")
    bare.export(folder / "exported", verbose=False)
    return folder


def quality(entry):
    return {name: entry[name] for name in ("accuracy", "nll", "brier")}


def answers(folder, model, images, **options):
    predict_images(folder / model, images, folder / "answers.csv", **options)
    with open(folder / "answers.csv", newline="") as file:
        return np.array([[float(row[f"p_{name}"]) for name in range(10)] for row in csv.DictReader(file)])


def test_evaluate_scales_the_pixels_of_models_that_do_not(nets, digits):
    paths = [nets / "whole.keras", nets / "bare.keras", nets / "exported"]
    whole, *_ = evaluate_models(paths[0], digits, **QUICK)["models"]
    scaled = evaluate_models(paths[1:], digits, preprocessing="unit", teacher=paths[0], **QUICK)
    assert whole["nll"] != evaluate_models(paths[1], digits, **QUICK)["models"][0]["nll"]
    for entry in (*scaled["models"], scaled["teacher"]):
        assert quality(entry) == pytest.approx(quality(whole), rel=1e-5)


def test_a_models_own_preprocessing_is_not_repeated(nets, digits, digits_run, capsys):
    alone = evaluate_models(digits_run, digits, **QUICK)["models"][0]
    capsys.readouterr()
    both = evaluate_models([digits_run, nets / "bare.keras"], digits, preprocessing="unit", **QUICK)["models"]
    assert quality(both[0]) == quality(alone) and "scale" not in "".join(capsys.readouterr())
    with pytest.raises(InputError, match=r"--preprocessing has no effect..*own students scale their pixels"):
        evaluate_and_print(digits_run, {}, preprocessing="unit", **QUICK)
    with pytest.raises(InputError, match=r"--preprocessing has no effect"):
        predict_images(digits_run, nets, nets / "answers.csv", preprocessing="unit")


def test_auto_is_raw_for_models_that_contain_their_preprocessing(nets, digits_run):
    own = (digits_run, digits_run / "student.keras", digits_run / "saved_model", "keras.applications:EfficientNetB0")
    assert [lineage.preprocessing_of(model, "auto") for model in own] == ["raw"] * 4
    assert lineage.preprocessing_of(nets / "bare.keras", "auto") == "auto"
    assert lineage.preprocessing_of(digits_run, "unit") == "unit"


def test_standard_takes_the_mean_and_std_of_the_training_images(nets, digits):
    given = {"dataset": "digits"}
    found = evaluate_and_print(nets / "bare.keras", given, preprocessing="standard", **QUICK)["models"][0]
    bare = keras.models.load_model(nets / "bare.keras")
    pixels = (digits.test.images / 255 - digits.mean) / digits.std
    expected = (bare.predict(pixels, verbose=0).argmax(-1) == digits.test.labels).mean()
    assert found["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_predict_scales_the_pixels_of_a_model_that_does_not(nets, digits, tmp_path, capsys):
    for number, image in enumerate(digits.test.images[:20]):
        write_image(tmp_path / f"{number:02d}.png", image)
    expected = answers(nets, "whole.keras", tmp_path)
    assert np.abs(answers(nets, "bare.keras", tmp_path) - expected).max() > 0.1
    assert re.search(r"bare.keras has no layer that scales pixels.*set --preprocessing", capsys.readouterr().out)
    for model in ("bare.keras", "exported"):
        np.testing.assert_allclose(answers(nets, model, tmp_path, preprocessing="unit"), expected, atol=2e-5)


def test_pixels_that_nothing_scales_or_that_are_scaled_twice_are_said(nets, digits, capsys):
    options = {"name": "", "dataset": digits, "teacher_precision": "float32"}
    loading.load_teacher(nets / "bare.keras", **options)
    assert re.search(r"bare\.keras has no layer .*set --teacher_preprocessing", capsys.readouterr().out)
    loading.load_teacher(nets / "whole.keras", teacher_preprocessing="unit", **options)
    assert re.search(r"whole\.keras are scaled twice: by --teacher_preprocessing=unit", capsys.readouterr().err)
    for path, kind in (("whole.keras", "auto"), ("bare.keras", "raw"), ("bare.keras", "unit"), ("exported", "auto")):
        loading.load_teacher(nets / path, teacher_preprocessing=kind, **options)
        assert "scale" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("command", [evaluate, predict])
def test_the_commands_pass_it_on(command, nets, digits, tmp_path, monkeypatch, capsys):
    write_image(tmp_path / "one.png", digits.test.images[0])
    arguments = {
        evaluate: [f"--model={nets}/bare.keras", "--dataset=digits", "--notiming", "--bootstrap=0"],
        predict: [f"{nets}/bare.keras", str(tmp_path), f"--output={tmp_path}/answers.csv"],
    }
    monkeypatch.setattr("sys.argv", [command.__name__, *arguments[command], "--preprocessing=torch"])
    with pytest.raises(SystemExit):
        command.cli_main()
    assert "Preprocessing torch is for RGB images" in capsys.readouterr().err
