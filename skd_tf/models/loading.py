"""Loads trained models: from a workdir, a file, a SavedModel or a library; prepares teachers."""

import functools
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from skd_tf.errors import InputError, flag_error, input_error
from skd_tf.models import deployable, heads, interface, precision, published
from skd_tf.models.adapter import ModelAdapter, returns_probabilities
from skd_tf.models.fold_batch_norm import fold_batch_norm
from skd_tf.models.opaque_model import OpaqueModel
from skd_tf.models.opened_runtime_file import RuntimeFile
from skd_tf.models.opened_saved_model import SavedModel
from skd_tf.models.paths import is_runtime_file, is_saved_model, keras_file, require
from skd_tf.models.preprocessing import scales_pixels, takes_rgb_for_grey
from skd_tf.runtime import user_code
from skd_tf.runtime.console import detail, say, warn

if TYPE_CHECKING:
    from skd_tf.data import Dataset

# Part of the teacher cache's key. Raise it whenever loading changes a teacher's logits.
FOLDING_VERSION = 3
# What Keras says of a class or function that is not registered: its kind and name, and the module that a file names.
_UNKNOWN = re.compile(
    r"Could not locate ((?:class|function) '[^']+')(?:.*?Full object config: \{'module': '([\w.]+)')?", re.DOTALL
)
_PROBED_IMAGES = 8  # enough to tell whether outputs are probabilities


def load(path: str | os.PathLike, *, download: bool = False) -> Any:
    """Loads a model for inference.

    Keras' safe mode stays on: a `.keras` file that would run code is refused. A SavedModel's graph is trusted input.

    Args:
      path: workdir of a finished run, `.keras` file, SavedModel folder, `.tflite` or `.onnx` file, keras.applications:NAME,
        which gets ImageNet's weights, or keras_hub:PRESET, which gets those of the preset.
      download: whether weights that are not cached may be downloaded.

    Returns:
      keras.Model or `OpaqueModel`, from raw pixels `[batch, h, w, c]` to logits `[batch, classes]`.

    Raises:
      InputError: there is no model, or it does not load.
    """
    if user_code.published(str(path)):
        return interface.with_logits(published.build(str(path), pretrained=True, download=download), f"model {path}")
    read: Callable[..., Any] = functools.partial(keras.models.load_model, compile=False, safe_mode=True)
    if is_saved_model(path):
        file, read = path, SavedModel
    elif is_runtime_file(path):
        file, read = path, RuntimeFile
    else:
        file = keras_file(path)
    try:
        model = interface.with_logits(read(file), f"model {path}", announce=True)
        if not hasattr(model, "output_shape"):
            raise input_error(
                "The shapes of a subclassed model are not known",
                expected="a Functional or Sequential model that begins with keras.Input, or a SavedModel",
                received=f"the class {type(model).__name__}, path={file}",
                remedy="Export it: model.export(FOLDER). A student must be Functional or Sequential",
            )
        return model
    except InputError:
        raise
    except Exception as error:  # Keras and TensorFlow raise many kinds for a damaged or foreign file
        newer = _newer_keras(file)
        if newer:
            raise input_error(
                "The model was saved by a newer Keras",
                expected=f"a file of Keras {keras.__version__} or older",
                received=f"one of Keras {newer}, path={file}",
                remedy="Upgrade Keras, or load the run's saved_model instead",
            ) from error
        is_whole = is_saved_model(path) or zipfile.is_zipfile(file)
        raise input_error(
            f"The model does not load: {_problem_of(error) if is_whole else 'its file is damaged or not complete'}",
            expected="a model of stock layers",
            received=f"path={file}",
            remedy=_remedy_of(str(error)),
        ) from error


def _problem_of(error):
    unknown = _UNKNOWN.search(str(error))
    if unknown:
        return f"Keras does not know its {unknown[1]}"
    return (
        first_line(error).partition(" Make sure custom classes")[0].rstrip(".")
    )  # Keras adds the model's whole config


def _remedy_of(error):
    unknown = _UNKNOWN.search(error)
    if unknown:
        known = unknown[2] not in (None, "__main__")
        module = f"{unknown[2]}, if you trust that module" if known else "MODULE, the Python module that registers it"
        return (
            f"Add --custom_layers={module}. Or give a SavedModel: the saved_model folder of its run, or the folder that "
            "model.export(FOLDER) wrote"
        )
    return "Save it again, without Lambda layers" if "Lambda" in error else "Save it again"


