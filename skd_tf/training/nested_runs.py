"""The settings of the runs that a run starts itself: its teacher, and its student alone for comparison."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from skd_tf.config import Config, grammar, groups
from skd_tf.config.flags import read_flagfile
from skd_tf.errors import input_error
from skd_tf.models import paths
from skd_tf.runs import run_files
from skd_tf.runs.run_record import recorded_config

MOST_EPOCHS = 10_000


def teacher_config(config: Config) -> Config:
    """The settings to train the teacher with: those of --teacher_flagfile, else this run's with --teacher as network.

    Raises:
      InputError: the flagfile asks for distillation.
    """
    if config.teacher_flagfile:
        settings, given = read_flagfile(config.teacher_flagfile)
        if "loss" in given and settings.needs_teacher:
            raise input_error(
                "The teacher's flagfile asks for distillation",
                expected="--loss=cross_entropy in it",
                received=f"--loss={settings.loss} in {config.teacher_flagfile}",
                remedy="Train such a teacher first, and name its workdir with --teacher_checkpoint",
            )
    else:
        settings = config.replace(**_defaults(groups.OF_THE_STUDENT))
    shared = {name: getattr(config, name) for name in groups.DATA_AND_MACHINE}
    return _without_teacher(settings).replace(**shared, student=config.teacher or settings.student)


def student_alone_config(config: Config) -> Config:
    """The settings of the same training without its teacher: only the loss differs.

    Epochs of augmentation that a teacher cache repeats belong to the data, so they stay. Images of --unlabelled teach
    nothing without a teacher: a batch has the others, so each step has the same labelled images.
    """
    repeated = ("teacher_cache_dir", "teacher_cache_epochs") if config.teacher_cache_epochs else ()
    kept = {name: getattr(config, name) for name in repeated}
    return _without_teacher(config).replace(**kept, batch_size=config.labelled_batch)


def first_line(config: Config, workdir: str | os.PathLike) -> str:
    """What a run does, in a line, before anything is loaded."""
    if not config.needs_teacher:
        return f"Training {config.student} on {config.dataset}, in {workdir}"
    teacher = " and ".join(config.teachers) or teacher_config(config).student
    return f"Distilling {teacher} into {config.student} with --loss={config.loss} on {config.dataset}, in {workdir}"


def student_matched_config(config: Config, *, student_flops: int, teacher_flops: int) -> Config:
    """`student_alone_config` with as much computation as distilling takes: the teacher's passes become more epochs.

    A training step costs three forward passes, since the backward pass costs two (Kaplan et al. 2020, arXiv:2001.08361).
    So epochs = E (3 F_s + F_t) / (3 F_s), with F_t only for the epochs that a teacher cache holds. Settings in epochs are
    stretched alike: those of the learning rate schedule, the warm-up and the patience of early stopping. An epoch of distilling has the images of --unlabelled as well.

    Args:
      config: of the run that distils.
      student_flops, teacher_flops: operations of a forward pass of one image.
    """
    passes = config.cached_epochs if config.teacher_cache_dir else config.epochs
    work = 3 * student_flops * config.epochs
    stretch = (work + teacher_flops * passes) / work * config.batch_size / config.labelled_batch
    epochs = min(round(config.epochs * stretch), MOST_EPOCHS)
    schedule = grammar.parse_lr_schedule(config.lr_schedule)
    schedule = schedule._replace(epochs=tuple(epoch * epochs / config.epochs for epoch in schedule.epochs))
    return student_alone_config(config).replace(
        epochs=epochs,
        lr_schedule=schedule.text,
        warmup_epochs=config.warmup_epochs and config.warmup_epochs * epochs / config.epochs,
        early_stopping_patience=round(config.early_stopping_patience * epochs / config.epochs),
    )


def check_student_alone(config: Config) -> None:
    """Checks that --student_alone=PATH is a finished run of the same student and recipe.

    Raises:
      InputError: it is not; the differing settings are listed.
    """
    if config.student_alone in run_files.TRAINED or not config.needs_teacher:
        return
    path = pathlib.Path(config.student_alone)
    paths.keras_file(path)
    before = recorded_config(path)
    before = before and before.replace(calibrate=config.calibrate)  # this run measures it by its own rule
    differences = before.differences(student_alone_config(config)) if before else ["no config.json"]
    if differences:
        raise input_error(
            "--student_alone is not this training without its teacher",
            expected="the same settings",
            received=f"{'; '.join(differences)} in {path}",
            remedy="Use --student_alone=train",
        )


def _without_teacher(config: Config) -> Config:
    return config.replace(loss="cross_entropy", **_defaults(groups.DISTILLING))


def _defaults(names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(Config(), name) for name in names}
