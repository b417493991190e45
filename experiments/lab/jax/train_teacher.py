"""A CIFAR teacher from a GPU that has JAX and no TensorFlow: this package's networks, trained by Keras' JAX backend.

    python -m experiments.lab.jax.train_teacher --data_dir=DATA --out=train.npz                 # with TensorFlow: takes the images
    python -m experiments.lab.jax.train_teacher --in=train.npz --out=weights.npz --epochs=200   # on the GPU: trains
    python -m experiments.lab.jax.train_teacher --in=weights.npz --out=teacher.keras            # with TensorFlow: converts

`train.npz` has `images` uint8 `[n, 32, 32, 3]` and `labels` `[n]`, and the images held out under the same names with
`held_out_` before, which only `jax_students.py` reads. An epoch is one compiled program, so that a net of small kernels
does not wait for their launches: 1.8 s for resnet56 and 45,000 images on an H100. The recipe: `jax_epochs.py`.
"""

import os
import pathlib
import time

from absl import flags

from experiments.lab.jax.epochs import Epochs, assign, key_of, network, opened, save
from skd_tf.config import app
from skd_tf.errors import InputError
from skd_tf.runtime import atomic_files

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
    flags.DEFINE_integer(
        "seed", 0, "of initial weights, order and augmentation", lower_bound=0, flag_values=flag_values
    )


def main(flag_values):
    given, target = flag_values["in"].value, pathlib.Path(flag_values.out)
    if target.suffix not in (".npz", ".keras"):
        raise InputError(f"Unknown kind of file. Expected --out in .npz or .keras. Received --out={target}. Rename it.")
    if not given and target.suffix != ".npz":
        raise InputError(
            f"Images are no network. Expected --out in .npz. Received --out={target}. Rename it, or give --in."
        )
    if given and target.suffix == ".npz":
        os.environ["KERAS_BACKEND"] = "jax"
        train(given, target, flag_values)
        return
    if not given and not flag_values.data_dir:
        raise InputError(
            "Nothing to work on. Expected --in, or --data_dir to take images from. Received neither. Add one."
        )
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    if given:
        convert(given, target, flag_values)
    else:
        take_images(flag_values.data_dir, target, flag_values.dataset)


def take_images(data_dir, target, dataset):
    """Writes the training images of the studies, and apart from them the tenth that they hold out."""
    import numpy as np

    from skd_tf import data

    splits = data.load(data.DataSettings(dataset=dataset), data_dir, test=False)
    train, held_out = splits.train, splits.validation
    with atomic_files.writing(target) as file:
        np.savez(
            file,
            images=train.images,
            labels=train.labels,
            held_out_images=held_out.images,
            held_out_labels=held_out.labels,
        )
    print(f"Written: {target}, {len(train)} images and {len(held_out)} held out")


def train(source, target, options):
    import jax
    import jax.numpy as jnp
    import keras

    from skd_tf import losses

    keras.config.set_dtype_policy(options.precision)
    with opened(source, "images", "labels") as data:
        images, labels = jnp.asarray(data["images"]), jnp.asarray(data["labels"].astype("int32"))
    model = network(options.arch, options.dataset, options.seed)
    epochs = Epochs(
        model,
        images=len(images),
        batch_size=options.batch_size,
        epochs=options.epochs,
        weight_decay=options.weight_decay,
    )
    epoch = epochs.train(lambda *batch: losses.cross_entropy(*batch)["label"])
    settings = "arch", "dataset", "epochs", "batch_size", "learning_rate", "weight_decay", "precision", "seed"
    about = {name: options[name].value for name in settings}
    about |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
    state, begin = epochs.first_state(), time.perf_counter()
    for done in range(1, options.epochs + 1):
        key = key_of("teacher", options.seed, done - 1)
        state, (loss, accuracy) = epoch(state, options.learning_rate, key, images, labels, None)
        print(
            f"epoch {done}/{options.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}, "
            f"{time.perf_counter() - begin:.1f} s",
            flush=True,
        )
        if done % _SAVE_EVERY == 0 or done == options.epochs:
            save(target, model, state, {**about, "epochs_done": done})


def convert(source, target, options):
    model = network(options.arch, options.dataset)
    about = assign(model, source)
    print(f"Trained by {about}")
    if "row" in about:  # a student, which ships with its readout
        from skd_tf import losses
        from skd_tf.models import deployable

        readout = losses.LOSSES[about["loss"]].readout
        model = deployable.deployable(model, readout, radius=about["radius"], center=about["center"])
    model.save(target)
    print(f"Written: {target}")


if __name__ == "__main__":
    app.run(
        main,
        description="Trains a CIFAR teacher with Keras on JAX, or converts what it learned.",
        define=define,
        required=("out",),
    )
