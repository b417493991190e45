"""What docs/devices.md says of replicas, case by case.

Two replicas equal one in weights, losses and metrics to rounding, without BatchNorm or with a synchronized one, and a
wrongly scaled loss makes them differ. With BatchNorm, Dropout and DIST each replica is as one device on its part.
"""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import losses
from skd_tf.config import Config
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.models import deployable
from skd_tf.runtime import replicas
from skd_tf.training import dry_run
from skd_tf.training.checkpoints import Checkpoints, state_of
from tests.helpers.nets import CLASSES, batches, conv_net, distance, make_distiller, run, weights_of


def trained(strategy, data, **settings):
    distiller = make_distiller(strategy, **settings)
    return distiller, run(distiller, data, steps_per_call=5)


@pytest.fixture(scope="module")
def plain():
    """The weights after five steps on one device."""
    return weights_of(trained(None, batches(5, size=16))[0].student)


@pytest.mark.slow
# Float32 training amplifies the rounding of two orders of a sum: to 1e-5 in 5 steps and to 1e-3 in 20.
@pytest.mark.parametrize(
    ("steps", "tolerance", "jit_compile"), [(20, 1e-3, False), pytest.param(5, 1e-5, True, marks=pytest.mark.slow)]
)
def test_two_replicas_equal_one(two_replicas, jit_compile, steps, tolerance):
    data = batches(steps, size=16)
    one, one_means = trained(None, data, jit_compile=jit_compile)
    two, two_means = trained(two_replicas, data, jit_compile=jit_compile)
    assert two.distribute_strategy.num_replicas_in_sync == 2
    assert distance(weights_of(one.student), weights_of(two.student)) < tolerance
    assert two_means == pytest.approx(one_means, rel=10 * tolerance)
    assert two.traces == 2  # one per replica


def test_in_float64_the_two_agree_to_rounding(two_replicas):
    data = batches(20, size=16, dtype="float64")
    one, _ = trained(None, data, dtype="float64")
    two, _ = trained(two_replicas, data, dtype="float64")
    assert distance(weights_of(one.student), weights_of(two.student)) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_wrong_scale_of_the_loss_is_seen(two_replicas, plain, factor):
    """The tests above prove nothing if they pass with half or twice the loss on replicas."""
    data = batches(5, size=16)
    two = make_distiller(two_replicas)
    inner = two._loss_and_gradients

    def scaled(*arguments):
        sums, counts, gradients, logits = inner(*arguments)
        return sums, counts, [factor * g for g in gradients], logits

    two._loss_and_gradients = scaled
    run(two, data)
    assert distance(plain, weights_of(two.student)) > 1e-3


@pytest.mark.slow
def test_a_regularizer_counts_once(two_replicas, plain):
    def distiller(strategy):
        made = make_distiller(strategy)
        made.student.layers[0].kernel.regularizer = keras.regularizers.L2(0.1)
        return made

    data, results = batches(5, size=16), []
    for strategy in (None, two_replicas):
        made = distiller(strategy)
        run(made, data)
        results.append(weights_of(made.student))
    assert distance(*results) < 1e-5 < 1e-3 < distance(results[0], plain)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [{"global_clipnorm": 1.5}, pytest.param({"clipnorm": 0.5}, marks=pytest.mark.slow)])
