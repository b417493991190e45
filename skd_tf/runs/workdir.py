"""A run's folder: whose it is, whether it is finished, and what it holds."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import platform
import shutil

from skd_tf.runtime import atomic_files, cluster
from skd_tf.config import Config
from skd_tf.errors import InputError, input_error
from skd_tf.runtime.console import warn
from skd_tf.runs.run_record import holds_run, read_result, recorded_config, settings_record

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what file systems answer that lock no files
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
            raise input_error("This worker was given other settings than the chief", expected="the same command on all workers", received=f"{'; '.join(chief.differences(config))}", remedy="Correct this worker's flags")
        if not (self / "config.json").is_file():
            raise input_error("The workdir is not shared", expected="one folder for all workers", received=f"workdir={self.path}, where this worker does not see the chief's config.json", remedy="Choose a shared folder")

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
            raise input_error("The workdir holds files of no known run", expected="config.json beside them", received=f"{', '.join(foreign)} in {self.path}", remedy="Choose another --workdir")
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
        raise input_error("The output is a file of the run in its folder", expected="another name", received=f"--output={output}", remedy=f"Write for example {output.parent / 'evaluation.json'}")


def refuse_differences(path, before, config):
    """InputError where a run with the settings `before` has begun in a workdir, and `config` could give other numbers."""
    differences = before.differences(config)
    begun = any((pathlib.Path(path) / name).exists() for name in _FILES[2:])  # settings alone are no run yet
    if differences and begun:
        raise input_error(f"The workdir {path} belongs to a run with other settings", expected="the same ones", received=f"{'; '.join(differences)}", remedy="Choose another --workdir, or add --overwrite to begin anew")


def require_same_data(what, before, now):
    """InputError where a "run" or "search" that began with the `bookkeeping.data_facts` in `before` has others `now`.

    Images in memory are known by their pixels and others by their files: where a run had the one and has the other, they
    cannot be compared.
    """
    began = f"since this {what} began"
    remedy = "Choose another --workdir, or add --overwrite to begin anew."
    if before.get("data") != now["data"]:
        raise input_error(f"The data has changed {began}", expected=f"{before.get('data')} (name, version, images, digest of labels)", received=f"{now['data']}", remedy=f"{remedy}")
    kept = before.get("images_in", now["images_in"])
    if kept != now["images_in"]:
        raise input_error(f"The images are kept elsewhere than when this {what} began: whether they are the same cannot be told", expected=f"--cache_dataset={kept}", received=f"--cache_dataset={now['images_in']}", remedy=f"Add --cache_dataset={kept}")
    if before.get("images", now["images"]) != now["images"]:
        raise input_error(f"The data has changed {began}", expected="the same training images, mean, std and augmentation", received=f"others of {now['data'][0]}", remedy=f"{remedy}")


@contextlib.contextmanager
def locked(path):
    """Keeps a folder to this run: by a lock of the operating system, which ends with its owner, however it ends.

    On a file system without locks nobody can be kept out: a warning says so.

    Raises:
      InputError: another run has the folder, or it cannot be written.
    """
    held = []
    cluster.agree(lambda: _lock(pathlib.Path(path), held))
    try:
        yield
    finally:
        for file in held:
            file.close()


def _lock(path, held):
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "a+")  # noqa: SIM115 (the caller closes it)
        held.append(file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
    except BlockingIOError as error:
        file.seek(0)
        raise input_error("Another run has this workdir", expected="one at a time", received=f"workdir={path}, in use by {file.read()}", remedy="Wait for its end, or choose another --workdir") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _unwritable(path, error) from error
        warn(
            f"{path} is on a file system without locks ({error.strerror}): see to it yourself that no other run uses it."
        )


def _unwritable(path, error):
    return input_error(f"The workdir cannot be written ({error.strerror})", expected="a writable folder", received=f"workdir={path}", remedy="Choose another --workdir")


def _resolved(path):
    """What the settings "auto" came to when the run was last trained, or None."""
    return json.loads((pathlib.Path(path) / "config.json").read_text()).get("resolved")


def write_json(path, value):
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@cluster.chief_only
def write_text(path, text):
    """Writes a text whole or not at all."""
    with atomic_files.writing(path) as file:
        file.write(text.encode())
