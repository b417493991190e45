"""Students of a longer schedule than two CPU cores allow, from a GPU that has JAX and no TensorFlow.

    python tools/jax_students.py --in=train.npz --teacher=weights.npz --out=FOLDER --rows=none,kd,skd --epochs=60
    python tools/jax_teacher.py --in=FOLDER/skd_0.2_seed0.npz --arch=resnet20 --out=student.keras       # with TensorFlow

This package's networks and its own losses (they are of keras.ops), by Keras' JAX backend; a row's settings are those of
`experiments/studies/rows/cifar100/ROW.flags`. The teacher's logits of all epochs are computed once, for all students: equal
seeds see equal views. `train.npz` and `weights.npz` are of `tools/jax_teacher.py`. A student that has its file is not
trained again; FOLDER/students.json lists them, with the accuracy on the images held out.
"""

import inspect
import itertools
import json
import os
import pathlib
import sys
import time

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout need not be installed

import jax_epochs
import studies

from skd_tf import cli, grammar
from skd_tf.errors import InputError

_STUDY = _DATASET = "cifar100"
_ROWS = [cell.row for cell in studies.cells(studies.STUDIES[_STUDY]) if cell.seed == 0]


def define(flag_values):
    flags.DEFINE_string("in", None, "train.npz, the images", flag_values=flag_values)
    flags.DEFINE_string("teacher", None, "weights.npz of the teacher", flag_values=flag_values)
    flags.DEFINE_string("teacher_arch", "resnet56", "the teacher's network", flag_values=flag_values)
    flags.DEFINE_string("out", None, "folder of the students", flag_values=flag_values)
    flags.DEFINE_string("arch", "resnet20", "the students' network", flag_values=flag_values)
    flags.DEFINE_list("rows", ["none", "kd", "skd"], f"methods, of {', '.join(_ROWS)}", flag_values=flag_values)
    flags.DEFINE_list("learning_rates", ["0.1", "0.2", "0.4"], "peaks of the cosine", flag_values=flag_values)
    flags.DEFINE_list("seeds", ["0"], "of initial weights, order and augmentation", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 60, "length of training", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("precision", "mixed_bfloat16", "Keras' dtype policy", flag_values=flag_values)


def main(flag_values):
    os.environ["KERAS_BACKEND"] = "jax"
    configs = {cell.row: studies.config_of(cell) for cell in studies.cells(studies.STUDIES[_STUDY]) if cell.seed == 0}
    methods = {row: loss_of(row, configs.get(row)) for row in flag_values.rows}
    import jax
    import keras

    keras.config.set_dtype_policy(flag_values.precision)
    folder, summary = pathlib.Path(flag_values.out), pathlib.Path(flag_values.out, "students.json")
    folder.mkdir(parents=True, exist_ok=True)
    about = {name: flag_values[name].value for name in ("arch", "teacher_arch", "epochs", "precision")}
    about |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
    students = json.loads(summary.read_text()) if summary.exists() else []
    for seed in map(int, flag_values.seeds):
        bench = _Bench(flag_values, seed, next(iter(configs.values())))
        for rate, row in itertools.product(map(float, flag_values.learning_rates), methods):
            target = folder / f"{row}_{rate:g}_seed{seed}.npz"
            if target.exists():
                continue
            state, measured = bench.train(row, methods[row], rate)
            students.append({"row": row, "learning_rate": rate, "seed": seed, **about, **measured})
            jax_epochs.save(target, bench.student, state, students[-1])
            summary.write_text(json.dumps(students, indent=1) + "\n", encoding="utf-8")


def loss_of(row, config):
    """(logits, taught, labels) -> loss `[batch]` of a row of the study, with its settings."""
    if config is None or isinstance(config.kd_weight, str):
        raise InputError(
            f"Not a row of one kd weight. Expected some of {', '.join(_ROWS)}. "
            f"Received {row}{f', kd weight {config.kd_weight}' if config else ''}. Leave it out of --rows."
        )
    from skd_tf import losses

    method = losses.LOSSES[config.loss]
    given = {"temperature": config.temperature, "radius": losses.resolve_radius(config.radius, 100), "center": config.center}
    given |= grammar.parse_loss_settings(config.loss_settings)
    given = {name: given[name] for name in given.keys() & inspect.signature(method.function).parameters.keys()}
    weight = config.kd_weight
    label_weight = 1 - weight if config.label_weight is None else config.label_weight

    def loss(logits, taught, labels):
        terms = method.function(logits, taught, labels, **given)
        return label_weight * terms["label"] + weight * terms["distill"] if method.needs_teacher else terms["label"]

    return loss


class _Bench:
    """One seed's images, teacher's logits and student."""

    def __init__(self, options, seed, config):
        import jax.numpy as jnp

        with jax_epochs.opened(options["in"].value) as data:
            self._images, self._labels = jnp.asarray(data["images"]), jnp.asarray(data["labels"].astype("int32"))
            self._held_out = data["held_out_images"], data["held_out_labels"]
        shared = {"images": len(self._images), "batch_size": config.batch_size, "epochs": options.epochs,
                  "weight_decay": config.weight_decay}  # fmt: skip
        teacher = jax_epochs.network(options.teacher_arch, _DATASET)
        jax_epochs.assign(teacher, options.teacher)
        self.student = jax_epochs.network(options.arch, _DATASET, seed)
        self._epochs = jax_epochs.Epochs(self.student, **shared)
        self._keys = [jax_epochs.key_of(seed, epoch) for epoch in range(options.epochs)]
        teach, begin = jax_epochs.Epochs(teacher, **shared).teach(), time.perf_counter()
        self._taught = [teach(epoch, key, self._images).block_until_ready() for epoch, key in enumerate(self._keys)]
        print(f"Teacher's logits of {options.epochs} epochs: {time.perf_counter() - begin:.1f} s", flush=True)
        self._compiled = {}

    def train(self, row, loss, rate):
        """The trained state, and what was measured of it."""
        run = self._compiled.setdefault(row, self._epochs.train(loss))
        state, begin = self._epochs.first_state(), time.perf_counter()
        for key, taught in zip(self._keys, self._taught, strict=True):
            state, (value, accuracy) = run(state, rate, key, self._images, self._labels, taught)
        measured = {"loss": float(value), "training_accuracy": float(accuracy), "seconds": time.perf_counter() - begin}
        measured["held_out_accuracy"] = jax_epochs.accuracy_of(self.student, state, *self._held_out)
        print(f"{row} at {rate:g}: held out {measured['held_out_accuracy']:.4f}, {measured['seconds']:.1f} s", flush=True)
        return state, measured


if __name__ == "__main__":
    cli.run(main, description="Trains CIFAR-100 students with Keras on JAX.", define=define,
            required=("in", "teacher", "out"))  # fmt: skip
