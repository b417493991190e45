"""run(config, workdir): from settings to a student that ships. The only module that knows every part."""

import math

import numpy as np

from skd_tf import (
    checkpoints, cli, data, deploy, evaluation, grammar, loop, metrics, networks, optimizers, precision, progress, records,
    replicas, schedules, summary, teachers,
)  # fmt: skip
from skd_tf.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.progress import say, warn
from skd_tf.workdir import Workdir, write_json, write_text

# What a nested run (teacher, student alone) takes over from the run it serves: its data and its machine.
_SHARED = (
    "dataset", "download", "data_seed", "validation_fraction", "image_size", "strategy", "virtual_devices", "jit_compile",
    "steps_per_call", "checkpoint_every", "overwrite",
)  # fmt: skip
_ADAPT_EXAMPLES = 10_000
# Below this the sphere cannot say more than "perhaps": see PAPER.md, where p = 0.11 is called too small.
_LEAST_TOP_PROBABILITY = 0.25


def run(config, workdir, data_dir=None):
    """Trains, exports and measures; resumes what was interrupted, returns what was finished.

    Args:
      config: a `Config`.
      workdir: folder of the run (see `skd_tf.workdir.Workdir`).
      data_dir: TFDS data directory; None is TFDS' default.

    Returns:
      The result, a dict, as in `workdir/result.json`.

    Raises:
      InputError: whatever is wrong with settings, data, teacher or workdir.
    """
    config.require_teacher()
    folder = Workdir(workdir, config)
    if folder.result is not None:
        say(f"{folder.path} is finished; its result is in {folder / 'result.json'}.")
        return folder.result
    write_text(folder / "flags.txt", cli.write_flags(config))
    strategy = replicas.make_strategy(config)
    teacher_path = _find_teacher(config, folder, data_dir)
    dataset = data.load(config, data_dir)
    steps_per_epoch = _steps_per_epoch(config, dataset)
    teacher = _load_teacher(config, dataset, strategy, teacher_path)
    alone_path = _find_student_alone(config, folder, data_dir)

    distiller = build_distiller(config, dataset, strategy, teacher, steps_per_epoch)
    _announce(config, dataset, strategy, distiller, steps_per_epoch)
    history = _train(config, dataset, folder, distiller, steps_per_epoch)

    student = distiller.deployable()
    student.save(folder / "student.keras")
    deploy.save_saved_model(student, folder / "saved_model", dataset.class_names)
    result = _measure(dataset, distiller, student, teacher, alone_path)
    result["student"]["val_accuracy"] = history.pop("val_accuracy")
    result |= {
        "radius": float(distiller.radius.numpy()) if distiller.objective.row.readout == "sphere" else None,
        "config": config.to_json(),
        "versions": records.versions(),
        "device": records.device(strategy),
        "xla": distiller.xla,
        "git_commit": records.git_commit(),
        **history,
    }
    write_json(folder / "result.json", result)
    say(f"\n{summary.table(result)}\n")
    say(f"Exported student: {folder / 'student.keras'} and {folder / 'saved_model'}; result: {folder / 'result.json'}")
    return result


