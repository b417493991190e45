"""Every exported file, run in a fresh process without skd_tf, against the live student on real images."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from skd_tf.evaluation import cost
from skd_tf.runtime.console import Progress

_RELOAD = str(pathlib.Path(__file__).with_name("reload.py"))  # never imported: it bars skd_tf
# Shapes, scales and the like that a converter keeps beside the weights.
_CONSTANTS_BESIDE_WEIGHTS = 256
_SECONDS = 600
# Part of the largest logit by which the best two of an image may differ and still change places: half-precision arithmetic,
# which LiteRT uses where the CPU has it (AVX512-FP16), was seen to move logits by 0.7% and 1.4% of the largest.
_NEAR_TIE = 0.01


class ExportFailed(RuntimeError):
    """An exported file does not do what the live student does; one line."""


def check(files, folder, images, labels, live_logits, student_values):
    """Compares exported files with the live student.

    Args:
      files: `formats.File`s.
      folder: where they are.
      images: uint8 `[n, h, w, c]`, real ones.
      labels: integer `[n]`, all >= 0.
      live_logits: `[n, classes]`, the live student's on its readout.
      student_values: numbers that the student consists of, BatchNorm's statistics among them.

    Returns:
      [{"file", "largest_difference" (of a logit), "largest_probability_difference", "agreement", "accuracy",
      "accuracy_change", "stored_values", "bytes"}].

    Raises:
      ExportFailed: a file that does not run, differs by more than it may, or holds more than the student.
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch, Progress("checking", len(files), "files") as progress:
        scratch = pathlib.Path(scratch)
        np.save(scratch / "images.npy", images)
        for file in files:
            found, stored = _run(file, pathlib.Path(folder) / file.name, scratch)
            rows.append(_compare(file, found, labels, np.asarray(live_logits, np.float64)))
            rows[-1] |= {"stored_values": stored, "bytes": cost.file_bytes(pathlib.Path(folder) / file.name)}
            if stored > student_values + _CONSTANTS_BESIDE_WEIGHTS:
                raise ExportFailed(f"{file.name} holds {stored:,} numbers, the student has {student_values:,}.")
            progress.update(len(rows))
    return rows


def _run(file, path, scratch):
    """Outputs of an exported file in a process of its own, and how many numbers it stores."""
    output = scratch / "output.npz"
    command = [sys.executable, "-I", _RELOAD, file.kind, str(path), str(scratch / "images.npy"), str(output)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ExportFailed(f"{file.name} does not run in a fresh process: {reason}")
    with np.load(output, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    stored = json.loads(done.stdout.splitlines()[-1])["stored"]
    return found, _litert_values(path) if stored is None else stored


def _compare(file, found, labels, live):
    logits, scale = found["logits"].astype(np.float64), np.abs(live).max()
    probabilities = np.exp(live - live.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    difference = np.abs(logits - live).max()
    same = found["class_id"] == live.argmax(axis=1)
    best, second = np.sort(live, axis=1)[:, :-3:-1].T
    near_tie = best - second <= min(file.largest_difference, _NEAR_TIE) * scale
    agreement = float(same[~near_tie].mean()) if not near_tie.all() else 1.0
    accuracy = float((found["class_id"] == labels).mean())
    if not np.isfinite(logits).all() or difference > file.largest_difference * scale:
        raise ExportFailed(
            f"{file.name} differs from the live student: by {difference:.3g} in a logit, where "
            f"{file.largest_difference * scale:.3g} is allowed."
        )
    if agreement < file.least_agreement:
        raise ExportFailed(
            f"{file.name} differs from the live student: the same class for {agreement:.4%} of the "
            f"{np.sum(~near_tie):,} images that are no near ties, where {file.least_agreement:.1%} is required."
        )
    for count in (1, 7):
        alone = np.abs(found[f"batch_of_{count}"] - logits[:count]).max()
        if alone > max(1e-4, file.largest_difference) * scale:
            raise ExportFailed(f"{file.name} gives other logits in a batch of {count}: by {alone:.3g}.")
    return {
        "file": file.name,
        "largest_difference": float(difference),
        "largest_probability_difference": float(np.abs(found["probabilities"] - probabilities).max()),
        "agreement": float(same.mean()),
        "accuracy": accuracy,
        "accuracy_change": accuracy - float((live.argmax(axis=1) == labels).mean()),
    }


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
