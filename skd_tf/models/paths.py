"""Where finished models lie: a workdir, a `.keras` file, a SavedModel folder; found without TensorFlow."""

import hashlib
import importlib.metadata
import pathlib
import zipfile

from skd_tf.errors import input_error
from skd_tf.runtime import user_code


def keras_file(path):
    """The `.keras` file behind a path: the file itself, or the student of a workdir."""
    path = pathlib.Path(path)
    file = path / "student.keras" if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise input_error(
            "No model there",
            expected=f"a workdir with student.keras inside, a .keras file, a SavedModel folder or {user_code.APPLICATIONS}:NAME",
            received=f"path={path}",
            remedy="Check the path; a run that has not finished has no student.keras",
        )
    return file


def is_saved_model(path):
    return (pathlib.Path(path) / "saved_model.pb").is_file()


def file_of(path):
    """The file or folder that holds the model behind a path."""
    return pathlib.Path(path) if is_saved_model(path) else keras_file(path)


def require(path):
    """InputError where no model is behind a path, or behind keras.applications:NAME by its form."""
    if not user_code.application(str(path)):
        file_of(path)


def file_fingerprint(path):
    """SHA-256 of a model's weights and architecture, read from its files without building it."""
    if user_code.application(str(path)):  # Keras checks the file of weights itself
        return hashlib.sha256(f"{path} {importlib.metadata.version('keras')}".encode()).hexdigest()
    path = pathlib.Path(path)
    digest = hashlib.sha256()
    if (path / "saved_model.pb").is_file():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()
    file = keras_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in ("config.json", "model.weights.h5"):  # not the metadata, which holds the date
                digest.update(archive.read(member))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise input_error(
            f"The teacher is damaged ({error})",
            expected="a .keras file",
            received=f"path={file}",
            remedy="Save it again",
        ) from error
    return digest.hexdigest()
