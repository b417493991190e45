"""Trains CIFAR-100 students for longer than two CPU cores allow, with Keras' JAX backend on a GPU without TensorFlow.

    python -m experiments.lab.jax.train_students --in=train.npz --teacher=weights.npz --out=FOLDER --rows=none,kd,skd --epochs=50
    python -m experiments.lab.jax.train_teacher --in=FOLDER/skd_0.2_seed0.npz --arch=resnet20 --out=student.keras       # with TensorFlow

Networks and losses are this package's own. A row's loss and settings come from `experiments/studies/rows/cifar100/ROW.flags`,
batch and L2 from the study's base. The teacher's logits of all epochs are computed once for all students, and equal seeds
see equal views. `train_teacher.py` writes `train.npz` and `weights.npz`. A student that has its file is not trained again.
FOLDER/students.json lists all that are there.
"""

import hashlib
import inspect
import itertools
import json
import os
import pathlib
import time

from absl import flags

from experiments.lab import definitions
from experiments.lab.jax import epochs
from skd_tf.config import Config, app, grammar
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import input_error
from skd_tf.runtime.files import write_json

_STUDY = _DATASET = "cifar100"


def rows() -> dict[str, Config]:
    """{row: Config} of the study's methods with a constant kd_weight."""
    chosen = [cell for cell in definitions.cells(definitions.STUDIES[_STUDY]) if cell.seed == 0]
    configs = {cell.row: definitions.config_of(cell) for cell in chosen}
    return {row: config for row, config in configs.items() if not isinstance(config.kd_weight, str)}


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("in", None, "train.npz, the images to learn from", flag_values=flag_values)
    flags.DEFINE_string("teacher", None, "the teacher's weights.npz", flag_values=flag_values)
    flags.DEFINE_string("teacher_arch", "resnet56", "the teacher's network", flag_values=flag_values)
    flags.DEFINE_string("out", None, "folder of the students", flag_values=flag_values)
    flags.DEFINE_string("arch", "resnet20", "the students' network", flag_values=flag_values)
    flags.DEFINE_list("rows", ["none", "kd", "skd"], f"methods, of {', '.join(rows())}", flag_values=flag_values)
    flags.DEFINE_list("learning_rates", ["0.1", "0.2", "0.4"], "peaks of the cosine", flag_values=flag_values)
    flags.DEFINE_list("temperatures", [], "instead of a row's own", flag_values=flag_values)
    flags.DEFINE_list("seeds", ["0"], "seeds of initial weights, order and augmentation", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 50, "length of training", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("precision", "mixed_bfloat16", "Keras' dtype policy", flag_values=flag_values)


def main(flag_values: flags.FlagValues) -> None:
    """Trains the students that are missing, seed by seed."""
    os.environ["KERAS_BACKEND"] = "jax"
    folder = pathlib.Path(flag_values.out)
    wanted = {folder / name_of(student): student for student in _wanted(flag_values)}
    missing = {file: student for file, student in wanted.items() if not _is_there(file, student)}
    print(f"{len(wanted)} students, {len(wanted) - len(missing)} of them are there.", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, group in itertools.groupby(missing.items(), key=lambda item: item[1]["seed"]):
        bench = _Bench(flag_values, seed, next(iter(missing.values())))
        for file, student in group:
            bench.train(file, student)
            _list_students(folder)
    _list_students(folder)  # an earlier run may have been killed between a student and the list


def _list_students(folder):
    """Writes students.json, of all students in a folder."""
    write_json(folder / "students.json", [_about(file) for file in sorted(folder.glob("*_seed*.npz"))])


def name_of(student: dict) -> str:
    """The file name of a student."""
    own = f"_t{student['temperature']:g}" if student["temperature"] != rows()[student["row"]].temperature else ""
    return f"{student['row']}{own}_{student['learning_rate']:g}_seed{student['seed']}.npz"


def settings_of(config: Config, temperature: float | None = None) -> dict:
    """The settings of a row's loss and steps, as plain values."""
    from skd_tf import losses

    alone = not config.needs_teacher
    radius = losses.resolve_radius(config.radius, KNOWN_DATASETS[_DATASET].num_classes)
    label_weight = 1 - config.kd_weight if config.label_weight is None else config.label_weight
    return {
        "loss": config.loss,
        "kd_weight": 0.0 if alone else config.kd_weight,
        "label_weight": 1.0 if alone else label_weight,
        "temperature": config.temperature if temperature is None else temperature,
        "radius": radius,
        "center": config.center,
        "loss_settings": grammar.parse_loss_settings(config.loss_settings),
        "batch_size": config.batch_size,
        "weight_decay": config.weight_decay,
    }


def loss_of(settings: dict):
    """loss(logits, taught, labels) -> `[batch]`, from the settings of `settings_of`."""
    from skd_tf import losses

    function = losses.LOSSES[settings["loss"]].function
    given = {name: settings[name] for name in ("temperature", "radius", "center")} | settings["loss_settings"]
    given = {name: given[name] for name in given.keys() & inspect.signature(function).parameters.keys()}

    def loss(logits, taught, labels):
        terms = function(logits, taught, labels, **given)
        distill = settings["kd_weight"] * terms["distill"] if "distill" in terms else 0.0
        return settings["label_weight"] * terms["label"] + distill

    return loss


def _wanted(flag_values):
    """Each student's settings, seed by seed."""
    known = rows()
    for row in flag_values.rows:
        if row not in known:
            raise input_error(
                "Not a row that is trained here",
                expected=f"some of {', '.join(known)}",
                received=f"--rows={row}",
                remedy="Leave out rows with a changing kd_weight",
            )
    shared = {name: flag_values[name].value for name in ("arch", "teacher_arch", "epochs", "precision")}
    shared |= {"images_sha256": _digest(flag_values["in"].value), "teacher_sha256": _digest(flag_values.teacher)}
    seeds, rates, temperatures = (
        _numbers(flag_values, *pair) for pair in (("seeds", int), ("learning_rates", float), ("temperatures", float))
    )
    for seed, rate, row, temperature in itertools.product(seeds, rates, flag_values.rows, temperatures or [None]):
        yield {"row": row, "learning_rate": rate, "seed": seed, **settings_of(known[row], temperature), **shared}


def _numbers(flag_values, name, kind):
    try:
        return [kind(text) for text in flag_values[name].value]
    except ValueError as error:
        received = flag_values[name].value
        raise input_error("Not numbers", expected=f"--{name}=1,2", received=received, remedy="Correct it") from error


def _digest(path):
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
    except FileNotFoundError as error:
        raise input_error("No such file", expected="a .npz", received=path, remedy="Check the path") from error


def _about(file):
    with epochs.opened(file, "about") as values:
        return json.loads(str(values["about"]))


def _is_there(file, student):
    """Whether a student has its file; InputError if the file is another student's."""
    if not file.exists():
        return False
    found = _about(file)
    other = [f"{name} {found.get(name)}, wanted {value}" for name, value in student.items() if found.get(name) != value]
    if other:
        received, remedy = "; ".join(other), "Take another --out"
        raise input_error(
            "Another student has this name", expected=f"{file} as wanted", received=received, remedy=remedy
        )
    return True


class _Bench:
    """One seed's images, teacher's logits and untrained student."""

    def __init__(self, options, seed, settings):
        import jax
        import jax.numpy as jnp
        import keras

        keras.config.set_dtype_policy(options.precision)
        names = "images", "labels", "held_out_images", "held_out_labels"
        with epochs.opened(options["in"].value, *names) as data:
            images, labels, *self._held_out = (data[name] for name in names)
        self._data = jnp.asarray(images), jnp.asarray(labels.astype("int32"))
        shared = {"images": len(images), "epochs": options.epochs} | {
            k: settings[k] for k in ("batch_size", "weight_decay")
        }
        teacher = epochs.network(options.teacher_arch, _DATASET)
        epochs.assign(teacher, options.teacher)
        self._student = epochs.network(options.arch, _DATASET, seed)
        self._epochs = epochs.Epochs(self._student, **shared)
        self._keys = [epochs.key_of("student", seed, epoch) for epoch in range(options.epochs)]
        teach, begin = epochs.Epochs(teacher, **shared).teach(), time.perf_counter()
        self._taught = [teach(epoch, key, self._data[0]).block_until_ready() for epoch, key in enumerate(self._keys)]
        print(f"Teacher's logits of {options.epochs} epochs: {time.perf_counter() - begin:.1f} s", flush=True)
        self._compiled = {}
        self._made_by = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
        self._made_by |= {"images": len(images), "held_out": len(self._held_out[1])}

    def train(self, file, student):
        """Trains one student and writes its file."""
        compiled_for = student["row"], student["temperature"]
        if compiled_for not in self._compiled:
            self._compiled[compiled_for] = self._epochs.train(loss_of(student))
        run, state, begin = self._compiled[compiled_for], self._epochs.first_state(), time.perf_counter()
        for key, taught in zip(self._keys, self._taught, strict=True):
            state, (value, accuracy) = run(state, student["learning_rate"], key, *self._data, taught)
        measured = {"training_loss": float(value), "training_accuracy": float(accuracy)}
        measured["seconds"] = time.perf_counter() - begin
        measured["held_out_accuracy"] = epochs.accuracy_of(self._student, state, *self._held_out)
        print(f"{file.stem}: held out {measured['held_out_accuracy']:.4f}, {measured['seconds']:.1f} s", flush=True)
        epochs.save(file, self._student, state, student | measured | self._made_by)


if __name__ == "__main__":
    description = "Trains CIFAR-100 students with Keras on JAX."
    app.run(main, description=description, define=define, required=("in", "teacher", "out"))