def test_clipping_sees_the_summed_gradient(two_replicas, clip):
    """At norms that clip some steps only: if all were clipped, a gradient twice as long would pass."""
    data = batches(5, size=16)

    def optimizer():
        return keras.optimizers.SGD(0.1, momentum=0.9, **clip)

    one, _ = trained(None, data, optimizer=optimizer)
    two, _ = trained(two_replicas, data, optimizer=optimizer)
    free, _ = trained(None, data, optimizer=lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    assert distance(weights_of(one.student), weights_of(two.student)) < 1e-5
    twice, _ = trained(None, data, optimizer=optimizer, kd_weight=1.8, label_weight=0.2)
    for other in (free, twice):
        assert distance(weights_of(one.student), weights_of(other.student)) > 1e-3


@pytest.mark.slow
def test_moving_statistics_are_the_mean_over_replicas_at_every_step(two_replicas):
    """Against the statistics of each replica's half batch, computed by hand."""
    ((images, labels),) = batches(1, size=16)
    two = make_distiller(two_replicas, batch_norm=True, optimizer=lambda: keras.optimizers.SGD(0.0))
    run(two, [(images, labels)])
    net = conv_net(1, batch_norm=True)
    halves = [net.layers[0](half).numpy() for half in (images[:8], images[8:])]
    mean = np.mean([half.mean((0, 1, 2)) for half in halves], axis=0)
    variance = np.mean([half.var((0, 1, 2)) for half in halves], axis=0)
    layer = two.student.layers[1]
    for variable, expected in ((layer.moving_mean, 0.1 * mean), (layer.moving_variance, 0.9 + 0.1 * variance)):
        copies = [copy.numpy() for copy in two_replicas.experimental_local_results(variable.value)]
        assert np.array_equal(copies[0], copies[1])
        np.testing.assert_allclose(copies[0], expected, rtol=1e-5, atol=1e-6)


def trained_by_hand(data, replica_count, learning_rate, momentum):
    """Weights after SGD in which each replica normalises its own rows, written out on one device without a strategy."""
    student, teacher = (conv_net(seed, batch_norm=True, dtype="float64") for seed in (1, 2))
    moving, weights = student.non_trainable_variables, student.trainable_variables
    velocities = [np.zeros(w.shape) for w in weights]
    for images, labels in data:
        before, after, gradients = [v.numpy() for v in moving], [], []
        for rows in np.split(np.arange(len(labels)), replica_count):
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)
            with tf.GradientTape() as tape:
                logits = student(images[rows], training=True)
                teacher_logits = teacher(images[rows], training=False)
                terms = losses.spherical_kd(logits, teacher_logits, labels[rows], radius=2 * CLASSES**0.5)
                loss = tf.reduce_sum(0.1 * terms["label"] + 0.9 * terms["distill"]) / len(labels)
            gradients.append(tape.gradient(loss, [w.value for w in weights]))
            after.append([v.numpy() for v in moving])
        for place, weight in enumerate(weights):
            velocities[place] = momentum * velocities[place] - learning_rate * sum(g[place] for g in gradients)
            weight.assign_add(velocities[place])
        for variable, *values in zip(moving, *after, strict=True):
            variable.assign(np.mean(values, axis=0))
    return weights_of(student)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batch_norm_equals_statistics_of_each_replica_by_hand(two_replicas, jit_compile):
    """In float64 only the rounding of 0.9 and 0.1, which are float32 variables, is left after eight steps."""
    data = batches(8, size=16, dtype="float64")
    two = make_distiller(two_replicas, batch_norm=True, dtype="float64", jit_compile=jit_compile)
    run(two, data, steps_per_call=3)
    assert distance(trained_by_hand(data, 2, 0.05, 0.9), weights_of(two.student)) < 1e-7
    assert distance(trained_by_hand(data, 1, 0.05, 0.9), weights_of(two.student)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param("float32", 1e-5, marks=pytest.mark.slow), ("float64", 1e-12)]
)
def test_synchronized_batch_norm_equals_one_replica(two_replicas, dtype, tolerance):
    data = batches(10, size=16, dtype=dtype)
    one, one_means = trained(None, data, batch_norm=True, dtype=dtype)
    two, two_means = trained(two_replicas, data, batch_norm=True, dtype=dtype, synchronize=True, jit_compile="auto")
    assert distance(weights_of(one.student), weights_of(two.student)) < tolerance
    assert two_means == pytest.approx(one_means, rel=10 * tolerance)
    assert (two.xla, "synchronized" in two.xla_reason) == (False, True)
    shipped = deployable.stock_copy(two.student)
    assert {type(layer) for layer in shipped.layers if "batch" in layer.name} == {keras.layers.BatchNormalization}
    np.testing.assert_allclose(shipped(data[0][0]), two.student(data[0][0]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_batch_norm_that_is_not_synchronized_differs_from_one_replicas(two_replicas):
    """The test above proves nothing if it passes with statistics of each half."""
    data = batches(10, size=16, dtype="float64")
    one, apart = (trained(strategy, data, batch_norm=True, dtype="float64")[0] for strategy in (None, two_replicas))
    assert distance(weights_of(one.student), weights_of(apart.student)) > 1e-3


def with_dropout(strategy, **settings):
    """A Distiller of a student with a Dropout in front of its only weights, one row of them for each of 1,600 pixels."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        images = keras.Input([40, 40, 1])
        kept = keras.layers.Dropout(0.5, seed=0)(keras.layers.Flatten()(images))
        student = keras.Model(images, keras.layers.Dense(CLASSES, kernel_initializer="zeros")(kept))
        distiller = Distiller(student, None, "cross_entropy")
        distiller.compile(keras.optimizers.SGD(0.1), **settings)
    return distiller


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_replicas_draw_their_own_dropout_masks_as_one_device_does_for_each_image(two_replicas, jit_compile):
    """A quarter of the pixels is in neither of two images' masks; with one mask for both replicas it would be half."""
    seeds = {}
    for strategy in (None, two_replicas):
        distiller = with_dropout(strategy, jit_compile=jit_compile)
        run(distiller, [(np.ones([2, 40, 40, 1], np.float32), np.array([0, 1], np.int32))])
        assert (distiller.student.layers[-1].kernel.numpy() == 0).all(axis=1).mean() == pytest.approx(0.25, abs=0.05)
        (state,) = [v for v in distiller.student.non_trainable_variables if "seed" in v.path]
        local = distiller.distribute_strategy.experimental_local_results(state.value)
        seeds[strategy] = [copy.numpy().tolist() for copy in local]
    assert seeds[two_replicas] == 2 * seeds[None]


@pytest.mark.slow
def test_with_dropout_two_replicas_resume_to_the_last_bit(two_replicas):
    images = np.random.default_rng(0).normal(size=[4, 2, 40, 40, 1]).astype(np.float32)
    data = [(batch, np.array([0, 1], np.int32)) for batch in images]
    straight, first, second = (with_dropout(two_replicas, jit_compile=False) for _ in range(3))
    run(straight, data)
    run(first, data[:2])
    for variable, value in zip(state_of(second).values(), state_of(first).values(), strict=True):
        variable.assign(value.numpy())
    run(second, data[2:])
    assert np.array_equal(weights_of(straight.student), weights_of(second.student))


@pytest.mark.slow
def test_dist_compares_the_images_of_one_replica(two_replicas):
    """Its term over the batch is the mean of the halves' own terms, and not that of the whole batch."""
    ((images, labels),) = batches(1, size=16)
    term, student, teacher = {}, conv_net(1), conv_net(2)
    for strategy in (None, two_replicas):
        distiller = make_distiller(strategy, loss="dist", optimizer=lambda: keras.optimizers.SGD(0.0))
        term[strategy] = run(distiller, [(images, labels)])["distill_loss"]

    def by_hand(rows):
        settings = {"temperature": 4.0}
        terms = losses.LOSSES["dist"].function(student(images[rows]), teacher(images[rows]), labels[rows], **settings)
        return float(tf.reduce_mean(terms["distill"]))

    whole, halves = by_hand(slice(16)), (by_hand(slice(8)) + by_hand(slice(8, 16))) / 2
    assert term[None] == pytest.approx(whole, rel=1e-5) and term[two_replicas] == pytest.approx(halves, rel=1e-5)
    assert abs(whole - halves) > 1e-3 * whole


def test_xla_and_synchronized_batch_norm_exclude_each_other(two_replicas):
    with pytest.raises(InputError, match="XLA cannot compile a synchronized BatchNorm"):
        make_distiller(two_replicas, batch_norm=True, synchronize=True, jit_compile=True)
    with pytest.raises(InputError, match=r"jit_compile.*excludes --sync_batch_norm"):
        Config(sync_batch_norm=True, jit_compile="true")
    text = dry_run.describe(Config(sync_batch_norm=True, virtual_devices=2, loss="cross_entropy"))
    assert "XLA            off (synchronized BatchNorm" in text


@pytest.mark.slow
def test_a_prediction_does_not_depend_on_the_order_of_rows(two_replicas):
    """Replicas with their own moving statistics would disagree by 0.2 here."""
    two = make_distiller(two_replicas, batch_norm=True)
    run(two, batches(10, size=16))
    ((images, _),) = batches(1, size=16, seed=7)
    for order in (np.roll(np.arange(16), 8), np.random.default_rng(0).permutation(16)):
        mixed = two.predict(images[order], batch_size=16, verbose=0)
        np.testing.assert_allclose(mixed, two.predict(images, batch_size=16, verbose=0)[order], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_saving_at_any_step_changes_nothing(two_replicas, tmp_path):
    data, saved, plain = batches(4), *(make_distiller(two_replicas, batch_norm=True) for _ in range(2))
    files = Checkpoints(tmp_path)
    for step, batch in enumerate(data):
        run(saved, [batch])
        files.save(saved, step)
    files.wait()
    for batch in data:
        run(plain, [batch])
    assert saved.means.result() == plain.means.result()
    for one, other in zip(state_of(saved).values(), state_of(plain).values(), strict=True):
        copies = [copy.numpy() for v in (one, other) for copy in two_replicas.experimental_local_results(v.value)]
        assert all(np.array_equal(copies[0], copy) for copy in copies)


@pytest.mark.slow
def test_a_replica_without_examples_keeps_all_finite(two_replicas):
    """17 examples in batches of 8 leave one, so one replica gets none: a mean over nothing is 0 / 0."""
    ((images, labels),) = batches(1, size=17)
    two = make_distiller(two_replicas, batch_norm=True)
    history = two.fit(images, labels, batch_size=8, verbose=0, shuffle=False).history
    assert np.isfinite(weights_of(two.student)).all() and np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_keras_fit_and_evaluate_on_two_replicas_equal_one(two_replicas):
    """With a ragged last batch: 21 examples in batches of 8 leave 5, 3 on one replica and 2 on the other."""
    ((images, labels),) = batches(1, size=21)
    histories, evaluations, weights = [], [], []
    for strategy in (None, two_replicas):
        distiller = make_distiller(strategy)
        distiller.compile(keras.optimizers.SGD(0.05), metrics=["sparse_categorical_accuracy"])
        options = {"batch_size": 8, "verbose": 0, "shuffle": False, "epochs": 2, "validation_data": (images, labels)}
        histories.append(distiller.fit(images, labels, **options).history)
        evaluations.append(distiller.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True))
        weights.append(weights_of(distiller.student))
        np.testing.assert_allclose(
            distiller.predict(images, batch_size=5, verbose=0), distiller.student(images), rtol=1e-4, atol=1e-5
        )
    assert distance(*weights) < 1e-5
    for one, two in (histories, evaluations):
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.slow
def test_a_regularizer_counts_once_where_a_replica_has_no_example(two_replicas):
    """17 examples in batches of 8 leave one: half of the regularizer would be lost with the empty replica."""
    ((images, labels),) = batches(1, size=17)
    weights = {}
    for factor in (0.0, 1.0):
        for strategy in (None, two_replicas):
            made = make_distiller(strategy)
            made.student.layers[0].kernel.regularizer = keras.regularizers.L2(factor)
            made.fit(images, labels, batch_size=8, verbose=0, shuffle=False)
            weights[factor, strategy] = weights_of(made.student)
    assert distance(weights[1.0, None], weights[1.0, two_replicas]) < 1e-5
    assert distance(weights[0.0, None], weights[1.0, None]) > 1e-2


def test_one_collective_sums_everything(two_replicas):
    @tf.function(autograph=False)
    def summed():
        def replica():
            i = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            return replicas.sum_over_replicas([i + 1.0, tf.fill([2, 3], i), tf.fill([1], tf.cast(i + 5, tf.float64))])

        return two_replicas.run(replica)

    scalar, matrix, double = (two_replicas.experimental_local_results(v) for v in summed())
    assert [float(v) for v in scalar] == [3.0, 3.0]
    assert all(np.array_equal(v, np.ones([2, 3])) for v in matrix) and double[1].dtype == tf.float64
    assert [float(v[0]) for v in double] == [11.0, 11.0]


def test_strategies_and_their_errors():
    assert replicas.make_strategy(strategy="one_device").num_replicas_in_sync == 1
    assert replicas.make_strategy(strategy="auto", virtual_devices=2).num_replicas_in_sync == 2
    with pytest.raises(InputError, match=r"multiple of 2.*batch_size=33"):
        replicas.make_strategy(strategy="mirrored", batch_size=33)
    with pytest.raises(InputError, match="already started"):
        replicas.make_strategy(virtual_devices=3)
