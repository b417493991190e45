"""The student of a run: a network of ours, of keras.applications, of a user's function or file, and its start weights."""

import pathlib

import keras

from skd_tf import applications, deploy, heads, models, networks, preprocessing, references
from skd_tf.errors import InputError
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.progress import say


def build(config, dataset):
    """The student of a Config, built, with its initial weights.

    Args:
      config: `student`, `student_preprocessing`, `student_checkpoint`, `seed` and `download` are used.
      dataset: the `Dataset` it is for.

    Returns:
      keras.Model: raw pixels `[batch, h, w, c]` -> raw logits `[batch, classes]`.

    Raises:
      InputError: no such network, or one of other images, classes or weights.
    """
    model = _network(config, dataset)
    if config.student_checkpoint:
        _start_from(model, config)
    return model


def _network(config, dataset):
    name, shape, classes = config.student, dataset.image_shape, dataset.num_classes
    if name in NETWORK_NAMES:
        return networks.build(
            name, input_shape=shape, num_classes=classes, mean=dataset.mean, std=dataset.std, seed=config.seed
        )
    if references.application(name):
        keras.utils.set_random_seed(config.seed)
        return applications.build(references.application(name), input_shape=shape, num_classes=classes)
    if references.is_reference(name):
        keras.utils.set_random_seed(config.seed)
        model = references.resolve(name, "student")(shape, classes)
        if not isinstance(model, keras.Model) or not hasattr(model, "input_shape"):
            raise InputError(
                f"The student's function returns another thing. Expected a Functional or Sequential keras.Model. Received "
                f"{type(model).__name__} from --student={name}. Give a Sequential one a keras.Input."
            )
    else:
        model = models.load(name)
        model = deploy.before_readout(model) or model
    return _fitted(model, config, dataset)


def _fitted(model, config, dataset):
    """A user's model with raw pixels in, raw logits out, and a head of the set's classes."""
    name = config.student
    model, had_softmax = heads.without_softmax(model)
    if had_softmax:
        say(f"The softmax of --student={name} is taken off: a student returns raw logits.")
    classes = model.output_shape[-1] if len(model.output_shape) == 2 else None
    if classes != dataset.num_classes:
        exchanged = heads.with_head(model, dataset.num_classes, config.seed) if name.endswith(".keras") and classes else None
        if exchanged is None:
            raise InputError(
                f"The student knows other classes. Expected logits [batch, {dataset.num_classes}] ({dataset.name}). "
                f"Received {model.output_shape} from --student={name}. Let it end in a Dense layer of so many units."
            )
        model, head = exchanged
        say(f"The head {head} of {name} is made anew: {classes} classes there, {dataset.num_classes} in {dataset.name}.")
    models.check_fits(model, dataset, f"--student={name}")
    kind = config.student_preprocessing
    if kind == "auto":
        # What a file wants is settled; a fresh network without a layer for it would see pixels up to 255.
        fresh = references.is_reference(name) and not preprocessing.normalises(model)
        kind = "standard" if fresh else "raw"
        if fresh:
            say(f"--student={name} has no layer that scales pixels: {dataset.name}'s mean and std are put in front.")
    return preprocessing.preprocessed(model, kind, mean=dataset.mean, std=dataset.std)


def _start_from(model, config):
    """Copies the weights of --student_checkpoint; a head of another size keeps its initial ones."""
    path = config.student_checkpoint
    source = models.load(path, download=config.download)
    if not isinstance(source, keras.Model):
        raise InputError(
            "The start weights are a SavedModel's, which cannot be taken out. Expected a workdir, a .keras file or "
            f"keras.applications:NAME. Received student_checkpoint={path}. Take the .keras file."
        )
    mine, theirs = model.weights, source.weights
    if len(mine) != len(theirs):
        raise InputError(
            f"The start weights are of another network. Expected the {len(mine)} tensors of --student={config.student}. "
            f"Received {len(theirs)} in student_checkpoint={path}. Take a checkpoint of the same network."
        )
    head = _head_weights(model, source)
    kept = {id(variable) for variable in head}
    for one, other in zip(mine, theirs, strict=True):
        if one.shape != other.shape and id(one) not in kept:
            raise InputError(
                f"The start weights are of another network. Expected {one.path} of shape {tuple(one.shape)}. Received "
                f"{other.path} of shape {tuple(other.shape)} in student_checkpoint={path}. Take one of the same network."
            )
    for one, other in zip(mine, theirs, strict=True):
        if id(one) not in kept:
            one.assign(other.numpy())
    say(f"{config.student} starts from the weights of {pathlib.Path(path).name}.")
    if head:
        name = head[0].path.split("/")[-2]
        say(f"The head {name} is made anew: {source.output_shape[-1]} classes there, {model.output_shape[-1]} here.")


def _head_weights(model, source):
    """The variables of the last layer with weights where the two models differ in classes, else none."""
    if model.output_shape[-1] == source.output_shape[-1]:
        return []
    return next((list(layer.weights) for layer in heads.end_of(model) if layer.weights), [])
