"""Grey images of the dataset and models for RGB images: teachers, measured models and students."""

import keras
import numpy as np
import pytest

from skd_tf import data
from skd_tf.models import deployable, keras_applications, loading
from skd_tf.models.student import StudentSettings, make_student

CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # blue, green, red
TORCH_MEAN, TORCH_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture(scope="module")
def rgb():
    """A network whose logits depend on each channel in another way."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(10)], name="rgb")


@pytest.fixture(scope="module")
def rgb_file(rgb, tmp_path_factory):
    path = tmp_path_factory.mktemp("rgb") / "rgb.keras"
    rgb.save(path)
    return path


@pytest.fixture
def pixels(digits):
    """Grey images and, in float64, their red, green and blue."""
    grey = digits.train.images[:6]
    return grey, np.repeat(grey.astype(np.float64), 3, axis=-1)


def preprocessed(rgb_pixels, kind, dataset):
    if kind == "raw":
        return rgb_pixels
    if kind == "caffe":
        return rgb_pixels[..., ::-1] - CAFFE_MEAN
    mean, std = (TORCH_MEAN, TORCH_STD) if kind == "torch" else (dataset.mean[0], dataset.std[0])
    return (rgb_pixels / 255 - mean) / std


@pytest.mark.parametrize("kind", ["raw", "standard", "torch", "caffe"])
def test_a_teacher_for_rgb_images_gets_equal_red_green_and_blue(kind, rgb, rgb_file, digits, pixels, capsys):
    teacher = loading.load_teacher(
        rgb_file, name="", dataset=digits, teacher_precision="float32", teacher_preprocessing=kind
    )
    expected = rgb(preprocessed(pixels[1], kind, digits).astype("float32")).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(teacher(pixels[0].astype("float32")).numpy() / scale, expected / scale, atol=1e-5)
    assert "rgb.keras takes RGB images: it gets the grey ones of digits as equal red, green" in capsys.readouterr().out


def test_an_exported_or_measured_model_for_rgb_images_gets_grey_ones(rgb, rgb_file, digits, pixels, tmp_path):
    rgb.export(tmp_path / "exported", verbose=False)
    expected = rgb(pixels[1].astype("float32")).numpy()
    for path in (rgb_file, tmp_path / "exported"):
        model = loading.load_measured(path, digits)
        np.testing.assert_allclose(model(pixels[0].astype("float32")).numpy(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["auto", "torch", "caffe"])
def test_a_student_for_rgb_images_learns_from_grey_ones_and_ships(kind, rgb, rgb_file, digits, pixels, tmp_path):
    settings = StudentSettings(student=str(rgb_file), student_preprocessing=kind)
    student = make_student(settings, digits)
    expected = rgb(preprocessed(pixels[1], "raw" if kind == "auto" else kind, digits).astype("float32")).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(student(pixels[0].astype("float32")).numpy() / scale, expected / scale, atol=1e-5)
    deployable.stock_copy(student).save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras", compile=False, safe_mode=True)
    assert again.input_shape == (None, 8, 8, 1)
    np.testing.assert_array_equal(again(pixels[0].astype("float32")), student(pixels[0].astype("float32")))


def test_networks_of_keras_applications_take_grey_images_and_start_from_weights_for_rgb_ones(tmp_path):
    name = "keras.applications:MobileNet"
    start = keras_applications.build("MobileNet", input_shape=(32, 32, 3), num_classes=7)
    start.save(tmp_path / "start.keras")

    class Grey:
        image_shape, num_classes, name, mean, std = (32, 32, 1), 7, "grey", (0.5,), (0.2,)

    settings = StudentSettings(student=name, student_checkpoint=str(tmp_path / "start.keras"))
    student = make_student(settings, Grey)
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype("float32")
    np.testing.assert_allclose(student(grey), start(np.repeat(grey, 3, axis=-1)), atol=1e-6)