def _newer_keras(file):
    """The version of Keras that wrote a `.keras` file, if it is above the installed one."""

    def numbers(version):
        return [int(part) for part in re.findall(r"\d+", version)[:2]]

    try:
        with zipfile.ZipFile(file) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
        return version if numbers(version) > numbers(keras.__version__) else ""
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return ""


def parameter_count(model: Any) -> int:
    """The number of trainable parameters; for a folded teacher, the number before folding."""
    count = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return getattr(model, "unfolded_parameters", count)


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not blank, or the error's type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip(" .")


def load_teacher(
    path: str | os.PathLike,
    *,
    name: str,
    dataset: "Dataset",
    teacher_precision: str,
    teacher_preprocessing: str = "auto",
    download: bool = False,
    keep: Collection[str] = (),
) -> Any:
    """Loads a teacher, checks that it fits the dataset, and folds its BatchNorm (`.folding` counts the layers).

    The dataset's images are resized and preprocessed for the teacher. Probabilities are turned into logits. A calibrated
    student gives the logits that it had before calibration.

    Args:
      path: as in `load`.
      name: the network that it must be; "" allows any.
      dataset: the `Dataset` that it teaches on.
      teacher_precision: float32, bfloat16 or float16.
      teacher_preprocessing: a kind of `skd_tf.models.preprocessing.with_preprocessing`; "auto" gives it raw pixels.
      download: as in `load`.
      keep: names of layers whose outputs stay those of the file, as in `fold_batch_norm`.

    Raises:
      InputError: it has other classes or channels than the dataset, or it is another network than `name`.
    """
    require(path)
    model, _ = deployable.without_temperature(load(path, download=download))
    if name and model.name != name:
        raise input_error(
            "The teacher is another network",
            expected=f"the network of --teacher={name}",
            received=f"{model.name} in {path}",
            remedy="Leave out --teacher",
        )
    check_fits(model, dataset, path, resizable=True, from_grey=True)
    if isinstance(model, SavedModel):
        if teacher_precision != "float32":
            raise input_error(
                "The precision of a SavedModel cannot be changed",
                expected="--teacher_precision=float32",
                received=f"--teacher_precision={teacher_precision} with {path}",
                remedy="Use its .keras file",
            )
    else:
        parameters = parameter_count(model)
        model = without_softmax(model, path)
        folded = fold_batch_norm(model, keep)
        folded.unfolded_parameters = parameters
        if folded is not model:
            count, batch_norms = folded.folding
            detail(f"Teacher {model.name}: {count} of {batch_norms} BatchNorms folded into the layers before them.")
        model = precision.set_precision(folded, teacher_precision)
    return _adapt(model, dataset, path, teacher_preprocessing, "--teacher_preprocessing")


def load_measured(
    path: str | os.PathLike,
    dataset: "Dataset",
    *,
    preprocessing: str = "auto",
    flag: str = "--preprocessing",
    resizable: bool = False,
    several: bool = False,
    download: bool = False,
) -> Any:
    """Loads a model to measure it on a `Dataset`: before calibration, and with logits in place of probabilities.

    `calibration_temperature` of the result is the temperature that the file divides its logits by, or None.

    Args:
      path, download: as in `load`.
      dataset: a `Dataset`.
      preprocessing: as `teacher_preprocessing` of `load_teacher`.
      flag: that gives it, for the message.
      resizable: whether images may be resized to what the model takes, as for a teacher.
      several: whether other models are measured on the same images.

    Raises:
      InputError: it has other classes than the dataset or takes other images.
    """
    model, temperature = deployable.without_temperature(load(path, download=download))
    check_fits(model, dataset, path, resizable=resizable, from_grey=True, several=several)
    if not isinstance(model, OpaqueModel):
        model = without_softmax(model, path)
    if isinstance(model, RuntimeFile):
        say(
            f"{path} is measured as it answers: if a temperature is inside it, no line shows the model before calibration."
        )
    model = _adapt(model, dataset, path, preprocessing, flag)
    model.calibration_temperature = temperature
    return model


def without_softmax(model: keras.Model, path: object) -> keras.Model:
    """A model without its softmax; says so. `InputError` if its outputs are neither logits nor a softmax."""
    heads.require_raw_logits(model, f"model {path}")
    model, had_softmax = heads.without_softmax(model)
    if had_softmax:
        warn(f"{path} returns probabilities: its softmax is removed.")
    return model


