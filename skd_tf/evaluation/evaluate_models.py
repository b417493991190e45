"""Measures finished models side by side on a dataset's test split, and fits temperatures; what skd_tf.evaluate does."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf import data
from skd_tf.data import redraw
from skd_tf.data.catalog import has_labels
from skd_tf.data.dataset import Dataset
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, input_error
from skd_tf.evaluation import bootstrap, cost, final_measurements, measured_runs, metrics, temperature_scaling
from skd_tf.evaluation.image_answers import ImageAnswers
from skd_tf.evaluation.measured_runs import ModelPath
from skd_tf.evaluation.predictor import Predictor, accelerators
from skd_tf.evaluation.preprocessing_trial import better_preprocessing
from skd_tf.evaluation.temperature_scaling import Calibration
from skd_tf.models import deployable, loading
from skd_tf.models.paths import file_of, require
from skd_tf.runs import class_names, lineage, predictions, provenance, result_tables, run_files, verdict
from skd_tf.runs.workdir import require_output
from skd_tf.runtime import user_code
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import write_json


def evaluate_and_print(
    models: ModelPath | Sequence[ModelPath],
    given: Mapping[str, Any],
    *,
    data_dir: str | None = None,
    teacher: ModelPath | None = None,
    preprocessing: str = "auto",
    output: pathlib.Path | None = None,
    predictions_file: pathlib.Path | None = None,
    calibrated: bool = False,
    **measuring: Any,
) -> dict[str, Any]:
    """Evaluates models as the command skd_tf.evaluate does: finds and checks the dataset, measures, prints and writes.

    Args:
      models: workdirs, `.keras`, `.tflite` or `.onnx` files or SavedModel folders, or a single one.
      given: the settings of the dataset, and "teacher_preprocessing", that the user gave; see `measured_runs.measuring_settings`.
      data_dir: TFDS data directory.
      teacher: path of a model to compare with, or None.
      preprocessing: as in `evaluate_models`.
      output: JSON file to write, or None.
      predictions_file: CSV file to write with every answer to every test image, or None; see `image_answers`.
      calibrated: whether to fit a temperature to each model first; each must then be a workdir.
      **measuring: more arguments of `evaluate_models`.

    Returns:
      What `evaluate_models` returns.

    Raises:
      InputError: a model has trained on the test images, no model is at a path, or there is nothing to calibrate on.
    """
    models = [models] if isinstance(models, (str, os.PathLike)) else models
    places = [os.path.realpath(path) for path in models]
    if twice := [str(path) for path, place in zip(models, places, strict=True) if places.count(place) > 1]:
        raise input_error(
            "A model is given twice",
            expected="different models",
            received=" ".join(f"--model={path}" for path in twice),
            remedy="Leave one out",
        )
    everyone = [*models, *([teacher] if teacher else [])]
    for flag, file in (("output", output), ("predictions", predictions_file)):
        if file:
            require_output(file, flag=flag)
    for path in everyone:
        require(path, to_measure=True)
    measured_runs.require_preprocessed(models, preprocessing)
    settings, of_teacher = measured_runs.measuring_settings(models, given, teacher, calibrated=calibrated)
    measured_runs.require_teacher(models, teacher, settings)
    runs = {str(path): measured_runs.run_to_calibrate(path, settings) for path in models} if calibrated else {}
    say(f"Test split of {settings.dataset}")
    names, source = (
        ([], "") if has_labels(settings.dataset) else class_names.of_models(everyone, download=settings.download)
    )
    standard = preprocessing == "standard" or (of_teacher == "standard" and teacher is not None)
    dataset = data.load(settings, data_dir, train=standard, class_names=names)
    _, run = measured_runs.first_run(models, settings.dataset)
    if standard and run and run.validation_fraction:
        # The run measured mean and std without the images that it held out.
        fraction = {"validation_fraction": run.validation_fraction, "validation_split": run.validation_split}
        trained_on = data.load(dataclasses.replace(settings, **fraction), data_dir, test=False)
        dataset = dataclasses.replace(dataset, mean=trained_on.mean, std=trained_on.std)
    if dataset.test and redraw.is_drawn("test", dataset, settings):
        say(
            f"The folder has no test part: {counted(len(dataset.test), 'image')} of it, drawn with "
            f"--data_seed={settings.data_seed}, are measured, and the others are not. "
            "docs/evaluate.md says how to measure all."
        )
    warnings = [*dataset.warnings, *measured_runs.require_unseen(everyone, dataset, settings)]
    if not names or source:
        for path in everyone:
            class_names.require_same_order(path, dataset.class_names, source or settings.dataset)
    measured_runs.warn_of_other_pixels(models, settings, dataset.image_shape[0])
    measured_runs.warn_of_other_depths(models, dataset.png_bits)
    temperatures = {}
    for path, run in runs.items():
        held_out = run.replace(download=settings.download).pick(DataSettings)
        calibrated_on = data.load(held_out, data_dir, test=False)
        measured_runs.require_own_data(path, calibrated_on, held_out)
        warnings += measured_runs.require_unseen([path], calibrated_on, held_out)
        temperatures[path] = calibrate(path, calibrated_on)
    measuring |= {"teacher_preprocessing": of_teacher, "preprocessing": preprocessing, "download": settings.download}
    assert dataset.test is not None
    answers = ImageAnswers(dataset.test, dataset.class_names) if predictions_file else None
    result = evaluate_models(models, dataset, teacher=teacher, temperatures=temperatures, answers=answers, **measuring)
    result["warnings"] = list(dict.fromkeys([*warnings, *result.get("warnings", [])]))
    say(result_tables.evaluation_tables(result))
    if output:
        write_json(output, result)
        say(f"\nWritten: {output}")
    if predictions_file and answers:
        answers.write(predictions_file)
        say(f"\nWritten: {predictions_file}, a line for each model and test image.")
    return result


def evaluate_models(
    paths: ModelPath | Sequence[ModelPath],
    dataset: Dataset,
    *,
    preprocessing: str = "auto",
    teacher: ModelPath | None = None,
    teacher_preprocessing: str = "auto",
    download: bool = False,
    temperatures: Mapping[str, Calibration] | None = None,
    timing: bool = True,
    bootstrap_samples: int = bootstrap.SAMPLES,
    bootstrap_seed: int = 0,
    devices: Sequence[str] | None = None,
    answers: ImageAnswers | None = None,
) -> dict[str, Any]:
    """Measures models on `dataset.test`, without changing any weight.

    If a model returns probabilities, their logarithms are taken as its logits.

    Args:
      paths: workdirs, `.keras`, `.tflite` or `.onnx` files or SavedModel folders, or a single one.
      dataset: a `Dataset` with a test split.
      preprocessing: what the models that contain no preprocessing need; a run's student and a network of a library contain
        theirs.
      teacher: path of a model to compare with, or None; the images are resized if it takes another size.
      teacher_preprocessing: the preprocessing that the teacher does not contain, as in training.
      download: whether weights that are not cached may be downloaded.
      temperatures: {path: `Calibration`} fitted now; without one, that of the run's calibration.json or of a calibrated
        file is measured.
      timing: whether to measure latency and throughput.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: seed of the resampling.
      devices: names of those that share the images of a Keras model; all GPUs if None.
      answers: takes the answers to each image, or None.

    Returns:
      {"models": [entry of each path], "warnings" (sentences), "comparisons" (`runs.verdict.compare_with_best`), "teacher_comparisons" (`compare` of
      each with the teacher), "teacher": entry or None, "labels"
      (as `runs.predictions` encodes them), "dataset", "class_names", "versions", "device"}. An entry has "path", what
      `final_measurements.measure_model` gives, "parameters", "flops", "file_bytes", "latency_ms", "images_per_second".

    Raises:
      InputError: no model is at a path, or it takes other images or has other classes.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    # Open all of them before measuring any: a bad path costs no time.
    several = len(paths) > 1
    opened = {
        str(path): loading.load_measured(
            path,
            dataset,
            preprocessing="raw" if lineage.is_of_skd_tf(path) else preprocessing,
            several=several,
            download=download,
        )
        for path in paths
    }
    rival = None
    if teacher:
        rival = loading.load_measured(
            teacher,
            dataset,
            preprocessing=lineage.preprocessing_of(teacher, teacher_preprocessing),
            flag="--teacher_preprocessing",
            resizable=True,
            download=download,
        )
    assert dataset.test is not None
    images, labels = dataset.test.images, dataset.test.labels

    def predict(model, name):
        return Predictor(model, devices=accelerators() if devices is None else devices)(
            images, what=f"evaluating {name}"
        )

    warnings: list[str] = []

    def warn_of_preprocessing(model, path, flag, given, logits):
        better = better_preprocessing(lambda: model, given, dataset, dataset.test, logits)
        if better:
            warnings.append(f"{path} answers better with --{flag}={better.kind}: {better.evidence}.")
            warn(warnings[-1])

    def entry(path, model, logits, summary, teacher):
        raw, fitted = deployable.without_sphere(model), (temperatures or {}).get(path)
        stored = temperature_scaling.of_run_behind(path) if fitted is None else None
        own = model.calibration_temperature
        if stored:
            fitted = Calibration(stored["temperature"], stored.get("validation_examples"))
        fitted = fitted or (Calibration(own) if own else None)
        measured = final_measurements.ModelLogits(
            logits, None if raw is None else predict(raw, f"{path}, raw logits"), calibration=fitted
        )
        if answers:
            answers.add(path, measured)
        found = {"path": path} | final_measurements.measure_model(
            measured,
            labels,
            summary=summary,
            teacher=teacher,
            bootstrap_samples=bootstrap_samples,
            bootstrap_seed=bootstrap_seed,
        )
        found |= {"parameters": loading.parameter_count(model), "flops": cost.flops(model, dataset.image_shape)}
        found["file_bytes"] = None if user_code.published(path) else cost.file_bytes(file_of(path))
        return found | (cost.timing(model, images) if timing else {})

    teacher_entry, teacher_summary = None, None
    if teacher:
        logits = predict(rival, "the teacher")
        teacher_summary = metrics.summarize(logits, labels)
        if teacher_preprocessing != "auto" or not lineage.is_of_skd_tf(teacher):
            warn_of_preprocessing(rival, teacher, "teacher_preprocessing", teacher_preprocessing, logits)
        teacher_entry = entry(str(teacher), rival, logits, teacher_summary, None)
    entries = []
    for path, model in ((path, opened[path]) for path in map(str, paths)):
        logits = predict(model, path)
        if not lineage.is_of_skd_tf(path):
            warn_of_preprocessing(model, path, "preprocessing", preprocessing, logits)
        entries.append(entry(path, model, logits, None, teacher_summary))
    compared, against_teacher = [], []
    if all("accuracy" in one for one in entries):
        decoded = [(one["path"], predictions.decode(one["predictions"])) for one in entries]
        compared = verdict.compare_with_best(decoded, labels)
        if teacher_entry:
            taught = predictions.decode(teacher_entry["predictions"])
            against_teacher = [
                {"first": path, "second": "the teacher"} | verdict.compare(predicted, taught, labels)
                for path, predicted in decoded
            ]
    return {
        "models": entries,
        "comparisons": compared,
        "teacher_comparisons": against_teacher,
        "warnings": warnings,
        "teacher": teacher_entry,
        "dataset": {"name": dataset.name, "version": dataset.version, "test_examples": len(labels)},
        "labels": predictions.encode(labels),
        "class_names": list(dataset.class_names),
        "versions": provenance.versions(),
        "device": provenance.device(),
    }


