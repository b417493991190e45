"""One distillation by keras.distillation, by keras.io's example and by skd_tf, and the accuracy that each reaches.

    python -m tools.benchmarks compare_keras_distillation --output=experiments/results/digits/keras_distillation.json \\
        --page=docs/migrating.md

All use the same teacher, the same initial weights per seed, the same digits, order, optimizer, learning rates,
temperature and weights, without augmentation. It takes some minutes on two CPU cores. Run it again for a newer Keras:
the record names the versions, and the table between the two markers of --page is replaced.
"""

import pathlib
import statistics
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import skd_tf
from skd_tf import data, losses, networks
from skd_tf.errors import input_error
from skd_tf.runs import provenance
from skd_tf.runtime.console import say
from tools.benchmarks import results

TEMPERATURE, LABEL_WEIGHT, RATE, BATCH = 4.0, 0.1, 0.05, 32
MARKERS = "<!-- compare_keras_distillation: begin -->", "<!-- compare_keras_distillation: end -->"
COLUMNS = {
    "accuracy": ("top-1", "{:.4f}"),
    "deviation": ("standard deviation", "{:.4f}"),
    "distance": ("weights after one epoch, distance from skd_tf's", "{:.0e}"),
    "shift": ("change of the loss when all logits rise by 3", "{:.0%}"),
    "blind": ("student logits without gradient", "{:.0%}"),
    "saved": ("numbers in the saved file", "{:,}"),
}
_cross_entropy = partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)


def main(*, seeds: int, epochs: int, page: str | None, output: str | None) -> None:
    """Trains every contender with every seed."""
    if page:
        _around_table(pathlib.Path(page).read_text(encoding="utf-8"))  # refused before anything is trained
    digits = data.load(data.DataSettings(dataset="digits", validation_fraction=0))
    net = {"input_shape": digits.image_shape, "num_classes": digits.num_classes, "mean": digits.mean, "std": digits.std}
    steps = len(digits.train) // BATCH

    def optimizer():
        return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(RATE, epochs * steps), momentum=0.9)

    def train(model, seed, student):
        """The student's weights after the first epoch; later, training amplifies float32 rounding."""
        keras.utils.set_random_seed(seed)  # sets the order
        early = []
        remember = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: early.append(student.get_weights()))
        images, labels = digits.train.images[: steps * BATCH], digits.train.labels[: steps * BATCH]
        model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[remember])
        return np.concatenate([weight.ravel() for weight in early[0]])

    def accuracy(model):
        return float(np.mean(np.argmax(model.predict(digits.test.images, verbose=0), axis=1) == digits.test.labels))

    teacher = networks.build("resnet8", **net, seed=0)
    teacher.compile(optimizer(), loss=_cross_entropy())
    train(teacher, 0, teacher)
    logits = [model(digits.train.images[:256]) for model in (teacher, networks.build("cnn_4", **net, seed=0))]
    rows, early = {}, {}
    for name, (make, term, _) in CONTENDERS.items():
        accuracies = []
        for seed in range(seeds):
            student = networks.build("cnn_4", **net, seed=seed)
            model = make(student, teacher, optimizer())
            weights = train(model, seed, student)
            early.setdefault(name, weights)
            accuracies.append(accuracy(student))
        rows[name] = {
            "accuracy": statistics.mean(accuracies),
            "deviation": statistics.stdev(accuracies),
            "accuracies": accuracies,
            "saved": sum(weight.numpy().size for weight in model.weights),
        }
        rows[name] |= probe(term, *logits) if term else {}
        say(f"{name}: {rows[name]['accuracy']:.4f}")
    for name, (*_, reference) in CONTENDERS.items():
        if reference:
            distance = np.linalg.norm(early[name] - early[reference]) / np.linalg.norm(early[reference])
            rows[name]["distance"] = float(distance)
    record = {"teacher": accuracy(teacher), "rows": rows, "seeds": seeds, "epochs": epochs}
    record["versions"] = provenance.versions()
    print("\n" + table(record))
    results.write(output, record)
    if page:
        path = pathlib.Path(page)
        path.write_text(with_table(path.read_text(encoding="utf-8"), record), encoding="utf-8")


def _alone(student, teacher, optimizer):
    student.compile(optimizer, loss=_cross_entropy())
    return student


def _keras(loss, student, teacher, optimizer):
    model = keras.distillation.Distiller(teacher, student, loss, student_loss_weight=LABEL_WEIGHT)
    model.compile(optimizer, loss=_cross_entropy())
    return model


