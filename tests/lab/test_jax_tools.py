"""The JAX route: its weights become networks, its losses are the package's own. These tests need no JAX."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags

from experiments.lab.jax import train_students, train_teacher
from skd_tf import losses, networks
from skd_tf.config import grammar
from skd_tf.distillation import hyperparameters
from skd_tf.distillation.objective import Objective
from skd_tf.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "experiments.lab.jax.train_teacher", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
def test_weights_become_the_teacher_that_they_are_of(tmp_path):
    network = networks.build(
        "resnet8",
        input_shape=(32, 32, 3),
        num_classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        seed=7,
    )
    for number, variable in enumerate(network.variables):
        variable.assign(variable + 0.01 * (1 + number % 5))
    np.savez_compressed(tmp_path / "weights.npz", about="{}", **{v.path: np.asarray(v) for v in network.variables})
    done = run(f"--in={tmp_path}/weights.npz", f"--out={tmp_path}/teacher.keras", "--arch=resnet8")
    assert done.returncode == 0 and "Written: " in done.stdout, done.stderr
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    teacher = keras.models.load_model(tmp_path / "teacher.keras")
    np.testing.assert_allclose(teacher(images), network(images), rtol=1e-5, atol=1e-5)


def test_the_committed_teacher_is_what_its_recipe_says():
    with np.load(ROOT / "experiments/studies/teachers/cifar100_resnet56.npz", allow_pickle=False) as values:
        about = str(values["about"])
        parameters = sum(values[name].size for name in values if name != "about" and "moving" not in name)
    assert parameters == 861_620 and '"epochs_done": 200' in about and '"dataset": "cifar100"' in about


def test_bad_input_is_refused(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", about="{}", kernel=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:200])
    for name, out, words in (
        ("", "x.npz", "Nothing to work on"),
        ("missing.npz", "x.keras", "No such file"),
        ("weights.npz", "x.h5", "Expected --out in .npz or .keras"),
        ("", "x.keras", "Images are not a network"),
        ("weights.npz", "x.keras", "Not a .npz"),
        ("cut.npz", "x.keras", "Not a .npz"),
        ("other.npz", "x.keras", "The weights do not fit resnet8"),
    ):
        flag_values = flags.FlagValues()
        train_teacher.define(flag_values)
        flag_values(["tool", *([f"--in={tmp_path / name}"] * bool(name)), f"--out={tmp_path / out}", "--arch=resnet8"])
        with pytest.raises(InputError, match=re.escape(words)):
            train_teacher.main(flag_values)


@pytest.mark.parametrize("row", train_students.rows())
def test_a_students_loss_is_that_of_its_row(row):
    config, generator = train_students.rows()[row], np.random.default_rng(3)
    student, teacher = generator.normal(0, 3, (2, 16, 100)).astype("float32")
    labels = generator.integers(0, 100, 16)
    loss_settings = grammar.parse_loss_settings(config.loss_settings)
    objective = Objective(config.loss, center=config.center, label_smoothing=0.0, settings=loss_settings)
    weights = hyperparameters.resolve_loss_weights(
        config.kd_weight, config.label_weight, needs_teacher=objective.needs_teacher
    )
    expected, _, _ = objective(
        student,
        teacher,
        labels,
        temperature=config.temperature,
        radius=20.0,
        readout_radius=20.0,
        **dict(zip(("kd_weight", "label_weight"), weights, strict=True)),
    )
    loss = train_students.loss_of(train_students.settings_of(config))
    np.testing.assert_allclose(loss(student, teacher, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("folder", ["gpu_students", "gpu_students_seeds"])
def test_the_students_on_record_had_the_settings_of_their_rows(folder):
    path = ROOT / f"experiments/results/{folder}/students.json"
    for student in json.loads(path.read_text(encoding="utf-8")):
        expected = train_students.settings_of(train_students.rows()[student["row"]])
        assert {name: student[name] for name in expected} == expected


def students_flags(tmp_path, *arguments):
    np.savez(tmp_path / "train.npz", images=np.zeros(1))
    flag_values = flags.FlagValues()
    train_students.define(flag_values)
    places = f"--in={tmp_path}/train.npz", f"--teacher={tmp_path}/train.npz", f"--out={tmp_path}/out"
    flag_values(["tool", *places, *arguments])
    return flag_values


def test_a_student_is_not_mistaken_for_another_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    student, other = (
        next(train_students._wanted(students_flags(tmp_path, f"--epochs={n}", "--rows=kd"))) for n in (50, 60)
    )
    file = tmp_path / train_students.name_of(student)
    assert file.name == "kd_0.1_seed0.npz" and not train_students._is_there(file, student)
    np.savez(file, about=json.dumps(student))
    assert train_students._is_there(file, student)
    with pytest.raises(InputError, match="epochs 50, wanted 60"):
        train_students._is_there(file, other)
    hot = next(train_students._wanted(students_flags(tmp_path, "--rows=kd", "--temperatures=8")))
    assert train_students.name_of(hot) == "kd_t8_0.1_seed0.npz" and hot["temperature"] == 8


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--rows=dkd_authors", "Not a row that is trained here. Expected some of none, kd, skd"),
        ("--seeds=x", "Not numbers. Expected --seeds=1,2"),
        ("--rows=none", "Another kind of .npz. Expected arrays about"),
    ],
)
def test_bad_students_are_refused(argument, words, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out/none_0.1_seed0.npz", kernel=np.zeros(3))
    with pytest.raises(InputError, match=re.escape(words)):
        train_students.main(students_flags(tmp_path, argument))


@pytest.mark.slow
def test_a_spherical_student_is_converted_with_its_sphere(tmp_path):
    network = networks.build(
        "resnet8", input_shape=(32, 32, 3), num_classes=100, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)
    )
    about = {"row": "skd", **train_students.settings_of(train_students.rows()["skd"])}
    np.savez(tmp_path / "skd.npz", about=json.dumps(about), **{v.path: np.asarray(v) for v in network.variables})
    done = run(f"--in={tmp_path}/skd.npz", f"--out={tmp_path}/student.keras", "--arch=resnet8")
    assert done.returncode == 0, done.stderr
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    logits = np.asarray(keras.models.load_model(tmp_path / "student.keras")(images))
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), 20, rtol=1e-4)
    np.testing.assert_allclose(logits, losses.project(network(images), 20.0), rtol=1e-3, atol=1e-3)
