"""Students from functions, files and keras.applications; start weights, new heads, and what ships."""

import sys
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.models import deployable, heads, keras_applications, paths, precision, preprocessing
from skd_tf.models.student import StudentSettings, architecture_fingerprint, make_student
from skd_tf.models.sync_batch_norm import is_synchronized, synchronized
from skd_tf.training import experiment
from tests.helpers.runs import ALONE

SMALL = ALONE | {"epochs": 2}


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


MY_NETS = """
import functools, keras
def small(shape, classes, *, start=(), scale=False, activation=None, end=()):
    layers = [keras.Input(shape), *start] + [keras.layers.Rescaling(1 / 255)] * scale
    layers += [keras.layers.Conv2D(4, 3, strides=2, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    layers += [keras.layers.Dense(classes, activation=activation, name="head"), *end]
    return keras.Sequential(layers, name="small")
scaled = functools.partial(small, scale=True)
softmaxed = functools.partial(scaled, activation="softmax")
class Unknown(keras.layers.Layer):
    def call(self, x):
        return 2 * x
@keras.saving.register_keras_serializable("my_nets")
class Known(Unknown):
    pass
normalized = lambda shape, classes: small(shape, classes, start=[keras.layers.Normalization()])
nested = lambda shape, classes: keras.Sequential([keras.Input(shape), normalized(shape, classes)])
narrow = lambda shape, classes: small(shape, classes - 1)
nothing = lambda shape, classes: None
unknown = lambda *facts: scaled(*facts, end=[Unknown()])
known = lambda *facts: scaled(*facts, end=[Known()])
lambda_ = lambda *facts: scaled(*facts, end=[keras.layers.Lambda(lambda x: 2 * x)])
"""


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    """The file of the module my_nets."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_nets.py").write_text(MY_NETS)
    yield tmp_path / "my_nets.py"
    sys.modules.pop("my_nets", None)


def build(digits, **settings):
    return make_student(StudentSettings(**settings), digits)


def cnn_4(num_classes=10, height=8):
    return networks.build("cnn_4", input_shape=(height, 8, 1), num_classes=num_classes, seed=3)


def on_sphere(model):
    """As a workdir holds it."""
    return deployable.deployable(model, "sphere", radius=6, center=True)


def equal(one, other):
    """True for each weight of two networks that is the same in both."""
    return [np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]


def kinds(model):
    return {type(layer).__name__ for layer in model.layers}


def test_a_function_makes_the_student_and_the_seed_its_weights(my_nets, digits, capsys):
    one, again, other = (build(digits, student="my_nets:small", seed=seed) for seed in (0, 0, 1))
    assert all(equal(one, again)) and not equal(one, other)[0]
    assert "is given digits's mean and std" in capsys.readouterr().out
    images = digits.train.images[:5].astype("float32")
    expected = one.get_layer("small")((images / 255 - np.array(digits.mean)) / np.array(digits.std))
    np.testing.assert_allclose(one(images), expected, atol=1e-5)
    assert build(digits, student="my_nets:scaled").layers[0].name.startswith("rescaling")  # it has a Rescaling already
    assert "Rescaling" not in kinds(build(digits, student="my_nets:small", student_preprocessing="raw"))
    assert build(digits, student="my_nets:known").output_shape == (None, 10)  # Keras knows its layer


def test_the_fingerprint_depends_on_the_function_not_on_names_or_precision():
    def net(activation="relu", rate=0.1, middle=()):
        layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation=activation)]
        layers += [keras.layers.BatchNormalization(), *middle, keras.layers.Dropout(rate)]
        layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.Sequential(layers)])

    same = net(), net(), synchronized(net()), precision.set_precision(net(), "bfloat16")
    others = net("tanh"), net(rate=0.2), net(middle=[keras.layers.ReLU()])
    prints = [architecture_fingerprint(one) for one in (*same, *others)]
    assert len(set(prints[:4])) == 1 and len(set(prints)) == 4
    # As Keras names the layer of the first network in a process and of the second: the first name is also a setting.
    elus = [net("elu", middle=[keras.layers.ELU(name=name)]) for name in ("elu", "elu_1")]
    assert architecture_fingerprint(elus[0]) == architecture_fingerprint(elus[1])


def test_batch_norm_inside_a_wrapper_cannot_be_synchronized():
    def net(**settings):
        inside = keras.layers.TimeDistributed(keras.layers.BatchNormalization(**settings))
        return keras.Sequential([keras.Input((8, 8, 1)), inside, keras.layers.GlobalAveragePooling2D()])

    with pytest.raises(InputError, match="cannot be synchronized"):
        synchronized(net())
    assert is_synchronized(synchronized(net(synchronized=True)))


def test_a_softmax_is_removed(my_nets, digits, capsys):
    keras.utils.set_random_seed(0)
    import my_nets as module

    probabilities = module.softmaxed(digits.image_shape, 10)
    images = digits.train.images[:5].astype("float32")
    logits = build(digits, student="my_nets:softmaxed")
    assert "softmax" in capsys.readouterr().out
    np.testing.assert_allclose(keras.ops.softmax(logits(images)), probabilities(images), atol=1e-6)
    plain = module.small(digits.image_shape, 10)
    for end in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        stripped, found = heads.without_softmax(keras.Sequential([plain, end]))
        assert found
        np.testing.assert_allclose(stripped(images), plain(images), atol=1e-6)
    assert heads.without_softmax(plain)[1] is False


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("my_nets:narrow", "other classes.*10.*9"),
        ("my_nets:nothing", "does not return a model.*NoneType"),
        ("my_nets:missing", "no such function"),
        # Otherwise found only after training, when the student is saved and measured.
        ("my_nets:unknown", "cannot be saved and loaded again.*register_keras_serializable"),
        ("my_nets:lambda_", "cannot be saved and loaded again.*Lambda"),
        ("unknown_nets:small", "no module.*Check the name and the folder"),
        ("keras_applications:MobileNet", "no module.*Did you mean keras.applications"),
        ("nowhere.keras", "No model there"),
    ],
)
def test_a_wrong_student_is_one_line(my_nets, digits, student, words):
    with pytest.raises(InputError, match=words):
        build(digits, student=student)


def test_a_file_keeps_its_weights_and_gets_a_head_for_the_datasets_classes(digits, tmp_path, capsys):
    net, seven, path = on_sphere(cnn_4()), deployable.stock_copy(cnn_4(7)), str(tmp_path / "net.keras")
    net.save(path)
    images = digits.train.images[:5].astype("float32")
    raw, student = deployable.without_sphere(net)(images), build(digits, student=path)
    np.testing.assert_allclose(student(images), raw, atol=1e-5)  # not the logits on the sphere
    assert student.name == "cnn_4"
    seven.save(path)
    fresh = build(digits, student=path)
    out = capsys.readouterr().out
    assert "head logits" in out and "7 classes" in out and fresh.output_shape == (None, 10)
    assert all(equal(fresh, seven)[:-2]) and fresh.get_weights()[-2].std() > 0.01
    deployable.stock_copy(cnn_4(height=9)).save(path)
    with pytest.raises(InputError, match=r"other images.*\(8, 8, 1\).*\(9, 8, 1\)"):
        build(digits, student=path)


def test_a_new_head_before_a_reshape(digits, tmp_path):
    """Logits `[batch, 1, 1, classes]` of a file are reshaped."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(keepdims=True)]
    keras.Sequential([keras.Input([8, 8, 1]), *layers, keras.layers.Dense(7)]).save(tmp_path / "net.keras")
    assert build(digits, student=str(tmp_path / "net.keras")).output_shape == (None, 10)