def calibrate(workdir: ModelPath, dataset: Dataset) -> Calibration:
    """Fits the temperature of a run's student on `dataset.validation`, stores it in the workdir, and returns it.

    It divides the student's logits before calibration, and takes the place of the temperature in the file.

    Raises:
      InputError: the dataset has no validation split, or no temperature fits.
    """
    model, _ = deployable.without_temperature(loading.load(workdir))
    loading.check_fits(model, dataset, workdir)
    split = dataset.validation
    if split is None:
        raise input_error(
            "The run held out no images, or a share that rounds to none",
            expected=f"--validation_fraction of at least {1 / len(dataset.train):.2g} in the run, or a validation split in its data",
            received=f"{counted(len(dataset.train), 'training image')} in {workdir}",
            remedy="Leave out --calibrate for this model",
        )
    logits = Predictor(model, devices=accelerators())(split.images, what="calibrating")
    temperature = temperature_scaling.fit_temperature(logits, split.labels)
    before, after = (metrics.quality(z, split.labels) for z in (logits, logits / temperature))
    if len(split) < temperature_scaling.LEAST_IMAGES:
        few, enough = counted(len(split), "validation image"), temperature_scaling.LEAST_IMAGES
        file = pathlib.Path(workdir) / run_files.CALIBRATION
        warn(
            f"A temperature from {few} is uncertain and can make the probabilities worse, but predict and export will use "
            f"it. Delete {file} to undo it, or give them --nocalibrated to use no temperature. A run with a "
            f"higher --validation_fraction holds out more images: {enough} or more are enough."
        )
    temperature_scaling.store(workdir, temperature, examples=len(split), before=before, after=after)
    say(
        f"{workdir}: temperature {temperature:.4f}, fitted on {counted(len(split), 'validation image')}: "
        f"NLL {before['nll']:.4f} -> {after['nll']:.4f}, ECE {before['ece']:.4f} -> {after['ece']:.4f}. "
        f"Kept in {pathlib.Path(workdir) / run_files.CALIBRATION} for predict and export."
    )
    return Calibration(temperature, len(split))
