"""Factors of the learning rate by layer: by definition in float64, 1 and 0 exactly, in every way of a step, and on resume."""

import contextlib

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.config.grammar import parse_layer_rates
from skd_tf.distillation import layer_rates, optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.models import frozen_layers
from skd_tf.training.checkpoints import Checkpoints
from tests.helpers.nets import batches, conv_net, distance, run, weights_of
from tests.helpers.runs import ALONE, assert_same_run, train

pytestmark = pytest.mark.usefixtures("fresh_layer_numbers")
RATES = "^conv2d_1$: 0.5, ^dense: 4"
FACTORS = [1, 1, 0.5, 0.5, 4, 4]  # kernel and bias of three layers
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.01, l2=0.1, global_clipnorm=0.5),
    "decoupled": lambda: optimizers.SGD(0.01, momentum=0.5, weight_decay=0.1, use_ema=True, ema_momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}


def factors(student, rates):
    return layer_rates.factors_of(student, layer_rates.layers_of(student, rates))


def trained(rates, *, optimizer="sgd", steps=3, dtype="float64", strategy=None, jit_compile=False, micro_batches=1):
    """(the weights before and after each step, the Distiller)."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller = Distiller(conv_net(1, dtype=dtype), conv_net(2, dtype=dtype), "kd")
        options = {"jit_compile": jit_compile, "micro_batches": micro_batches, "layer_rates": rates}
        distiller.compile(OPTIMIZERS[optimizer](), **options)
    found = [[weight.numpy() for weight in distiller.student.trainable_variables]]
    for batch in batches(steps, 16, dtype=dtype):
        run(distiller, [batch])
        found.append([weight.numpy() for weight in distiller.student.trainable_variables])
    return found, distiller


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def change_of(optimizer, index, before, rate):
    """A step's change of one weight in float64 numpy, from what the optimizer keeps after it."""
    if isinstance(optimizer, keras.optimizers.AdamW):
        first, second = (moments[index].numpy() for moments in (optimizer._momentums, optimizer._velocities))
        step = optimizer.iterations.numpy()
        correction = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)  # with Adam's "epsilon hat", as in Keras
        return -rate * (0.1 * before + correction * first / (np.sqrt(second) + 1e-7))
    decoupled = optimizer.weight_decay or 0.0
    return -rate * (decoupled * before + optimizer.momentums[index].numpy())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", pytest.param("decoupled", marks=pytest.mark.slow)])