def _adapt(model, dataset, path, kind, flag):
    """The model behind a `ModelAdapter` if its images or outputs are not the dataset's, else the model itself."""
    note_scaling(model, path, kind, flag)
    kind = "raw" if kind == "auto" else kind
    adapt = functools.partial(ModelAdapter, model, dataset.image_shape, kind, mean=dataset.mean, std=dataset.std)
    adapted = adapt()
    if adapted.size:
        say(f"{path} takes images of {adapted.size[0]}x{adapted.size[1]}: those of {dataset.name} are resized.")
    if adapted.from_grey:
        say(f"{path} takes RGB images: it gets the grey ones of {dataset.name} as equal red, green and blue.")
    images = tf.constant(dataset.first_images(_PROBED_IMAGES))
    try:
        has_softmax = returns_probabilities(adapted, images, f"model {path}")
    except tf.errors.InvalidArgumentError as error:
        raise input_error(
            f"The model cannot compute {len(images)} images at once",
            expected="a model for any number of images, with the input [None, height, width, channels]",
            received=f"the input {[*model.input_shape]} of {path}",
            remedy="Export it again with None as the batch size",
        ) from error
    if has_softmax:
        warn(f"The outputs of {path} sum to 1: they are treated as probabilities, and their logarithms as logits.")
        return adapt(probabilities=True)
    return adapted if adapted.size or adapted.from_grey or kind != "raw" else model


def note_scaling(model: Any, path: object, kind: str, flag: str) -> None:
    """Says that a model gets raw pixels if nothing scales them, and warns if they are scaled twice.

    Raises:
      InputError: the pixels would be scaled for a SavedModel that takes whole numbers.

    Args:
      model, path: the model and where it is from.
      kind: the preprocessing in front of it, or "auto".
      flag: that gives it.
    """
    if isinstance(model, OpaqueModel):
        if model.takes_integers and kind not in ("auto", "raw"):
            raise flag_error(
                flag.removeprefix("--"),
                kind,
                f"makes fractions, and {path} takes whole numbers",
                "auto, because such a model scales its pixels itself",
                "Leave it out",
            )
        return
    scales = scales_pixels(model)
    if kind == "auto" and not scales:
        say(
            f"{path} has no layer that scales pixels: it gets them from 0 to 255. If it was trained on other values, set "
            f"{flag} (unit, tf, torch or caffe)."
        )
    elif kind not in ("auto", "raw") and scales:
        warn(
            f"The pixels of {path} are scaled twice: by {flag}={kind}, then by a layer of the model. Leave {flag} out, unless "
            "the model was trained that way."
        )


def check_fits(
    model: Any,
    dataset: "Dataset",
    path: object,
    *,
    resizable: bool = False,
    from_grey: bool = False,
    several: bool = False,
) -> None:
    """Checks that a model fits a dataset.

    Args:
      model: a model.
      dataset: a `Dataset`.
      path: of the model, for the message.
      resizable: whether images may be resized to what the model takes.
      from_grey: whether a model for RGB images may get grey ones.
      several: whether other models take the same images in the same command.

    Raises:
      InputError: the model's classes, channels or (unless `resizable`) image size are not the dataset's.
    """
    shape, classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if classes != dataset.num_classes:
        raise input_error(
            "The model has other classes",
            expected=f"{dataset.num_classes} classes ({dataset.name})",
            received=f"{classes} from {path}",
            remedy=f"Choose a model trained on {dataset.name}",
        )
    first = 2 if resizable else 0
    wanted = (
        (*dataset.image_shape[:2], 3)
        if from_grey and takes_rgb_for_grey(model, dataset.image_shape)
        else dataset.image_shape
    )
    pairs = zip(shape[first:], wanted[first:], strict=False)
    if len(shape) != 3 or any(mine not in (None, its) for mine, its in pairs):
        same_channels = len(shape) == 3 and shape[2] in (None, wanted[2])
        remedy = f"Choose a model for these images{', or set --image_size' * same_channels}"
        if several and same_channels:
            remedy += "; evaluate models for images of different sizes with one command each"
        raise input_error(
            "The model takes other images",
            expected=f"{dataset.image_shape} ({dataset.name})",
            received=f"{shape} from {path}",
            remedy=remedy,
        )