def test_start_weights(digits, tmp_path, capsys):
    ten, seven = cnn_4(), cnn_4(7)
    on_sphere(ten).save(tmp_path / "student.keras")
    deployable.stock_copy(seven).save(tmp_path / "seven.keras")
    assert all(equal(build(digits, student="cnn_4", student_checkpoint=str(tmp_path)), ten))
    mine = build(digits, student="cnn_4", student_checkpoint=str(tmp_path / "seven.keras"))
    assert "head logits is new: 7 classes there, 10 here" in capsys.readouterr().out
    assert all(equal(mine, seven)[:-2]) and all(equal(mine, build(digits, student="cnn_4"))[-2:])
    for other, words in (("cnn_8", "of shape"), ("resnet8", "another network")):
        with pytest.raises(InputError, match=words):
            build(digits, student=other, student_checkpoint=str(tmp_path))


@pytest.mark.parametrize("student", ["normalized", "nested"])
def test_start_weights_hold_the_statistics_of_a_normalization(my_nets, digits, tmp_path, student):
    import my_nets as module

    keras.utils.set_random_seed(5)
    trained, images = getattr(module, student)(digits.image_shape, 10), digits.train.images[:50].astype("float32")
    (layer,) = (one for one in trained._flatten_layers() if isinstance(one, keras.layers.Normalization))
    layer.adapt(images + 40)
    trained.save(tmp_path / "trained.keras")
    settings = {"student": f"my_nets:{student}", "student_preprocessing": "raw"}
    mine = build(digits, student_checkpoint=str(tmp_path / "trained.keras"), **settings)
    np.testing.assert_allclose(mine(images), trained(images), atol=1e-5)
    assert np.abs(build(digits, **settings)(images) - trained(images)).max() > 0.1
    np.testing.assert_allclose(deployable.stock_copy(mine)(images), trained(images), atol=1e-5)


