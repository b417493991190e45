"""The student of a run with its initial weights: built from a name or a user's function, or loaded from a file."""

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING

import keras

from skd_tf import networks
from skd_tf.errors import input_error
from skd_tf.models import deployable, graph, heads, interface, loading, preprocessing, published
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import compat, user_code
from skd_tf.runtime.console import say

if TYPE_CHECKING:
    from skd_tf.data import Dataset

# Keys of Keras' description of a model that do not change the function it computes.
_NO_ARCHITECTURE = ("dtype", "module", "registered_name", "build_config", "compile_config", "keras_version", "backend")


@dataclasses.dataclass(frozen=True)
class StudentSettings:
    """Which student to build and where its weights come from; each field is the flag of the same name."""

    student: str = "resnet8"
    student_checkpoint: str = ""
    student_preprocessing: str = "auto"
    seed: int = 0
    download: bool = False


def make_student(settings: StudentSettings, dataset: "Dataset") -> keras.Model:
    """Builds or loads the student and gives it its initial weights.

    Args:
      settings: `StudentSettings`.
      dataset: the `Dataset` that it is trained on.

    Returns:
      keras.Model from raw pixels `[batch, h, w, c]` to raw logits `[batch, classes]`.

    Raises:
      InputError: there is no such network, or its images, classes or weights do not fit.
    """
    model = _network(settings, dataset)
    if settings.student_checkpoint:
        _load_start_weights(model, settings)
    return model


def _network(settings, dataset):
    name, shape, classes = settings.student, dataset.image_shape, dataset.num_classes
    if name in NETWORK_NAMES:
        return networks.build(
            name, input_shape=shape, num_classes=classes, mean=dataset.mean, std=dataset.std, seed=settings.seed
        )
    if user_code.published(name):
        keras.utils.set_random_seed(settings.seed)
        is_grey = shape[2] == 1
        taken = (*shape[:2], 3) if is_grey else shape  # these networks are made for RGB images
        model = published.build(name, input_shape=taken, num_classes=classes, download=settings.download)
        model = heads.without_softmax(interface.with_logits(model, f"student {name}"))[0]
        return _for_grey(model, f"--student={name}", dataset) if is_grey else model
    if not user_code.is_reference(name):
        model, _ = deployable.without_temperature(loading.load(name))
        return _fit_to_dataset(deployable.without_sphere(model) or model, settings, dataset)
    keras.utils.set_random_seed(settings.seed)
    model = user_code.resolve(name, "student")(shape, classes)
    if not isinstance(model, keras.Model) or not hasattr(model, "input_shape"):
        raise input_error(
            "The student's function does not return a model",
            expected="a Functional or Sequential keras.Model",
            received=f"{type(model).__name__} from --student={name}",
            remedy="Return one; a Sequential needs a keras.Input",
        )
    model = _fit_to_dataset(model, settings, dataset)
    _require_reloadable(model, name)
    return model


