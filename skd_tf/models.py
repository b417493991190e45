"""Finished models, found and loaded from what a user has: a workdir, a `.keras` file, a SavedModel; and teachers."""

import math
import pathlib

import keras
import tensorflow as tf

from skd_tf import precision
from skd_tf.errors import InputError
from skd_tf.folding import fold_batch_norm

# Part of the teacher cache's key: raise it whenever a teacher's logits change by how it is prepared at loading.
FOLDING_VERSION = 2


class ServedModel:
    """A SavedModel behind the few attributes that measuring needs; images in, logits out, by its signature."""

    def __init__(self, path):
        loaded = tf.saved_model.load(str(path))
        if "serving_default" not in loaded.signatures:
            raise ValueError("it has no signature serving_default")
        self._loaded, self._signature = loaded, loaded.signatures["serving_default"]
        ((self._input, spec),) = self._signature.structured_input_signature[1].items()
        outputs = self._signature.structured_outputs
        if "logits" not in outputs and len(outputs) > 1:
            raise ValueError(f"its outputs are {', '.join(outputs)}, none of them named logits")
        self._output = "logits" if "logits" in outputs else next(iter(outputs))
        self.name = pathlib.Path(path).name
        self.input_shape, self._dtype = tuple(spec.shape), spec.dtype
        self.output_shape = tuple(outputs[self._output].shape)

    @property
    def trainable_variables(self):
        return self._signature.trainable_variables or self._loaded.trainable_variables

    def __call__(self, images, training=False):
        del training
        return self._signature(**{self._input: tf.cast(images, self._dtype)})[self._output]


def load(path):
    """Loads a model for inference.

    Args:
      path: a workdir of a finished run, a `.keras` file, or a SavedModel folder.

    Returns:
      keras.Model or `ServedModel`: images `[batch, h, w, c]`, raw pixels, to logits `[batch, classes]`.

    Raises:
      InputError: nothing there, or a file that does not load. Keras' safe mode stays on: a `.keras` file that would run
        code is refused. A SavedModel's graph is trusted input.
    """
    path = pathlib.Path(path)
    if (path / "saved_model.pb").is_file():
        return _loaded(ServedModel, path)
    return _loaded(lambda file: keras.models.load_model(file, compile=False, safe_mode=True), keras_file(path))


def keras_file(path):
    """The `.keras` file behind a path: the file itself, or the student of a workdir."""
    path = pathlib.Path(path)
    file = path / "student.keras" if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise InputError(
            "No model there. Expected a workdir with student.keras inside, a .keras file or a SavedModel folder. "
            f"Received path={path}. Check the path; a run that has not finished has no student.keras."
        )
    return file


def parameter_count(model):
    """Trainable parameters; of a teacher those that it had before folding."""
    count = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return getattr(model, "unfolded_parameters", count)


def _loaded(loader, path):
    try:
        return loader(path)
    except Exception as error:  # Keras and TensorFlow raise a dozen kinds for a damaged or foreign file
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip(" .")
        raise InputError(
            f"The model does not load: {reason}. Expected a model of stock layers. Received path={path}. Save it again."
        ) from error


def load_teacher(path, *, name, dataset, teacher_precision):
    """Loads a teacher, checks that it fits the data, and folds its BatchNorm (`.folding` says how much of it).

    Args:
      path: as in `load`.
      name: network that it must be, "" for any.
      dataset: the `Dataset` it will teach on.
      teacher_precision: float32, bfloat16 or float16.

    Raises:
      InputError: other classes, other images, or another network than asked for.
    """
    model = load(path)
    if name and model.name != name:
        raise InputError(
            f"The teacher is another network. Expected {name}. Received {model.name} in {path}. Drop --teacher."
        )
    check_fits(model, dataset, path)
    if isinstance(model, ServedModel):
        if teacher_precision != "float32":
            raise InputError(
                "A SavedModel computes as it was saved. Expected --teacher_precision=float32. "
                f"Received teacher_precision={teacher_precision} with {path}. Use its .keras file."
            )
        return model
    folded = fold_batch_norm(model)
    folded.unfolded_parameters = parameter_count(model)
    return precision.set_precision(folded, teacher_precision)


def check_fits(model, dataset, path):
    """InputError where a model's classes or images are not the dataset's."""
    shape, classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if classes != dataset.num_classes:
        raise InputError(
            f"The model knows other classes. Expected {dataset.num_classes} ({dataset.name}). Received {classes} from "
            f"{path}. Take a model trained on {dataset.name}."
        )
    if len(shape) != 3 or any(mine not in (None, its) for mine, its in zip(shape, dataset.image_shape, strict=True)):
        raise InputError(
            f"The model takes other images. Expected {dataset.image_shape} ({dataset.name}). Received {shape} from "
            f"{path}. Take a model for these images, or set --image_size."
        )
