"""Runs each exported file in a fresh process without skd_tf and compares it with the live student on real images."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skd_tf.evaluation import bootstrap, cost, metrics
from skd_tf.runs import verdict
from skd_tf.runtime.console import Progress
from skd_tf.serving.formats import ExportFile

_RELOAD = str(pathlib.Path(__file__).with_name("reload.py"))  # never imported: it makes skd_tf unimportable
# A converter stores shapes and scales besides the weights.
_CONSTANTS_BESIDE_WEIGHTS = 256
_SECONDS = 600


class ExportError(RuntimeError):
    """An exported file differs from the live student; the message is one line."""


def check(
    files: Sequence[ExportFile],
    folder: str | os.PathLike,
    images: np.ndarray,
    labels: np.ndarray,
    live_logits: np.ndarray,
    student_values: int,
    custom_layers: str = "",
) -> list[dict[str, Any]]:
    """Compares exported files with the live student.

    Args:
      files: the files.
      folder: the folder that holds them.
      images: uint8 `[n, h, w, c]`, real images.
      labels: integer `[n]`, all >= 0; or all -1 in a dataset without labels, and what needs them is then left out.
      live_logits: `[n, classes]`; their softmax is the live student's probability.
      student_values: how many numbers the student has, with BatchNorm's statistics.
      custom_layers: modules of the student's own layers, with commas between, which a Keras file needs.

    Returns:
      For each file {"file", "largest_difference" (of a logit), "largest_probability_difference", "agreement",
      "accuracy", "accuracy_change", "against_student" (`verdict.compare` with the live student), "nll", "ece", "ece_debiased", "intervals" (95%), "latency_ms" (one image on one thread,
      of LiteRT and ONNX Runtime; else None), "stored_values", "bytes"}.

    Raises:
      ExportError: a file does not run, differs by more than it may, or holds more numbers than the student.
    """
    rows = []
    with tempfile.TemporaryDirectory() as temporary, Progress("checking", len(files), "files") as progress:
        scratch = pathlib.Path(temporary)
        np.save(scratch / "images.npy", images)
        for file in files:
            found, facts = _run(file, pathlib.Path(folder) / file.name, scratch, custom_layers)
            rows.append(_compare(file, found, labels, np.asarray(live_logits, np.float64)) | facts)
            rows[-1]["bytes"] = cost.file_bytes(pathlib.Path(folder) / file.name)
            stored = facts["stored_values"]
            if stored > student_values + _CONSTANTS_BESIDE_WEIGHTS:
                raise ExportError(f"{file.name} holds {stored:,} numbers, the student has {student_values:,}.")
            rows[-1] |= measured_quality(found["logits"], labels)
            progress.update(len(rows))
    return rows


def measured_quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """{"accuracy", "nll", "ece", "ece_debiased", "intervals"} of a file's own logits, which quantization may change."""
    summary = metrics.summarize(logits, labels)
    quality, ends = summary.quality(), bootstrap.intervals(summary)
    found = {name: quality[name] for name in ("accuracy", "nll", "ece", "ece_debiased") if name in quality}
    return found | {"intervals": {name: ends[name] for name in found if name in ends}}


def costly(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each file whose accuracy is below the live student's by more than chance, with the interval."""
    named = [
        row["against_student"] | {"first": row["file"], "second": "the student"} for row in rows if "accuracy" in row
    ]
    return [line for one in named if one["word"] == "behind" for line in verdict.comparison_lines([one])]


def _run(file, path, scratch, custom_layers):
    """The outputs of an exported file in a fresh process, {"stored_values", "latency_ms"} of it."""
    output = scratch / "output.npz"
    command = [
        sys.executable,
        "-P",
        _RELOAD,
        file.kind,
        str(path),
        str(scratch / "images.npy"),
        str(output),
        custom_layers,
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if custom_layers:  # the modules are found where this process finds them
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        remedy = "Lower --check_images"
        raise ExportError(
            f"{file.name} has not answered the check's images within {_SECONDS} seconds. {remedy}."
        ) from error
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ExportError(f"{file.name} does not run in a fresh process: {reason}")
    with np.load(output, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    facts = json.loads(done.stdout.splitlines()[-1])
    stored = _litert_values(path) if facts["stored"] is None else facts["stored"]
    return found, {"stored_values": stored, "latency_ms": facts["latency_ms"]}


def _compare(file, found, labels, live):
    logits, scale = found["logits"].astype(np.float64), np.abs(live).max()
    probabilities = np.exp(live - live.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    difference = np.abs(logits - live).max()
    same = found["class_id"] == live.argmax(axis=1)
    best, second = np.sort(live, axis=1)[:, :-3:-1].T
    near_tie = best - second <= min(file.largest_difference, file.near_tie) * scale
    agreement = float(same[~near_tie].mean()) if not near_tie.all() else 1.0
    if not np.isfinite(logits).all() or difference > file.largest_difference * scale:
        raise ExportError(
            f"{file.name} differs from the live student by {difference:.3g} in a logit; "
            f"{file.largest_difference * scale:.3g} is allowed."
        )
    if agreement < file.least_agreement:
        raise ExportError(
            f"{file.name} differs from the live student: it gives the same class for {agreement:.4%} of the "
            f"{np.sum(~near_tie):,} images that are not near ties; {file.least_agreement:.1%} is required."
        )
    for count in (1, 7):
        alone = np.abs(found[f"batch_of_{count}"] - logits[:count]).max()
        if alone > max(1e-4, file.largest_difference) * scale:
            raise ExportError(f"{file.name} gives logits that differ by {alone:.3g} in a batch of {count}.")
    accuracy: dict[str, Any] = {}
    if (labels >= 0).any():
        against = verdict.compare(found["class_id"], live.argmax(axis=1), labels)
        accuracy = {"accuracy": float((found["class_id"] == labels).mean()), "accuracy_change": against["difference"]}
        accuracy["against_student"] = against
    return {
        "file": file.name,
        "largest_difference": float(difference),
        "largest_probability_difference": float(np.abs(found["probabilities"] - probabilities).max()),
        "agreement": float(same.mean()),
    } | accuracy


def _litert_values(path):
    """Numbers in the constant tensors of a LiteRT file."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    sizes = {}  # by buffer: several tensors may share one
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            if model.Buffers(tensor.Buffer()).DataLength():
                sizes[tensor.Buffer()] = int(np.prod(tensor.ShapeAsNumpy())) if tensor.ShapeLength() else 1
    return sum(sizes.values())
