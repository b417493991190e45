"""Folding changes no output, folds exactly what can be folded, and leaves the original unchanged."""

import types

import keras
import numpy as np
import pytest

from skd_tf import networks
from skd_tf.models import loading
from skd_tf.models.fold_batch_norm import fold_batch_norm
from skd_tf.networks.batch_norm import FusedBatchNormalization
from tests.helpers.nets import weights_of

layers = keras.layers


def with_random_statistics(model, seed=0):
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                low, high = (-0.5, 0.5) if weight.name in ("moving_mean", "beta") else (0.5, 1.5)
                weight.assign(random.uniform(low, high, weight.shape))
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(random.normal(size=layer.bias.shape))
    return model


def images_for(model, count=3):
    return np.random.default_rng(1).uniform(0, 255, [count, *model.input_shape[1:]]).astype("float32")


def relative_difference(one, other):
    """Relative to the largest distance of a logit from the mean of its image's logits."""
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    return np.abs(one - other).max() / np.abs(one - one.mean(-1, keepdims=True)).max()


def folded(model, expected):
    """The folded model, which has `expected` folds and gives the same outputs."""
    found, images = fold_batch_norm(model), images_for(model)
    assert found.folding == expected and type(found) is type(model) and found.name == model.name
    assert relative_difference(model(images), found(images)) < 1e-5
    return found


def every_case(dtype):
    """A net with each kind of BatchNorm that folds (named yes...) and each reason not to fold (named no...)."""
    keras.config.set_dtype_policy(dtype)
    try:
        images = keras.Input([8, 8, 3])
        scaled = layers.Rescaling(1 / 255)(images)
        x = layers.BatchNormalization(name="no_nothing_before")(scaled)
        x = layers.BatchNormalization(name="yes_conv")(layers.Conv2D(6, 3, strides=2, use_bias=False)(x))
        x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
        x = layers.BatchNormalization(name="yes_depthwise", scale=False)(x)
        x = layers.BatchNormalization(name="yes_separable", center=False)(layers.SeparableConv2D(8, 1)(x))
        x = FusedBatchNormalization(name="yes_grouped", axis=3)(layers.Conv2D(8, 1, groups=2)(x))
        x = layers.BatchNormalization(name="no_activation")(layers.Conv2D(8, 1, activation="relu")(x))
        x = layers.BatchNormalization(name="no_padding_between")(layers.ZeroPadding2D(1)(layers.Conv2D(3, 1)(x)))
        x = layers.BatchNormalization(name="no_other_axis", axis=1)(layers.Conv2D(4, 1)(x))
        read_twice = layers.Conv2D(4, 1)(x)
        x = layers.BatchNormalization(name="no_read_twice")(read_twice) * 2.0 + read_twice
        called_twice = layers.Conv2D(4, 1)
        x = called_twice(layers.BatchNormalization(name="no_called_twice")(called_twice(x)))
        inner = [layers.Conv2D(4, 1), layers.BatchNormalization(name="yes_inside_a_graph_called_twice"), layers.ReLU()]
        inner = keras.Sequential([keras.Input(x.shape[1:]), *inner], name="inner")
        shared = layers.BatchNormalization(name="no_shared")
        x = shared(layers.Conv2D(4, 1)(inner(inner(x))))
        x = layers.Flatten()(shared(layers.Conv2D(4, 1)(x)))
        x = layers.BatchNormalization(name="yes_dense")(layers.Dense(5)(x))
        seen = layers.Dense(5)(x)
        return keras.Model(images, [layers.BatchNormalization(name="no_is_an_output")(seen), seen], name="every_case")
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), pytest.param("float32", 1e-5, marks=pytest.mark.slow)]
)
def test_it_folds_what_it_can_and_changes_nothing(dtype, tolerance):
    model = with_random_statistics(every_case(dtype))
    before, calls = weights_of(model), [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    found, images = fold_batch_norm(model), images_for(model)
    names = {layer.name for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)}
    without = {layer.name for layer in found._flatten_layers() if isinstance(layer, layers.Identity)}
    assert without == {name for name in names if name.startswith("yes")}
    assert found.folding == (6, len(names)) and found.name == model.name
    for one, other in zip(model(images), found(images), strict=True):
        assert other.dtype == dtype and relative_difference(one, other) < tolerance
    np.testing.assert_array_equal(weights_of(model), before)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == calls


