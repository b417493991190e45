"""Bench: trains many short students in one process. Arms with the same step share one compiled training step."""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.studies.first_day import losses as study_losses
from experiments.studies.first_day import sets
from experiments.studies.first_day.arms import ALL_ARMS, Arm, Cell, as_record, least_label_scale
from experiments.studies.first_day.target_softness import mean_entropy, temperature_for_entropy
from skd_tf import LOSSES, Distiller, data, losses, schedules
from skd_tf.distillation import optimizers
from skd_tf.evaluation import metrics
from skd_tf.evaluation.predictor import Predictor
from skd_tf.runs import predictions
from skd_tf.training import experiment, train_student
from skd_tf.training.resources import SharedResources
from skd_tf.training.teacher_check import open_teacher

_DECAY = {"sgd": 5e-4, "adamw": 0.01}
_MEASURED = 2000  # training images that temperatures are measured on


class LearnedScale(keras.layers.Layer):
    """Passes logits on unchanged, and has one weight: the radius of the label term, at least `least`."""

    def __init__(self, start: float, least: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.least = least
        self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(start))

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        return logits

    def value(self) -> tf.Tensor:
        return tf.maximum(self.scale.value, self.least)


class Bench:
    """A set with its teacher, in memory; trains and measures cells.

    Args:
      name: one of `sets.SETS`.
      folder: with the set's teacher, and the logits that all cells share.
      data_dir: TFDS' data directory.
    """

    def __init__(self, name: str, folder: pathlib.Path, data_dir: str | None = None):
        self.name = name
        self.config = sets.config_of(name, folder)
        dataset = data.load(self.config.pick(data.DataSettings), data_dir, test=sets.held_out(name) == "test")
        if name in sets.FIRST:
            rows = data.evenly_spaced(len(dataset.train), sets.FIRST[name])
            dataset = dataclasses.replace(dataset, train=dataset.train.take(rows))
        strategy = experiment.make_strategy(self.config)
        teacher = open_teacher(self.config.teacher_checkpoint, self.config, dataset, strategy)
        self._resources = SharedResources(dataset, strategy, teacher)
        self._held_out = getattr(dataset, sets.held_out(name))
        self._steps_per_epoch = len(dataset.train) // self.config.batch_size
        self._epoch_logits = teacher.epoch_logits(self.config.epochs)
        images = dataset.train.take(data.evenly_spaced(len(dataset.train), _MEASURED)).images
        self._teacher_logits = teacher.logits(images)
        self._held_out_teacher = teacher.logits(self._held_out.images)
        self._benches: dict[tuple, _CompiledStep] = {}

    @property
    def classes(self) -> int:
        return self._resources.dataset.num_classes

    def facts(self) -> dict[str, Any]:
        """What is known of the set and its teacher before any student is trained."""
        auto = losses.resolve_radius("auto", self.classes)
        return {
            "set": self.name,
            "images": len(self._resources.dataset.train),
            "held_out": len(self._held_out),
            "classes": self.classes,
            "steps": self._steps_per_epoch * self.config.epochs,
            "radius_auto": auto,
            "teacher_mean_norm": self._radius("teacher_mean"),
            "teacher": metrics.quality(self._held_out_teacher, self._held_out.labels),
            "teacher_train_entropy": {t: mean_entropy(self._teacher_logits, t) for t in (1, 2, 4, 8, 16)},
            "projected_entropy": {t: mean_entropy(self._projected(auto), t) for t in (1, 2, 4, 8, 16)},
            "labels": predictions.encode(self._held_out.labels),
        }

    def run(self, cell: Cell) -> dict[str, Any]:
        """Trains and measures one cell; its record."""
        start = time.perf_counter()
        arm = ALL_ARMS[cell.arm]
        radius = self._radius(arm.radius)
        temperature = self._temperature(arm, cell.temperature, radius)
        kd_weight = arm.kd_weight * (4 * self.classes / radius**2 if arm.weighted else 1.0)
        step = self._step(arm, cell.optimizer)
        rates = self._rates(cell.rate, max(arm.warmup_steps, sets.WARMUP.get(self.name, 0)))
        norms, loss = step.train(cell.seed, rates, temperature, kd_weight, arm.label_weight, radius)
        logits = step.held_out_logits()
        label_radius = step.label_radius(radius, arm)
        probability_logits = losses.project(logits, label_radius).numpy() if label_radius else logits
        finite = bool(np.isfinite(logits).all())
        quality = metrics.quality(probability_logits, self._held_out.labels)
        predicted = logits.argmax(axis=1)
        return as_record(cell) | {
            "used_temperature": round(temperature, 4),
            "kd_weight": round(kd_weight, 5),
            "radius": round(radius, 4),
            "finite": finite,
            "accuracy": quality["accuracy"],
            "nll": round(quality["nll"], 5) if finite else None,
            "ece": round(quality["ece"], 5) if finite else None,
            "agreement": float((predicted == self._held_out_teacher.argmax(axis=1)).mean()),
            "label_radius": round(label_radius, 3),
            "norms": norms,
            "loss": loss,
            "seconds": round(time.perf_counter() - start, 2),
            "wrong": _encode_wrong(predicted, self._held_out.labels, self.classes),
        }

    def _radius(self, radius) -> float:
        if radius == "teacher_mean":
            return float(losses.logit_norm(self._teacher_logits).numpy().astype(np.float64).mean())
        return losses.resolve_radius(radius, self.classes)

    def _projected(self, radius):
        return losses.project(self._teacher_logits.astype(np.float64), radius).numpy()

    def _temperature(self, arm: Arm, temperature: float, radius: float) -> float:
        if arm.share:
            return temperature_for_entropy(self._projected(radius), arm.share)
        if arm.equal_entropy:
            share = mean_entropy(self._projected(radius), temperature)
            return temperature_for_entropy(self._teacher_logits, share)
        return (temperature or 4.0) * arm.temperature_factor

    def _rates(self, rate, warmup_steps):
        epochs = warmup_steps / self._steps_per_epoch
        config = self.config.replace(learning_rate=rate)
        if epochs > schedules.DEFAULT_WARMUP * config.epochs:
            config = config.replace(warmup_epochs=epochs)
        return schedules.learning_rate(config, self._steps_per_epoch)

    def _step(self, arm: Arm, optimizer: str) -> "_CompiledStep":
        key = *arm.step, optimizer
        if key not in self._benches:
            self._benches[key] = _CompiledStep(arm, optimizer, self)
        return self._benches[key]

    @functools.cache  # noqa: B019 (a bench lives as long as its process)
    def student(self, seed: int) -> keras.Model:
        """A student with the initial weights of a seed; not trained."""
        return train_student.build_student(self.config.replace(seed=seed), self._resources)

    @functools.cache  # noqa: B019
    def stream(self, seed: int) -> tf.data.Dataset:
        """All training batches of a seed, with the teacher's logits."""
        settings = self.config.replace(seed=seed).pick(data.StreamSettings)
        limits = {"steps_per_epoch": self._steps_per_epoch, "first_step": 0}
        limits["last_step"] = self._steps_per_epoch * self.config.epochs
        return data.train_stream(self._resources.dataset, settings, **limits, teacher_logits=self._epoch_logits)