def test_a_step_by_definition(optimizer):
    found, distiller = trained(RATES, optimizer=optimizer, steps=2)
    for index, (factor, before, after) in enumerate(zip(FACTORS, found[-2], found[-1], strict=True)):
        expected = change_of(distiller.optimizer, index, before, 0.01 * factor)
        np.testing.assert_allclose(after - before, expected, rtol=1e-5, atol=1e-12)
        assert np.abs(expected).max() > 1e-6
    if distiller.optimizer.use_ema:  # the average is that of the scaled weights
        for first, last, average in zip(*found[1:], distiller.optimizer._model_variables_moving_average, strict=True):
            np.testing.assert_allclose(average.numpy(), 0.9 * first + 0.1 * last, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_factor_one_is_no_factor_and_factor_zero_changes_nothing(optimizer):
    options = {"optimizer": optimizer, "dtype": "float32"}
    plain, _ = trained("", **options)
    ones, _ = trained({"^conv2d": 1, "dense": 1.0}, **options)
    assert same(plain[-1], ones[-1])
    zeros, _ = trained("^conv2d$: 0", **options)
    assert same(zeros[0][:2], zeros[-1][:2]) and not same(zeros[0][2:], zeros[-1][2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        pytest.param({"jit_compile": True, "micro_batches": 2}, marks=pytest.mark.slow),
        {"replicas": True},
        pytest.param({"replicas": True, "jit_compile": True, "micro_batches": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("decoupled", marks=pytest.mark.slow)])
def test_every_way_of_a_step_agrees(way, optimizer, two_replicas):
    options = {"steps": 2} | way
    strategy = two_replicas if options.pop("replicas", False) else None
    expected = weights_of(trained(RATES, optimizer=optimizer, steps=2)[1].student)
    _, distiller = trained(RATES, optimizer=optimizer, strategy=strategy, **options)
    assert distance(expected, weights_of(distiller.student)) < 1e-10


def test_the_first_match_counts_and_frozen_layers_have_no_rate():
    student = conv_net(1)
    student.layers[0].trainable = False
    assert factors(student, {"_1$": 0.5, "conv|dense": 2}) == (0.5, 0.5, 2, 2)
    assert factors(student, {"conv": 1}) == factors(student, {}) == ()
    for rates in ({"^conv2d$": 3}, {"conv": 2, "_1$": 3}, {"nothing": 2}):
        with pytest.raises(InputError, match=r"--layer_rates has an expression that matches no trained.*--list_layers"):
            factors(student, rates)


def test_projectors_of_features_have_the_optimizers_rate():
    distiller = Distiller(conv_net(1), conv_net(2), "kd", feature_pairs="re_lu_1:re_lu_1")
    distiller.compile("sgd", layer_rates={"dense": 0, "conv2d$": 2})
    assert distiller._rate_factors == (2, 2, 1, 1, 0, 0, 1, 1) and len(distiller.trained_variables) == 8
    distiller.compile("sgd")
    assert distiller._rate_factors == ()


def test_the_text_and_its_errors():
    text = " ^stage[12]_(?:conv|bn): .10, a{1,2}:0 ,^logits:1e1"
    assert parse_layer_rates(text) == {"^stage[12]_(?:conv|bn)": 0.1, "a{1,2}": 0, "^logits": 10}
    assert Config(layer_rates=text).layer_rates == "^stage[12]_(?:conv|bn): 0.1, a{1,2}: 0, ^logits: 10"
    for wrong, words in (
        ("^logits", "is not a list"),
        ("^logits: -1", "is not a list"),
        ("a: 1, a: 2", "a twice"),
        ("(: 2", "does not parse"),
        (": 2", "is not a list"),
    ):
        with pytest.raises(
            InputError, match=rf"--layer_rates .*{words}.* Expected .* Received --layer_rates="
        ) as error:
            Config(layer_rates=wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="layer_rates"):
        layer_rates.as_rates({"a": float("nan")})


def test_a_run_refuses_a_name_that_its_student_does_not_have(tmp_path):
    with pytest.raises(
        InputError, match=r"--layer_rates .*stage1_conv.*Received --layer_rates=\^block: 2\..*--list_layers"
    ):
        train(tmp_path, ALONE, layer_rates="^block: 2, ^stage: 1")


@pytest.mark.slow
def test_a_run_resumes_exactly(tmp_path):
    settings = ALONE | {"optimizer": "adamw", "learning_rate": 0.01, "layer_rates": "^stage: 0.1", "epochs": 2}
    resumed = tmp_path / "resumed"
    for folder in (tmp_path / "whole", resumed):
        train(folder, settings)
    for name in ("result.json", "measurements.json"):
        (resumed / name).unlink()
    Checkpoints(resumed / "checkpoints").paths()[-1].unlink()
    train(resumed, settings)
    assert_same_run(resumed, tmp_path / "whole")
    train(tmp_path / "plain", settings, layer_rates="")
    with pytest.raises(AssertionError):
        assert_same_run(resumed, tmp_path / "plain")


def test_names_are_read_once_as_those_of_a_run():
    keras.layers.Conv2D(1, 1)  # takes the name conv2d: Keras' conv2d_1 is the first convolution of the student
    distiller = Distiller(conv_net(1), None, "kd")
    with frozen_layers.numbered_in_the_model():
        distiller.compile("sgd", layer_rates="^conv2d_1$: 0.5")
    distiller.teacher = conv_net(2)
    assert distiller._rate_factors == (1, 1, 0.5, 0.5, 1, 1)