def build_distiller(config, dataset, strategy, teacher, steps_per_epoch):
    """The compiled Distiller of a run, in the strategy's scope."""
    rates = schedules.learning_rate(config, steps_per_epoch)
    with strategy.scope():
        student = networks.build(
            config.student, input_shape=dataset.image_shape, num_classes=dataset.num_classes,
            mean=dataset.mean, std=dataset.std, seed=config.seed,
        )  # fmt: skip
        precision.set_precision(student, config.precision)
        weights = {name: getattr(config, name) for name in ("kd_weight", "label_weight")}
        moving = {name: value for name, value in weights.items() if isinstance(value, str)}
        constants = {name: grammar.parse_weight(v).values[0] if name in moving else v for name, v in weights.items()}
        distiller = Distiller(
            student, teacher, config.loss, temperature=config.temperature, **constants, radius=config.radius,
            center=config.center, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        tables = {
            name: schedules.Table(schedules.loss_weight(value, steps_per_epoch, len(rates)))
            for name, value in moving.items()
        }
        optimizer = optimizers.make_optimizer(config, schedules.Table(rates))
        distiller.compile(optimizer, jit_compile=config.jit_compile, schedules=tables if distiller.objective.needs_teacher else {})
    if config.radius in ("teacher_mean", "teacher_sample") and distiller.objective.needs_teacher:
        distiller.adapt(dataset.train.images[:_ADAPT_EXAMPLES])
    return distiller


def _find_teacher(config, folder, data_dir):
    """Path of the teacher's workdir or file; trains it first where the settings say so."""
    if not config.needs_teacher:
        return None
    if config.teacher_checkpoint:
        return config.teacher_checkpoint
    shared = {name: getattr(config, name) for name in _SHARED}
    if config.teacher_flagfile:
        settings, _ = cli.read_flagfile(config.teacher_flagfile)
        settings = settings.replace(**shared)
    else:
        settings = config
    name = config.teacher or settings.student
    settings = settings.replace(
        student=name, loss="cross_entropy", teacher="", teacher_flagfile="", student_alone="none", radius="auto"
    )
    return _nested_run("teacher", settings, folder / "teacher", data_dir)


def _find_student_alone(config, folder, data_dir):
    if config.student_alone == "none" or not config.needs_teacher:
        return None
    if config.student_alone != "train":
        teachers.model_file(config.student_alone)
        return config.student_alone
    # The same code, initial weights, data, order, epochs and rates: only the loss is another.
    settings = config.replace(
        loss="cross_entropy", teacher="", teacher_checkpoint="", teacher_flagfile="", student_alone="none"
    )
    return _nested_run("student alone", settings, folder / "student_alone", data_dir)


def _nested_run(what, settings, path, data_dir):
    say(f"{what}: {settings.student}, {settings.epochs} epochs, in {path}")
    run(settings, path, data_dir)
    return path


def _steps_per_epoch(config, dataset):
    steps, dropped = divmod(len(dataset.train), config.batch_size)
    if not steps:
        raise InputError(
            f"The training split is smaller than a batch. Expected at least {config.batch_size} examples. "
            f"Received {len(dataset.train)} from {config.dataset}. Lower --batch_size."
        )
    if dropped:
        say(f"The last {dropped} of {len(dataset.train)} images of each epoch's order fill no batch and are dropped.")
    return steps


def _load_teacher(config, dataset, strategy, path):
    """The teacher, checked, its accuracy on held-out images said BEFORE a student learns from it."""
    if path is None:
        return None
    with strategy.scope():
        teacher = teachers.load_teacher(
            path, name=config.teacher, dataset=dataset, teacher_precision=config.teacher_precision
        )
    split, name = (dataset.validation, "validation") if dataset.validation else (dataset.train.take(slice(2000)), "training")
    accuracy = metrics.quality(evaluation.Predictor(teacher)(split.images), split.labels)["accuracy"]
    say(f"Teacher {teacher.name} from {path}: accuracy {accuracy:.4f} on {len(split)} {name} images.")
    chance = 1 / dataset.num_classes
    if accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / len(split)):
        raise InputError(
            f"The teacher is at chance level. Expected an accuracy well above {chance:.3f} on the {name} split. "
            f"Received {accuracy:.4f} from {path}. Check that it was trained on {dataset.name} with these class numbers."
        )
    return teacher


def _announce(config, dataset, strategy, distiller, steps_per_epoch):
    on = strategy.num_replicas_in_sync
    say(
        f"{config.student} on {dataset.name} {dataset.version}: {len(dataset.train)} images, {steps_per_epoch} steps x "
        f"{config.epochs} epochs, batch {config.batch_size} = {on} x {config.batch_size // on}, loss {config.loss}, "
        f"XLA {'on' if distiller.xla else 'off'} ({distiller.xla_reason})."
    )
    if distiller.objective.row.readout != "sphere":
        return
    radius, classes = float(distiller.radius.numpy()), dataset.num_classes
    top = 1 / (1 + (classes - 1) * math.exp(-radius * math.sqrt(classes / (classes - 1)) / config.temperature))
    say(f"Radius {radius:.4g} ({config.radius}), temperature {config.temperature:g}: top probability at most {top:.3f}.")
    if top < _LEAST_TOP_PROBABILITY:
        warn(f"--radius / --temperature is too small for the sphere to represent the teacher: no class can pass {top:.3f}.")