class _CompiledStep:
    """One compiled Distiller for many cells. Each cell resets its weights, its optimizer and its settings."""

    def __init__(self, arm: Arm, optimizer: str, bench: Bench):
        self._bench, config = bench, bench.config
        student = train_student.build_student(config, bench._resources)
        self._scale = None
        if arm.loss == "label_scale":
            auto = losses.resolve_radius("auto", bench.classes)
            self._scale = LearnedScale(auto, least_label_scale(bench.classes))
            student = keras.Model(student.input, self._scale(student.output))
        self._distiller = Distiller(
            student, None, self._loss(arm), label_weight=arm.label_weight, loss_settings=dict(arm.settings)
        )
        settings = optimizers.OptimizerSettings(optimizer, weight_decay=_DECAY[optimizer], clip_norm=arm.clip_norm)
        self._steps = bench._steps_per_epoch
        self._rates = schedules.Table(np.zeros(self._steps * config.epochs))
        self._distiller.compile(optimizers.make_optimizer(settings, self._rates), jit_compile=False)
        self._optimizer_start = [(v, v.numpy()) for v in self._distiller.optimizer.variables]
        self._predictor = Predictor(student)

    def _loss(self, arm: Arm):
        if arm.loss in LOSSES:
            return arm.loss
        if arm.loss == "label_scale":
            function = study_losses.label_scale(self._scale.value)
        else:
            function = getattr(study_losses, arm.loss)
        return losses.Loss(function, readout="raw", needs_teacher=True, defaults={})

    def train(self, seed, rates, temperature, kd_weight, label_weight, radius) -> tuple[list[float], list[float]]:
        """Trains from the first step to the last; the epochs' mean norms of the student's logits, and losses."""
        distiller = self._distiller
        start = self._bench.student(seed).get_weights()
        distiller.student.set_weights(start if self._scale is None else [*start, np.float32(radius)])
        for variable, value in self._optimizer_start:
            variable.assign(value)
        self._rates.assign(rates)
        distiller.temperature.assign(temperature)
        distiller.kd_weight.assign(kd_weight)
        distiller.label_weight.assign(label_weight if distiller.objective.needs_teacher else 1.0)
        distiller.radius.assign(radius)
        distiller.guard.reset()
        iterator = iter(self._bench.stream(seed))
        norms, means = [], []
        for _ in range(self._bench.config.epochs):
            distiller.means.reset_state()
            distiller.run_steps(iterator, self._steps)
            epoch = distiller.means.result()
            norms.append(float(f"{float(epoch['student_logit_norm']):.4g}"))
            means.append(float(f"{float(epoch['loss']):.4g}"))
        return norms, means

    def held_out_logits(self) -> np.ndarray:
        """The student's raw logits of the held-out images."""
        return self._predictor(self._bench._held_out.images)

    def label_radius(self, radius: float, arm: Arm) -> float:
        """The radius of the sphere that the student's probabilities are taken on; 0 for raw logits."""
        return float(self._scale.value()) if arm.factor is None else arm.factor * radius