def _keras_io(student, teacher, optimizer):
    model = ExampleDistiller(student, teacher)
    model.compile(optimizer)
    return model


def _ours(loss, student, teacher, optimizer):
    model = skd_tf.Distiller(student, teacher, loss, temperature=TEMPERATURE, kd_weight=1 - LABEL_WEIGHT)
    model.compile(optimizer)
    return model


class ExampleDistiller(keras.Model):
    """A Distiller with the loss of keras.io's example: alpha * CE + (1 - alpha) * T^2 * KL of softmaxes."""

    def __init__(self, student: keras.Model, teacher: keras.Model):
        super().__init__()
        self.student, self.teacher = student, teacher
        teacher.trainable = False

    def call(self, images, training=False):
        return self.student(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        label = ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))
        return LABEL_WEIGHT * label + (1 - LABEL_WEIGHT) * _divergence(self.teacher(x, training=False), y_pred)


def _divergence(teacher_logits, student_logits):
    """The distillation loss of keras.io's example."""
    probabilities = [ops.softmax(z / TEMPERATURE, axis=1) for z in (teacher_logits, student_logits)]
    return keras.losses.KLDivergence()(*probabilities) * TEMPERATURE**2


def _our_term(loss, teacher_logits, student_logits, **settings):
    unlabelled = np.full(len(teacher_logits), -1)
    terms = losses.LOSSES[loss].function(
        student_logits, teacher_logits, unlabelled, temperature=TEMPERATURE, **settings
    )
    return ops.mean(terms["distill"])


_DEFAULT = keras.distillation.LogitsDistillation(TEMPERATURE)
_CORRECTED = keras.distillation.LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence())
_SPHERICAL = skd_tf.keras_losses.SphericalDistillation(TEMPERATURE)
_KD, _SKD = 'skd_tf, loss="kd"', 'skd_tf, loss="spherical"'
# Name -> (function of (student, teacher, optimizer) that returns a compiled model to fit; its distillation term, a
# function of (teacher logits, student logits); the entry of skd_tf with the same loss).
CONTENDERS = {
    "student alone": (_alone, None, None),
    "keras.distillation, its default loss": (partial(_keras, _DEFAULT), _DEFAULT.compute_loss, _KD),
    "keras.distillation, loss=KLDivergence()": (partial(_keras, _CORRECTED), _CORRECTED.compute_loss, _KD),
    "keras.io's example": (_keras_io, _divergence, _KD),
    _KD: (partial(_ours, "kd"), partial(_our_term, "kd"), None),
    "keras.distillation, SphericalDistillation()": (partial(_keras, _SPHERICAL), _SPHERICAL.compute_loss, _SKD),
    _SKD: (partial(_ours, "spherical"), partial(_our_term, "spherical", radius=2 * 10**0.5), None),
}


def probe(
    term: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], teacher_logits: tf.Tensor, student_logits: tf.Tensor
) -> dict[str, float]:
    """Two faults of a distillation term: it changes when all logits shift, or leaves logits without a gradient."""
    with tf.GradientTape() as tape:
        tape.watch(student_logits)
        loss = term(teacher_logits, student_logits)
    gradient = tape.gradient(loss, student_logits).numpy()
    shifted = term(teacher_logits, student_logits + 3.0)
    return {"shift": abs(float(shifted) / float(loss) - 1), "blind": float((gradient == 0).mean())}


def table(record: dict) -> str:
    """The record as a Markdown table."""
    rows = []
    for name, row in record["rows"].items():
        rows.append([name, *(form.format(row[key]) if key in row else "" for key, (_, form) in COLUMNS.items())])
    versions = record["versions"]
    return (
        results.table(["method", *(title for title, _ in COLUMNS.values())], rows)
        + f"\n\nTeacher {record['teacher']:.4f}. {record['seeds']} seeds, {record['epochs']} epochs; "
        f"keras {versions['keras']}, tensorflow {versions['tensorflow']}."
    )


def with_table(page: str, record: dict) -> str:
    """The text of a page with its table, between the markers, replaced."""
    before, after = _around_table(page)
    return f"{before}{MARKERS[0]}\n\n{table(record)}\n\n{MARKERS[1]}{after}"


def _around_table(page):
    """What stands before and after a page's markers."""
    before, begin, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise input_error(
            "The page has no place for the table",
            expected=f"{MARKERS[0]} and {MARKERS[1]}",
            received="a page without them",
            remedy="Add both lines, or change --page",
        )
    return before, after
