"""A run's folder: whose it is, whether it is finished, and what it holds."""

import contextlib
import json
import pathlib
import shutil

from skd_tf.config import Config
from skd_tf.errors import input_error
from skd_tf.runs.run_record import holds_run, read_result, recorded_config, settings_record
from skd_tf.runtime import cluster
from skd_tf.runtime.files import LockedError, file_lock, write_json

_FILES = (
    "config.json",
    "flags.txt",
    "metrics.jsonl",
    "checkpoints",
    "tensorboard",
    "student.keras",
    "saved_model",
    "result.json",
    "measurements.json",
    "report.html",
    "calibration.json",
    "post_mortem",
)


class Workdir:
    """The folder of one run.

        config.json flags.txt metrics.jsonl checkpoints/ tensorboard/ student.keras saved_model/ result.json
        measurements.json report.html calibration.json
        teacher/ student_alone/     runs of their own, where this run trained them

    All workers of a cluster share it; the chief alone changes it.

    Args:
      path: folder, made if need be.
      config: the run's `Config`. A folder begun with settings that could give other numbers is refused, unless
        `config.overwrite`, which removes the files above (never the two inner runs) and begins anew.

    Raises:
      InputError: another run's folder; the differing settings are listed. Or one that this worker cannot see.
    """

    def __init__(self, path, config):
        self.path = pathlib.Path(path)
        chief = Config.from_json(cluster.agree(lambda: self._begin(config)))
        if chief.differences(config):
            raise input_error(
                "This worker was given other settings than the chief",
                expected="the same command on all workers",
                received=f"{'; '.join(chief.differences(config))}",
                remedy="Correct this worker's flags",
            )
        if not (self / "config.json").is_file():
            raise input_error(
                "The workdir is not shared",
                expected="one folder for all workers",
                received=f"workdir={self.path}, where this worker does not see the chief's config.json",
                remedy="Choose a shared folder",
            )

    def _begin(self, config):
        """Claims the folder for a run; returns the settings that the run has."""
        if config.overwrite:
            self._clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            before = self._recorded()
            if before is not None:
                refuse_differences(self.path, before, config)
            known = {"resolved": _resolved(self.path)} if before is not None and _resolved(self.path) else {}
            write_json(self / "config.json", config.to_json() | known)
            return config.to_json()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __truediv__(self, name):
        return self.path / name

    @property
    def result(self):
        """The finished run's result, or None."""
        return cluster.agree(lambda: read_result(self.path))

    def _recorded(self):
        before = recorded_config(self.path)
        if before is not None:
            return before
        foreign = [name for name in _FILES if (self / name).exists()]
        if foreign:
            raise input_error(
                "The workdir holds files of no known run",
                expected="config.json beside them",
                received=f"{', '.join(foreign)} in {self.path}",
                remedy="Choose another --workdir",
            )
        return None

    def _clear(self):
        if settings_record(self.path) is None:  # a run of an older version may go, another program's files may not
            self._recorded()  # refuses files that are no run's
            return
        for name in (*_FILES[1:], _FILES[0]):  # config.json last: it says whose the rest is
            path = self / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def refuse_own_file(output):
    """InputError where a file to be written is one that the run in that folder keeps."""
    output = pathlib.Path(output)
    if output.name in _FILES and holds_run(output.parent):
        raise input_error(
            "The output is a file of the run in its folder",
            expected="another name",
            received=f"--output={output}",
            remedy=f"Write for example {output.parent / 'evaluation.json'}",
        )


def refuse_differences(path, before, config):
    """InputError where a run with the settings `before` has begun in a workdir, and `config` could give other numbers."""
    differences = before.differences(config)
    begun = any((pathlib.Path(path) / name).exists() for name in _FILES[2:])  # settings alone are no run yet
    if differences and begun:
        raise input_error(
            f"The workdir {path} belongs to a run with other settings",
            expected="the same ones",
            received=f"{'; '.join(differences)}",
            remedy="Choose another --workdir, or add --overwrite to begin anew",
        )


@contextlib.contextmanager
def locked(path):
    """Keeps a folder to this run. Of several workers only the chief takes the lock.

    Raises:
      InputError: another run has the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        cluster.agree(lambda: _lock(pathlib.Path(path), held))
        yield


def _lock(path, held):
    try:
        path.mkdir(parents=True, exist_ok=True)
        held.enter_context(file_lock(path / ".lock", wait=False, without_locks="make sure that no other run uses it."))
    except LockedError as error:
        raise input_error(
            "Another run has this workdir",
            expected="one at a time",
            received=f"workdir={path}, in use by {error.owner}",
            remedy="Wait for its end, or choose another --workdir",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path, error):
    return input_error(
        f"The workdir cannot be written ({error.strerror})",
        expected="a writable folder",
        received=f"workdir={path}",
        remedy="Choose another --workdir",
    )


def _resolved(path):
    """What the settings "auto" came to when the run was last trained, or None."""
    return json.loads((pathlib.Path(path) / "config.json").read_text()).get("resolved")
