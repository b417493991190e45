"""A run's folder: whose it is, whether it is finished, and what it holds."""

import json
import os
import pathlib
import shutil

from skd_tf.config import Config
from skd_tf.errors import InputError

_FILES = (
    "config.json", "flags.txt", "metrics.jsonl", "checkpoints", "tensorboard", "student.keras", "saved_model", "result.json",
)  # fmt: skip


class Workdir:
    """The folder of one run.

        config.json flags.txt metrics.jsonl checkpoints/ tensorboard/ student.keras saved_model/ result.json
        teacher/ student_alone/     runs of their own, where this run trained them

    Args:
      path: folder, made if need be.
      config: the run's `Config`. A folder begun with settings that could give other numbers is refused, unless
        `config.overwrite`, which removes the files above (never the two inner runs) and begins anew.

    Raises:
      InputError: another run's folder; the differing settings are listed.
    """

    def __init__(self, path, config):
        self.path = pathlib.Path(path)
        if config.overwrite:
            self._clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            before = self._recorded()
            if before is not None:
                self._refuse_differences(before, config)
            write_json(self / "config.json", config.to_json())
        except OSError as error:
            raise InputError(
                f"The workdir cannot be written ({error.strerror}). Expected a writable folder. "
                f"Received workdir={self.path}. Choose another --workdir."
            ) from error

    def __truediv__(self, name):
        return self.path / name

    @property
    def result(self):
        """The finished run's result, or None."""
        file = self / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def _recorded(self):
        file = self / "config.json"
        if file.is_file():
            try:
                return Config.from_json(json.loads(file.read_text()))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"The recorded settings are damaged ({error}). Expected JSON. Received {file}. "
                    "Choose another --workdir, or add --overwrite to begin anew."
                ) from error
        foreign = [name for name in _FILES if (self / name).exists()]
        if foreign:
            raise InputError(
                f"The workdir holds files of no known run. Expected config.json beside them. Received {', '.join(foreign)} "
                f"in {self.path}. Choose another --workdir."
            )
        return None

    def _refuse_differences(self, before, config):
        differences = before.differences(config)
        if differences:
            raise InputError(
                f"The workdir {self.path} belongs to a run with other settings. Expected the same ones. "
                f"Received {'; '.join(differences)}. Choose another --workdir, or add --overwrite to begin anew."
            )

    def _clear(self):
        if self._recorded() is None:  # refuses a folder whose files are not a run's
            return
        for name in _FILES:
            path = self / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path, value):
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path, text):
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
