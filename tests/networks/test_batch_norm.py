"""FusedBatchNormalization against float64 numpy and against Keras' own layer, eager, in graphs and under XLA."""

import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import Distiller, networks
from skd_tf.models import deployable, precision
from skd_tf.networks.batch_norm import FusedBatchNormalization
from tests.helpers.nets import batches, distance, run, weights_of

EPSILON = 1e-5
IMAGES = (3, 4, 5, 6)
KINDS = (keras.layers.BatchNormalization, FusedBatchNormalization)


def layer_pair(shape=IMAGES, **options):
    """Keras' layer and ours with the same random weights."""
    pair = [kind(momentum=0.9, epsilon=EPSILON, **options) for kind in KINDS]
    for layer in pair:
        layer.build(shape)
        random = np.random.default_rng(3)
        layer.set_weights([random.uniform(0.5, 2.0, weight.shape) for weight in layer.weights])
    return pair


def images_and_direction(dtype="float32", shape=IMAGES, seed=0):
    random = np.random.default_rng(seed)
    scale = np.r_[3e-3, np.linspace(1, 3, shape[-1] - 1)]  # epsilon matters in the first channel
    images = (random.normal(size=shape) + 1.0) * scale
    return tf.cast(images, dtype), tf.cast(random.normal(size=shape), dtype)


def step_of(layer, *, training, jit_compile=None):
    """f(images, direction) -> outputs, and gradients to images, gamma and beta."""

    def step(images, direction):
        weights = [weight.value for weight in (layer.gamma, layer.beta) if weight is not None]
        with tf.GradientTape() as tape:
            tape.watch([images, *weights])
            outputs = layer(images, training=training)
        return outputs, *tape.gradient(outputs, [images, *weights], output_gradients=direction)

    return step if jit_compile is None else tf.function(step, jit_compile=jit_compile)


def by_hand(layer, images, direction):
    """Outputs, gradients and moving statistics of a training step."""
    gamma, beta, mean, variance = (weight.numpy().astype("float64") for weight in layer.weights)
    x, dy = (tf.cast(tensor, "float64").numpy() for tensor in (images, direction))
    batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    inverse = 1 / np.sqrt(batch_variance + EPSILON)
    unit = (x - batch_mean) * inverse
    dx = gamma * inverse * (dy - dy.mean((0, 1, 2)) - unit * (dy * unit).mean((0, 1, 2)))
    moving = [0.9 * mean + 0.1 * batch_mean, 0.9 * variance + 0.1 * batch_variance]
    return [unit * gamma + beta, dx, (dy * unit).sum((0, 1, 2)), dy.sum((0, 1, 2))], moving


def assert_close(found, expected, tolerance):
    """Each tensor, channel by channel, within `tolerance` times the channel's largest value."""
    for one, other in zip(found, expected, strict=True):
        one, other = (np.atleast_2d(tf.cast(tensor, "float64")) for tensor in (one, other))
        channels = tuple(range(one.ndim - 1))
        assert (np.abs(one - other).max(channels) <= tolerance * np.abs(other).max(channels)).all()


@pytest.mark.parametrize(
    ("dtype", "jit_compile"),
    [
        *((dtype, jit) for dtype in ("float32", "bfloat16") for jit in (False, True)),
        ("float32", None),
        ("float16", False),
    ],
)
def test_training_follows_the_formula(dtype, jit_compile):
    """Half precision rounds the result of each pixel; sums over pixels are as exact as in float32."""
    _, layer = layer_pair(dtype="float32" if dtype == "float32" else f"mixed_{dtype}")
    images, direction = images_and_direction(dtype)
    (outputs, dx, *sums), moving = by_hand(layer, images, direction)
    found = step_of(layer, training=True, jit_compile=jit_compile)(images, direction)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, "float32", "float32"]
    assert_close(found[:2], [outputs, dx], 1e-5 + {"float32": 0, "bfloat16": 2**-8, "float16": 2**-11}[dtype])
    assert_close(found[2:], sums, 1e-5)
    assert_close([layer.moving_mean, layer.moving_variance], moving, 1e-6)


facts_of = operator.attrgetter("name", "shape", "dtype", "trainable")
OPTIONS = [{}, {"axis": 3, "scale": False}, {"center": False}, {"axis": 1}, {"dtype": "float64"}, {"renorm": True}]
OPTIONS += [{"trainable": False}]  # keeps its statistics