@pytest.mark.parametrize(("name", "expected"), [("resnet8", (9, 9)), ("wrn_16_1", (6, 13)), ("cnn_4", (2, 2))])
def test_our_networks(name, expected):
    folded(with_random_statistics(networks.build(name, input_shape=(16, 16, 3), num_classes=10)), expected)


APPLICATIONS = {"ResNet50": (53, 53), "EfficientNetB0": (49, 49), "DenseNet121": (59, 121), "ResNet50V2": (32, 49)}
SLOW = [pytest.param(*item, marks=pytest.mark.slow) for item in APPLICATIONS.items()]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "expected"), [("MobileNetV2", (52, 52)), *SLOW])
def test_keras_applications(make, expected):
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    options |= {"alpha": 0.35} if make == "MobileNetV2" else {}
    folded(with_random_statistics(getattr(keras.applications, make)(**options)), expected)


def sequential():
    parts = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(5)]
    return with_random_statistics(keras.Sequential([keras.Input([6, 6, 3]), *parts], name="sequence"))


def test_a_sequential_model_and_one_inside_another():
    """The outer one has an adapted Normalization: layers keep what they derive from their weights."""
    inner, images, normalise = sequential(), keras.Input([6, 6, 3]), layers.Normalization()
    normalise.adapt(np.random.default_rng(0).normal(100.0, 50.0, [50, 6, 6, 3]))
    for model in (inner, keras.Model(images, inner(normalise(images)))):
        folded(model, (1, 1))


def test_a_model_without_a_graph_or_without_folds_is_returned_unchanged():
    class Own(keras.Model):
        def __init__(self):
            images = keras.Input([6, 6, 3])
            super().__init__(images, layers.BatchNormalization()(layers.Conv2D(4, 1)(images)))

        def call(self, inputs, training=False):
            return -super().call(inputs, training=training)

    images = keras.Input([6, 6, 3])
    preactivation = layers.Flatten()(layers.Conv2D(2, 1)(layers.BatchNormalization()(images)))
    forced = keras.Model(images, sequential()(layers.Dropout(0.5)(images, training=True)))
    for model in (Own(), keras.Model(images, preactivation), forced, keras.Sequential([layers.Dense(3)])):
        assert fold_batch_norm(model) is model and not hasattr(model, "folding")


@pytest.mark.parametrize(
    ("teacher_precision", "tolerance"), [("float32", 1e-5), pytest.param("bfloat16", 0.03, marks=pytest.mark.slow)]
)
def test_a_teacher_is_folded_when_it_is_loaded(tmp_path, teacher_precision, tolerance):
    model = with_random_statistics(networks.build("resnet8", input_shape=(16, 16, 3), num_classes=10))
    file, images = tmp_path / "teacher.keras", images_for(model)
    model.save(file)
    train = types.SimpleNamespace(images=np.zeros([8, 16, 16, 3], np.uint8))
    facts = {"num_classes": 10, "image_shape": (16, 16, 3), "name": "images", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    dataset = types.SimpleNamespace(first_images=lambda most: train.images[:most], **facts)
    teacher = loading.load_teacher(file, name="resnet8", dataset=dataset, teacher_precision=teacher_precision)
    assert teacher.folding == (9, 9)
    assert loading.parameter_count(teacher) == loading.parameter_count(model)
    outputs = keras.ops.cast(teacher(images), "float32")
    assert relative_difference(model(images), outputs) < tolerance
    teacher.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(keras.ops.cast(loaded(images), "float32"), outputs)
