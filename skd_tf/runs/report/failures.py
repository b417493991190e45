"""Where a student fails: confused classes, and the test images that it gets wrong or that the teacher sees otherwise."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skd_tf.runs.report.run_data import Run

_FEW_CLASSES = 20  # whose whole matrix is shown
_PAIRS = 15
_PAIRS_BESIDE_MATRIX = 8
_HEADINGS = {
    "mistake": ("The worst mistakes", "Wrong answers of the student, the most confident first."),
    "disagreement": (
        "Where student and teacher disagree",
        "Further images on which the two give different answers, first those of which both are sure.",
    ),
}


class Pair(NamedTuple):
    """Two classes, and how many test images of the first the student takes for the second."""

    label: str
    said: str
    images: int
    share: float  # of the images of the first
    teacher: int | None  # how many the teacher takes for the second


class MatrixRow(NamedTuple):
    """A class in the confusion matrix: its name, and (count, share of its images, whether it is right) by answer."""

    name: str
    cells: list[tuple[int, float, bool]]


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class (rows) get each answer (columns), `[classes, classes]`."""
    known = predicted >= 0
    flat = np.bincount(labels[known] * classes + predicted[known], minlength=classes**2)
    return flat.reshape(classes, classes)


def matrix(run: Run) -> list[MatrixRow]:
    """The student's confusion matrix; [] if the classes are many, or no predictions were recorded."""
    names = run.result["class_names"]
    if run.labels is None or "student" not in run.predicted or len(names) > _FEW_CLASSES:
        return []
    counts = confusion(run.labels, run.predicted["student"], len(names))
    shares = counts / np.maximum(np.bincount(run.labels, minlength=len(names)), 1)[:, None]
    return [
        MatrixRow(name, [(int(counts[i, j]), float(shares[i, j]), i == j) for j in range(len(names))])
        for i, name in enumerate(names)
    ]


def pairs(run: Run, most: int | None = None) -> list[Pair]:
    """The classes that the student confuses most often, the most frequent first."""
    names = run.result["class_names"]
    if run.labels is None or "student" not in run.predicted:
        return []
    most = most or (_PAIRS_BESIDE_MATRIX if len(names) <= _FEW_CLASSES else _PAIRS)
    counts = confusion(run.labels, run.predicted["student"], len(names))
    teacher = confusion(run.labels, run.predicted["teacher"], len(names)) if "teacher" in run.predicted else None
    wrong = counts - np.diag(np.diag(counts))
    examples = np.bincount(run.labels, minlength=len(names))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        Pair(names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / examples[i]), _of(teacher, i, j))
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]


def _of(counts, i, j):
    return None if counts is None else int(counts[i, j])


def worst_classes(run: Run, most: int = 3) -> list[tuple[str, float]]:
    """(class, share of its test images that the student gets right), the lowest first."""
    accuracies = run.of_model("student").get("per_class_accuracy") or []
    known = [
        (value, name) for value, name in zip(accuracies, run.result["class_names"], strict=False) if value is not None
    ]
    return [(name, value) for value, name in sorted(known)[:most]]


def pictures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The test images of a report on one run, by kind: {"title", "note", "images"}; [] for several runs."""
    if len(runs) > 1:
        return []
    (run,) = runs
    return [
        {"title": title, "note": note, "images": images}
        for kind, (title, note) in _HEADINGS.items()
        if (images := [_picture(run, picture) for picture in run.pictures if picture["kind"] == kind])
    ]


def _picture(run, picture):
    def said(answer):
        number, probability = answer
        return f"{_name(run, number)} ({probability:.0%})"

    answers = picture["answers"]
    teacher = said(answers["teacher"]) if "teacher" in answers else ""
    label, student = _name(run, picture["label"]), said(answers["student"])
    right, file = picture["answers"]["student"][0] == picture["label"], str(picture.get("file") or "")
    return {
        "source": picture["picture"],
        "label": label,
        "student": student,
        "right": right,
        "teacher": teacher,
        "file": pathlib.PurePath(file).name,
        "path": file,
    }


def _name(run, number):
    names = run.result["class_names"]
    return names[number] if 0 <= number < len(names) else "no label"