@pytest.mark.parametrize(
    ("shape", "options"), [*((IMAGES, options) for options in OPTIONS), ((8, 6), {}), ((4, 3, 6), {})]
)
def test_it_equals_keras_layer_over_several_steps_and_in_inference(shape, options):
    dtype, pair = options.get("dtype", "float32"), layer_pair(shape, **options)
    for training, seed in ((True, 0), (True, 1), (True, 2), (False, 3)):
        results = [step_of(layer, training=training)(*images_and_direction(dtype, shape, seed)) for layer in pair]
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    for one, other in zip(*(layer.weights for layer in pair), strict=True):
        assert facts_of(one) == facts_of(other)
        np.testing.assert_allclose(other.numpy(), one.numpy(), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_single_pixel_has_variance_zero(jit_compile):
    """The kernel's n / (n - 1) is undefined there."""
    _, layer = layer_pair()
    given = images_and_direction(shape=(1, 1, 1, 6))
    (outputs, *_), moving = by_hand(layer, *given)
    found = step_of(layer, training=True, jit_compile=jit_compile)(*given)
    np.testing.assert_allclose(found[0], outputs, rtol=1e-3)  # 1 / sqrt(epsilon) times the rounding of the images
    assert_close([layer.moving_mean, layer.moving_variance], moving, 1e-6)


def test_only_the_kernel_touches_the_images():
    """In half precision, no operation makes a float32 copy of the images."""
    _, layer = layer_pair(dtype="mixed_bfloat16")
    step = tf.function(step_of(layer, training=True)).get_concrete_function(*images_and_direction("bfloat16"))
    operations = step.graph.get_operations()
    kernels = [operation.type for operation in operations if "FusedBatchNorm" in operation.type]
    assert kernels == ["FusedBatchNormV3", "FusedBatchNormGradV3"]
    results = [tensor for operation in operations for tensor in operation.outputs]
    assert {tensor.dtype for tensor in results if tensor.shape.rank == 4} == {tf.bfloat16}


def test_xla_keeps_the_variance_of_a_channel_far_from_zero():
    """XLA's own version of the kernel computes E[x^2] - E[x]^2, which is wrong by 0.02 at mean / std = 100."""
    _, layer = layer_pair()
    images, direction = images_and_direction()
    images += 100.0
    (outputs, *_), _ = by_hand(layer, images, direction)
    found = step_of(layer, training=True, jit_compile=True)(images, direction)[0]
    np.testing.assert_allclose(found[..., 1:], outputs[..., 1:], atol=5e-4)


def small_net(dtype="float32"):
    network = networks.build("cnn_4", input_shape=(6, 6, 2), num_classes=5, seed=3)
    assert sum(type(layer) is FusedBatchNormalization for layer in network.layers) == 2
    return precision.set_precision(network, dtype)


@pytest.mark.parametrize(
    ("dtype", "jit_compile"), [pytest.param("float32", True, marks=pytest.mark.slow), ("bfloat16", False)]
)
def test_two_replicas_fed_the_same_images_equal_one(two_replicas, dtype, jit_compile):
    """BatchNorm sees half a batch on each of two replicas; equal halves must give the same result."""

    def network():
        layers = [keras.Input([6, 6, 2]), FusedBatchNormalization(momentum=0.9), keras.layers.Flatten()]
        layers += [keras.layers.Dense(5, kernel_initializer=keras.initializers.HeNormal(seed=1))]
        return precision.set_precision(keras.Sequential(layers), dtype)

    data = batches(3, size=8)
    doubled = [tuple(np.concatenate([part, part]) for part in batch) for batch in data]
    weights, means = [], []
    for strategy, given in ((tf.distribute.get_strategy(), data), (two_replicas, doubled)):
        with strategy.scope():
            distiller = Distiller(network(), loss="cross_entropy")
            distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit_compile)
        start = weights_of(distiller.student)
        means.append(run(distiller, given, steps_per_call=1))
        weights.append(weights_of(distiller.student))
    assert distance(*weights) < 1e-5 < 1e-2 < distance(weights[0], start)
    assert means[1]["loss"] == pytest.approx(means[0]["loss"], rel=1e-5)


def test_saving_and_configuration_survive(tmp_path):
    network = small_net("bfloat16")
    images = batches(1)[0][0]
    network(images, training=True)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in network.layers]
    np.testing.assert_array_equal(tf.cast(loaded(images), "float32"), tf.cast(network(images), "float32"))
    layer = network.layers[2]
    assert all(kind.from_config(layer.get_config()).get_config() == layer.get_config() for kind in KINDS)


def test_exported_models_contain_keras_layer_with_the_same_weights(tmp_path):
    network, images = small_net(), batches(1)[0][0]
    for seed in range(3):
        network(batches(1, seed=seed)[0][0], training=True)
    shipped = deployable.deployable(network, "raw", radius=1.0, center=True)
    shipped.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects={}, safe_mode=True)
    for model in (shipped, loaded):
        kinds = [type(layer) for layer in model._flatten_layers(include_self=False)]
        assert FusedBatchNormalization not in kinds and kinds.count(keras.layers.BatchNormalization) == 2
        np.testing.assert_allclose(model(images), network(images), rtol=1e-5, atol=1e-5)


def test_a_stock_copy_keeps_adapted_layers_and_operations():
    """An adapted Normalization, and operations that are not layers."""
    normalise = keras.layers.Normalization()
    normalise.adapt(np.random.default_rng(0).normal(3.0, 2.0, [50, 6, 6, 2]))
    images = keras.Input([6, 6, 2])
    model = keras.Model(images, keras.layers.Flatten()(normalise(images) * 2.0))
    given = batches(1)[0][0]
    np.testing.assert_allclose(deployable.stock_copy(model)(given), model(given), rtol=1e-6)
