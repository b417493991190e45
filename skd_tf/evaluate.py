"""python -m skd_tf.evaluate: measures finished models on a dataset's test split, side by side."""

import pathlib

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import config_from, define_flags, explicit_names
from skd_tf.data.catalog import size_and_resize
from skd_tf.data.settings import DataSettings
from skd_tf.errors import input_error
from skd_tf.runs.run_record import as_named, other_test_images, recorded_config, run_behind, workdir_of
from skd_tf.runs.workdir import refuse_own_file
from skd_tf.runtime import tf_logging
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import write_json

_SETTINGS = (
    "data_dir",
    "dataset",
    "download",
    "data_seed",
    "image_size",
    "augmentation",
    "cache_dataset",
    "teacher_preprocessing",
)


def define(flag_values):
    flags.DEFINE_multi_string(
        "model", None, "a workdir, a .keras file or a SavedModel folder; repeat it for several", flag_values=flag_values
    )
    flags.DEFINE_string(
        "teacher",
        None,
        "a model to compare with (agreement, KL, confidence gap), as for --model",
        flag_values=flag_values,
    )
    flags.DEFINE_string("output", None, "JSON file to write", flag_values=flag_values)
    flags.DEFINE_bool(
        "calibrate",
        False,
        "fit one temperature to each model, a workdir then, on the images its run held out; kept there for export",
        flag_values=flag_values,
    )
    flags.DEFINE_bool("timing", True, "measure latency and throughput on this machine", flag_values=flag_values)
    flags.DEFINE_integer(
        "bootstrap", 1000, "resampled test splits for the intervals; 0: none", 0, flag_values=flag_values
    )
    flags.DEFINE_integer("bootstrap_seed", 0, "seed of the resampling", 0, flag_values=flag_values)
    define_flags(flag_values, _SETTINGS)


def main(flag_values):
    output = pathlib.Path(flag_values.output) if flag_values.output else None
    if output and not output.parent.is_dir():
        raise input_error(
            "The output has no folder",
            expected="an existing folder",
            received=f"--output={output}",
            remedy=f"Make {output.parent} first",
        )
    if output:
        refuse_own_file(output)
    tf_logging.import_tensorflow()
    from skd_tf import data
    from skd_tf.runs import text_tables

    config = _settings(flag_values)
    for path in (*flag_values.model, *([flag_values.teacher] if flag_values.teacher else [])):
        _require_unseen(path, config)
    runs = [_calibrated_run(path, config) for path in flag_values.model] if flag_values.calibrate else []
    say(f"Test split of {config.dataset}")
    dataset = data.load(config.pick(data.DataSettings), flag_values.data_dir)
    _tell_other_pixels(flag_values.model, config, dataset)
    temperatures = {}
    for path, run in zip(flag_values.model, runs, strict=False):
        held_out = data.load(
            run.replace(download=config.download).pick(data.DataSettings), flag_values.data_dir, test=False
        )
        temperatures[path] = calibrate(path, held_out)
    result = evaluate(
        flag_values.model,
        dataset,
        teacher=flag_values.teacher,
        teacher_preprocessing=config.teacher_preprocessing,
        download=config.download,
        temperatures=temperatures,
        timing=flag_values.timing,
        bootstrap_samples=flag_values.bootstrap,
        bootstrap_seed=flag_values.bootstrap_seed,
    )
    say(text_tables.evaluation_tables(result))
    if output:
        write_json(output, result)
        say(f"\nWritten: {output}")


def evaluate(
    paths,
    dataset,
    *,
    teacher=None,
    teacher_preprocessing="auto",
    download=False,
    temperatures=None,
    timing=True,
    bootstrap_samples=1000,
    bootstrap_seed=0,
):
    """Measures models on `dataset.test`; changes no weight. Of probabilities that a model returns the logarithms are logits.

    Args:
      paths: workdirs, `.keras` files or SavedModel folders.
      dataset: a `Dataset` with a test split.
      teacher: path of a model to compare with, or None; its images are resized where it takes others.
      teacher_preprocessing: what the teacher has not inside, as in training.
      download: whether Keras may fetch weights of keras.applications.
      temperatures: {path: fitted temperature}, whose effect on the test split is measured too; or None.
      timing: whether to measure latency and throughput.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: of the resampling.

    Returns:
      {"models": [row], "teacher": row or None, "dataset", "versions", "device"}. A row: "path", what `metrics.quality`
      gives, "overconfidence" (mean confidence minus accuracy), "per_class_accuracy", "intervals"; with a teacher what
      `metrics.comparison` gives; "raw" (quality of the raw softmax, for a student on a sphere), "calibrated" (quality at
      the fitted "temperature"); "parameters", "flops", "file_bytes", "latency_ms", "images_per_second".

    Raises:
      InputError: a path without a model, or a model of other images or classes.
    """
    from skd_tf.evaluation import bootstrap, cost, metrics, predictor, temperature_scaling
    from skd_tf.models import deployable, loading
    from skd_tf.runs import provenance

    # All of them, before any time is spent.
    opened = {str(path): loading.load_measured(path, dataset, download=download) for path in paths}
    rival = None
    if teacher:
        facts = {"preprocessing": teacher_preprocessing, "resizable": True, "download": download}
        rival = loading.load_measured(teacher, dataset, **facts)
    images, labels = dataset.test.images, dataset.test.labels

    def logits_of(model, what):
        return predictor.Predictor(model)(images, what=f"evaluating {what}")

    def row_of(path, model, logits, teacher_logits):
        row = {"path": path, **metrics.quality(logits, labels)}
        row["overconfidence"] = row["confidence"] - row["accuracy"]
        row["per_class_accuracy"] = metrics.per_class_accuracy(logits, labels)
        if teacher_logits is not None:
            row |= metrics.comparison(logits, teacher_logits)
        if bootstrap_samples:
            draws = {"samples": bootstrap_samples, "seed": bootstrap_seed}
            row["intervals"] = bootstrap.intervals(logits, labels, teacher_logits, **draws)
        raw = deployable.before_readout(model)
        if raw is not None:
            row["raw"] = metrics.quality(logits_of(raw, f"{path}, raw logits"), labels)
        if path in (temperatures or {}):
            row["calibrated"] = temperature_scaling.effect(logits, labels, temperatures[path])
        row |= {"parameters": loading.parameter_count(model), "flops": cost.flops(model, dataset.image_shape)}
        row["file_bytes"] = cost.file_bytes(loading.file_of(path))
        return row | (cost.timing(model, images) if timing else {})

    rivals = logits_of(rival, "the teacher") if teacher else None
    return {
        "models": [row_of(path, opened[path], logits_of(opened[path], path), rivals) for path in map(str, paths)],
        "teacher": row_of(str(teacher), rival, rivals, None) if teacher else None,
        "dataset": {"name": dataset.name, "version": dataset.version, "test_examples": len(dataset.test)},
        "class_names": list(dataset.class_names),
        "versions": provenance.versions(),
        "device": provenance.device(),
    }


