"""A CIFAR teacher from a GPU that has JAX and no TensorFlow: this package's networks, trained by Keras' JAX backend.

    python tools/jax_teacher.py --data_dir=DATA --out=train.npz                 # with TensorFlow: takes the images
    python tools/jax_teacher.py --in=train.npz --out=weights.npz --epochs=200   # on the GPU: trains
    python tools/jax_teacher.py --in=weights.npz --out=teacher.keras            # with TensorFlow: converts

`train.npz` has `images` uint8 `[n, 32, 32, 3]` and `labels` `[n]`. SGD with momentum 0.9, L2 on all weights, cosine after a
warm-up of 5%, pad 4, crop, mirror: the recipe of `python -m skd_tf.train --loss=cross_entropy`, which is for machines with
TensorFlow. An epoch is one compiled program, so that a net of small kernels does not wait for their launches: 1.8 s for
resnet56 and 45,000 images on an H100.
"""

import importlib.util
import json
import math
import os
import pathlib
import sys
import time
import types

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout need not be installed

from skd_tf import cli
from skd_tf.errors import InputError
from skd_tf.known_datasets import KNOWN_DATASETS

_MOMENTUM, _WARMUP, _PAD = 0.9, 0.05, 4
_SAVE_EVERY = 20  # epochs


def define(flag_values):
    flags.DEFINE_string("in", None, "train.npz to learn from, or weights.npz to convert", flag_values=flag_values)
    flags.DEFINE_string("out", None, "train.npz, weights.npz or the .keras file to write", flag_values=flag_values)
    flags.DEFINE_string("data_dir", None, "without --in: the TFDS folder to take images from", flag_values=flag_values)
    flags.DEFINE_string("arch", "resnet56", "the network, one of skd_tf.networks", flag_values=flag_values)
    flags.DEFINE_enum("dataset", "cifar100", ["cifar10", "cifar100"], "what it tells apart", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 200, "length of training", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 128, "images a step", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("learning_rate", 0.1, "peak of the cosine", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_float("weight_decay", 5e-4, "L2 of all weights", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_string("precision", "mixed_bfloat16", "Keras' dtype policy", flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "of initial weights, order and augmentation", lower_bound=0, flag_values=flag_values)


def main(flag_values):
    given, target = flag_values["in"].value, pathlib.Path(flag_values.out)
    if target.suffix not in (".npz", ".keras"):
        raise InputError(f"Unknown kind of file. Expected --out in .npz or .keras. Received --out={target}. Rename it.")
    if given and not pathlib.Path(given).is_file():
        raise InputError(f"No such file. Expected a .npz. Received --in={given}. Check the path.")
    if given and target.suffix == ".npz":
        os.environ["KERAS_BACKEND"] = "jax"
        train(given, target, flag_values)
        return
    if not given and not flag_values.data_dir:
        raise InputError("Nothing to work on. Expected --in, or --data_dir to take images from. Received neither. Add one.")
    from skd_tf import quiet

    quiet.import_tensorflow()
    if given:
        convert(given, target, flag_values)
    else:
        take_images(flag_values.data_dir, target, flag_values.dataset)


def take_images(data_dir, target, dataset):
    """Writes the training images of the studies, without the tenth that they hold out."""
    from skd_tf import data
    from skd_tf.config import Config

    split = data.load(Config(dataset=dataset), data_dir, test=False).train
    np.savez(target, images=split.images, labels=split.labels)
    print(f"Written: {target}, {len(split)} images")


def network(options):
    """The untrained network of --arch and --dataset."""
    do_without_tensorflow()
    from skd_tf import networks

    known = KNOWN_DATASETS[options.dataset]
    return networks.build(options.arch, input_shape=known.image_shape, num_classes=known.num_classes, mean=known.mean,
                          std=known.std, seed=options.seed)  # fmt: skip


def do_without_tensorflow():
    """Builds networks with Keras' own BatchNorm, whose numbers ours gives, where no TensorFlow has the kernel."""
    import keras

    if importlib.util.find_spec("tensorflow") is None:
        stand_in = types.ModuleType("skd_tf.batch_norm")
        stand_in.FusedBatchNormalization = keras.layers.BatchNormalization
        sys.modules["skd_tf.batch_norm"] = stand_in


def epoch_function(model, options, steps):
    """epoch(state, key, images, labels) -> (state, (mean loss, accuracy)).

    The state is (step, weights, moving averages, velocity).
    """
    import jax
    import jax.numpy as jnp

    total = steps * options.epochs
    warmup = max(1, round(_WARMUP * total))

    def rate(step):
        cosine = 0.5 * (1 + jnp.cos(math.pi * (step - warmup) / (total - warmup)))
        return options.learning_rate * jnp.where(step < warmup, (step + 1) / warmup, cosine)

    def augmented(images, key):
        rows, columns, flips = jax.random.randint(key, (3, len(images)), 0, jnp.array([[2 * _PAD + 1], [2 * _PAD + 1], [2]]))
        padded = jnp.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))
        crops = jax.vmap(lambda x, r, c: jax.lax.dynamic_slice(x, (r, c, 0), images.shape[1:]))(padded, rows, columns)
        return jnp.where((flips == 1)[:, None, None, None], crops[:, :, ::-1], crops).astype("float32")

    def loss_of(weights, averages, images, labels):
        logits, averages = model.stateless_call(weights, averages, images, training=True)
        logits = logits.astype("float32")
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
        return loss, (averages, (logits.argmax(1) == labels).mean())

    @jax.jit
    def epoch(state, key, images, labels):
        order_key, pixels_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(images))[: steps * options.batch_size].reshape(steps, -1)

        def train_step(state, batch):
            step, weights, averages, velocity = state
            pixels = augmented(images[batch], jax.random.fold_in(pixels_key, step))
            (loss, (averages, accuracy)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                weights, averages, pixels, labels[batch]
            )
            gradients = [g + options.weight_decay * w for g, w in zip(gradients, weights, strict=True)]
            velocity = [_MOMENTUM * v - rate(step) * g for v, g in zip(velocity, gradients, strict=True)]
            weights = [w + v for w, v in zip(weights, velocity, strict=True)]
            return (step + 1, weights, averages, velocity), (loss, accuracy)

        state, numbers = jax.lax.scan(train_step, state, order)
        return state, jax.tree.map(jnp.mean, numbers)

    return epoch


