"""Trains a CIFAR teacher with Keras' JAX backend, on a GPU without TensorFlow.

    python -m experiments.lab.jax.train_teacher --data_dir=DATA --out=train.npz                 # with TensorFlow: takes the images
    python -m experiments.lab.jax.train_teacher --in=train.npz --out=weights.npz --epochs=200   # on the GPU: trains
    python -m experiments.lab.jax.train_teacher --in=weights.npz --out=teacher.keras            # with TensorFlow: converts

`train.npz` has `images` uint8 `[n, 32, 32, 3]` and `labels` `[n]`, and the held-out images as `held_out_images` and
`held_out_labels`, which only `train_students.py` reads. An epoch takes 1.8 s for resnet56 and 45,000 images on an H100.
"""

import os
import pathlib
import time

from absl import flags

from experiments.lab.jax.epochs import Epochs, assign, key_of, network, opened, save
from skd_tf.config import app
from skd_tf.errors import input_error
from skd_tf.runtime import atomic_files

_SAVE_EVERY = 20  # epochs


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("in", None, "train.npz to learn from, or weights.npz to convert", flag_values=flag_values)
    flags.DEFINE_string("out", None, "train.npz, weights.npz or the .keras file to write", flag_values=flag_values)
    flags.DEFINE_string("data_dir", None, "without --in: the TFDS folder that has the images", flag_values=flag_values)
    flags.DEFINE_string("arch", "resnet56", "the network, one of skd_tf.networks", flag_values=flag_values)
    flags.DEFINE_enum("dataset", "cifar100", ["cifar10", "cifar100"], "the data set", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 200, "length of training", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 128, "images a step", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("learning_rate", 0.1, "peak of the cosine", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_float("weight_decay", 5e-4, "L2 of all weights", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_string("precision", "mixed_bfloat16", "Keras' dtype policy", flag_values=flag_values)
    flags.DEFINE_integer(
        "seed", 0, "of initial weights, order and augmentation", lower_bound=0, flag_values=flag_values
    )


def main(flag_values: flags.FlagValues) -> None:
    """Takes images, trains or converts, depending on the kinds of --in and --out."""
    given, target = flag_values["in"].value, pathlib.Path(flag_values.out)
    if target.suffix not in (".npz", ".keras"):
        received = f"--out={target}"
        raise input_error(
            "Unknown kind of file", expected="--out in .npz or .keras", received=received, remedy="Rename it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not given and target.suffix != ".npz":
        received, remedy = f"--out={target}", "Rename it, or give --in"
        raise input_error("Images are not a network", expected="--out in .npz", received=received, remedy=remedy)
    if given and target.suffix == ".npz":
        os.environ["KERAS_BACKEND"] = "jax"
        train(given, target, flag_values)
        return
    if not given and not flag_values.data_dir:
        expected = "--in, or --data_dir with images"
        raise input_error("Nothing to work on", expected=expected, received="neither", remedy="Add one")
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    if given:
        convert(given, target, flag_values)
    else:
        take_images(flag_values.data_dir, target, flag_values.dataset)


def take_images(data_dir: str, target: pathlib.Path, dataset: str) -> None:
    """Writes the studies' training images, and the tenth that they hold out."""
    import numpy as np

    from skd_tf import data

    splits = data.load(data.DataSettings(dataset=dataset), data_dir, test=False)
    train, held_out = splits.train, splits.validation
    arrays = {"images": train.images, "labels": train.labels}
    arrays |= {"held_out_images": held_out.images, "held_out_labels": held_out.labels}
    with atomic_files.writing(target) as file:
        np.savez(file, **arrays)
    print(f"Written: {target}, {len(train)} images and {len(held_out)} held out")


def train(source: str, target: pathlib.Path, options: flags.FlagValues) -> None:
    """Trains on the images in `source`, and writes the weights every 20 epochs."""
    import jax
    import jax.numpy as jnp
    import keras

    from skd_tf import losses

    keras.config.set_dtype_policy(options.precision)
    with opened(source, "images", "labels") as data:
        images, labels = jnp.asarray(data["images"]), jnp.asarray(data["labels"].astype("int32"))
    model = network(options.arch, options.dataset, options.seed)
    sizes = {name: options[name].value for name in ("batch_size", "epochs", "weight_decay")}
    epochs = Epochs(model, images=len(images), **sizes)
    epoch = epochs.train(lambda *batch: losses.cross_entropy(*batch)["label"])
    settings = "arch", "dataset", "epochs", "batch_size", "learning_rate", "weight_decay", "precision", "seed"
    about = {name: options[name].value for name in settings}
    about |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
    state, begin = epochs.first_state(), time.perf_counter()
    for done in range(1, options.epochs + 1):
        key = key_of("teacher", options.seed, done - 1)
        state, (loss, accuracy) = epoch(state, options.learning_rate, key, images, labels, None)
        seconds = time.perf_counter() - begin
        print(f"epoch {done}/{options.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}, {seconds:.1f} s", flush=True)
        if done % _SAVE_EVERY == 0 or done == options.epochs:
            save(target, model, state, {**about, "epochs_done": done})


def convert(source: str, target: pathlib.Path, options: flags.FlagValues) -> None:
    """Writes the network with the weights in `source`; a student with the projection that its loss ships."""
    model = network(options.arch, options.dataset)
    about = assign(model, source)
    print(f"Trained by {about}")
    from skd_tf import losses
    from skd_tf.models import deployable

    if "row" in about:
        readout = losses.LOSSES[about["loss"]].readout
        model = deployable.deployable(model, readout, radius=about["radius"], center=about["center"])
    deployable.stock_copy(model).save(target)  # Keras writes no addresses of objects then: equal weights, equal files
    print(f"Written: {target}")


if __name__ == "__main__":
    description = "Trains a CIFAR teacher with Keras on JAX, or converts its weights."
    app.run(main, description=description, define=define, required=("out",))
