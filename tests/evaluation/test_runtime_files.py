"""LiteRT and ONNX files are measured as what they were made from; they cannot teach."""

import csv
import importlib.util
import shutil

import keras
import numpy as np
import pytest

from skd_tf import data
from skd_tf.errors import InputError
from skd_tf.evaluation import evaluate_models
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.models import loading, paths
from skd_tf.runs import class_names, lineage
from skd_tf.serving import formats
from tests.helpers.images import random_image, write_image

WITH_ONNX = all(importlib.util.find_spec(name) for name in formats._NEEDED_PACKAGES["onnx"])
NAMES = [f"digit {i}" for i in range(10)]
needs_onnx = pytest.mark.skipif(not WITH_ONNX, reason="needs the packages of [onnx]")
kinds = pytest.mark.parametrize("kind", ["tflite", pytest.param("onnx", marks=needs_onnx)])


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture(scope="module")
def exported(digits, tmp_path_factory):
    """A folder with student.keras and the files that were made from it, their lineage and class names."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input([8, 8, 1]), keras.layers.Rescaling(1 / 16), keras.layers.Flatten(), keras.layers.Dense(10)]
    model, folder = keras.Sequential(layers), tmp_path_factory.mktemp("exported")
    files = [file for file in formats.files_of(["keras", "litert"] + ["onnx"] * WITH_ONNX) if "16" not in file.name]
    formats.write(model, files, folder, formats.WriteContext(NAMES, digits.train.images))
    lineage.write_beside([folder / file.name for file in files], folder / paths.LINEAGE, lineage.Lineage())
    (folder / class_names.LABELS).write_text("".join(f"{name}\n" for name in NAMES))
    return folder


def file_of(folder, kind):
    return folder / ("student_float32.tflite" if kind == "tflite" else "student.onnx")


@kinds
def test_its_numbers_are_those_of_its_keras_file(exported, digits, kind):
    both = [exported / "student.keras", file_of(exported, kind)]
    keras_entry, entry = evaluate_models.evaluate_models(both, digits, timing=False, bootstrap_samples=0)["models"]
    for name in ("accuracy", "nll", "brier", "ece", "confidence"):
        assert entry[name] == pytest.approx(keras_entry[name], abs=1e-5), name
    assert entry["parameters"] is None and entry["flops"] is None
    assert entry["file_bytes"] == file_of(exported, kind).stat().st_size


def test_rounded_numbers_are_measured_as_they_are_rounded(exported, digits):
    images = digits.test.images[:50]
    rounded, exact = (loading.load(exported / f"student_{name}.tflite")(images).numpy() for name in ("int8", "float32"))
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-3 < difference < 0.2


@kinds
def test_predict_writes_its_classes_by_the_names_beside_it(exported, tmp_path, kind):
    pixels = [random_image(i, 8, 8, 1) for i in range(5)]
    for i, image in enumerate(pixels):
        write_image(tmp_path / "pictures" / f"{i}.png", image)
    predict_images(file_of(exported, kind), tmp_path / "pictures", tmp_path / "answers.csv")
    with open(tmp_path / "answers.csv", newline="") as file:
        answers = [row["class"] for row in csv.DictReader(file)]
    logits = loading.load(exported / "student.keras")(np.stack(pixels).astype("float32"))
    assert answers == [NAMES[i] for i in np.argmax(logits, axis=1)]


@kinds
def test_its_lineage_counts_unless_the_file_was_edited(exported, tmp_path, kind):
    folder = shutil.copytree(exported, tmp_path / "copy")
    assert lineage.is_of_skd_tf(file_of(folder, kind))
    with open(file_of(folder, kind), "ab") as file:
        file.write(b" ")
    assert not lineage.is_of_skd_tf(file_of(folder, kind))


@kinds
def test_it_cannot_teach_and_keeps_its_temperature(exported, digits, tmp_path, kind):
    with pytest.raises(InputError, match=r"This file can only be measured.*Use the model that it was made from"):
        loading.load_teacher(file_of(exported, kind), name="", dataset=digits, teacher_precision="float32")
    write_image(tmp_path / "a.png", random_image(0, 8, 8, 1))
    with pytest.raises(InputError, match="temperature inside this file cannot be taken out"):
        predict_images(file_of(exported, kind), tmp_path / "a.png", tmp_path / "a.csv", calibrated=False)


@kinds
def test_a_damaged_file_is_one_line(exported, tmp_path, kind):
    place = tmp_path / file_of(exported, kind).name
    place.write_bytes(file_of(exported, kind).read_bytes()[:1000])
    with pytest.raises(InputError, match="its file is damaged or not complete") as caught:
        loading.load(place)
    assert "\n" not in str(caught.value)


def onnx_file(place, *, batch="n", kind="FLOAT", shape=(8, 8, 1), outputs=("answer",)):
    """A linear model of foreign names in an ONNX file; its weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=[64, 10]).astype("float32")
    floats = getattr(TensorProto, kind)
    nodes = [helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Flatten", ["floats"], ["flat"])]
    nodes += [helper.make_node("MatMul", ["flat", "weights"], [name]) for name in outputs]
    given = [helper.make_tensor_value_info("pixels", floats, [batch, *shape])]
    answers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 10]) for name in outputs]
    graph = helper.make_graph(nodes, "net", given, answers, [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, place)
    return weights


@needs_onnx
@pytest.mark.parametrize("batch", ["n", 1])
def test_a_file_of_another_program_may_take_one_image_at_a_time(digits, tmp_path, batch):
    weights, images = onnx_file(tmp_path / "net.onnx", batch=batch), np.asarray(digits.test.images[:7])
    logits = loading.load(tmp_path / "net.onnx")(images).numpy()
    np.testing.assert_allclose(logits, images.reshape(7, -1) @ weights, rtol=1e-4, atol=1e-3)


@needs_onnx
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "INT64"}, "images uint8 or float32.*tensor.int64."),
        ({"shape": (64,)}, r"batch, height, width, channels.*float32 \[any, 64\]"),
        ({"outputs": ("first", "second")}, "one output, or one named logits. Received the outputs first, second"),
    ],
)
def test_a_file_with_other_inputs_or_outputs_is_refused(tmp_path, changes, words):
    onnx_file(tmp_path / "net.onnx", **changes)
    with pytest.raises(InputError, match=words):
        loading.load(tmp_path / "net.onnx")