def _encode_wrong(predicted, labels, classes) -> str:
    """The predicted classes, relative to the labels, so that mostly zeros are compressed."""
    return predictions.encode((predicted - labels) % classes)["zlib_base64"]


def run_all(bench: Bench, cells: Iterable[Cell], path: pathlib.Path, *, until: float = float("inf")) -> int:
    """Trains the cells that the set's records lack, in order, and appends a line for each; how many are left.

    Args:
      bench: of the set.
      cells: in the order of importance.
      path: of JSON lines, SET.OPTIMIZER.jsonl; other files of the set beside it are read too. A line that was cut off by a kill is removed, and its cell is trained again.
      until: time.time() after which no further cell starts.
    """
    done = {key_of(record) for record in read(path)}
    for other in path.parent.glob(f"{path.name.partition('.')[0]}.*.jsonl"):  # another process may be writing it
        done |= {
            key_of(json.loads(line)) for line in other.read_text().splitlines(keepends=True) if line.endswith("\n")
        }
    missing = [cell for cell in cells if cell.key() not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(missing):
        if time.time() > until:
            return len(missing) - number
        record = bench.run(cell)
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{number + 1}/{len(missing)} {cell.key()}: {record['accuracy']:.4f}, {record['seconds']} s", flush=True)
    return 0


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file; a last line that was cut off is removed from it."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def key_of(record: dict[str, Any]) -> str:
    """The key of a record's cell."""
    return Cell(**{field.name: record[field.name] for field in dataclasses.fields(Cell)}).key()
