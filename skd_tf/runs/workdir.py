"""Workdir: the folder of one run. It is claimed for the run's settings, and another run's folder is refused."""

import codecs
import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from skd_tf.config import Config, app
from skd_tf.errors import InputError, input_error
from skd_tf.runs import run_files
from skd_tf.runs.run_record import holds_run, read_result, recorded_config, settings_record, to_json
from skd_tf.runtime import cluster
from skd_tf.runtime.files import LockedError, file_lock, write_json
from skd_tf.runtime.local_paths import require_folder, require_local


class Workdir:
    """The folder of one run; `skd_tf.runs.run_files` names what is in it, and `workdir / name` is a path in it.

    All workers of a cluster share the folder. Only the chief writes to it.

    Args:
      path: the folder; created if missing.
      config: the run's `Config`. A folder whose run has settings that could give other numbers is refused. With
        `config.overwrite` its files are removed instead (except the inner runs) and the run restarts from scratch.

    Raises:
      InputError: the folder belongs to another run (the message lists the settings that differ), holds files of another
        program, cannot be written, or is not visible to this worker.
    """

    def __init__(self, path: str | os.PathLike, config: Config) -> None:
        require_local(path, "workdir")
        self.path = pathlib.Path(path)
        chief = Config.from_json(cluster.agree(lambda: self._claim(config)))
        if chief.differences(config):
            raise input_error(
                "This worker has other settings than the chief",
                expected="the same command on all workers",
                received="; ".join(chief.differences(config)),
                remedy="Correct this worker's flags",
            )
        if not (self / run_files.CONFIG).is_file():
            raise input_error(
                "The workers do not share the workdir",
                expected="one folder for all workers",
                received=f"workdir={self.path}, where this worker does not see the chief's {run_files.CONFIG}",
                remedy="Choose a shared folder",
            )

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run, or None."""
        return cluster.agree(lambda: read_result(self.path))

    def _claim(self, config):
        """Records the run's settings in the folder; returns them."""
        if config.overwrite:
            self._clear()
            app.note_overwritten()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            before = self._recorded()
            if before is not None:
                refuse_differences(self.path, before, config)
            resolved = (settings_record(self.path) or {}).get("resolved")  # what "auto" settings became in training
            recorded = to_json(config, self.path) | ({"resolved": resolved} if resolved else {})
            write_json(self / run_files.CONFIG, recorded)
            return config.to_json()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _recorded(self):
        """The settings of the run in the folder, None for a new folder; InputError if the files are not a run's."""
        before = recorded_config(self.path)
        foreign = [name for name in run_files.ALL if (self / name).exists()]
        if before is None and foreign:
            raise input_error(
                "The workdir holds files of no known run",
                expected=f"{run_files.CONFIG} next to them",
                received=f"{', '.join(foreign)} in {self.path}",
                remedy="Choose another --workdir",
            )
        return before

    def _clear(self):
        """Removes a run of any version, but no other program's files."""
        if settings_record(self.path) is None:
            self._recorded()
            return
        for name in reversed(run_files.ALL):  # config.json last: it marks the rest as a run's
            path = self / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def require_output(output: str | os.PathLike, *, flag: str = "output", replaceable: str = "") -> pathlib.Path:
    """The path of a file that a flag gives a command to write, checked.

    Args:
      output: the path.
      flag: its name.
      replaceable: the name of a run's file that the command may replace.

    Raises:
      InputError: the folder does not exist, or the file is a device, one that holds no text, or another one that a run keeps
        in its workdir.
    """
    require_local(output, flag)
    output = pathlib.Path(output)
    if not output.name or output.is_dir():
        raise input_error(
            "The output is a folder",
            expected="the name of a file",
            received=f"--{flag}={output}",
            remedy="Add a file name",
        )
    if output.exists() and not output.is_file():
        raise input_error(
            "The output is a device or a pipe",
            expected="a regular file, which is replaced as a whole",
            received=f"--{flag}={output}",
            remedy="Name a file",
        )
    if not output.absolute().parent.is_dir():
        raise input_error(
            "The output has no folder",
            expected="an existing folder",
            received=f"--{flag}={output}",
            remedy=f"Create {output.parent} first",
        )
    if output.name in run_files.ALL and output.name != replaceable and holds_run(output.parent):
        raise input_error(
            "The output is a file of the run in its folder",
            expected="another name",
            received=f"--{flag}={output}",
            remedy=f"Write for example {output.parent / 'evaluation.json'}",
        )
    if output.is_file() and not _is_text(output):
        raise input_error(
            "The output is a file that holds no text, such as a picture or a model",
            expected="a new file, or a text file, which is replaced",
            received=f"--{flag}={output}",
            remedy="Choose another name",
        )
    return output


def _is_text(file):
    """Whether a file begins as text in UTF-8 or UTF-16; True for one that cannot be read."""
    try:
        with open(file, "rb") as opened:
            begin = opened.read(4096)
        if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return True
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(begin)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    except OSError:
        return True


def refuse_differences(path: str | os.PathLike, before: Config, config: Config) -> None:
    """InputError if a run with the settings `before` has started in a workdir and `config` could give other numbers."""
    differences = before.differences(config)
    started = any((pathlib.Path(path) / name).exists() for name in run_files.OUTPUTS)  # settings alone are not a run
    if differences and started:
        raise input_error(
            f"The workdir {path} belongs to a run with other settings",
            expected="the same settings",
            received="; ".join(differences),
            remedy="Give the same settings, choose another --workdir, or add --overwrite to restart from scratch",
        )


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Reserves a workdir for this process. In a cluster only the chief takes the lock.

    If the block is refused before it has an output, the folder is left as it was.

    Raises:
      InputError: another run uses the folder, or it cannot be written.
    """
    require_folder(path, "workdir")
    path = pathlib.Path(path)
    new_files = [path / name for name in (run_files.CONFIG, run_files.FLAGS, run_files.LOCK)]
    new_files = [file for file in new_files if not file.exists()]  # a user may have written flags.txt
    new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
    with contextlib.ExitStack() as held:
        cluster.agree(lambda: _lock(path, held))
        try:
            yield
        except InputError:
            if path / run_files.CONFIG in new_files and cluster.is_chief():
                _remove_unused(path, new_files, new_folders)
            raise


def _remove_unused(path, new_files, new_folders):
    """Removes the files and folders that a run without an output created."""
    if any((path / name).exists() for name in (*run_files.OUTPUTS, run_files.TEACHER, run_files.STUDENT_ALONE)):
        return
    with contextlib.suppress(OSError):
        for file in new_files:
            file.unlink(missing_ok=True)
        for folder in new_folders:
            folder.rmdir()


def _lock(path, held):
    remedy = "make sure that no other run uses it."
    try:
        path.mkdir(parents=True, exist_ok=True)
        held.enter_context(file_lock(path / run_files.LOCK, wait=False, without_locks=remedy))
    except LockedError as error:
        raise input_error(
            "Another run has this workdir",
            expected="one run at a time",
            received=f"workdir={path}, in use by {error.owner}",
            remedy="Wait for its end, or choose another --workdir",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path, error) -> InputError:
    return input_error(
        f"The workdir cannot be written ({error.strerror})",
        expected="a writable folder",
        received=f"workdir={path}",
        remedy="Choose another --workdir",
    )