def calibrate(workdir, dataset):
    """Fits a student's temperature on `dataset.validation` and stores it in its workdir; returns it."""
    from skd_tf.evaluation import metrics, predictor, temperature_scaling
    from skd_tf.models import loading

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
    logits = predictor.Predictor(model)(split.images, what="calibrating")
    temperature = temperature_scaling.fit_temperature(logits, split.labels)
    before, after = (metrics.quality(z, split.labels) for z in (logits, logits / temperature))
    temperature_scaling.store(workdir, temperature, examples=len(split), before=before, after=after)
    say(
        f"{workdir}: temperature {temperature:.4f}, fitted on {len(split)} validation images: "
        f"NLL {before['nll']:.4f} -> {after['nll']:.4f}, ECE {before['ece']:.4f} -> {after['ece']:.4f}. "
        f"Kept in {pathlib.Path(workdir) / temperature_scaling.FILE} for export."
    )
    return temperature


def _settings(flag_values):
    """The Config to read the test split by: the flags, over what the first run of that dataset among the models has."""
    config = config_from(flag_values)
    dataset = config.dataset if "dataset" in explicit_names(flag_values) else None
    for path in flag_values.model:
        run = run_behind(path) if dataset else recorded_config(workdir_of(path))
        if run and dataset in (None, run.dataset):
            config = config_from(flag_values, as_named(run, path, dataset=dataset, download=config.download))
            break
    return config.replace(validation_fraction=0.0)


def _tell_other_pixels(paths, config, dataset):
    """Warns of models that their runs have measured on images of another size, or on another part of each."""

    def shown(settings):  # (side of the middle that is cut out, shorter side before)
        return tuple(side or dataset.image_shape[0] for side in size_and_resize(settings.pick(DataSettings)))

    for path in paths:
        run = run_behind(path)
        if run and shown(run) != shown(config):
            (here, whole), (there, whole_there) = shown(config), shown(run)
            warn(
                f"{path} is measured on other pixels than in its run: on the middle {here} of {whole} here, {there} of "
                f"{whole_there} there (--image_size={run.image_size} --augmentation={run.augmentation}). By itself, and "
                "without such flags, it is measured as there."
            )


def _require_unseen(path, config):
    """InputError where the run behind a model has trained on images that it would be tested on."""
    seed = other_test_images(path, config)
    if seed is not None:
        raise input_error(
            f"{path} has trained on most of these test images: {config.dataset} has no test part, and data_seed draws one",
            expected=f"--data_seed={seed}, its run's",
            received=f"--data_seed={config.data_seed}",
            remedy="Evaluate it by itself with its own, or give the folder train/ and test/",
        )


def _calibrated_run(path, config):
    """The Config of the run in a workdir, checked to hold images out of its training."""
    run = recorded_config(path)
    if run is None or not run.validation_fraction:
        raise input_error(
            "--calibrate needs images that no training has seen",
            expected="the workdir of a run with --validation_fraction > 0",
            received=f"--model={path}",
            remedy="Leave out --calibrate for this model",
        )
    if (run.dataset, run.image_size) != (config.dataset, config.image_size):
        raise input_error(
            "--calibrate takes the run's own data",
            expected=f"--dataset={run.dataset} and --image_size={run.image_size}",
            received=f"--dataset={config.dataset} and --image_size={config.image_size} with {path}",
            remedy="Leave both out",
        )
    return run


def cli_main():
    app.run(
        main,
        description="Measures models on a dataset's test split: top-1 and top-5, NLL, calibration, agreement with a "
        "teacher, parameters, operations, size, speed.",
        define=define,
        required=("model",),
    )


if __name__ == "__main__":
    cli_main()
