"""run(config, workdir): from settings to a student that ships. The only module that knows every part."""

import math
import pathlib

from skd_tf import data
from skd_tf.config import Config, flags
from skd_tf.errors import InputError, input_error
from skd_tf.evaluation import final_measurements, metrics, predictor
from skd_tf.models import deployable, loading
from skd_tf.runs import provenance, report, text_tables
from skd_tf.runs.run_record import other_test_images, recorded_config
from skd_tf.runs.workdir import Workdir, locked
from skd_tf.runtime import atomic_files, cluster, replicas
from skd_tf.runtime.console import Stopwatch, say, warn
from skd_tf.runtime.files import write_json, write_text
from skd_tf.serving import saved_model
from skd_tf.training import preflight
from skd_tf.training.teacher import Teacher, chance_level
from skd_tf.training.train_student import SharedResources, train_student

# What a teacher trained by the way takes over from the run it serves: its data and its machine.
_SHARED = (
    "dataset",
    "download",
    "data_seed",
    "validation_fraction",
    "image_size",
    "augmentation",
    "cache_dataset",
    "strategy",
    "virtual_devices",
    "jit_compile",
    "steps_per_call",
    "checkpoint_every",
    "keep_checkpoints",
    "overwrite",
    "report",
)
# A run without a teacher, and without settings that would only be part of its name.
_DISTILLING = (
    "teacher",
    "teacher_checkpoint",
    "teacher_flagfile",
    "teacher_precision",
    "teacher_cache_dir",
    "teacher_cache_dtype",
    "teacher_cache_epochs",
    "teacher_preprocessing",
    "student_alone",
    "temperature",
    "kd_weight",
    "label_weight",
    "radius",
    "center",
    "loss_settings",
    "profile_steps",
)
_NO_TEACHER = {name: getattr(Config(), name) for name in _DISTILLING} | {"loss": "cross_entropy"}
_CHANCE_EXAMPLES = 2000


@cluster.reporting_lost_workers()
def run(config, workdir, data_dir=None):
    """Trains, exports and measures; resumes what was interrupted, returns what was finished.

    Args:
      config: a `Config`.
      workdir: folder of the run (see `skd_tf.runs.workdir.Workdir`).
      data_dir: TFDS data directory; None is TFDS' default.

    Returns:
      The result, a dict, as in `workdir/result.json`.

    Raises:
      InputError: whatever is wrong with settings, data, teacher or workdir.
      WorkerLost: another worker stopped; the same call on all of them resumes.
    """
    config.require_teacher()
    if config.dry_run:
        raise input_error(
            "run() trains",
            expected="dry_run=False",
            received="dry_run=True",
            remedy="Ask skd_tf.training.dry_run.describe(config, workdir), or python -m skd_tf.train --dry_run",
        )
    preflight.check(config)
    replicas.make_strategy(
        config.strategy, virtual_devices=config.virtual_devices, batch_size=config.batch_size
    )  # before anything that only the chief of a cluster may do
    with locked(workdir):
        return _run(config, workdir, data_dir)


def _run(config, workdir, data_dir):
    folder = Workdir(workdir, config)
    if folder.result is not None:
        say(f"{folder.path} is finished:\n\n{text_tables.table(folder.result)}\n\nResult: {folder / 'result.json'}")
        return folder.result
    write_text(folder / "flags.txt", flags.write_flags(config))
    _check_student_alone(config)
    preflight.require_room(config, preflight.dataset_sizes(config, data_dir))  # before a teacher is trained
    watch = Stopwatch()
    with watch("data and teacher"):
        setup = prepare(config, folder, data_dir)
    with watch("student alone"):
        alone_path = _find_student_alone(config, folder, data_dir)
    distiller, history = train_student(config, setup, folder)
    watch.add("training", history["seconds"])  # with that of earlier processes
    return cluster.agree(lambda: _ship(config, folder, setup, distiller, history, alone_path, watch))


