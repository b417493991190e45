"""Exact resume: every number a run's future depends on, in one file that is either whole or not there."""

import hashlib
import io
import json
import os
import pathlib
import zipfile

import numpy as np

from skd_tf import cluster
from skd_tf.errors import InputError

_SUFFIX = ".ckpt"


def state_of(distiller):
    """name -> keras.Variable: student, optimizer, loss settings and epoch means; never the teacher."""
    groups = {
        "student": distiller.student.variables,
        "optimizer": distiller.optimizer.variables,
        "setting": [distiller.temperature, distiller.kd_weight, distiller.label_weight, distiller.radius],
        "mean": distiller.means.variables,
    }
    # By position: layers named by Keras are named by how many were made before them in the process.
    return {
        f"{group}/{place:04d}": variable
        for group, variables in groups.items()
        for place, variable in enumerate(variables)
    }


class Checkpoints:
    """The checkpoints of one run in one folder, newest kept.

    A file is a zip of an uncompressed .npz and its facts (step, extra, SHA-256 of the arrays): no pickle, nothing that
    can run.
    """

    def __init__(self, folder, *, keep=2):
        self.folder, self.keep = pathlib.Path(folder), keep

    @cluster.chief_only
    def save(self, distiller, step, extra=None):
        """Writes a checkpoint of `step`: to a temporary name, flushed to the disk, then renamed."""
        arrays = {name: np.asarray(variable) for name, variable in state_of(distiller).items()}
        self.write(arrays, step, extra or {})

    def write(self, arrays, step, extra):
        body = io.BytesIO()
        np.savez(body, **arrays)
        facts = {"step": step, "extra": extra, "sha256": hashlib.sha256(body.getbuffer()).hexdigest()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:09d}{_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr("facts.json", json.dumps(facts))
                archive.writestr("arrays.npz", body.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(self.folder)
        for old in self.paths()[: -self.keep]:
            old.unlink()

    def paths(self):
        """Checkpoint files, oldest first."""
        return sorted(self.folder.glob(f"step-*{_SUFFIX}"))

    def restore(self, distiller, warn):
        """Puts the newest readable checkpoint, the same on all workers, into a compiled, built Distiller.

        Args:
          distiller: with the same networks and optimizer as the one saved.
          warn: called with one line for each damaged file that is passed over.

        Returns:
          (step, extra), or None where there is no readable checkpoint.

        Raises:
          InputError: the checkpoint is of another network or optimizer.
        """
        name = cluster.agree(lambda: self._newest(warn))
        if name is None:
            return None
        arrays, facts = _read(self.folder / name)
        _assign(state_of(distiller), arrays, name)
        return facts["step"], facts["extra"]

    def _newest(self, warn):
        """Name of the newest checkpoint that can be read, or None."""
        for path in reversed(self.paths()):
            try:
                _read(path)
                return path.name
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                warn(f"Checkpoint {path.name} is damaged ({error}) and is not used.")
        return None


def _read(path):
    with zipfile.ZipFile(path) as archive:
        facts, body = json.loads(archive.read("facts.json")), archive.read("arrays.npz")
    if hashlib.sha256(body).hexdigest() != facts["sha256"]:
        raise ValueError("its checksum does not match")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}, facts


def _assign(state, arrays, file_name):
    shapes = {name: tuple(variable.shape) for name, variable in state.items()}
    found = {name: array.shape for name, array in arrays.items()}
    different = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if different:
        name = different[0]
        raise InputError(
            f"{file_name} is a checkpoint of another network or optimizer: {len(different)} tensors differ. "
            f"Expected {name} of shape {shapes.get(name)}. Received {found.get(name)}. Use another --workdir."
        )
    for name, variable in state.items():
        variable.assign(arrays[name])


def _flush_folder(folder):
    """Makes a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
