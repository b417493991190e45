"""The student of a run: a network of ours, of keras.applications, of a user's function or file, and its start weights."""

import dataclasses
import hashlib
import json
import pathlib
import tempfile

import keras

from skd_tf import networks
from skd_tf.errors import input_error
from skd_tf.models import deployable, graph, heads, keras_applications, loading, preprocessing
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import user_code
from skd_tf.runtime.console import say

# Keys of Keras' description of a model that say nothing of the function it computes.
_NO_ARCHITECTURE = ("dtype", "module", "registered_name", "build_config", "compile_config", "keras_version", "backend")


@dataclasses.dataclass(frozen=True)
class StudentSettings:
    """Which student, and where its weights come from; each as the flag of the same name."""

    student: str = "resnet8"
    student_checkpoint: str = ""
    student_preprocessing: str = "auto"
    seed: int = 0
    download: bool = False


def build_student(settings, dataset):
    """The student of a Config, built, with its initial weights.

    Args:
      settings: `StudentSettings`.
      dataset: the `Dataset` it is for.

    Returns:
      keras.Model: raw pixels `[batch, h, w, c]` -> raw logits `[batch, classes]`.

    Raises:
      InputError: no such network, or one of other images, classes or weights.
    """
    model = _network(settings, dataset)
    if settings.student_checkpoint:
        _start_from(model, settings)
    return model


def _network(settings, dataset):
    name, shape, classes = settings.student, dataset.image_shape, dataset.num_classes
    if name in NETWORK_NAMES:
        return networks.build(
            name, input_shape=shape, num_classes=classes, mean=dataset.mean, std=dataset.std, seed=settings.seed
        )
    if user_code.application(name):
        keras.utils.set_random_seed(settings.seed)
        return keras_applications.build(user_code.application(name), input_shape=shape, num_classes=classes)
    if user_code.is_reference(name):
        keras.utils.set_random_seed(settings.seed)
        model = user_code.resolve(name, "student")(shape, classes)
        if not isinstance(model, keras.Model) or not hasattr(model, "input_shape"):
            raise input_error(
                "The student's function returns another thing",
                expected="a Functional or Sequential keras.Model",
                received=f"{type(model).__name__} from --student={name}",
                remedy="Give a Sequential one a keras.Input",
            )
    else:
        model = loading.load(name)
        model = deployable.before_readout(model) or model
    model = _fitted(model, settings, dataset)
    if user_code.is_reference(name):
        _require_reloadable(model, name)
    return model


def _require_reloadable(model, name):
    """InputError where a user's network could not be written and read back, as a run ends: before training, not after."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "student.keras")
            deployable.stock_copy(model).save(path)
            keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras and the user's layers raise
        raise input_error(
            f"The student cannot be written and read back: {loading.reason_of(error)}",
            expected="layers of Keras, or classes with get_config() under @keras.saving.register_keras_serializable(), and no Lambda",
            received=f"--student={name}",
            remedy="Write that layer as such a class",
        ) from error


def architecture_fingerprint(model):
    """SHA-256 of a network's layers, their settings and connections; None of a model that is no graph of layers.

    Names of layers are no part of it, since Keras counts them through a process; nor are the precision, and whether
    BatchNorm is Keras', fused or synchronized, which are the run's.
    """
    if graph.graph_of(model) is None:
        return None
    places = {}

    def find(value):
        """Numbers the names of the layers in the order of the description."""
        if isinstance(value, dict):
            config = value.get("config")
            if "class_name" in value and isinstance(config, dict) and "name" in config:
                places.setdefault(config["name"], len(places))
            value = [item for key, item in value.items() if key not in _NO_ARCHITECTURE]
        if isinstance(value, list):
            for item in value:
                find(item)

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in _NO_ARCHITECTURE}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str):
            value = "BatchNormalization" if value.endswith("BatchNormalization") else value
            return f"layer {places[value]}" if value in places else value
        return value

    description = json.loads(model.to_json())
    find(description)
    return hashlib.sha256(json.dumps(plain(description), sort_keys=True).encode()).hexdigest()


def _fitted(model, settings, dataset):
    """A user's model with raw pixels in, raw logits out, and a head of the set's classes."""
    name = settings.student
    model, had_softmax = heads.without_softmax(model)
    if had_softmax:
        say(f"The softmax of --student={name} is taken off: a student returns raw logits.")
    classes = model.output_shape[-1] if len(model.output_shape) == 2 else None
    if classes != dataset.num_classes:
        exchanged = (
            heads.with_head(model, dataset.num_classes, settings.seed) if name.endswith(".keras") and classes else None
        )
        if exchanged is None:
            raise input_error(
                "The student knows other classes",
                expected=f"logits [batch, {dataset.num_classes}] ({dataset.name})",
                received=f"{model.output_shape} from --student={name}",
                remedy="Let it end in a Dense layer of so many units",
            )
        model, head = exchanged
        say(
            f"The head {head} of {name} is made anew: {classes} classes there, {dataset.num_classes} in {dataset.name}."
        )
    loading.check_fits(model, dataset, f"--student={name}")
    kind = settings.student_preprocessing
    if kind == "auto":
        # What a file wants is settled; a fresh network without a layer for it would see pixels up to 255.
        fresh = user_code.is_reference(name) and not preprocessing.normalises(model)
        kind = "standard" if fresh else "raw"
        if fresh:
            say(f"--student={name} has no layer that scales pixels: {dataset.name}'s mean and std are put in front.")
    return preprocessing.preprocessed(model, kind, mean=dataset.mean, std=dataset.std)


def _start_from(model, settings):
    """Copies the weights of --student_checkpoint; a head of another size keeps its initial ones."""
    path = settings.student_checkpoint
    source = loading.load(path, download=settings.download)
    if not isinstance(source, keras.Model):
        raise input_error(
            "The start weights are a SavedModel's, which cannot be taken out",
            expected="a workdir, a .keras file or keras.applications:NAME",
            received=f"student_checkpoint={path}",
            remedy="Take the .keras file",
        )
    mine, theirs = model.weights, source.weights
    if len(mine) != len(theirs):
        raise input_error(
            "The start weights are of another network",
            expected=f"the {len(mine)} tensors of --student={settings.student}",
            received=f"{len(theirs)} in student_checkpoint={path}",
            remedy="Take a checkpoint of the same network",
        )
    head = _head_weights(model, source)
    kept = {id(variable) for variable in head}
    for one, other in zip(mine, theirs, strict=True):
        if one.shape != other.shape and id(one) not in kept:
            raise input_error(
                "The start weights are of another network",
                expected=f"{one.path} of shape {tuple(one.shape)}",
                received=f"{other.path} of shape {tuple(other.shape)} in student_checkpoint={path}",
                remedy="Take one of the same network",
            )
    for one, other in zip(mine, theirs, strict=True):
        if id(one) not in kept:
            one.assign(other.numpy())
    say(f"{settings.student} starts from the weights of {pathlib.Path(path).name}.")
    if head:
        name = head[0].path.split("/")[-2]
        say(f"The head {name} is made anew: {source.output_shape[-1]} classes there, {model.output_shape[-1]} here.")


def _head_weights(model, source):
    """The variables of the last layer with weights where the two models differ in classes, else none."""
    if model.output_shape[-1] == source.output_shape[-1]:
        return []
    return next((list(layer.weights) for layer in heads.end_of(model) if layer.weights), [])
