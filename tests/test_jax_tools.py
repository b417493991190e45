"""tools/jax_*.py: what a GPU without TensorFlow learned becomes a network, and its losses are ours. This needs no JAX."""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags

from skd_tf import grammar, networks, settings
from skd_tf.errors import InputError
from skd_tf.objective import Objective

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import jax_students
import jax_teacher
import studies

TOOL = pathlib.Path(jax_teacher.__file__)


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False)


def test_weights_become_the_teacher_that_they_are_of(tmp_path):
    network = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=100, mean=(0.5071, 0.4867, 0.4408),
                             std=(0.2675, 0.2565, 0.2761), seed=7)  # fmt: skip
    for number, variable in enumerate(network.variables):
        variable.assign(variable + 0.01 * (1 + number % 5))
    np.savez_compressed(tmp_path / "weights.npz", about="{}", **{v.path: np.asarray(v) for v in network.variables})
    done = run(f"--in={tmp_path}/weights.npz", f"--out={tmp_path}/teacher.keras", "--arch=resnet8")
    assert done.returncode == 0 and "Written: " in done.stdout, done.stderr
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    teacher = keras.models.load_model(tmp_path / "teacher.keras")
    np.testing.assert_allclose(teacher(images), network(images), rtol=1e-5, atol=1e-5)


def test_the_committed_teacher_is_what_its_recipe_says():
    with np.load(TOOL.parent.parent / "experiments/studies/teachers/cifar100_resnet56.npz", allow_pickle=False) as values:
        about = str(values["about"])
        parameters = sum(values[name].size for name in values if name != "about" and "moving" not in name)
    assert parameters == 861_620 and '"epochs_done": 200' in about and '"dataset": "cifar100"' in about


def test_bad_input_is_told(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", about="{}", kernel=np.zeros(3))
    for name, out, words in (
        ("", "x.npz", "Nothing to work on"),
        ("missing.npz", "x.keras", "No such file"),
        ("weights.npz", "x.h5", "Expected --out in .npz or .keras"),
        ("weights.npz", "x.keras", "Not a .npz"),
        ("other.npz", "x.keras", "Other weights than resnet8's"),
    ):
        flag_values = flags.FlagValues()
        jax_teacher.define(flag_values)
        flag_values(["tool", *([f"--in={tmp_path / name}"] * bool(name)), f"--out={tmp_path / out}", "--arch=resnet8"])
        with pytest.raises(InputError, match=re.escape(words)):
            jax_teacher.main(flag_values)


def rows():
    return {cell.row: studies.config_of(cell) for cell in studies.cells(studies.STUDIES["cifar100"]) if cell.seed == 0}


@pytest.mark.parametrize("row", [row for row in rows() if row != "dkd_authors"])
def test_a_students_loss_is_that_of_its_row(row):
    config, generator = rows()[row], np.random.default_rng(3)
    student, teacher = generator.normal(0, 3, (2, 16, 100)).astype("float32")
    labels = generator.integers(0, 100, 16)
    loss_settings = grammar.parse_loss_settings(config.loss_settings)
    objective = Objective(config.loss, center=config.center, label_smoothing=0.0, settings=loss_settings)
    weights = settings.loss_weights(config.kd_weight, config.label_weight, needs_teacher=objective.needs_teacher)
    expected, _, _ = objective(
        student, teacher, labels, temperature=config.temperature, radius=20.0, readout_radius=20.0,
        **dict(zip(("kd_weight", "label_weight"), weights, strict=True)),
    )  # fmt: skip
    np.testing.assert_allclose(jax_students.loss_of(row, config)(student, teacher, labels), expected, rtol=1e-6)


def test_rows_whose_weight_changes_are_refused():
    with pytest.raises(InputError, match="Received dkd_authors, kd weight linear 0 to 1"):
        jax_students.loss_of("dkd_authors", rows()["dkd_authors"])
    with pytest.raises(InputError, match=r"Expected some of none, kd, skd.*Received crd"):
        jax_students.loss_of("crd", None)
