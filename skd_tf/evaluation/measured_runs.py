"""What the runs of measured models say: their data and pixels, what they have seen, and what is refused or warned of."""

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf.config import Config
from skd_tf.data import catalog, redraw
from skd_tf.data.catalog import has_labels, size_and_resize
from skd_tf.data.dataset import Dataset
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error, input_error
from skd_tf.models.paths import file_fingerprint
from skd_tf.runs import lineage
from skd_tf.runs.run_record import (
    measured_dataset,
    recorded_config,
    recorded_png_bits,
    run_behind,
    settings_record,
    trusted_config,
    workdir_of,
)
from skd_tf.runtime.console import say, warn

ModelPath = str | os.PathLike


def measuring_settings(
    models: Sequence[ModelPath], given: Mapping[str, Any], teacher: ModelPath | None = None, *, calibrated: bool = False
) -> tuple[DataSettings, str]:
    """The settings to read the test split with, and the teacher's preprocessing.

    Settings that the user gave win over those of the first run among the models. If the user names a dataset, only a
    run of that dataset counts.

    Args:
      models: paths of the models.
      given: {setting: value} that the user gave, of `DataSettings` and "teacher_preprocessing".
      teacher: path of the model to compare with; of a run with several teachers, that of this one counts.
      calibrated: whether the models are calibrated. A folder is then that of the first run, perhaps at another place now.

    Raises:
      InputError: a run's record is damaged, or names code that the user does not.
    """
    config, dataset = Config(**given), given.get("dataset")
    path, run = first_run(models, dataset)
    if calibrated and not run and dataset and catalog.is_folder(dataset):
        path, run = first_run(models, None)
        moved = run is not None and catalog.source_kind(run.dataset) == catalog.source_kind(dataset)
        run = run.replace(dataset=dataset) if run and moved else None
    if run:
        config = trusted_config(run, path, dataset=dataset, download=config.download).replace(**given)
    elif "image_size" not in given and catalog.is_folder(config.dataset):
        config = config.replace(**_pixels_of(models) | given)
    preprocessing = _preprocessing(config, path, teacher, is_given="teacher_preprocessing" in given)
    return dataclasses.replace(config.pick(DataSettings), validation_fraction=0.0), preprocessing


def _pixels_of(models):
    """{setting: value} of the size of the images that the first model with a run takes, as far as the run says it."""
    run = next(filter(None, map(run_behind, models)), None)
    settings = run and run.pick(DataSettings)
    known = run and catalog.known_of(run.dataset)
    size = settings and (size_and_resize(settings)[0] or (known.image_shape[0] if known else 0))
    return {"image_size": size, "augmentation": catalog.augmentation_of(settings)} if size else {}


def first_run(models, dataset):
    """(path, `Config`) of the first model whose run is known and has this dataset, any without one; (None, None)."""
    for path in models:
        run = run_behind(path) if dataset else recorded_config(workdir_of(path))
        if run and (dataset is None or catalog.are_same(run.dataset, dataset)):
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


def require_teacher(models, teacher, settings):
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


def require_unseen(models, dataset, settings):
    """Refuses models that were trained on measured images; warns of those whose teacher was; returns the warnings."""
    warnings = [text for path in models for text in lineage.require_unseen({"model": path}, dataset, settings)]
    for text in dict.fromkeys(warnings):
        warn(text)
    unknown = lineage.joined(map(lineage.read, models)).unknown
    if unknown and (dataset.drawn_from or redraw.is_drawn("test", dataset, settings)):
        say(lineage.unknown_sentence(unknown))
    return warnings


def require_preprocessed(models: Sequence[ModelPath], kind: str) -> None:
    """Refuses --preprocessing if every model contains its own."""
    if kind != "auto" and all(map(lineage.is_of_skd_tf, models)):
        problem, expected = "has no effect", "a --model that skd_tf did not write; its own students scale their pixels"
        raise flag_error("preprocessing", kind, problem, expected, "Leave it out")


def warn_of_other_pixels(models, settings, image_size):
    """Warns of models whose runs measured them on images of another size, or on another part of each image."""

    def shown(settings):  # (side of the middle that is cut out, shorter side before the cut)
        return tuple(side or image_size for side in size_and_resize(settings))

    for path in models:
        run = run_behind(path)
        if run and shown(run.pick(DataSettings)) != shown(settings):
            (here, whole), (there, whole_there) = shown(settings), shown(run.pick(DataSettings))
            warn(
                f"{path} is not measured on the pixels that its run used: here the middle {here} of {whole}, in its "
                f"run the middle {there} of {whole_there} (--image_size={run.image_size} "
                f"{shlex.quote(f'--augmentation={run.augmentation}')}). "
                "To measure it as its run did, evaluate it alone, with these two flags."
            )


def warn_of_other_depths(models, bits):
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


def run_to_calibrate(path, settings):
    """The `Config` of the run in a workdir; InputError if it held out no images, or has other data.

    The folder of its pictures may be at another place now: see `require_own_data`.
    """
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
    same = catalog.are_same(run.dataset, settings.dataset)
    moved = not same and catalog.is_folder(run.dataset) and catalog.is_folder(settings.dataset)
    if not (same or moved) or run.image_size != settings.image_size:
        raise _other_data(run, path, settings)
    return run.replace(dataset=settings.dataset) if moved else run


def require_own_data(path: ModelPath, dataset: Dataset, settings: DataSettings) -> None:
    """Refuses to calibrate a run on a folder of another place than in its record, unless it has the same images."""
    run, before = recorded_config(path), measured_dataset(path).get("version")
    if run is None or catalog.are_same(run.dataset, settings.dataset):
        return
    if before is None:
        raise input_error(
            "skd_tf cannot tell whether this is the run's own folder, moved",
            expected=f"--dataset={run.dataset}, or a run that recorded the version of its data",
            received=f"--dataset={settings.dataset} with {path}",
            remedy="Put a link to the folder at its old place",
        )
    if before != str(dataset.version):
        raise _other_data(run, path, settings)


def _other_data(run, path, settings):
    return input_error(
        "--calibrate takes the run's own data",
        expected=f"--dataset={run.dataset} and --image_size={run.image_size}",
        received=f"--dataset={settings.dataset} and --image_size={settings.image_size} with {path}",
        remedy="Leave both out, or name the folder where its pictures are now"
        if catalog.is_folder(run.dataset)
        else "Leave both out",
    )
