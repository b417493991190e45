"""Epochs of this package's networks by Keras' JAX backend, for GPUs that have JAX and no TensorFlow. Each is one program.

Batches of augmented images, SGD with momentum 0.9, L2 on all weights, cosine after a warm-up of 5%, pad 4, crop, mirror: the
recipe of `python -m skd_tf.train`. Weights go in and out as a .npz by the network's names.
"""

import json
import math
import sys
import types
import zipfile

import numpy as np

from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import InputError
from skd_tf.runtime import atomic_files

_MOMENTUM, _WARMUP, _PAD = 0.9, 0.05, 4


def network(name, dataset, seed=0):
    """The untrained network for a dataset's classes and means."""
    do_without_tensorflow()
    from skd_tf import networks

    known = KNOWN_DATASETS[dataset]
    return networks.build(
        name, input_shape=known.image_shape, num_classes=known.num_classes, mean=known.mean, std=known.std, seed=seed
    )


def do_without_tensorflow():
    """Builds networks with Keras' own BatchNorm, whose numbers ours gives, where the backend is not TensorFlow's."""
    import keras

    if keras.backend.backend() != "tensorflow":
        stand_in = types.ModuleType("skd_tf.networks.batch_norm")
        stand_in.FusedBatchNormalization = keras.layers.BatchNormalization
        sys.modules["skd_tf.networks.batch_norm"] = stand_in


class Epochs:
    """Compiled epochs of one network.

    Args:
      model: the network.
      images: in an epoch's order, of which what fills no batch is dropped.
      batch_size, epochs, weight_decay: as the flags of those names.
    """

    def __init__(self, model, *, images, batch_size, epochs, weight_decay):
        self._model, self._weight_decay, self._batch_size = model, weight_decay, batch_size
        self._steps = images // batch_size
        self._total = self._steps * epochs

    def first_state(self):
        """(step, weights, moving averages, velocity), with the weights that the network has."""
        import jax.numpy as jnp

        weights, averages = values_of(self._model)
        return jnp.int32(0), weights, averages, [jnp.zeros_like(w) for w in weights]

    def train(self, loss):
        """run(state, peak rate, key, images, labels, taught) -> (state, (mean loss, accuracy)).

        `loss(logits, taught, labels)` is `[batch]`; `taught` are the teacher's logits of the epoch's batches, or None.
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
        """run(epoch, key, images) -> the network's logits `[steps, batch, classes]` in float16 of what `train` sees then."""
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
        """Of the peak rate."""
        import jax.numpy as jnp

        warmup = max(1, round(_WARMUP * self._total))
        cosine = 0.5 * (1 + jnp.cos(math.pi * (step - warmup) / (self._total - warmup)))
        return jnp.where(step < warmup, (step + 1) / warmup, cosine)


def values_of(model):
    """Weights and moving averages, as `stateless_call` takes them."""
    return [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]


def key_of(role, seed, epoch):
    """Of an epoch's order and augmentation; epochs from 0, of a "teacher" or a "student", who see other views."""
    import jax

    key = jax.random.fold_in(jax.random.key(seed), ("teacher", "student").index(role))
    return jax.random.fold_in(key, epoch)


def accuracy_of(model, state, images, labels, batch_size=1000):
    """Of a state's weights on images as they are."""
    import jax

    forward = jax.jit(lambda pixels: model.stateless_call(*state[1:3], pixels, training=False)[0].argmax(-1))
    starts = range(0, len(images), batch_size)
    guesses = [np.asarray(forward(images[start : start + batch_size].astype("float32"))) for start in starts]
    return float((np.concatenate(guesses) == np.asarray(labels)).mean())


def save(target, model, state, about):
    """Writes a state's weights and moving averages, and what made them."""
    variables = (*model.trainable_variables, *model.non_trainable_variables)
    values = dict(zip((variable.path for variable in variables), (*state[1], *state[2]), strict=True))
    with atomic_files.writing(target) as file:
        np.savez_compressed(file, about=json.dumps(about), **values)
    print(f"Written: {target}", flush=True)


def assign(model, source):
    """Gives a network the weights of a .npz; returns what made them, as `save` was told."""
    with opened(source, "about") as values:
        shapes = {name: values[name].shape for name in values if name != "about"}
        expected = {variable.path: tuple(variable.shape) for variable in model.variables}
        if shapes != expected:
            other = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            raise InputError(
                f"Other weights than {model.name}'s. Expected {len(expected)} arrays of its shapes. Received "
                f"{len(shapes)} from {source}, other in {', '.join(other[:3])}. Give the network and dataset they are of."
            )
        for variable in model.variables:
            variable.assign(values[variable.path])
        return json.loads(str(values["about"]))


def opened(path, *names):
    """A .npz, which may hold numbers and text alone, with arrays of some names."""
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"No such file. Expected a .npz. Received {path}. Check the path.") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Not a .npz. Expected a file of numpy.savez. Received {path} ({error}). Make it anew."
        ) from error
    if set(names) <= set(found):
        return found
    raise InputError(
        f"Another .npz. Expected arrays {', '.join(names)}. Received {', '.join(sorted(found)[:4])} from {path}. "
        "experiments/lab/jax/train_teacher.py --data_dir writes images, --in=IMAGES weights."
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