def _ship(config, folder, setup, distiller, history, alone_path, watch):
    """Exports the student, measures it beside the others, and writes the result and the report."""
    dataset, student = setup.dataset, distiller.deployable()
    with watch("measuring"):
        result, details = _measure(setup, student, alone_path)
    with watch("export"):
        atomic_files.sweep(folder.path)
        with atomic_files.replacing(folder / "student.keras") as path:
            student.save(path)
        with atomic_files.replacing(folder / "saved_model") as path:
            saved_model.save_saved_model(student, path, dataset.class_names)
    facts = {"name": dataset.name, "version": dataset.version, "train": len(dataset.train), "test": len(dataset.test)}
    details = {"models": details, "seconds": watch.seconds, "dataset": facts}
    if setup.teacher:
        details["teacher"] = {"name": setup.teacher.facts["name"], "path": str(setup.teacher.path)}
    write_json(folder / final_measurements.FILE, details)
    result["student"]["val_accuracy"] = history.pop("val_accuracy")
    result |= {
        "radius": float(distiller.radius.numpy()) if distiller.objective.row.readout == "sphere" else None,
        "class_names": list(dataset.class_names),
        "config": config.to_json(),
        "versions": provenance.versions(),
        "device": provenance.device(setup.strategy.num_replicas_in_sync),
        "xla": distiller.xla,
        "git_commit": provenance.git_commit(),
        **history,
    }
    write_json(folder / "result.json", result)
    written = [f"Result: {folder / 'result.json'}"]
    if config.report:
        written.append(f"Report: {report.write([folder.path], folder / report.FILE)}")
    say(f"\n{text_tables.table(result)}\n\nStudent: {folder / 'saved_model'} and {folder / 'student.keras'}")
    say("\n".join(written))
    return result


def prepare(config, folder, data_dir=None, *, test=True):
    """Replicas, data and teacher of a run; a teacher that is to be trained is trained first, in folder/teacher.

    Args:
      config: a `Config`.
      folder: where `teacher/` goes.
      data_dir: TFDS data directory.
      test: whether the test split is read at all.

    Returns:
      A `SharedResources`.
    """
    strategy = replicas.make_strategy(
        config.strategy, virtual_devices=config.virtual_devices, batch_size=config.batch_size
    )
    teacher_path = find_teacher(config, folder, data_dir)
    dataset = data.load(config.pick(data.DataSettings), data_dir, test=test)
    return SharedResources(dataset, strategy, _open_teacher(config, dataset, strategy, teacher_path))


def find_teacher(config, folder, data_dir):
    """Path of the teacher's workdir or file; trains it first where the settings say so. None for a loss without one."""
    if not config.needs_teacher:
        return None
    if config.teacher_checkpoint:
        return config.teacher_checkpoint
    shared = {name: getattr(config, name) for name in _SHARED}
    if config.teacher_flagfile:
        settings, given = flags.read_flagfile(config.teacher_flagfile)
        if "loss" in given and settings.needs_teacher:
            raise input_error(
                "The teacher's flagfile distils",
                expected="--loss=cross_entropy in it",
                received=f"--loss={settings.loss} in {config.teacher_flagfile}",
                remedy="Train such a teacher first, and name its workdir with --teacher_checkpoint",
            )
    else:  # this run's recipe, but not its seed: every seed of the student has the same teacher
        settings = config.replace(seed=Config().seed, student_checkpoint="", student_preprocessing="auto")
    settings = settings.replace(**_NO_TEACHER | shared, student=config.teacher or settings.student)
    return _nested_run("Teacher", settings, folder / "teacher", data_dir)


def _find_student_alone(config, folder, data_dir):
    if config.student_alone == "none" or not config.needs_teacher:
        return None
    if config.student_alone == "train":
        # The same code, initial weights, data, order, epochs and rates: only the loss is another.
        return _nested_run("Student alone", _alone(config), folder / "student_alone", data_dir)
    return config.student_alone


def _alone(config):
    """The Config of the same training without its teacher. Epochs of augmentation that a cache repeats are its data too."""
    repeated = ("teacher_cache_dir", "teacher_cache_epochs") if config.teacher_cache_epochs else ()
    return config.replace(**_NO_TEACHER | {name: getattr(config, name) for name in repeated})


