"""run(config, workdir): a run from its settings to a student that ships."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.config.flags import write_flags
from skd_tf.data.catalog import has_labels
from skd_tf.data.unlabelled import with_unlabelled
from skd_tf.errors import InputError, counted, input_error
from skd_tf.models import deployable
from skd_tf.runs import class_names, lineage, report, run_files
from skd_tf.runs.data_identity import data_facts, places_of
from skd_tf.runs.run_record import read_result, recorded_config, settings_record, with_recorded_rules
from skd_tf.runs.workdir import Workdir, locked
from skd_tf.runtime import cluster, devices, keras_state, replicas, signals, user_code
from skd_tf.runtime.console import Stopwatch, detail, say, say_of_part, set_verbosity, stage, warn
from skd_tf.runtime.files import write_json, write_text
from skd_tf.runtime.local_paths import require_folder
from skd_tf.training import (
    announcement,
    layers,
    measuring,
    nested_runs,
    preflight,
    run_outputs,
    unlabelled,
    workdir_place,
)
from skd_tf.training.ensemble import open_teachers
from skd_tf.training.resources import SharedResources
from skd_tf.training.trackers import Tracker, Trackers
from skd_tf.training.train_student import check_loss, train_student


@cluster.reporting_lost_workers()
def run(
    config: Config,
    workdir: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    callbacks: Iterable[Tracker] = (),
) -> dict[str, Any]:
    """Trains, measures and exports a student. Resumes an interrupted run; returns the result of a finished one.

    Args:
      config: a `Config`.
      workdir: folder of the run (see `skd_tf.runs.workdir.Workdir`).
      data_dir: TFDS data directory; None is TFDS' default.
      callbacks: functions of one dict. Each is called with the record of each epoch of the student, and at the end with
        the result, in addition to the function of --callback. An error in one of them does not stop the run.

    Returns:
      The result, as in `workdir/result.json`.

    Raises:
      InputError: settings, data, teacher or workdir are wrong.
      WorkerLost: another worker stopped; the same call on all workers resumes.

    Examples:
      >>> import tempfile, skd_tf
      >>> config = skd_tf.Config(student="cnn_2", loss="cross_entropy", epochs=1, strategy="one_device", report=False)
      >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
      ...     result = skd_tf.run(config, folder)
      student    cnn_2: 1 epoch in ...
      >>> result["student"]["parameters"]
      152
    """
    keras_state.require(dtype_policy=True)
    config.require_teacher()
    if config.dry_run:
        raise input_error(
            "run() trains",
            expected="dry_run=False",
            received="dry_run=True",
            remedy="Call skd_tf.training.dry_run.describe(config, workdir), or python -m skd_tf.train --dry_run",
        )
    set_verbosity(config.verbosity)
    config = with_recorded_rules(config, lambda: recorded_config(workdir))
    with contextlib.ExitStack() as held:
        held.enter_context(data.shared_loads())
        require_folder(workdir, "workdir")
        workdir_place.check(config, workdir)
        if config.overwrite or read_result(workdir) is None:
            preflight.check_before_loading(config, data_dir)
            check_loss(config)
        strategy = make_strategy(config)  # all workers join before the chief does anything alone
        held.enter_context(locked(workdir))
        folder = Workdir(workdir, config)
        if folder.result is not None:
            _warn_of_other_loss(config, folder)
            if config.report and not (folder / run_files.REPORT).is_file():
                try:
                    report.write([folder.path], folder / run_files.REPORT)
                except InputError as error:
                    warn(f"The report cannot be written: {error}")
            said = "\n\n".join(run_outputs.closing(folder.result, folder.path))
            say_of_part(f"{folder.path} is finished:\n\n{said}\n\nResult: {folder / run_files.RESULT}")
            return folder.result
        own = [user_code.resolve(config.callback, "callback")] if config.callback else []
        return _run(config, folder, data_dir, strategy, Trackers([*own, *callbacks]))


def _warn_of_other_loss(config, folder):
    before = ((settings_record(folder.path) or {}).get("resolved") or {}).get("loss")
    now = before
    if before:
        with contextlib.suppress(Exception):  # a module that is gone: the result is there all the same
            now = user_code.fingerprint_if_own(config.loss)
    if now != before:
        warn(
            f"The code of --loss={config.loss} has changed since this run. Its results are those of the earlier code. To "
            "train with the present code, choose another --workdir, or add --overwrite."
        )


def _run(
    config: Config, folder: Workdir, data_dir, strategy: tf.distribute.Strategy, track: Trackers
) -> dict[str, Any]:
    watch = Stopwatch()
    with watch("data and teacher"), data.as_decided(places_of(_images_were_in(folder), config)):
        resources = prepare(config, folder.path, data_dir, strategy=strategy)
    write_text(folder / run_files.FLAGS, write_flags(config))  # a command that was refused leaves what is there
    with watch("student alone"):
        others = _students_alone(config, folder.path, data_dir, resources)
    with stage("distilled" if config.needs_teacher else "student"):
        distiller, history = train_student(config, resources, folder.path, track=track)
    watch.add("training", history["seconds"])  # includes earlier, interrupted processes

    with watch("measuring"):
        calibrate, images = config.calibrate == "auto", config.report_images if config.report else 0
        measured, details, student, pictures = measuring.measure(
            resources, distiller.deployable(), others, calibrate=calibrate, images=images
        )

    def finish() -> dict[str, Any]:
        teachers = [teacher.path for teacher in resources.teacher.members] if resources.teacher else []
        ancestry = lineage.of_run(config, resources.dataset, data_facts(resources.dataset), *teachers)
        with watch("export"):
            run_outputs.export(student, folder, resources.dataset.class_names, ancestry)
        if config.report:
            with watch("latency"):
                for name, found in measuring.costs(resources, student, folder / run_files.STUDENT).items():
                    details[name]["cost"] = found
        if pictures:
            write_json(folder / run_files.REPORT_IMAGES, pictures)
        facts = run_outputs.facts_of(config, resources, distiller) | history
        steps, classes = preflight.steps_per_epoch(config, len(resources.dataset.train)), resources.dataset.num_classes
        of_settings = announcement.warnings(config, distiller, classes, steps)
        facts |= {"lineage": ancestry.to_json(), "warnings": [*resources.warnings, *of_settings, *track.warnings]}
        found = run_outputs.details_of(resources, details, watch, data_dir)
        write_json(folder / run_files.MEASUREMENTS, found)
        # With result.json the run counts as finished, so a signal waits for the report and the callbacks.
        with signals.deferred() as interrupted:
            modules = user_code.joined_modules(config.custom_layers, deployable.own_modules(student))
            result = run_outputs.write_result(config, folder, measured, facts, found, modules)
            track(result)
        if number := interrupted():
            raise signals.Interrupted(number, f"The run in {folder.path} is finished.")
        return result

    return cluster.agree(finish)


def _images_were_in(folder):
    """Where an interrupted run, or the student alone that it began with, had its images; "" for a new run."""
    folders = [folder.path, *(folder / name for name in (run_files.STUDENT_ALONE, run_files.STUDENT_MATCHED))]
    resolved = [(settings_record(path) or {}).get("resolved") or {} for path in folders]
    return next((found["images_in"] for found in resolved if "images_in" in found), "")


def prepare(
    config: Config,
    folder: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    test: bool = True,
    strategy: tf.distribute.Strategy | None = None,
) -> SharedResources:
    """Loads the data and opens the teacher of a run; trains the teacher first if the settings ask for it.

    Args:
      config: a `Config`.
      folder: `teacher/` is written there.
      data_dir: TFDS data directory.
      test: whether the test split is read at all.
      strategy: the replicas; `make_strategy(config)` unless given.

    Raises:
      InputError: the start weights were trained on images that the run measures on, or the student does not fit.
    """
    unlabelled.check(config)
    strategy = strategy or make_strategy(config)
    settings = config.pick(data.DataSettings)
    with data.shared_loads():
        names: list[str] = []
        if not has_labels(config.dataset):
            names, _ = class_names.of_models(config.teachers, download=config.download)
        dataset = data.load(settings, str(data_dir) if data_dir else None, test=test, class_names=names)
        if config.unlabelled:
            dataset = with_unlabelled(dataset, config.unlabelled, settings)
        check_loss(
            config, dataset.num_classes, -(-config.batch_size // strategy.num_replicas_in_sync // config.micro_batches)
        )
        if test:  # the trials of a search check themselves
            preflight.check_loaded(config, len(dataset.train), dataset.num_classes, len(dataset.validation or ()))
        start = lineage.start_weights(config)
        warnings = lineage.require_unseen(start, dataset, settings)  # before a teacher is trained
        layers.check_feature_pairs(config, dataset)
        # Training a teacher takes long. A search, which reads no test split, may have another student in each trial.
        if test and config.needs_teacher and not config.teachers:
            layers.check_student(config, dataset, strategy.num_replicas_in_sync)
        teacher = find_teacher(config, pathlib.Path(folder), data_dir)
    teachers = config.teachers if len(config.teachers) > 1 else [teacher] if teacher else []
    seen = [
        text
        for path in teachers
        for text in lineage.require_unseen({"teacher": path}, dataset, settings, teachers=["teacher"])
    ]
    warnings += seen
    for text in warnings:
        warn(text)
    of_start, of_teachers = (lineage.joined(map(lineage.read, files)) for files in (start.values(), teachers))
    unknown = lineage.joined([of_start, of_teachers]).unknown
    if unknown:
        _say_unknown(unknown)
    opened = open_teachers(teacher, config, dataset, strategy) if teacher else None
    warnings = [*dataset.warnings, *warnings, *(opened.warnings if opened else [])]
    return SharedResources(dataset, strategy, opened, tuple(warnings), not seen and not of_teachers.unknown)


@functools.cache  # once, though the student alone starts from the same weights
def _say_unknown(names: tuple[str, ...]) -> None:
    say(lineage.unknown_sentence(names))


def make_strategy(config: Config) -> tf.distribute.Strategy:
    """The distribution strategy that a Config asks for."""
    replicas.set_determinism(config.deterministic)
    strategy = replicas.make_strategy(
        config.strategy, virtual_devices=config.virtual_devices, batch_size=config.batch_size
    )
    devices.per_replica_batch(config.batch_size, strategy.num_replicas_in_sync, config.micro_batches)
    unlabelled.check_replicas(config, strategy.num_replicas_in_sync)
    return strategy


def find_teacher(config: Config, folder: pathlib.Path, data_dir) -> str | pathlib.Path | None:
    """Path of the teacher, which is trained in folder/teacher if need be. None for a loss without a teacher."""
    if not config.needs_teacher:
        return None
    if config.teacher_checkpoint:
        return config.teacher_checkpoint
    return _nested_run("Teacher", nested_runs.teacher_config(config), folder / run_files.TEACHER, data_dir)


def _students_alone(config: Config, folder: pathlib.Path, data_dir, resources: SharedResources) -> dict[str, Any]:
    """{name in result.json: path} of the students without a teacher, which are trained if the settings ask for it."""
    if config.student_alone == "none" or not config.needs_teacher:
        return {}
    if config.student_alone not in run_files.TRAINED:
        return {run_files.STUDENT_ALONE: config.student_alone}
    wanted = {run_files.STUDENT_ALONE: nested_runs.student_alone_config(config)}
    if config.student_alone == "matched":
        flops = measuring.flops_of_training(config, resources)
        matched = nested_runs.student_matched_config(config, **flops)
        wanted[run_files.STUDENT_MATCHED] = matched
        student, teacher = (f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in (1e-6 * f for f in flops.values()))
        say_of_part(
            f"Equal compute: distilling for {counted(config.epochs, 'epoch')} costs as much as {matched.epochs} of the student "
            f"alone, at 3 x {student} MFLOPs per image and training step and {teacher} per teacher pass."
        )
    return {
        name: _nested_run(name.replace("_", " ").capitalize(), settings, folder / name, data_dir)
        for name, settings in wanted.items()
    }


def _nested_run(what: str, config: Config, path: pathlib.Path, data_dir) -> pathlib.Path:
    detail(f"{what}: {config.student}, {counted(config.epochs, 'epoch')}, in {path}")
    name, finished = what.removeprefix("Student ").lower(), _is_finished(config, path)
    if finished:
        say(f"{name:9}  {config.student}: trained before, in {path}")
    with stage(name):
        # --overwrite of the outer run does not repeat a finished inner run with the same settings.
        run(config.replace(overwrite=False) if finished else config, path, data_dir)
    detail()
    return path


def _is_finished(config: Config, path: pathlib.Path) -> bool:
    try:
        return cluster.agree(
            lambda: path.is_dir() and Workdir(path, config.replace(overwrite=False)).result is not None
        )
    except InputError:
        return False
