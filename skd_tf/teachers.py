"""Teachers and other finished models: found, loaded, checked."""

import pathlib

import keras

from skd_tf import precision
from skd_tf.errors import InputError


def model_file(path):
    """The `.keras` file behind a path: the file itself, or the student of a workdir."""
    path = pathlib.Path(path)
    file = path / "student.keras" if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise InputError(
            f"No model there. Expected a .keras file, or a workdir with student.keras inside. Received path={path}. "
            "Check the path; a run that has not finished has no student.keras."
        )
    return file


def load(path):
    """Loads a Keras model in safe mode (a file that would run code is refused)."""
    file = model_file(path)
    try:
        return keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises a dozen kinds for a damaged or foreign file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"The model does not load ({reason}). Expected a .keras file of stock layers. Received path={file}. "
            "Save it again with model.save()."
        ) from error


def load_teacher(path, *, name, dataset, teacher_precision):
    """Loads a teacher and checks that it fits the data.

    Args:
      path: a `.keras` file or a workdir of ours.
      name: network that it must be, "" for any.
      dataset: the `Dataset` it will teach on.
      teacher_precision: float32, bfloat16 or float16.

    Raises:
      InputError: other classes, other images, or another network than asked for.
    """
    model = load(path)
    if name and model.name != name:
        raise InputError(f"The teacher is another network. Expected {name}. Received {model.name} in {path}. Drop --teacher.")
    _check_fits(model, dataset, path)
    return precision.set_precision(model, teacher_precision)


def _check_fits(model, dataset, path):
    shape, classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if classes != dataset.num_classes:
        raise InputError(
            f"The teacher knows other classes. Expected {dataset.num_classes} ({dataset.name}). Received {classes} from "
            f"{path}. Take a teacher trained on {dataset.name}."
        )
    if any(a not in (None, b) for a, b in zip(shape, dataset.image_shape, strict=True)):
        raise InputError(
            f"The teacher takes other images. Expected {dataset.image_shape} ({dataset.name}). Received {shape} from "
            f"{path}. Take a teacher for these images, or set --image_size."
        )
