"""The classes that a finished model gives to the images of a folder, as a CSV file; what skd_tf.predict does."""

import collections
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from skd_tf.data.catalog import size_and_resize, source_kind
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, flag_error, input_error
from skd_tf.evaluation import image_files, measured_runs, metrics, temperature_scaling
from skd_tf.evaluation.predictor import BATCH_SIZE, Predictor, accelerators
from skd_tf.models import deployable, loading, paths
from skd_tf.models.adapter import ModelAdapter
from skd_tf.runs import lineage, run_files
from skd_tf.runs.class_names import of_models as class_names_of
from skd_tf.runs.run_record import recorded_png_bits, run_behind, workdir_of
from skd_tf.runs.workdir import require_output
from skd_tf.runtime import atomic_files
from skd_tf.runtime.console import Progress, say, warn
from skd_tf.runtime.files import csv_line
from skd_tf.runtime.local_paths import require_local

_NAMED = 10  # unreadable files that are named on the screen; the CSV file names all
_NOT_FINITE = "the output is not finite"
_HEADER = ("file", "class", "class_id", "probability", "problem")


class Answer(NamedTuple):
    """What the model says about one file: probabilities `[classes]`, or None and the problem."""

    file: str
    probabilities: np.ndarray | None
    problem: str = ""


def predict_images(
    model: str | os.PathLike,
    images: str | os.PathLike,
    output: str | os.PathLike,
    *,
    calibrated: bool = True,
    preprocessing: str = "auto",
    image_size: int = 0,
    resize: int = 0,
    download: bool = False,
) -> list[str]:
    """Classifies the image files in a folder and writes a CSV file with a line per file, in the order of their names.

    The columns are "file" (relative to the folder), "class", "class_id", "probability" (of that class), "problem" (why
    the file could not be read; the other columns are then empty) and "p_CLASS" for each class.

    Images get the size that the model's run gave them: their shorter side is scaled and their centre cut out.

    Args:
      model: a finished workdir, a `.keras`, `.tflite` or `.onnx` file, or a SavedModel folder.
      images: a folder, or one image.
      output: the CSV file. It appears complete or not at all.
      calibrated: whether to apply the temperature that evaluate --calibrate left in the model's workdir, or else the
        temperature inside the model.
      preprocessing: a kind of `skd_tf.models.preprocessing.with_preprocessing` for a model that does not contain its own; a
        run's student and a network of a library contain theirs.
      image_size: side of the images, for a model that takes any size and is not in a workdir.
      resize: shorter side before the centre crop; 0: as in the model's run, or the size that the model takes.
      download: whether weights that are not cached may be downloaded.

    Returns:
      The files that could not be read, relative to the folder.

    Raises:
      InputError: there is no model or no image, no image can be read, or the images' size is not known.
    """
    require_output(output)
    measured_runs.require_preprocessed([model], preprocessing)
    require_local(images, "images")
    paths.require(model, to_measure=True)  # before a folder is searched, which may be large
    root, names, others = image_files.find(images)
    loaded, own_temperature = deployable.without_temperature(loading.load(model, download=download))
    if paths.is_runtime_file(model) and not calibrated:
        raise flag_error(
            "calibrated",
            False,
            "is not possible: a temperature inside this file cannot be taken out",
            "--calibrated",
            "Give the run, or its .keras file",
        )
    if not isinstance(loaded, loading.OpaqueModel):
        loaded = loading.without_softmax(loaded, model)
    if loaded.output_shape[-1] < 2:
        raise input_error(
            "The model does not tell classes apart",
            expected="a model with an output for each of at least two classes",
            received=f"{counted(loaded.output_shape[-1], 'output')} from {model}",
            remedy="Give it a softmax of two outputs in place of a sigmoid",
        )
    shape, side = _pixels(model, loaded, image_size, resize)
    if not lineage.is_of_skd_tf(model):
        loading.note_scaling(loaded, model, preprocessing, "--preprocessing")
    if preprocessing not in ("auto", "raw"):
        loaded = ModelAdapter(loaded, shape, preprocessing)
    class_names, _ = class_names_of([model], loaded.output_shape[-1])
    temperature, rules = _temperature(model, own_temperature) if calibrated else 1.0, _rules(model)
    if others:
        count = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common())
        say(f"Skipped, because only images are read: {count}.")
    how = f"shorter side to {side} pixels, then the middle {shape[0]}x{shape[1]}"
    say(f"{counted(len(names), 'image')} for a model of {shape[0]}x{shape[1]} pixels; other sizes: {how}.")
    unreadable = []
    with atomic_files.writing(output) as file:
        file.write(csv_line([*_HEADER, *(f"p_{name}" for name in class_names)]))
        for answer in _answers(loaded, root, names, shape, side, rules, temperature, run_behind(model) is not None):
            file.write(csv_line(_row(answer, class_names)))
            if answer.probabilities is None:
                unreadable.append(answer)
        _report(unreadable, len(names))
    say(f"Written: {output}, with {len(names) - len(unreadable):,} of {counted(len(names), 'image')} classified.")
    return [answer.file for answer in unreadable]


