"""Training epochs with Keras' JAX backend, for GPUs without TensorFlow. Each epoch is one compiled program.

The recipe is that of `python -m skd_tf.train`: SGD with momentum 0.9, L2 on all weights, a cosine after a warm-up of 5%, and pad 4,
crop and mirror augmentation. Weights are read from and written to a .npz, by the network's variable names.
"""

import json
import math
import os
import sys
import types
import zipfile

import numpy as np

from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import input_error
from skd_tf.runtime import atomic_files, keras_state

_MOMENTUM, _WARMUP, _PAD = 0.9, 0.05, 4


def network(name: str, dataset: str, seed: int = 0):
    """The untrained network for a data set's classes and means."""
    do_without_tensorflow()
    from skd_tf import networks

    known = KNOWN_DATASETS[dataset]
    return networks.build(
        name, input_shape=known.image_shape, num_classes=known.num_classes, mean=known.mean, std=known.std, seed=seed
    )


def do_without_tensorflow() -> None:
    """On another backend, accepts it, and makes networks use Keras' own BatchNorm, which computes the same as ours."""
    import keras

    if keras.backend.backend() != "tensorflow":
        keras_state.accept_backend(keras.backend.backend())
        stand_in = types.ModuleType("skd_tf.networks.batch_norm")
        stand_in.FusedBatchNormalization = keras.layers.BatchNormalization
        sys.modules["skd_tf.networks.batch_norm"] = stand_in


class Epochs:
    """Compiled epochs of one network.

    Args:
      model: the network.
      images: how many there are; those that fill no batch are dropped.
      batch_size, epochs, weight_decay: as the flags with these names.
    """

    def __init__(self, model, *, images, batch_size, epochs, weight_decay):
        self._model, self._weight_decay, self._batch_size = model, weight_decay, batch_size
        self._steps = images // batch_size
        self._total = self._steps * epochs

    def first_state(self):
        """(step, weights, moving averages, velocity), with the network's weights."""
        import jax.numpy as jnp

        weights, averages = values_of(self._model)
        return jnp.int32(0), weights, averages, [jnp.zeros_like(w) for w in weights]

    def train(self, loss):
        """Compiles run(state, peak rate, key, images, labels, taught) -> (state, (mean loss, accuracy)).

        `loss(logits, taught, labels)` gives `[batch]`; `taught` holds the teacher's logits for the epoch's batches, or None.
        """
        import jax
        import jax.numpy as jnp

        def loss_of(weights, averages, images, labels, taught):
            logits, averages = self._model.stateless_call(weights, averages, images, training=True)
            logits = logits.astype("float32")
            return loss(logits, taught, labels).mean(), (averages, (logits.argmax(1) == labels).mean())

        @jax.jit
        def run(state, peak, key, images, labels, taught):
            order, pixels_key = self._order(key, len(images))

            def train_step(state, batch):
                (step, weights, averages, velocity), (batch, taught) = state, batch
                pixels = _augmented(images[batch], jax.random.fold_in(pixels_key, step))
                (value, (averages, accuracy)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                    weights, averages, pixels, labels[batch], taught
                )
                gradients = [g + self._weight_decay * w for g, w in zip(gradients, weights, strict=True)]
                velocity = [_MOMENTUM * v + g for v, g in zip(velocity, gradients, strict=True)]
                weights = [w - peak * self._share(step) * v for w, v in zip(weights, velocity, strict=True)]
                return (step + 1, weights, averages, velocity), (value, accuracy)

            state, numbers = jax.lax.scan(train_step, state, (order, taught))
            return state, jax.tree.map(jnp.mean, numbers)

        return run

    def teach(self):
        """Compiles run(epoch, key, images) -> float16 logits `[steps, batch, classes]` for what `train` sees in that epoch."""
        import jax

        weights, averages = values_of(self._model)

        @jax.jit
        def run(epoch, key, images):
            order, pixels_key = self._order(key, len(images))

            def forward(step, batch):
                pixels = _augmented(images[batch], jax.random.fold_in(pixels_key, step))
                return step + 1, self._model.stateless_call(weights, averages, pixels, training=False)[0].astype(
                    "float16"
                )

            return jax.lax.scan(forward, epoch * self._steps, order)[1]

        return run

    def _order(self, key, count):
        import jax

        order_key, pixels_key = jax.random.split(key)
        order = jax.random.permutation(order_key, count)[: self._steps * self._batch_size]
        return order.reshape(self._steps, -1), pixels_key

    def _share(self, step):
        """The share of the peak rate at a step."""
        import jax.numpy as jnp

        warmup = max(1, round(_WARMUP * self._total))
        cosine = 0.5 * (1 + jnp.cos(math.pi * (step - warmup) / (self._total - warmup)))
        return jnp.where(step < warmup, (step + 1) / warmup, cosine)


