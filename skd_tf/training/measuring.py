"""The final measurement of a run: every model on the test split, and a temperature for each from validation data."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from skd_tf.config import Config
from skd_tf.errors import input_error
from skd_tf.evaluation import cost, final_measurements, hard_images, predictor, temperature_scaling
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.models import deployable, loading
from skd_tf.runtime.console import detail, say_of_part
from skd_tf.training.ensemble import Ensemble
from skd_tf.training.resources import SharedResources
from skd_tf.training.train_student import build_student


def measure(
    resources: SharedResources,
    student: keras.Model,
    others: Mapping[str, str | os.PathLike],
    *,
    calibrate: bool,
    images: int = 0,
) -> tuple[dict[str, Any], dict[str, Any], keras.Model, list[dict[str, Any]]]:
    """Measures teacher, other students and student on the test split, in one pass. Every worker must call it.

    Args:
      resources: data and teacher.
      student: as `deployable` returns it, before calibration.
      others: {name in result.json: path} of students to compare with.
      calibrate: whether to fit temperatures, by the rule of `temperature_scaling.fit`. That of the teacher is only
        reported.
      images: how many test images to keep for the report, see `hard_images.choose`.

    Returns:
      (results, details) of `final_measurements.measure`, the student as it ships, and the images of
      `hard_images.collect`. Of several teachers, "teacher" is the mean of their softmaxes, and the results have a list
      "teachers" of each: "name", "path", "weight", its measurements, and "student_agreement".
    """
    dataset, teacher = resources.dataset, resources.teacher
    test, validation = dataset.test, dataset.validation
    assert test is not None
    models: dict[str, Any] = {name: _before_calibration(path) for name, path in others.items()} | {"student": student}
    ensemble = teacher if isinstance(teacher, Ensemble) else None
    each = ensemble.measured(test.images) if ensemble else {}
    together = {"teacher": ensemble.mean([model.logits for model in each.values()])} if ensemble else {}
    sources: dict[str, Any] = {"teacher": teacher.shared_logits} if teacher else {}
    devices = predictor.local_devices(resources.strategy)
    sources |= {name: predictor.Predictor(model, devices=devices).shared for name, model in models.items()}
    if calibrate and not dataset.has_labels:
        say_of_part("Nothing is calibrated: the images have no labels.")
        calibrate = False
    measured = {}
    for name, logits_of in sources.items():
        new = name != "teacher" or resources.new_to_teacher
        fitted = _fit(name, logits_of, validation, new) if calibrate else None
        raw = deployable.without_sphere(models.get(name))
        measured[name] = ModelLogits(
            together[name] if name in together else logits_of(test.images),
            predictor.Predictor(raw, devices=devices).shared(test.images)
            if name == "student" and raw is not None
            else None,
            teacher.facts["parameters"] if teacher and name == "teacher" else loading.parameter_count(models[name]),
            fitted,
        )
    results, details = final_measurements.measure(measured | each, test.labels)
    if ensemble:
        results["teachers"] = ensemble.entries([results.pop(name) for name in each], details)
    shipped = measured["student"].calibration
    pictures = hard_images.collect(test, measured, images) if images else []
    return results, details, deployable.with_temperature(student, shipped.temperature) if shipped else student, pictures


def flops_of_training(config: Config, resources: SharedResources) -> dict[str, int]:
    """{"student_flops", "teacher_flops"}: operations of a forward pass of one image.

    Raises:
      InputError: a graph does not show them.
    """
    assert resources.teacher is not None
    shape = resources.dataset.image_shape
    models = {"student": [build_student(config, resources)], "teacher": _networks(resources.teacher)}
    counted = {f"{name}_flops": _flops(networks, shape) for name, networks in models.items()}
    found = {name: flops for name, flops in counted.items() if flops is not None}
    unknown = sorted(counted.keys() - found.keys())
    if unknown:
        raise input_error(
            "The computation of the teacher or the student cannot be counted",
            expected="Keras models, or a SavedModel whose graph shows its operations",
            received=f"--student_alone=matched without {', '.join(unknown)}",
            remedy="Use --student_alone=train",
        )
    return found


def costs(resources: SharedResources, student: keras.Model, file: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """{model: "latency_ms" and "flops", of the student also "file_bytes"} of the student, and of a teacher in memory.

    Args:
      resources: data and teacher.
      student: as it ships.
      file: its `.keras` file.
    """
    assert resources.dataset.test is not None
    images, models = resources.dataset.test.images, {"student": [student]}
    if resources.teacher and resources.teacher.is_loaded:
        models["teacher"] = _networks(resources.teacher)
    found = {
        name: {
            "latency_ms": cost.latency(_one_after_another(networks), images),
            "flops": _flops(networks, resources.dataset.image_shape),
        }
        for name, networks in models.items()
    }
    found["student"]["file_bytes"] = cost.file_bytes(file)
    return found


def _networks(teacher):
    return [member.model for member in teacher.members]


def _flops(networks, shape):
    """The operations of all networks together; None if a graph does not show them."""
    counts = [cost.flops(network, shape) for network in networks]
    return None if None in counts else sum(counts)


def _one_after_another(networks):
    """A network that computes all of them."""

    def compute(images, training=False):
        return tf.stack([tf.cast(network(images, training=training), tf.float32) for network in networks], axis=1)

    return compute if len(networks) > 1 else networks[0]


def _before_calibration(path):
    return deployable.without_temperature(loading.load(path))[0]


def _fit(name, logits_of, validation, new):
    """The `Calibration` of a model, or None with a line that says why. `new`: it has surely not seen the images."""
    if validation is None:
        fitted, problem = None, "no validation image is held out"
    elif not new:
        fitted, problem = None, "it may have been trained on the validation images"
    else:
        fitted, problem = temperature_scaling.fit(logits_of(validation.images), validation.labels)
    if fitted is None:
        say_of_part(f"The {name.replace('_', ' ')} is not calibrated: {problem}.")
    else:
        detail(f"{_words(name)}: temperature {fitted.temperature:.4f}, fitted on {fitted.examples} validation images.")
    return fitted


def _words(name):
    return name.replace("_", " ").capitalize()
