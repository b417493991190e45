"""Measures finished models side by side on a dataset's test split, and fits temperatures; what skd_tf.evaluate does."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import redraw
from skd_tf.data.catalog import has_labels, size_and_resize
from skd_tf.data.dataset import Dataset
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, input_error
from skd_tf.evaluation import bootstrap, cost, final_measurements, metrics, temperature_scaling
from skd_tf.evaluation.image_answers import ImageAnswers
from skd_tf.evaluation.predictor import Predictor, accelerators
from skd_tf.evaluation.temperature_scaling import Calibration
from skd_tf.models import deployable, loading
from skd_tf.models.paths import file_fingerprint, file_of, require
from skd_tf.runs import class_names, lineage, predictions, provenance, result_tables, run_files, verdict
from skd_tf.runs.run_record import (
    recorded_config,
    recorded_png_bits,
    run_behind,
    settings_record,
    trusted_config,
    workdir_of,
)
from skd_tf.runtime import user_code
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import write_json
from skd_tf.runtime.local_paths import require_local

ModelPath = str | os.PathLike


def evaluate_and_print(
    models: Sequence[ModelPath],
    given: Mapping[str, Any],
    *,
    data_dir: str | None = None,
    teacher: ModelPath | None = None,
    output: pathlib.Path | None = None,
    predictions_file: pathlib.Path | None = None,
    calibrated: bool = False,
    **measuring: Any,
) -> dict[str, Any]:
    """Evaluates models as the command skd_tf.evaluate does: finds and checks the dataset, measures, prints and writes.

    Args:
      models: workdirs, `.keras` files or SavedModel folders.
      given: the settings of the dataset, and "teacher_preprocessing", that the user gave; see `measuring_settings`.
      data_dir: TFDS data directory.
      teacher: path of a model to compare with, or None.
      output: JSON file to write, or None.
      predictions_file: CSV file to write with every answer to every test image, or None; see `image_answers`.
      calibrated: whether to fit a temperature to each model first; each must then be a workdir.
      **measuring: more arguments of `evaluate_models`.

    Returns:
      What `evaluate_models` returns.

    Raises:
      InputError: a model has trained on the test images, no model is at a path, or there is nothing to calibrate on.
    """
    for flag, file in (("output", output), ("predictions", predictions_file)):
        if file:
            require_local(file, flag)
    for path in (*models, *([teacher] if teacher else [])):
        require(path)
    settings, preprocessing = measuring_settings(models, given, teacher)
    _require_teacher(models, teacher, settings)
    runs = {str(path): _run_to_calibrate(path, settings) for path in models} if calibrated else {}
    say(f"Test split of {settings.dataset}")
    names = [] if has_labels(settings.dataset) else class_names.of_model(models[0])
    standard = preprocessing == "standard" and teacher is not None
    dataset = data.load(settings, data_dir, train=standard, class_names=names)
    _, run = _first_run(models, settings.dataset)
    if (
        standard and run and run.validation_fraction
    ):  # the run measured mean and std without the images that it held out
        fraction = {"validation_fraction": run.validation_fraction, "validation_split": run.validation_split}
        trained_on = data.load(dataclasses.replace(settings, **fraction), data_dir, test=False)
        dataset = dataclasses.replace(dataset, mean=trained_on.mean, std=trained_on.std)
    warnings = _require_unseen([*models, *([teacher] if teacher else [])], dataset, settings)
    _warn_of_other_pixels(models, settings, dataset.image_shape[0])
    _warn_of_other_depths(models, dataset.png_bits)
    temperatures = {}
    for path, run in runs.items():
        held_out = run.replace(download=settings.download).pick(DataSettings)
        calibrated_on = data.load(held_out, data_dir, test=False)
        warnings += _require_unseen([path], calibrated_on, held_out)
        temperatures[path] = calibrate(path, calibrated_on)
    measuring |= {"teacher_preprocessing": preprocessing, "download": settings.download}
    assert dataset.test is not None
    answers = ImageAnswers(dataset.test, dataset.class_names) if predictions_file else None
    result = evaluate_models(models, dataset, teacher=teacher, temperatures=temperatures, answers=answers, **measuring)
    result["warnings"] = list(dict.fromkeys(warnings))
    say(result_tables.evaluation_tables(result))
    if output:
        write_json(output, result)
        say(f"\nWritten: {output}")
    if predictions_file and answers:
        answers.write(predictions_file)
        say(f"\nWritten: {predictions_file}, a line for each model and test image.")
    return result


def evaluate_models(
    paths: Sequence[ModelPath],
    dataset: Dataset,
    *,
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
      paths: workdirs, `.keras` files or SavedModel folders.
      dataset: a `Dataset` with a test split.
      teacher: path of a model to compare with, or None; the images are resized if it takes another size.
      teacher_preprocessing: the preprocessing that the teacher does not contain, as in training.
      download: whether weights that are not cached may be downloaded.
      temperatures: {path: `Calibration`} fitted now; without one, that of a calibrated file is measured.
      timing: whether to measure latency and throughput.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: seed of the resampling.
      devices: names of those that share the images of a Keras model; all GPUs if None.
      answers: takes the answers to each image, or None.

    Returns:
      {"models": [entry of each path], "comparisons" (`runs.verdict.compare_with_best`), "teacher": entry or None, "labels"
      (as `runs.predictions` encodes them), "dataset", "class_names", "versions", "device"}. An entry has "path", what
      `final_measurements.measure_model` gives, "parameters", "flops", "file_bytes", "latency_ms", "images_per_second".

    Raises:
      InputError: no model is at a path, or it takes other images or has other classes.
    """
    # Open all of them before measuring any: a bad path costs no time.
    opened = {str(path): loading.load_measured(path, dataset, download=download) for path in paths}
    rival = None
    if teacher:
        rival = loading.load_measured(
            teacher, dataset, preprocessing=teacher_preprocessing, resizable=True, download=download
        )
    assert dataset.test is not None
    images, labels = dataset.test.images, dataset.test.labels

    def predict(model, name):
        return Predictor(model, devices=accelerators() if devices is None else devices)(
            images, what=f"evaluating {name}"
        )

    def entry(path, model, logits, summary, teacher):
        raw, fitted = deployable.without_sphere(model), (temperatures or {}).get(path)
        if fitted is None and model.calibration_temperature:
            fitted = Calibration(model.calibration_temperature)
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
        teacher_entry = entry(str(teacher), rival, logits, teacher_summary, None)
    entries = [
        entry(path, opened[path], predict(opened[path], path), None, teacher_summary) for path in map(str, paths)
    ]
    compared = []
    if all("accuracy" in one for one in entries):
        decoded = [(one["path"], predictions.decode(one["predictions"])) for one in entries]
        compared = verdict.compare_with_best(decoded, labels)
    return {
        "models": entries,
        "comparisons": compared,
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
        warn(f"A temperature from {few} is uncertain. Hold out {enough} or more, or export without it.")
    temperature_scaling.store(workdir, temperature, examples=len(split), before=before, after=after)
    say(
        f"{workdir}: temperature {temperature:.4f}, fitted on {counted(len(split), 'validation image')}: "
        f"NLL {before['nll']:.4f} -> {after['nll']:.4f}, ECE {before['ece']:.4f} -> {after['ece']:.4f}. "
        f"Kept in {pathlib.Path(workdir) / run_files.CALIBRATION} for export."
    )
    return Calibration(temperature, len(split))


def measuring_settings(
    models: Sequence[ModelPath], given: Mapping[str, Any], teacher: ModelPath | None = None
) -> tuple[DataSettings, str]:
    """The settings to read the test split with, and the teacher's preprocessing.

    Settings that the user gave win over those of the first run among the models. If the user names a dataset, only a
    run of that dataset counts.

    Args:
      models: paths of the models.
      given: {setting: value} that the user gave, of `DataSettings` and "teacher_preprocessing".
      teacher: path of the model to compare with; of a run with several teachers, that of this one counts.

    Raises:
      InputError: a run's record is damaged, or names code that the user does not.
    """
    config, dataset = Config(**given), given.get("dataset")
    path, run = _first_run(models, dataset)
    if run:
        config = trusted_config(run, path, dataset=dataset, download=config.download).replace(**given)
    preprocessing = _preprocessing(config, path, teacher, is_given="teacher_preprocessing" in given)
    return dataclasses.replace(config.pick(DataSettings), validation_fraction=0.0), preprocessing


def _first_run(models, dataset):
    """(path, `Config`) of the first model whose run is known and has this dataset, any without one; (None, None)."""
    for path in models:
        run = run_behind(path) if dataset else recorded_config(workdir_of(path))
        if run and dataset in (None, run.dataset):
            return path, run
    return None, None


def _preprocessing(config, path, teacher, *, is_given):
    """What a teacher's pixels go through: what the user gave, or what the run gave to the same teacher, else "auto"."""
    if is_given:
        return config.teacher_preprocessing
    if not teacher or path is None:
        return "auto"
    each = config.for_each_teacher
    for one in each:
        if one.teacher_checkpoint and os.path.realpath(one.teacher_checkpoint) == os.path.realpath(teacher):
            return one.teacher_preprocessing
    resolved = (settings_record(workdir_of(path)) or {}).get("resolved", {})
    if len(each) == 1 and resolved.get("teacher") == file_fingerprint(teacher):  # moved
        return each[0].teacher_preprocessing
    return "auto"


def _require_teacher(models, teacher, settings):
    """Refuses a dataset without labels and without a teacher: there is nothing to measure then."""
    if not has_labels(settings.dataset) and not teacher:
        runs = (run_behind(path) for path in models)
        known = next((path for run in runs if run for path in run.teachers), "PATH")
        raise input_error(
            "A dataset without labels is measured by agreement with a teacher",
            expected="--teacher with it",
            received=f"--dataset={settings.dataset} alone",
            remedy=f"Add --teacher={known}",
        )


def _require_unseen(models, dataset, settings):
    """Refuses models that were trained on measured images; warns of those whose teacher was; returns the warnings."""
    warnings = [text for path in models for text in lineage.require_unseen({"model": path}, dataset, settings)]
    for text in dict.fromkeys(warnings):
        warn(text)
    unknown = lineage.joined(map(lineage.read, models)).unknown
    if unknown and (dataset.drawn_from or redraw.is_drawn("test", dataset, settings)):
        say(f"What {', '.join(unknown)} was trained on is not recorded: it may have seen these images.")
    return warnings


def _warn_of_other_pixels(models, settings, image_size):
    """Warns of models whose runs measured them on images of another size, or on another part of each image."""

    def shown(settings):  # (side of the middle that is cut out, shorter side before the cut)
        return tuple(side or image_size for side in size_and_resize(settings))

    for path in models:
        run = run_behind(path)
        if run and shown(run.pick(DataSettings)) != shown(settings):
            (here, whole), (there, whole_there) = shown(settings), shown(run.pick(DataSettings))
            warn(
                f"{path} is measured on other pixels than in its run: on the middle {here} of {whole} here, {there} of "
                f"{whole_there} there (--image_size={run.image_size} --augmentation={run.augmentation}). Evaluate it "
                "alone and without such flags to measure it as its run did."
            )


def _warn_of_other_depths(models, bits):
    """Warns of models whose runs took 16-bit PNGs to have another number of bits than those of this dataset."""
    for path in models:
        before = recorded_png_bits(path)
        if bits and before and bits != before:
            warn(
                f"{path} is measured on other pixels than in its run: a value of a 16-bit PNG is divided by "
                f"{2 ** (bits - 8)} here, by {2 ** (before - 8)} there, because the brightest training images differ "
                f"({bits} and {before} bits). Scale these files to {before} bits, or use skd_tf.predict, which reads files "
                "as the run did."
            )


def _run_to_calibrate(path, settings):
    """The `Config` of the run in a workdir; InputError if it held out no images, or has other data."""
    run = recorded_config(path)
    if run is not None and not has_labels(run.dataset):
        raise input_error(
            "--calibrate needs labels",
            expected="a run on labelled images",
            received=f"--model={path}, trained on {run.dataset}",
            remedy="Leave out --calibrate for this model",
        )
    if run is None:
        raise input_error(
            "--calibrate needs images that no training has seen",
            expected="the workdir of a run",
            received=f"--model={path}",
            remedy="Leave out --calibrate for this model",
        )
    if (run.dataset, run.image_size) != (settings.dataset, settings.image_size):
        raise input_error(
            "--calibrate takes the run's own data",
            expected=f"--dataset={run.dataset} and --image_size={run.image_size}",
            received=f"--dataset={settings.dataset} and --image_size={settings.image_size} with {path}",
            remedy="Leave both out",
        )
    return run
