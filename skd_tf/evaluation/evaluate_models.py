"""Measures finished models side by side on a dataset's test split, and fits temperatures; what skd_tf.evaluate does."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data.catalog import size_and_resize
from skd_tf.data.dataset import Dataset
from skd_tf.data.settings import DataSettings
from skd_tf.errors import input_error
from skd_tf.evaluation import bootstrap, cost, final_measurements, metrics, temperature_scaling
from skd_tf.evaluation.predictor import Predictor
from skd_tf.models import deployable, loading
from skd_tf.models.paths import file_of
from skd_tf.runs import provenance, result_tables, run_files
from skd_tf.runs.run_record import conflicting_data_seed, recorded_config, run_behind, trusted_config, workdir_of
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
      calibrated: whether to fit a temperature to each model first; each must then be a workdir.
      **measuring: more arguments of `evaluate_models`.

    Returns:
      What `evaluate_models` returns.

    Raises:
      InputError: a model has trained on the test images, no model is at a path, or there is nothing to calibrate on.
    """
    if output:
        require_local(output, "output")
    settings, preprocessing = measuring_settings(models, given)
    for path in (*models, *([teacher] if teacher else [])):
        require_unseen(path, settings)
    runs = {str(path): _run_to_calibrate(path, settings) for path in models} if calibrated else {}
    say(f"Test split of {settings.dataset}")
    # The training split is read only to measure its mean and std.
    dataset = data.load(settings, data_dir, train=preprocessing == "standard" and teacher is not None)
    _warn_of_other_pixels(models, settings, dataset.image_shape[0])
    temperatures = {}
    for path, run in runs.items():
        held_out = run.replace(download=settings.download).pick(DataSettings)
        temperatures[path] = calibrate(path, data.load(held_out, data_dir, test=False))
    measuring |= {"teacher_preprocessing": preprocessing, "download": settings.download}
    result = evaluate_models(models, dataset, teacher=teacher, temperatures=temperatures, **measuring)
    say(result_tables.evaluation_tables(result))
    if output:
        write_json(output, result)
        say(f"\nWritten: {output}")
    return result