def _answers(loaded, root, names, shape, side, rules, temperature, known_run) -> Iterator[Answer]:
    """The `Answer` of each file, in order."""
    fixed = loaded.input_shape[0]  # of a model that takes batches of one size
    predictor = Predictor(loaded, fixed or min(BATCH_SIZE, len(names)), accelerators())
    given, others, deep, kind = 0, 0, 0, None
    computing: collections.deque[tuple] = collections.deque()  # the batches whose outputs are to come, in order

    def read():
        for batch in image_files.batches(root, names, shape, side, predictor.batch_size, rules):
            computing.append(batch)
            yield batch[1], range(len(batch[1]))

    with Progress("classifying", len(names), "images") as progress:
        for outputs in predictor.stream(read()):
            rows, _, sizes, deeps = computing.popleft()
            kind = kind or _kind_of(outputs[np.isfinite(outputs).all(axis=1)])
            probabilities = _probabilities(outputs, kind, temperature)
            for row, probability in zip(rows, probabilities, strict=True):
                yield from (_unread(root, name, rules) for name in names[given:row])
                known = np.isfinite(probability).all()
                yield Answer(names[row], probability) if known else Answer(names[row], None, _NOT_FINITE)
                given = row + 1
            others, deep = others + int((sizes != shape[:2]).any(axis=1).sum()), deep + int(deeps.sum())
            progress.update(given)
    yield from (_unread(root, name, rules) for name in names[given:])
    if others:
        say(f"Images of another size than {shape[0]}x{shape[1]}, which were resized: {others:,}.")
    if deep and rules.upright and rules.bits is None:
        why = (
            "The run had no such images."
            if known_run
            else "The model's run is not known. Name the run in place of the file to read them as its training did."
        )
        warn(f"16-bit PNGs: {deep:,} of {counted(len(names), 'image')}, read as value / 256. {why}")


def _kind_of(outputs):
    """Whether finite outputs are probabilities or logits; None without any."""
    if not len(outputs):
        return None
    is_softmax = (outputs >= 0).all() and np.abs(outputs.sum(axis=1) - 1).max() < 1e-2
    if is_softmax:
        warn("The model's outputs sum to 1: they are treated as probabilities.")
    return "probabilities" if is_softmax else "logits"


def _probabilities(outputs, kind, temperature):
    if kind == "probabilities":
        outputs = np.log(np.maximum(outputs.astype(np.float64), np.finfo(np.float64).tiny))
    return np.exp(metrics.log_softmax(np.asarray(outputs, np.float64) / temperature))


def _unread(root, name, rules):
    return Answer(name, None, image_files.problem_of(root, name, rules))


def _row(answer: Answer, class_names: Sequence[str]) -> list[Any]:
    file = pathlib.PurePath(answer.file).as_posix()
    if answer.probabilities is None:
        return [file, "", "", "", answer.problem, *("" for _ in class_names)]
    best = int(answer.probabilities.argmax())
    numbers = [f"{number:.6g}" for number in answer.probabilities]
    return [file, class_names[best], best, numbers[best], "", *numbers]


def _report(unreadable: Sequence[Answer], count: int) -> None:
    """Warns of unreadable files; InputError if no image has an answer."""
    if len(unreadable) == count:
        failed = next((answer for answer in unreadable if answer.problem == _NOT_FINITE), None)
        if failed:
            raise input_error(
                "The model gives no image a probability",
                expected="finite outputs",
                received=f"NaN or infinity for {failed.file}",
                remedy="Train it again: its weights may have diverged",
            )
        first = unreadable[0]
        raise input_error(
            "No image can be read",
            expected="JPEG, PNG, WebP, BMP or GIF files",
            received=f"{counted(count, 'other')}, {first.file} first: {first.problem}",
            remedy="Convert them",
        )
    for answer in unreadable[:_NAMED]:
        warn(f"Not classified: {answer.file}: {answer.problem}")
    if len(unreadable) > _NAMED:
        warn(f"Not classified: {counted(len(unreadable) - _NAMED, 'more file')}. The column problem says why.")


def _pixels(path, loaded, image_size, resize) -> tuple[tuple[int, int, int], int]:
    """((height, width, channels) of the model's images, shorter side before the centre crop)."""
    taken = loaded.input_shape
    if not isinstance(taken, tuple) or len(taken) != 4 or taken[3] not in (1, 3):
        raise input_error(
            "The model takes other inputs",
            expected="images with 1 or 3 channels",
            received=f"{taken} from {path}",
            remedy="Choose another model",
        )
    run = run_behind(path)
    size, shorter = size_and_resize(run.pick(DataSettings)) if run else (0, 0)
    height, width = (number or image_size or size for number in taken[1:3])
    if not height or not width:
        problem = f"is needed: {path} takes images of any size"
        raise flag_error("image_size", image_size, problem, "pixels", "Give the size that it was trained on")
    if image_size and (height, width) != (image_size, image_size):
        expected = f"0 or the model's own, {height}x{width}"
        raise flag_error("image_size", image_size, "is not the size that the model takes", expected, "Omit it")
    least = min(height, width)
    side = resize or (shorter if size and size == height == width else least)
    if side < least:
        raise flag_error("resize", resize, "is smaller than the model's images", f"at least {least}", "Raise it")
    return (height, width, taken[3]), side


def _rules(path) -> image_files.PixelRules:
    """How the model's run decodes files; of a model without a run, how a new one would."""
    run = run_behind(path)
    if run is None or source_kind(run.dataset) not in ("folder", "images", "function"):
        return image_files.PixelRules()
    return image_files.PixelRules(run.data_rules != 1, recorded_png_bits(path))


def _temperature(path, own) -> float:
    """That of evaluate --calibrate, or else the model's own; 1 without any."""
    record = temperature_scaling.of_run_behind(path)
    if not record:
        return own or 1.0
    say(f"Temperature {record['temperature']:.4f}, from {workdir_of(path) / run_files.CALIBRATION}.")
    if own is None or not math.isclose(own, record["temperature"], rel_tol=1e-4):
        inside = f"the temperature {own:.4f}" if own else "none"
        say(f"The model's file has {inside}. Files that python -m skd_tf.export writes have the one above.")
    return record["temperature"]