def train(source, target, options):
    import jax
    import jax.numpy as jnp
    import keras

    keras.config.set_dtype_policy(options.precision)
    with _opened(source) as data:
        images, labels = jnp.asarray(data["images"]), jnp.asarray(data["labels"].astype("int32"))
    model = network(options)
    trained, averages = model.trainable_variables, model.non_trainable_variables
    epoch = epoch_function(model, options, len(images) // options.batch_size)
    weights = [variable.value for variable in trained]
    state = jnp.int32(0), weights, [variable.value for variable in averages], [jnp.zeros_like(w) for w in weights]
    settings = "arch", "dataset", "epochs", "batch_size", "learning_rate", "weight_decay", "precision", "seed"
    about = {name: options[name].value for name in settings}
    about |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
    begin = time.perf_counter()
    for done in range(1, options.epochs + 1):
        state, (loss, accuracy) = epoch(state, jax.random.key(options.seed * 100_003 + done - 1), images, labels)
        print(f"epoch {done}/{options.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}, "
              f"{time.perf_counter() - begin:.1f} s", flush=True)  # fmt: skip
        if done % _SAVE_EVERY == 0 or done == options.epochs:
            values = dict(zip((variable.path for variable in (*trained, *averages)), (*state[1], *state[2]), strict=True))
            np.savez_compressed(target, about=json.dumps({**about, "epochs_done": done}), **values)
            print(f"Written: {target}", flush=True)


def convert(source, target, options):
    with _opened(source) as values:
        model = network(options)
        shapes = {name: values[name].shape for name in values if name != "about"}
        expected = {variable.path: tuple(variable.shape) for variable in model.variables}
        if shapes != expected:
            other = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            raise InputError(
                f"Other weights than {options.arch}'s. Expected {len(expected)} arrays of its shapes. Received "
                f"{len(shapes)} from --in={source}, other in {', '.join(other[:3])}. Give its --arch and --dataset."
            )
        print(f"Trained by {values['about']}")
        for variable in model.variables:
            variable.assign(values[variable.path])
    model.save(target)
    print(f"Written: {target}")


def _opened(path):
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"Not a .npz. Expected a file of numpy.savez. Received --in={path} ({error}).") from error


if __name__ == "__main__":
    cli.run(main, description="Trains a CIFAR teacher with Keras on JAX, or converts what it learned.", define=define,
            required=("out",))  # fmt: skip