def values_of(model) -> list[list]:
    """Weights and moving averages, in the form of `stateless_call`."""
    return [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]


def key_of(role: str, seed: int, epoch: int):
    """The random key of an epoch's order and augmentation. A "teacher" and a "student" see different views."""
    import jax

    key = jax.random.fold_in(jax.random.key(seed), ("teacher", "student").index(role))
    return jax.random.fold_in(key, epoch)


def accuracy_of(model, state, images, labels, batch_size: int = 1000) -> float:
    """The accuracy of a state's weights on images without augmentation."""
    import jax

    forward = jax.jit(lambda pixels: model.stateless_call(*state[1:3], pixels, training=False)[0].argmax(-1))
    starts = range(0, len(images), batch_size)
    guesses = [np.asarray(forward(images[start : start + batch_size].astype("float32"))) for start in starts]
    return float((np.concatenate(guesses) == np.asarray(labels)).mean())


def save(target: os.PathLike, model, state, about: dict) -> None:
    """Writes a state's weights and moving averages, with `about`, which says how they were trained."""
    variables = (*model.trainable_variables, *model.non_trainable_variables)
    values = dict(zip((variable.path for variable in variables), (*state[1], *state[2]), strict=True))
    with atomic_files.writing(target) as file:
        np.savez_compressed(file, about=json.dumps(about), **values)
    print(f"Written: {target}", flush=True)


def assign(model, source: str | os.PathLike) -> dict:
    """Gives a network the weights of a .npz, and returns the `about` of `save`."""
    with opened(source, "about") as values:
        shapes = {name: values[name].shape for name in values if name != "about"}
        expected = {variable.path: tuple(variable.shape) for variable in model.variables}
        if shapes != expected:
            other = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            raise input_error(
                f"The weights do not fit {model.name}",
                expected=f"{len(expected)} arrays with its shapes",
                received=f"{len(shapes)} from {source}; {', '.join(other[:3])} differ",
                remedy="Give the network and data set that they belong to",
            )
        for variable in model.variables:
            variable.assign(values[variable.path])
        return json.loads(str(values["about"]))


def opened(path: str | os.PathLike, *names: str):
    """An open .npz of numbers and text that holds arrays with these names; InputError otherwise."""
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise input_error("No such file", expected="a .npz", received=path, remedy="Check the path") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        received, remedy = f"{path} ({error})", "Write it again"
        raise input_error("Not a .npz", expected="a file of numpy.savez", received=received, remedy=remedy) from error
    if set(names) <= set(found):
        return found
    raise input_error(
        "Another kind of .npz",
        expected=f"arrays {', '.join(names)}",
        received=f"{', '.join(sorted(found)[:4])} from {path}",
        remedy="`train_teacher --data_dir` writes images, `train_teacher --in=IMAGES` writes weights",
    )


def _augmented(images, key):
    import jax
    import jax.numpy as jnp

    rows, columns, flips = jax.random.randint(
        key, (3, len(images)), 0, jnp.array([[2 * _PAD + 1], [2 * _PAD + 1], [2]])
    )
    padded = jnp.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))
    crops = jax.vmap(lambda x, r, c: jax.lax.dynamic_slice(x, (r, c, 0), images.shape[1:]))(padded, rows, columns)
    return jnp.where((flips == 1)[:, None, None, None], crops[:, :, ::-1], crops).astype("float32")