@pytest.mark.slow
def test_a_function_trains_ships_and_starts_again_from_its_workdir_but_must_not_change(my_nets, tmp_path):
    config = Config(**SMALL | {"student": "my_nets:small"}, ema_momentum=0.5)
    run, shipped = tmp_path / "run", tmp_path / "run" / "student.keras"
    first = experiment.run(config, run)["student"]
    assert first["parameters"] == 4 * 10 + 5 * 10
    assert keras.models.load_model(shipped).input_shape == (None, 8, 8, 1)
    again = experiment.run(config.replace(student_checkpoint=str(run)), tmp_path / "again")["student"]
    assert again["nll"] < first["nll"]
    file = experiment.run(config.replace(student=str(shipped)), tmp_path / "file")["student"]
    assert file["nll"] == pytest.approx(again["nll"], rel=1e-4)
    (run / "result.json").unlink()
    my_nets.write_text(MY_NETS.replace('activation="relu"', 'activation="tanh"'))
    sys.modules.pop("my_nets")
    with pytest.raises(InputError, match="student has changed since this run began"):
        experiment.run(config, run)


KINDS = {
    "MobileNetV2": "tf",
    "ResNet50": "caffe",
    "DenseNet121": "torch",
    "EfficientNetB0": "raw",
    "ConvNeXtTiny": "raw",
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_preprocessing_of_applications_equals_that_of_keras(name, kind):
    module, images = keras_applications.names()[name], keras.Input((4, 4, 3))
    assert preprocessing.preprocessing_kind(module.preprocess_input) == kind
    pixels = np.random.default_rng(0).integers(0, 256, [2, 4, 4, 3]).astype("float32")
    if kind != "raw":
        mine = keras.Model(images, preprocessing.preprocess(images, kind))(pixels)
        np.testing.assert_allclose(mine, module.preprocess_input(pixels.copy()), atol=1e-4)


@pytest.mark.slow
def test_an_application_as_a_student(tmp_path):
    net = keras_applications.build("MobileNetV2", input_shape=(32, 32, 3), num_classes=7)
    bare = keras.applications.MobileNetV2(input_shape=(32, 32, 3), classes=7, weights=None, classifier_activation=None)
    bare.set_weights(net.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3]).astype("float32")
    expected = bare(keras.applications.mobilenet_v2.preprocess_input(pixels.copy()))
    np.testing.assert_allclose(net(pixels), expected, atol=1e-5)
    on_sphere(net).save(tmp_path / "net.keras")
    assert keras.models.load_model(tmp_path / "net.keras", safe_mode=True).output_shape == (None, 7)


def test_a_folder_called_like_an_application_does_not_change_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = paths.file_fingerprint("keras.applications:ResNet50")
    (tmp_path / "ResNet50").mkdir()  # a workdir
    assert paths.file_fingerprint("keras.applications:ResNet50") == before


def test_applications_without_weights_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"^The weights of .* not on this machine.*mobilenet_v2_weights.*--download"):
        keras_applications.build("MobileNetV2", pretrained=True)
    assert file_utils.urlretrieve.__module__ == "urllib.request"  # put back
    with pytest.raises(InputError, match="Did you mean ResNet50"):
        keras_applications.build("ResNt50")
    with pytest.raises(InputError, match="--image_size"):
        keras_applications.build("MobileNetV2", input_shape=(8, 8, 3), num_classes=10)


def test_weights_that_cannot_be_downloaded_are_one_line_with_their_place(monkeypatch, tmp_path):
    def without_network(*_):
        raise urllib.error.URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(urllib.request, "urlretrieve", without_network)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    words = rf"cannot be downloaded \(.*name resolution.*the file {tmp_path}/models/mobilenet_v2_weights.*Received http"
    with pytest.raises(InputError, match=words):
        keras_applications.build("MobileNetV2", pretrained=True, download=True)
