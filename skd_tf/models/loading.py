"""Finished models, loaded from what a user has: a workdir, a `.keras` file, a SavedModel, keras.applications; teachers."""

import math
import pathlib

import keras
import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.models import heads, keras_applications, precision
from skd_tf.models.adapter import TeacherAdapter, returns_probabilities
from skd_tf.models.fold_batch_norm import fold_batch_norm
from skd_tf.models.paths import file_of, is_saved_model, keras_file
from skd_tf.runtime import user_code
from skd_tf.runtime.console import say, warn

__all__ = [
    "ServedModel",
    "check_fits",
    "file_of",
    "keras_file",
    "load",
    "load_measured",
    "load_teacher",
    "parameter_count",
]

# Part of the teacher cache's key: raise it whenever a teacher's logits change by how it is prepared at loading.
FOLDING_VERSION = 3
_PROBED = 8  # images whose outputs tell whether they are probabilities


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
        if self._dtype.is_integer and images.dtype.is_floating:  # a resized image
            images = tf.clip_by_value(tf.round(images), 0, 255)
        return self._signature(**{self._input: tf.cast(images, self._dtype)})[self._output]


def load(path, *, download=False):
    """Loads a model for inference.

    Args:
      path: a workdir of a finished run, a `.keras` file, a SavedModel folder, or keras.applications:NAME with ImageNet's
        weights.
      download: whether Keras may fetch weights of keras.applications that it has not cached.

    Returns:
      keras.Model or `ServedModel`: images `[batch, h, w, c]`, raw pixels, to logits `[batch, classes]`.

    Raises:
      InputError: nothing there, or a file that does not load. Keras' safe mode stays on: a `.keras` file that would run
        code is refused. A SavedModel's graph is trusted input.
    """
    if user_code.application(str(path)):
        return keras_applications.build(user_code.application(str(path)), pretrained=True, download=download)
    if is_saved_model(path):
        return _loaded(ServedModel, path)
    return _loaded(lambda file: keras.models.load_model(file, compile=False, safe_mode=True), keras_file(path))


def parameter_count(model):
    """Trainable parameters; of a teacher those that it had before folding."""
    count = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return getattr(model, "unfolded_parameters", count)


def _loaded(loader, path):
    try:
        return loader(path)
    except Exception as error:  # Keras and TensorFlow raise a dozen kinds for a damaged or foreign file
        raise input_error(
            f"The model does not load: {reason_of(error)}",
            expected="a model of stock layers",
            received=f"path={path}",
            remedy="Save it again",
        ) from error


def reason_of(error):
    """The first line of an error that says something."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip(" .")


def load_teacher(path, *, name, dataset, teacher_precision, teacher_preprocessing="auto", download=False):
    """Loads a teacher, checks that it fits the data, and folds its BatchNorm (`.folding` says how much of it).

    Images of the data set are resized to what the teacher takes and preprocessed as it wants them; probabilities are turned
    into logits.

    Args:
      path: as in `load`.
      name: network that it must be, "" for any.
      dataset: the `Dataset` it will teach on.
      teacher_precision: float32, bfloat16 or float16.
      teacher_preprocessing: a kind of `skd_tf.models.preprocessing.preprocessed`, or "auto": raw pixels.
      download: as in `load`.

    Raises:
      InputError: other classes, other channels, or another network than asked for.
    """
    model = load(path, download=download)
    if name and model.name != name:
        raise input_error(
            "The teacher is another network",
            expected=f"{name}",
            received=f"{model.name} in {path}",
            remedy="Drop --teacher",
        )
    check_fits(model, dataset, path, resizable=True)
    if isinstance(model, ServedModel):
        if teacher_precision != "float32":
            raise input_error(
                "A SavedModel computes as it was saved",
                expected="--teacher_precision=float32",
                received=f"teacher_precision={teacher_precision} with {path}",
                remedy="Use its .keras file",
            )
    else:
        parameters = parameter_count(model)
        model = _raw(model, path)
        folded = fold_batch_norm(model)
        folded.unfolded_parameters = parameters
        if folded is not model:
            done = folded.folding
            say(
                f"Teacher {model.name}: {done.folded} of {done.batch_norms} BatchNorms folded into the layers before them."
            )
        model = precision.set_precision(folded, teacher_precision)
    return _adapted(model, dataset, path, teacher_preprocessing)


def load_measured(path, dataset, *, preprocessing="auto", resizable=False, download=False):
    """Loads a model to be measured on a `Dataset`: as it is, but for outputs that are probabilities, which become logits.

    Args:
      path, download: as in `load`.
      dataset: a `Dataset`.
      preprocessing: as `teacher_preprocessing` of `load_teacher`.
      resizable: whether images may be resized to what the model takes, as a teacher's are.

    Raises:
      InputError: other classes or other images.
    """
    model = load(path, download=download)
    check_fits(model, dataset, path, resizable=resizable)
    if not isinstance(model, ServedModel):
        model = _raw(model, path)
    return _adapted(model, dataset, path, preprocessing)


def _raw(model, path):
    """A keras.Model without the softmax at its end, if it has one that can be seen."""
    model, had_softmax = heads.without_softmax(model)
    if had_softmax:
        warn(f"{path} returns probabilities: its softmax is taken off.")
    return model


def _adapted(model, dataset, path, kind):
    """A model behind `TeacherAdapter` where images or outputs are not as they are wanted, else the model itself."""
    size = tuple(model.input_shape[1:3])
    size = None if None in size or size == dataset.image_shape[:2] else size
    if size:
        say(f"{path} takes images of {size[0]}x{size[1]}: those of {dataset.name} are resized.")
    kind = "raw" if kind == "auto" else kind
    facts = {"size": size, "image_shape": dataset.image_shape, "mean": dataset.mean, "std": dataset.std}
    adapted = TeacherAdapter(model, preprocessing=kind, probabilities=False, **facts)
    if returns_probabilities(adapted, dataset.train.images[:_PROBED]):
        warn(f"The outputs of {path} sum to 1: they are taken for probabilities, their logarithms for logits.")
        return TeacherAdapter(model, preprocessing=kind, probabilities=True, **facts)
    return adapted if size or kind != "raw" else model


def check_fits(model, dataset, path, *, resizable=False):
    """InputError where a model's classes, channels or, unless it is resizable, image size are not the dataset's."""
    shape, classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if classes != dataset.num_classes:
        raise input_error(
            "The model knows other classes",
            expected=f"{dataset.num_classes} ({dataset.name})",
            received=f"{classes} from {path}",
            remedy=f"Take a model trained on {dataset.name}",
        )
    compared = slice(2, 3) if resizable else slice(3)
    pairs = zip(shape[compared], dataset.image_shape[compared], strict=False)
    if len(shape) != 3 or any(mine not in (None, its) for mine, its in pairs):
        raise input_error(
            "The model takes other images",
            expected=f"{dataset.image_shape} ({dataset.name})",
            received=f"{shape} from {path}",
            remedy="Take a model for these images, or set --image_size",
        )
