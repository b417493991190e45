"""Checkpoints: everything that the rest of a run depends on, in one file that is either complete or absent."""

import concurrent.futures
import hashlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from skd_tf.distillation import hyperparameters
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import EnvironmentFailure, input_error, message
from skd_tf.runtime import atomic_files, cluster

_SUFFIX = ".ckpt"


def state_of(distiller: Distiller) -> dict[str, keras.Variable]:
    """{name: variable} of student, optimizer, loss settings, epoch means and projectors; never the teacher."""
    groups = {
        "student": distiller.student.variables,
        "optimizer": distiller.optimizer.variables,
        "setting": [distiller.temperature, distiller.kd_weight, distiller.label_weight, distiller.radius],
        "mean": distiller.means.variables,
    }
    if distiller.features is not None:
        groups["feature"] = [*distiller.features.variables, distiller.feature_weight]
    # By position: Keras numbers the names of layers by how many were created before them in the process.
    return {
        f"{group}/{place:04d}": variable
        for group, variables in groups.items()
        for place, variable in enumerate(variables)
    }


class Checkpoints:
    """One run's checkpoints in one folder: the newest to resume from, and the one with the best validation accuracy.

    A file is a zip of an uncompressed .npz and its facts (step, extra, SHA-256 of the arrays). It holds no pickle and
    no code. Files are written in the background, one at a time.

    Args:
      folder: created if it does not exist.
      keep: how many of the newest are kept.
      keep_best: whether the best is kept too.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2, keep_best: bool = True):
        self.folder, self.keep, self._keep_best = pathlib.Path(folder), keep, keep_best
        self._writer: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future | None = None
        self._best: float | None = None

    @cluster.chief_only
    def save(self, distiller: Distiller, step: int, extra: dict[str, Any] | None = None) -> None:
        """Copies the state of `step` and writes it in the background."""
        self._save(distiller, f"step-{step:09d}{_SUFFIX}", step, extra or {})

    @cluster.chief_only
    def save_best(self, distiller: Distiller, step: int, score: float, extra: dict[str, Any] | None = None) -> None:
        """Like `save`, but only if `score` beats the best so far, which it replaces."""
        if not self._keep_best:
            return
        if self._best is None:
            self._best = max(map(_score_of, self._bests()), default=-math.inf)
        if score > self._best:
            self._best = score
            self._save(distiller, _best_of(step), step, (extra or {}) | {"score": score})

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong in the background.

        Raises:
          OSError: the disk is full or the folder cannot be written; earlier files are intact.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits and stops the background thread; raises nothing."""
        if self._writer is not None:
            self._writer.shutdown()

    def _save(self, distiller, name, step, extra):
        self.wait()
        # On the CPU numpy sees the variable's own memory, and training goes on meanwhile: copy.
        arrays = {name: variable.numpy().copy() for name, variable in state_of(distiller).items()}
        if self._writer is None:
            self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._writer.submit(self.write, arrays, name, step, extra)

    def write(self, arrays, name, step, extra):
        """Writes a file whole or not at all, and removes older ones."""
        try:
            self._write(arrays, name, step, extra)
        except OSError as error:
            line = (
                f"The checkpoint of step {step} cannot be written ({error.strerror}). Expected a writable folder with "
                "free space. Earlier checkpoints are intact: the same command resumes from them"
            )
            raise OSError(error.errno, line, str(self.folder)) from error

    def _write(self, arrays, name, step, extra):
        body = io.BytesIO()
        np.savez(body, **arrays)
        facts = {"step": step, "extra": extra, "sha256": hashlib.sha256(body.getbuffer()).hexdigest()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        with atomic_files.writing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("facts.json", json.dumps(facts))
            archive.writestr("arrays.npz", body.getbuffer())
        if name.startswith("step-"):
            for old in self.paths()[: -self.keep]:
                if old != path:
                    old.unlink()
            # If the newest checkpoint is damaged, training goes on from the oldest, and a best after that may be trained
            # again, with other numbers: the one before it stays.
            oldest = min((_step_of(kept) for kept in self.paths()), default=step)
            reached = [best for best in self._bests() if _step_of(best) <= oldest]
            for old in reached[:-1]:
                old.unlink()
        else:  # a run that resumes trains again what is after the newest checkpoint
            newest = max((_step_of(kept) for kept in self.paths()), default=-1)
            ahead = [best for best in self._bests() if _step_of(best) > newest]
            for old in ahead[:-1]:
                old.unlink()

    def _bests(self):
        """The files of the best, each better than the one before it."""
        return sorted(self.folder.glob(f"best-*{_SUFFIX}"))

    def paths(self) -> list[pathlib.Path]:
        """The files to resume from, oldest first."""
        return sorted(self.folder.glob(f"step-*{_SUFFIX}"))

    def restore(self, distiller: Distiller, warn: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
        """Loads the newest readable checkpoint, the same on all workers, into a compiled and built Distiller.

        Args:
          distiller: with the same networks and optimizer as the saved one.
          warn: called with one line for each damaged file.

        Returns:
          (step, extra), or None without a readable checkpoint.

        Raises:
          InputError: the checkpoint belongs to another network or optimizer.
          OSError: it cannot be read at the moment, though it may be intact.
        """
        name = cluster.agree(lambda: self._newest(warn))
        if name is None:
            return None
        arrays, facts = _read(self.folder / name)
        _assign(state_of(distiller), arrays, name)
        return facts["step"], facts["extra"]

    def restore_best(self, distiller: Distiller, step: int) -> None:
        """Loads the checkpoint with the best validation accuracy, that of `step`, the same on all workers.

        Raises:
          EnvironmentFailure: there is none, or it is damaged.
        """
        self.wait()
        path = self.folder / _best_of(step)
        try:
            if not cluster.agree(path.exists):
                raise _Damaged("no such file")
            arrays, _ = _read(path)
        except _Damaged as error:
            raise EnvironmentFailure(
                message(
                    "The checkpoint with the best validation accuracy cannot be read",
                    expected=f"a whole file {path}",
                    received=error,
                    remedy="Train again with --overwrite, or with --ship=last in another workdir",
                )
            ) from error
        _assign(state_of(distiller), arrays, path.name)

    def _newest(self, warn):
        """Name of the newest readable checkpoint, or None.

        Renames damaged files, so that they do not count as kept. Removes a best of steps that are trained again.
        """
        atomic_files.sweep(self.folder)  # no other run uses this folder
        newest = None
        for path in reversed(self.paths()):
            try:
                _read(path)
                newest = path
                break
            except _Damaged as error:
                warn(_set_aside(path, error))
        for best in self._bests():
            if newest is None or _step_of(best) > _step_of(newest):
                best.unlink()
                continue
            try:
                _read(best)
            except _Damaged as error:
                warn(f"{_set_aside(best, error)} Unless a later epoch is better, the run cannot ship its best one.")
        return newest and newest.name


def _set_aside(path, error):
    """Renames a damaged file, so that it does not count; a sentence about it."""
    aside = path.with_name(path.name + ".damaged")
    os.replace(path, aside)
    return f"Checkpoint {path.name} is damaged ({error}) and is not used. It is now {aside.name}."


def _best_of(step):
    return f"best-{step:09d}{_SUFFIX}"


def _step_of(path):
    return int(path.name.removesuffix(_SUFFIX).partition("-")[2])


class _Damaged(ValueError):
    """An incomplete or altered file."""


def _read(path):
    content = path.read_bytes()  # a read error is not damage: it is raised, and the file stays
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            facts, body = json.loads(archive.read("facts.json")), archive.read("arrays.npz")
        whole = hashlib.sha256(body).hexdigest() == facts["sha256"]
    except Exception as error:  # a flipped bit makes zipfile raise almost anything
        raise _Damaged(str(error) or type(error).__name__) from error
    if not whole:
        raise _Damaged("its checksum does not match")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}, facts


def _score_of(path):
    try:
        return _read(path)[1]["extra"].get("score", -math.inf)
    except _Damaged:
        return -math.inf


def _assign(state, arrays, file_name):
    shapes = {name: tuple(variable.shape) for name, variable in state.items()}
    found = {name: array.shape for name, array in arrays.items()}
    different = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if different:
        name = different[0]
        raise input_error(
            f"{file_name} is a checkpoint of another network or optimizer: {len(different)} tensors differ",
            expected=f"{name} of shape {shapes.get(name)}",
            received=f"{found.get(name)}",
            remedy="Use another --workdir",
        )
    with hyperparameters.restoring():
        for name, variable in state.items():
            variable.assign(arrays[name])