def _train(config, dataset, folder, distiller, steps_per_epoch):
    """Trains to the last step, from the newest checkpoint; returns what the whole run took."""
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    first_step, extra = saved.restore(distiller, warn) or (0, {"seconds": 0.0})
    last_step = config.epochs * steps_per_epoch
    if first_step:
        say(f"Resuming at step {first_step} of {last_step}.")
    log = records.Records(folder, epochs_done=first_step // steps_per_epoch)
    clock = progress.Clock(config.student, config.epochs, first_step // steps_per_epoch, before=extra["seconds"])
    validate = evaluation.Predictor(distiller)
    rates = schedules.learning_rate(config, steps_per_epoch)

    def on_epoch_end(step, means, seconds, steps):
        epoch = step // steps_per_epoch
        record = {"epoch": epoch - 1, "step": step, **means, **_in_force(distiller, rates[step - 1], means)}
        if dataset.validation:
            logits = distiller.probability_logits(validate(dataset.validation.images))
            quality = metrics.quality(logits, dataset.validation.labels)
            record |= {f"val_{name}": quality[name] for name in ("accuracy", "nll", "ece")}
        record |= {"examples_per_second": steps * config.batch_size / seconds, "seconds": clock.seconds()}
        log.add(record)
        clock.say_epoch(epoch, record)

    def make_stream(shards, shard_range):
        return data.train_stream(
            dataset, config, steps_per_epoch=steps_per_epoch, first_step=first_step, last_step=last_step,
            shards=shards, shard_range=shard_range,
        )  # fmt: skip

    if first_step < last_step:
        loop.train(
            distiller, make_stream, first_step=first_step, last_step=last_step, steps_per_epoch=steps_per_epoch,
            steps_per_call=config.steps_per_call, interval=loop.Interval(config.checkpoint_every),
            on_epoch_end=on_epoch_end, save=lambda step: saved.save(distiller, step, {"seconds": clock.seconds()}),
        )  # fmt: skip
    rows = log.rows()
    return {
        "seconds": clock.seconds(),
        "examples_per_second": float(np.median([row["examples_per_second"] for row in rows])),
        "val_accuracy": rows[-1].get("val_accuracy"),
    }


def _in_force(distiller, rate, means):
    """The settings that an epoch's last step ran with, and the gain R / ||z_s|| on the spherical gradient."""
    weights = {name: float(getattr(distiller, name).numpy()) for name in ("kd_weight", "label_weight")}
    gain = {}
    if distiller.objective.row.readout == "sphere":
        gain["radius_over_student_norm"] = float(distiller.radius.numpy()) / max(means["student_logit_norm"], 1e-30)
    return {"learning_rate": float(rate), **weights, **gain}


def _measure(dataset, distiller, student, teacher, alone_path):
    """Teacher, student alone and student on the test split, in one final pass; the student as it ships."""
    models = {"student": student}
    if alone_path is not None:
        models["student_alone"] = teachers.load(alone_path)
    if teacher is not None:
        models["teacher"] = teacher
    logits = {name: evaluation.Predictor(model)(dataset.test.images) for name, model in models.items()}
    result = {}
    for name in ("teacher", "student_alone", "student"):
        if name not in models:
            continue
        count = sum(math.prod(variable.shape) for variable in models[name].trainable_variables)
        result[name] = metrics.quality(logits[name], dataset.test.labels) | {"parameters": count}
        if teacher is not None and name != "teacher":
            result[name]["agreement"] = metrics.agreement(logits[name], logits["teacher"])
    raw = evaluation.Predictor(distiller)(dataset.test.images)
    result["student"]["logit_norm"] = metrics.mean_norm(raw)
    return result