def _check_student_alone(config):
    """InputError, before anything is trained, where --student_alone is no finished run of the same student and recipe."""
    if config.student_alone in ("none", "train") or not config.needs_teacher:
        return
    path = pathlib.Path(config.student_alone)
    loading.keras_file(path)
    before = recorded_config(path)
    differences = before.differences(_alone(config)) if before else ["no config.json"]
    if differences:
        raise input_error(
            "--student_alone is another training than this one without its teacher",
            expected="the same settings",
            received=f"{'; '.join(differences)} in {path}",
            remedy="Take --student_alone=train",
        )


def _nested_run(what, settings, path, data_dir):
    say(f"{what}: {settings.student}, {settings.epochs} epochs, in {path}")
    run(settings.replace(overwrite=False) if _is_finished(settings, path) else settings, path, data_dir)
    say()
    return path


def _is_finished(settings, path):
    """Whether a finished run with these settings is there: --overwrite of the outer run leaves that one alone."""
    try:
        return cluster.agree(
            lambda: path.is_dir() and Workdir(path, settings.replace(overwrite=False)).result is not None
        )
    except InputError:
        return False


def _open_teacher(config, dataset, strategy, path):
    """The teacher, checked, its accuracy on held-out images said BEFORE a student learns from it."""
    if path is None:
        return None
    seed = other_test_images(path, config)
    if seed is not None:
        warn(
            f"the teacher {path} was trained with --data_seed={seed}: of the test and validation images drawn here from "
            f"{dataset.name} it has trained on most, and what is said of it is too good."
        )
    teacher = Teacher(path, config, dataset, strategy)
    if cluster.workers() > 1:
        _ = teacher.model  # by all at once, whatever each finds in the cache: variables are made in a collective
    held_out = dataset.validation is not None
    split = dataset.validation if held_out else dataset.train.labelled()
    split = split if held_out else split.take(data.evenly_spaced(len(split), _CHANCE_EXAMPLES))
    if not len(split):
        warn(f"No training image has a label: whether the teacher {teacher.facts['name']} fits them is not known.")
        return teacher
    name = "validation" if held_out else "training (nothing is held out)"
    quality = cluster.agree(lambda: metrics.quality(teacher.logits(split.images), split.labels))
    accuracy = quality["accuracy"]
    if math.isnan(quality["nll"]):
        raise input_error(
            "The teacher's logits are not finite",
            expected=f"numbers on all of {len(split)} {name} images",
            received=f"NaN or infinity from {path}",
            remedy=f"Check the file, or take --teacher_precision=float32 (now {config.teacher_precision})",
        )
    say(f"Teacher {teacher.facts['name']} from {path}: accuracy {accuracy:.4f} on {len(split)} {name} images.")
    if chance_level(accuracy, dataset.num_classes, len(split)):
        raise input_error(
            "The teacher is at chance level",
            expected=f"an accuracy well above 1/{dataset.num_classes} on the {name} images",
            received=f"{accuracy:.4f} from {path}",
            remedy=f"Check that it was trained on {dataset.name} with these class numbers",
        )
    return teacher


def _measure(setup, student, alone_path):
    """Teacher, student alone and student on the test split, in one final pass; the student as it ships."""
    test, teacher = setup.dataset.test, setup.teacher
    logits, raw_logits, parameters = {}, {}, {}
    if teacher:
        logits["teacher"], parameters["teacher"] = teacher.logits(test.images), teacher.facts["parameters"]
    for name, model in {"student_alone": loading.load(alone_path) if alone_path else None, "student": student}.items():
        if model is not None:
            logits[name] = predictor.Predictor(model)(test.images, what=f"measuring {name.replace('_', ' ')}")
            parameters[name] = loading.parameter_count(model)
    raw = deployable.before_readout(student)
    if raw is not None:
        raw_logits["student"] = predictor.Predictor(raw)(test.images)
    return final_measurements.measure(logits, raw_logits, test.labels, parameters)
