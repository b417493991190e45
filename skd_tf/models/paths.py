"""Where trained models are: a workdir, a `.keras` file, a SavedModel folder or a runtime's file; found without TensorFlow."""

import hashlib
import importlib.metadata
import os
import pathlib
import zipfile

from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime import user_code
from skd_tf.runtime.local_paths import require_local

STUDENT_FILE = "student.keras"  # in a workdir, and in an export
RUNTIME_FILES = (".tflite", ".onnx")  # can be measured, and cannot be trained or teach
RELEASED = "released:"  # before the name of a student in experiments/released/
LINEAGE = "lineage.json"  # in a .keras file and in a SavedModel folder: what its weights were trained on
_HDF5 = (
    "Convert it: keras.models.load_model('{0}', compile=False).save('model.keras'), with keras or, if Keras 2 wrote it and "
    "Keras 3 cannot read it, tf_keras and .export() as a SavedModel. A file of weights alone (.weights.h5) needs its "
    "network: model.load_weights('{0}') first"
)
_REPOSITORY = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "released"
_TORCH = "Convert it: python -m tools.convert_torch (docs/teachers.md)"
_SERVED = "It is made for inference by another program; use the model that it was made from"
_CONVERT = {  # suffix of a file that is no model here -> what to do
    **dict.fromkeys((".h5", ".hdf5"), _HDF5),
    **dict.fromkeys((".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors", ".npz"), _TORCH),
    **dict.fromkeys(RUNTIME_FILES, "Use the model that it was made from"),
    ".mlmodel": _SERVED,
    ".pb": "Name the SavedModel's folder, not a file in it",
}


def keras_file(path: str | os.PathLike) -> pathlib.Path:
    """The `.keras` file behind a path: the file itself, the student of a workdir, or a released student.

    Raises:
      InputError: no such file.
    """
    if os.fspath(path).startswith(RELEASED):
        return _released(os.fspath(path).removeprefix(RELEASED))
    require_local(path, "model")
    path = pathlib.Path(path)
    file = path / STUDENT_FILE if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        remedy, what = f"Check the path; a workdir has no {STUDENT_FILE} until its run has finished", "No model there"
        if file.is_file() and file.suffix != ".keras":
            measured = file.suffix.lower() in RUNTIME_FILES
            what = "This file can only be measured" if measured else "Not a model that skd_tf reads"
            remedy = _CONVERT.get(file.suffix.lower(), "Save the model as a .keras file: model.save('model.keras')")
            remedy = remedy.format(file)
        raise input_error(
            what,
            expected="a finished workdir, a .keras file, a SavedModel folder, keras.applications:NAME or keras_hub:PRESET",
            received=f"path={path}",
            remedy=remedy,
        )
    return file


def _released(name):
    """The file of a released student. They are in the repository, and not in the installed package."""
    names = sorted(file.parent.name for file in _REPOSITORY.glob(f"*/{STUDENT_FILE}"))
    if name in names:
        return _REPOSITORY / name / STUDENT_FILE
    received = f"path={RELEASED}{name}"
    if not names:
        raise input_error(
            "The installed package has no released students",
            expected="skd_tf installed from a checkout of its repository",
            received=received,
            remedy="Install it with pip install -e . in a checkout, or copy experiments/released/NAME/student.keras and name that file",
        )
    raise input_error(
        "Unknown released student",
        expected=f"one of {', '.join(names)}",
        received=received,
        remedy=did_you_mean(name, names, "Choose one of these"),
    )


def is_saved_model(path: str | os.PathLike) -> bool:
    """Whether a path is a SavedModel folder."""
    return (pathlib.Path(path) / "saved_model.pb").is_file()


def is_runtime_file(path: str | os.PathLike) -> bool:
    """Whether a path is a `.tflite` or `.onnx` file."""
    return pathlib.Path(path).suffix.lower() in RUNTIME_FILES and pathlib.Path(path).is_file()


def file_of(path: str | os.PathLike) -> pathlib.Path:
    """The file or folder that holds the model behind a path; `InputError` if there is none."""
    return pathlib.Path(path) if is_saved_model(path) or is_runtime_file(path) else keras_file(path)


def require(path: str | os.PathLike, *, to_measure: bool = False) -> None:
    """Raises `InputError` if there is no model behind a path; of keras.applications:NAME and keras_hub:PRESET only the form
    is checked.

    Args:
      path: of the model.
      to_measure: whether a `.tflite` or `.onnx` file will do.
    """
    if not (user_code.published(str(path)) or is_saved_model(path) or (to_measure and is_runtime_file(path))):
        keras_file(path)


def file_fingerprint(path: str | os.PathLike) -> str:
    """SHA-256 of a model's weights and architecture, read from its files without building it."""
    library, name = user_code.published(str(path)) or ("", "")
    is_preset = library == user_code.HUB and pathlib.Path(name).is_dir()
    if library and not is_preset:  # the library verifies the weight file itself
        version = importlib.metadata.version(library.split(".")[0])
        return hashlib.sha256(f"{path} {version}".encode()).hexdigest()
    path = pathlib.Path(name or path)
    digest = hashlib.sha256()
    if is_preset or is_saved_model(path):
        files = (file for file in path.rglob("*") if file.is_file() and file != path / LINEAGE)
        for file in sorted(files):
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()
    if is_runtime_file(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    file = keras_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in ("config.json", "model.weights.h5"):  # the metadata holds the date
                digest.update(archive.read(member))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise input_error(
            f"The model is damaged ({error})", expected="a .keras file", received=f"path={file}", remedy="Save it again"
        ) from error
    return digest.hexdigest()