def _require_reloadable(model, name):
    """Raises `InputError` if a user's network cannot be saved and loaded again: before training, not at its end."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "student.keras")
            deployable.stock_copy(model).save(path)
            keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and the user's layers may raise anything
        serializable = "classes with get_config() under @keras.saving.register_keras_serializable()"
        raise input_error(
            f"The student cannot be saved and loaded again: {loading.first_line(error)}",
            expected=f"layers of Keras, or {serializable}, and no Lambda",
            received=f"--student={name}",
            remedy="Write that layer as such a class",
        ) from error


def architecture_fingerprint(model: keras.Model) -> str | None:
    """SHA-256 of a network's layers, their settings and connections; None if it is neither Functional nor Sequential.

    It ignores the names of layers, which Keras numbers through a process. It also ignores what the run sets: the
    precision, and whether BatchNorm is Keras', fused or synchronized.
    """
    if graph.graph_of(model) is None:
        return None
    places: dict[str, int] = {}
    automatic = set()  # names such as elu_2, of which elu is also a setting of other layers

    def find(value):
        """Numbers the names of the layers in the order of the description."""
        if isinstance(value, dict):
            config = value.get("config")
            if "class_name" in value and isinstance(config, dict) and "name" in config:
                name = config["name"]
                places.setdefault(name, len(places))
                if str(name).rstrip("_0123456789").replace("_", "") == value["class_name"].lower():
                    automatic.add(name)
            value = [item for key, item in value.items() if key not in _NO_ARCHITECTURE]
        if isinstance(value, list):
            for item in value:
                find(item)

    def plain(value, is_name=False):
        if isinstance(value, dict):
            return {key: plain(item, key == "name") for key, item in value.items() if key not in _NO_ARCHITECTURE}
        if isinstance(value, list):  # a connection is [name, number, number]
            return [plain(item, isinstance(value[-1], int)) for item in value]
        if isinstance(value, str):
            value = "BatchNormalization" if value.endswith("BatchNormalization") else value
            return f"layer {places[value]}" if value in places and (is_name or value not in automatic) else value
        return value

    description = json.loads(model.to_json())
    find(description)
    return hashlib.sha256(json.dumps(plain(description), sort_keys=True).encode()).hexdigest()


def _fit_to_dataset(model, settings, dataset):
    """A user's model with raw pixels in, raw logits out, and the dataset's classes."""
    name, flag = settings.student, f"--student={settings.student}"
    model = interface.with_logits(model, f"student {flag}", announce=True)
    heads.require_raw_logits(model, f"student {flag}")
    model, had_softmax = heads.without_softmax(model)
    if had_softmax:
        say(f"The softmax of {flag} is removed: a student returns raw logits.")
    heads.require_raw_logits(model, f"student {flag}", softmax=False)  # a bare operation cannot be removed
    classes = model.output_shape[-1] if len(model.output_shape) == 2 else None
    if classes != dataset.num_classes:
        from_file = name.endswith(".keras") and classes
        replaced = heads.with_new_head(model, dataset.num_classes, settings.seed) if from_file else None
        if replaced is None:
            raise input_error(
                "The student has other classes",
                expected=f"logits [batch, {dataset.num_classes}] ({dataset.name})",
                received=f"{model.output_shape} from {flag}",
                remedy="End it in a Dense layer of that width",
            )
        model, head = replaced
        say(f"The head {head} of {name} is new: {classes} classes there, {dataset.num_classes} in {dataset.name}.")
    loading.check_fits(model, dataset, flag, from_grey=True)
    kind = settings.student_preprocessing
    if kind == "auto":
        # A file has its preprocessing inside. A new network without any would see pixels up to 255.
        unscaled = user_code.is_reference(name) and not preprocessing.scales_pixels(model)
        kind = "standard" if unscaled else "raw"
        if unscaled:
            say(f"{flag} has no layer that scales pixels: it is given {dataset.name}'s mean and std.")
    mean, std = dataset.mean, dataset.std
    if not preprocessing.takes_rgb_for_grey(model, dataset.image_shape):
        return preprocessing.with_preprocessing(model, kind, mean=mean, std=std)
    return _for_grey(preprocessing.with_preprocessing(model, kind, mean=mean * 3, std=std * 3), flag, dataset)


def _for_grey(model, flag, dataset):
    say(f"{flag} takes RGB images: it gets the grey ones of {dataset.name} as equal red, green and blue.")
    return preprocessing.for_grey_images(model)


def _load_start_weights(model, settings):
    """Copies the weights of --student_checkpoint; a head of another size keeps its initial ones."""
    flag = f"--student_checkpoint={settings.student_checkpoint}"
    source, _ = deployable.without_temperature(loading.load(settings.student_checkpoint, download=settings.download))
    if not isinstance(source, keras.Model):
        raise input_error(
            "The start weights cannot be read from a SavedModel",
            expected="a workdir, a .keras file, keras.applications:NAME or keras_hub:PRESET",
            received=flag,
            remedy="Use the .keras file",
        )

    def differs(expected, received):
        return input_error(
            "The start weights belong to another network",
            expected=expected,
            received=f"{received} in {flag}",
            remedy="Use a checkpoint of the same network",
        )

    mine, theirs = model.weights, source.weights
    if len(mine) != len(theirs):
        raise differs(f"the {len(mine)} tensors of --student={settings.student}", f"{len(theirs)} tensors")
    head = _head_weights(model, source)
    kept = {id(variable) for variable in head}
    pairs = [(one, other) for one, other in zip(mine, theirs, strict=True) if id(one) not in kept]
    for one, other in pairs:
        if one.shape != other.shape:
            raise differs(f"{one.path} of shape {tuple(one.shape)}", f"{other.path} of shape {tuple(other.shape)}")
    for one, other in pairs:
        one.assign(other.numpy())
    for layer in compat.layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its variables
    say(f"{settings.student} starts from the weights of {pathlib.Path(settings.student_checkpoint).name}.")
    if head:
        name = head[0].path.split("/")[-2]
        say(f"The head {name} is new: {source.output_shape[-1]} classes there, {model.output_shape[-1]} here.")


def _head_weights(model, source):
    """The variables of the last layer with weights if the two models differ in classes, else none."""
    if model.output_shape[-1] == source.output_shape[-1]:
        return []
    return next((list(layer.weights) for layer in heads.last_layers(model) if layer.weights), [])