def evaluate_models(
    paths: Sequence[ModelPath],
    dataset: Dataset,
    *,
    teacher: ModelPath | None = None,
    teacher_preprocessing: str = "auto",
    download: bool = False,
    temperatures: Mapping[str, float] | None = None,
    timing: bool = True,
    bootstrap_samples: int = bootstrap.SAMPLES,
    bootstrap_seed: int = 0,
) -> dict[str, Any]:
    """Measures models on `dataset.test`, without changing any weight.

    If a model returns probabilities, their logarithms are taken as its logits.

    Args:
      paths: workdirs, `.keras` files or SavedModel folders.
      dataset: a `Dataset` with a test split.
      teacher: path of a model to compare with, or None; the images are resized if it takes another size.
      teacher_preprocessing: the preprocessing that the teacher does not contain, as in training.
      download: whether Keras may download weights of keras.applications.
      temperatures: {path: fitted temperature}; its effect on the test split is measured too.
      timing: whether to measure latency and throughput.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: seed of the resampling.

    Returns:
      {"models": [entry of each path], "teacher": entry or None, "dataset", "class_names", "versions", "device"}. An
      entry has "path", what `final_measurements.measure_model` gives, "calibrated" (the quality at the fitted
      "temperature"), "parameters", "flops", "file_bytes", "latency_ms", "images_per_second".

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
        return Predictor(model)(images, what=f"evaluating {name}")

    def entry(path, model, logits, teacher_logits):
        raw = deployable.without_sphere(model)
        found = {"path": path} | final_measurements.measure_model(
            logits,
            labels,
            teacher_logits=teacher_logits,
            raw_logits=None if raw is None else predict(raw, f"{path}, raw logits"),
            bootstrap_samples=bootstrap_samples,
            bootstrap_seed=bootstrap_seed,
        )
        if path in (temperatures or {}):
            found["calibrated"] = temperature_scaling.effect(logits, labels, temperatures[path])
        found |= {"parameters": loading.parameter_count(model), "flops": cost.flops(model, dataset.image_shape)}
        found["file_bytes"] = cost.file_bytes(file_of(path))
        return found | (cost.timing(model, images) if timing else {})

    rivals = predict(rival, "the teacher") if teacher else None
    return {
        "models": [entry(path, opened[path], predict(opened[path], path), rivals) for path in map(str, paths)],
        "teacher": entry(str(teacher), rival, rivals, None) if teacher else None,
        "dataset": {"name": dataset.name, "version": dataset.version, "test_examples": len(labels)},
        "class_names": list(dataset.class_names),
        "versions": provenance.versions(),
        "device": provenance.device(),
    }


def calibrate(workdir: ModelPath, dataset: Dataset) -> float:
    """Fits the temperature of a run's student on `dataset.validation`, stores it in the workdir, and returns it.

    Raises:
      InputError: the dataset has no validation split, or no temperature fits.
    """
    model = loading.load(workdir)
    loading.check_fits(model, dataset, workdir)
    split = dataset.validation
    if split is None:
        raise input_error(
            "Nothing was held out: the share rounds to no image",
            expected=f"--validation_fraction of at least {1 / len(dataset.train):.2g} in the run",
            received=f"{len(dataset.train)} training images in {workdir}",
            remedy="Leave out --calibrate for this model",
        )
    logits = Predictor(model)(split.images, what="calibrating")
    temperature = temperature_scaling.fit_temperature(logits, split.labels)
    before, after = (metrics.quality(z, split.labels) for z in (logits, logits / temperature))
    temperature_scaling.store(workdir, temperature, examples=len(split), before=before, after=after)
    say(
        f"{workdir}: temperature {temperature:.4f}, fitted on {len(split)} validation images: "
        f"NLL {before['nll']:.4f} -> {after['nll']:.4f}, ECE {before['ece']:.4f} -> {after['ece']:.4f}. "
        f"Kept in {pathlib.Path(workdir) / run_files.CALIBRATION} for export."
    )
    return temperature


def measuring_settings(models: Sequence[ModelPath], given: Mapping[str, Any]) -> tuple[DataSettings, str]:
    """The settings to read the test split with, and the teacher's preprocessing.

    Settings that the user gave win over those of the first run among the models. If the user names a dataset, only a
    run of that dataset counts.

    Args:
      models: paths of the models.
      given: {setting: value} that the user gave, of `DataSettings` and "teacher_preprocessing".

    Raises:
      InputError: a run's record is damaged, or names code that the user does not.
    """
    config, dataset = Config(**given), given.get("dataset")
    for path in models:
        run = run_behind(path) if dataset else recorded_config(workdir_of(path))
        if run and dataset in (None, run.dataset):
            config = trusted_config(run, path, dataset=dataset, download=config.download).replace(**given)
            break
    settings = dataclasses.replace(config.pick(DataSettings), validation_fraction=0.0)
    return settings, config.teacher_preprocessing


def require_unseen(path: ModelPath, settings: DataSettings) -> None:
    """InputError if the run that trained a model has trained on the images that it would be tested on."""
    seed = conflicting_data_seed(path, settings.dataset, settings.data_seed, settings.group)
    if seed is not None:
        run = run_behind(path)
        group = f" --group={run.group}" if run and run.group != settings.group else ""
        raise input_error(
            f"{path} has trained on most of these test images: data_seed draws the test part of {settings.dataset}",
            expected=f"--data_seed={seed}{group}, the {'settings' if group else 'seed'} of its run",
            received=f"--data_seed={settings.data_seed}{f' --group={settings.group}' if group else ''}",
            remedy="Evaluate it alone with its own seed, or split the folder into train/ and test/",
        )


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


def _run_to_calibrate(path, settings):
    """The `Config` of the run in a workdir; InputError if it held out no images, or has other data."""
    run = recorded_config(path)
    if run is None or not run.validation_fraction:
        raise input_error(
            "--calibrate needs images that no training has seen",
            expected="the workdir of a run with --validation_fraction > 0",
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
