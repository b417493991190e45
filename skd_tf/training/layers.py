"""The layers of a run's networks before it trains them: what --list_layers prints and other settings name."""

from typing import Any

import keras

from skd_tf.config import Config, grammar
from skd_tf.data.dataset import Dataset
from skd_tf.distillation import layer_rates
from skd_tf.distillation.features import Features
from skd_tf.models import frozen_layers, layer_outputs, loading, student
from skd_tf.models.sync_batch_norm import synchronized
from skd_tf.runs.result_tables import aligned
from skd_tf.runtime import compat, console
from skd_tf.training import nested_runs


def tables(config: Config, dataset: Dataset) -> str:
    """A table of the layers of the student and of each teacher: name, kind, output and number of weights."""
    return "\n\n".join(_table(name, model) for name, model in _networks(config, dataset).items())


def check_feature_pairs(config: Config, dataset: Dataset) -> None:
    """Raises InputError if a layer of --feature_pairs does not exist, or two cannot be compared; trains no teacher."""
    pairs = grammar.parse_feature_pairs(config.feature_pairs)
    if pairs:
        with console.silence():
            model, teacher = _networks(config, dataset).values()
        with frozen_layers.numbered_in_the_model():
            Features.of(model, pairs, config.feature_loss, config.seed).connect(model, teacher)


def check_student(config: Config, dataset: Dataset, replicas: int) -> None:
    """Raises InputError if the student cannot be built for this number of replicas, or has no layers of these names."""
    with console.silence():
        model = student.make_student(config.pick(student.StudentSettings), dataset)
    if config.sync_batch_norm and replicas > 1:
        model = synchronized(model)
    if config.freeze:
        frozen_layers.freeze(model, config.freeze)
    with frozen_layers.numbered_in_the_model():
        layer_rates.layers_of(model, grammar.parse_layer_rates(config.layer_rates))


def kept(config: Config) -> tuple[str, ...]:
    """The teacher's layers in --feature_pairs, whose outputs must be those of its file."""
    return tuple(name for name, _ in grammar.parse_feature_pairs(config.feature_pairs))


def _networks(config, dataset) -> dict[str, Any]:
    """{role and name: network} of the student and of each teacher; one that is not trained yet has its initial weights."""
    found = {f"student {config.student}": student.make_student(config.pick(student.StudentSettings), dataset)}
    if not config.needs_teacher or not config.teacher_source:
        return found
    if config.teachers:
        return found | {f"teacher {path}": loading.load(path, download=config.download) for path in config.teachers}
    settings = nested_runs.teacher_config(config)
    made = student.make_student(settings.pick(student.StudentSettings), dataset)
    return found | {f"teacher {settings.student}": made}


def _table(name, model):
    if not isinstance(model, keras.Model):
        return f"{name}: a SavedModel does not show its layers"
    shapes = layer_outputs.output_shapes(model)
    lines = [[name, "kind", "output", "weights"]]
    place = {id(layer): i for i, layer in enumerate(compat.layers_in_order(model))}
    named = frozen_layers.layer_names(model, weightless=True).items()
    for layer_name, layer in sorted(named, key=lambda pair: place[id(pair[1])]):
        if layer_name in shapes or layer._trainable_variables or layer._non_trainable_variables:
            shape = " x ".join(str(size or "?") for size in shapes.get(layer_name, ())[1:])
            lines.append([layer_name, type(layer).__name__, shape, f"{layer.count_params():,}"])
    return aligned(lines)
