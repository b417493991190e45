"""Students ship calibrated: one temperature inside every file, which changes no class, no teacher and no start weight."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf import data, losses
from skd_tf.config import Config
from skd_tf.evaluation import metrics, predictor, temperature_scaling
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.models import deployable, loading
from skd_tf.models.student import StudentSettings, make_student
from skd_tf.runs import result_tables
from skd_tf.serving import saved_model
from skd_tf.training import experiment, measuring
from tests.helpers.images import write_image
from tests.helpers.runs import SMALL, read_json, train


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture(scope="module")
def result(digits_run):
    return read_json(digits_run / "result.json")


def softmax(logits):
    return np.exp(metrics.log_softmax(logits))


def test_the_files_hold_the_temperature_that_the_validation_images_give(digits_run, digits, result):
    """Everything again by the definition: z = R z' / ||z'||, T minimises the NLL on the held-out images."""
    shipped = loading.load(digits_run)
    uncalibrated, temperature = deployable.without_temperature(shipped)
    raw = deployable.without_sphere(shipped)

    def on_the_sphere(images):
        return np.asarray(losses.project(predictor.Predictor(raw)(images), result["radius"]), np.float64)

    held_out, test = digits.validation, digits.test
    expected = temperature_scaling.fit_temperature(on_the_sphere(held_out.images), held_out.labels)
    calibrated = result["student"]["calibrated"]
    assert calibrated["temperature"] == pytest.approx(expected, rel=1e-4)
    assert temperature == pytest.approx(calibrated["temperature"], rel=1e-6)
    assert calibrated["validation_examples"] == len(held_out) >= 80
    wanted = softmax(on_the_sphere(test.images) / expected)
    served = tf.saved_model.load(str(digits_run / "saved_model")).signatures["serving_default"]
    np.testing.assert_allclose(served(images=tf.constant(test.images))["probabilities"], wanted, atol=1e-4)
    np.testing.assert_allclose(softmax(predictor.Predictor(shipped)(test.images)), wanted, atol=1e-4)
    np.testing.assert_allclose(predictor.Predictor(uncalibrated)(test.images), on_the_sphere(test.images), atol=1e-4)
    quality = metrics.quality(on_the_sphere(test.images), test.labels)
    for name in ("accuracy", "nll", "ece"):  # those of result.json are before calibration
        assert result["student"][name] == pytest.approx(quality[name], abs=1e-4)
        assert calibrated[name] == pytest.approx(metrics.quality(np.log(wanted), test.labels)[name], abs=2e-3)
    assert calibrated["accuracy"] == result["student"]["accuracy"] and calibrated["nll"] < result["student"]["nll"]
    assert result["teacher"]["calibrated"]["validation_examples"] == len(held_out)
    text = result_tables.result_table(result)
    assert f"calibrated T={calibrated['temperature']:.3f}" in text and f"{calibrated['nll']:.4f}" in text


def test_a_calibrated_file_teaches_and_starts_with_its_uncalibrated_logits(digits_run, digits, tmp_path):
    """Bit for bit, so that no distillation changes; a SavedModel up to the rounding of a division and its inverse."""
    plain, images = tmp_path / "plain.keras", digits.test.images[:50]
    deployable.without_temperature(loading.load(digits_run))[0].save(plain)
    options = {"name": "", "dataset": digits, "teacher_precision": "float32"}
    teach = [loading.load_teacher(path, **options)(images).numpy() for path in (plain, digits_run / "student.keras")]
    np.testing.assert_array_equal(*teach)
    served = loading.load_teacher(digits_run / "saved_model", **options)(tf.constant(images)).numpy()
    np.testing.assert_allclose(served, teach[0], rtol=1e-5, atol=1e-4)
    assert np.abs(loading.load(digits_run)(images).numpy() - teach[0]).max() > 0.01  # the file itself is calibrated
    model = loading.load(digits_run)
    distiller = skd_tf.Distiller(make_student(StudentSettings("cnn_2"), digits), model, loss="kd")
    np.testing.assert_array_equal(distiller.teacher(images), loading.load(plain)(images))
    for settings in ({"student": "{}"}, {"student": "cnn_4", "student_checkpoint": "{}"}):
        starts = [
            make_student(StudentSettings(**{k: v.format(path) for k, v in settings.items()}), digits)(images).numpy()
            for path in (plain, digits_run / "student.keras")
        ]
        np.testing.assert_array_equal(*starts)


@pytest.mark.slow
def test_a_run_with_and_without_calibration_trains_the_same_student(digits_teacher, digits, tmp_path, capsys):
    base = SMALL | {"teacher_checkpoint": str(digits_teacher), "report": False}
    on, off = (train(tmp_path / mode, base, calibrate=mode) for mode in ("auto", "none"))
    assert "temperature" in capsys.readouterr().out
    without = {name: value for name, value in on["student"].items() if name != "calibrated"}
    assert without == off["student"] and "calibrated" not in off["student"]
    models = [loading.load(tmp_path / mode) for mode in ("auto", "none")]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert deployable.without_temperature(models[1])[1] is None
    with open(tmp_path / "none" / "config.json") as file:
        record = json.load(file)
    old = {name: value for name, value in record.items() if name not in ("calibrate", "version", "resolved")}
    assert Config.from_json({**old, "version": 1}).calibrate == "none"  # runs of earlier versions


def test_too_few_images_or_nothing_to_fit_is_one_line(digits, tmp_path, capsys):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=[80, 3]), random.integers(0, 3, 80)
    fitted, problem = temperature_scaling.fit(logits, labels)
    assert fitted.examples == 80 and not problem
    for z, y, words in (
        (logits[:79], labels[:79], "it needs 80 validation images and has 79"),
        (logits, logits.argmax(axis=1), "all of the 80"),
        (logits, logits.argmin(axis=1), "none of the 80"),
        (logits, np.where(np.arange(80) < 79, labels, -1), "and has 79"),
    ):
        fitted, problem = temperature_scaling.fit(z, y)
        assert fitted is None and words in problem
    result = train(tmp_path, epochs=1, validation_fraction=0.05)
    out = capsys.readouterr().out
    assert out.count("is not calibrated") == 1 and "needs 80 validation images and has 45" in out
    assert "calibrated" not in result["student"]


@pytest.mark.slow
def test_predict_applies_it_unless_told_not_to(digits_run, digits, tmp_path):
    write_image(tmp_path / "images" / "a.png", digits.test.images[0])
    shipped = loading.load(digits_run)
    logits = deployable.without_temperature(shipped)[0](digits.test.images[:1]).numpy()
    for flag, expected in ((True, shipped(digits.test.images[:1]).numpy()), (False, logits)):
        predict_images(digits_run, tmp_path / "images", tmp_path / "out.csv", calibrated=flag)
        row = (tmp_path / "out.csv").read_text().splitlines()[1].split(",")
        np.testing.assert_allclose([float(p) for p in row[-10:]], softmax(expected)[0], atol=1e-4)


def test_a_model_without_the_layer_is_left_as_it_is(tmp_path):
    images = keras.Input([4, 4, 1])
    model = keras.Model(images, keras.layers.Rescaling(0.5)(keras.layers.Dense(3)(keras.layers.Flatten()(images))))
    assert deployable.without_temperature(model) == (model, None)
    saved_model.save_saved_model(model, tmp_path / "plain", "abc")
    assert loading.load(tmp_path / "plain").uncalibrated[1] is None
    assert experiment.Config().calibrate == "auto"


@pytest.mark.slow
def test_a_teacher_is_calibrated_only_on_images_that_are_new_to_it(digits_teacher, digits_run, tmp_path, capsys):
    foreign = tmp_path / "foreign.keras"
    loading.load(digits_teacher).save(foreign)  # its training is not recorded
    student = measuring._before_calibration(digits_run)
    for teacher, data_seed, new in ((digits_teacher, 0, True), (foreign, 0, False), (digits_teacher, 5, False)):
        config = Config(**SMALL, teacher_checkpoint=str(teacher), data_seed=data_seed)
        results, *_ = measuring.measure(experiment.prepare(config, tmp_path), student, {}, calibrate=True)
        assert ("calibrated" in results["teacher"]) == new and "calibrated" in results["student"]
        assert ("it may have been trained on the validation images" in capsys.readouterr().out) != new
