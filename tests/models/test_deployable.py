"""What ships has stock layers and no teacher, and gives the same numbers in a process that cannot import skd_tf."""

import keras
import numpy as np
import pytest

from skd_tf import losses, networks
from skd_tf.models import deployable, precision
from skd_tf.serving import saved_model
from tests.helpers.commands import python
from tests.helpers.nets import batches, conv_net

# argv[1] is a folder with student.keras, saved_model and images.npy. Prints the kinds of layers, writes the outputs.
_LOAD = """
import sys
sys.modules["skd_tf"] = None  # importing it is an error
import keras, numpy as np, tensorflow as tf
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
model = keras.models.load_model(folder + "/student.keras")
served = tf.saved_model.load(folder + "/saved_model").signatures["serving_default"](images=tf.constant(images))
served["label"] = served["label"].numpy().astype(str)
np.savez(folder + "/out.npz", keras=model.predict(images.astype("float32"), verbose=0), **served)
print({type(l).__module__.split(".")[0] for l in model._flatten_layers()})
"""


def cnn_4():
    return networks.build("cnn_4", input_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,), seed=3)


@pytest.mark.parametrize(("readout", "center"), [("raw", True), ("sphere", True), ("sphere", False)])
def test_stock_layers_take_probabilities_where_the_loss_does(readout, center):
    student, images = conv_net(1), batches(1)[0][0]
    model = deployable.deployable(student, readout, radius=7.0, center=center)
    expected = losses.readout(student(images), readout, 7.0, center)
    np.testing.assert_allclose(model(images), expected, atol=2e-6)
    if readout == "sphere":  # weight decay shrinks the logits of a student whose loss ignores their scale
        student.layers[-1].kernel.assign(1e-3 * student.layers[-1].kernel)
        shrunk = deployable.deployable(student, readout, radius=7.0, center=center)
        np.testing.assert_allclose(shrunk(images), expected, atol=2e-4)


def test_a_half_precision_student_ships_in_float32():
    student, plain = precision.set_precision(cnn_4(), "bfloat16"), cnn_4()
    images = np.random.default_rng(0).integers(0, 256, [9, 8, 8, 1]).astype("float32")
    assert student(images).dtype == "bfloat16" and all(w.dtype == "float32" for w in student.weights)
    model = deployable.deployable(student, "raw", radius=1.0, center=True)
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    np.testing.assert_allclose(model(images), plain(images), atol=1e-6)
    layers = [keras.layers.SpectralNormalization(keras.layers.Conv2D(4, 3)), keras.layers.Flatten()]
    wrapped = precision.set_precision(keras.Sequential([keras.Input([8, 8, 1]), *layers]), "bfloat16")
    model = deployable.stock_copy(wrapped)
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}


@pytest.mark.slow
def test_both_formats_give_the_same_numbers_without_skd_tf(tmp_path):
    student, names = cnn_4(), [f"digit {i}" for i in range(10)]
    model = deployable.deployable(student, "sphere", radius=6.3, center=True)
    model.save(tmp_path / "student.keras")
    saved_model.save_saved_model(model, tmp_path / "saved_model", names)
    images = np.random.default_rng(0).integers(0, 256, [20, 8, 8, 1], np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert python("-c", _LOAD, tmp_path).splitlines()[-1] == "{'keras'}"
    out, expected = np.load(tmp_path / "out.npz"), losses.project(student(images.astype("float32")), 6.3).numpy()
    for name in ("keras", "logits"):
        np.testing.assert_allclose(out[name], expected, atol=1e-5)
    np.testing.assert_allclose(out["probabilities"], keras.ops.softmax(expected), atol=1e-6)
    assert np.array_equal(out["class_id"], expected.argmax(1)) and out["class_id"].dtype == np.int64
    assert list(out["label"]) == [names[i] for i in expected.argmax(1)]
