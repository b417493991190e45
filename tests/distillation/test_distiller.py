"""One step of the Distiller against numpy and plain TensorFlow, and variants that must give equal results."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf import losses
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net, distance, make_distiller, run, weights_of


def log_softmax(z):
    return z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)


def sphere(z, radius):
    z = z - z.mean(1, keepdims=True)
    return radius * z / np.linalg.norm(z, axis=1, keepdims=True)


def logits_of(distiller, images):
    return [model(images).numpy() for model in (distiller.student, distiller.teacher)]


def own_variables(distiller):
    """What a file of a Distiller may hold: no teacher."""
    hyperparameters = (distiller.temperature, distiller.kd_weight, distiller.label_weight, distiller.radius)
    return [*distiller.student.variables, *distiller.optimizer.variables, *hyperparameters]


def numbers_in_file(distiller, folder):
    sizes = []
    distiller.save_weights(folder / "all.weights.h5")
    with h5py.File(folder / "all.weights.h5") as file:
        file.visititems(lambda name, value: sizes.append(value.size) if isinstance(value, h5py.Dataset) else None)
    return sum(sizes)


def spherical_by_hand(
    student, teacher, labels, *, temperature=4.0, radius=2 * CLASSES**0.5, kd_weight=0.9, label_weight=0.1
):
    """(loss, label term, distill term), each `[batch]` float64; by default with the Distiller's hyperparameters."""
    student, teacher = sphere(student.astype(np.float64), radius), sphere(teacher.astype(np.float64), radius)
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    distill = temperature**2 * (np.exp(p) * (p - q)).sum(1)
    label = -log_softmax(student)[np.arange(len(labels)), labels]
    return label_weight * label + kd_weight * distill, label, distill


@pytest.mark.parametrize(
    ("jit_compile", "weights"),
    [
        (False, {"kd_weight": 2.0, "label_weight": 0.5}),
        (True, {"kd_weight": 0.7}),
        pytest.param(False, {"kd_weight": 0.7}, marks=pytest.mark.slow),
        pytest.param(True, {"kd_weight": 2.0, "label_weight": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_one_step_equals_plain_tensorflow_and_numpy(jit_compile, weights):
    """The loss against float64 numpy; the update against a tape over plain TensorFlow operations."""
    ((images, labels),) = batches(1)
    distiller = make_distiller(jit_compile=jit_compile, temperature=3.0, radius=7.0, **weights)
    student, teacher = conv_net(1), conv_net(2)
    student_logits, teacher_logits = student(images).numpy(), teacher(images).numpy()
    kd, label = weights["kd_weight"], weights.get("label_weight", 1 - weights["kd_weight"])
    loss, label_loss, distill_loss = spherical_by_hand(
        student_logits, teacher_logits, labels, temperature=3.0, radius=7.0, kd_weight=kd, label_weight=label
    )

    with tf.GradientTape() as tape:
        z = student(images, training=True)
        z = z - tf.reduce_mean(z, 1, keepdims=True)
        z = 7.0 * z / tf.norm(z, axis=1, keepdims=True)
        t = sphere(teacher_logits, 7.0)
        p, q = tf.nn.log_softmax(t / 3.0), tf.nn.log_softmax(z / 3.0)
        by_hand = kd * 9.0 * tf.reduce_sum(tf.exp(p) * (p - q), 1)
        by_hand += label * tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)
        by_hand = tf.reduce_mean(by_hand)
    expected = [
        w - 0.05 * g
        for w, g in zip(student.get_weights(), tape.gradient(by_hand, student.trainable_variables), strict=True)
    ]

    means = run(distiller, [(images, labels)])
    assert means["loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert means["label_loss"] == pytest.approx(label_loss.mean(), rel=1e-5)
    assert means["distill_loss"] == pytest.approx(distill_loss.mean(), rel=1e-5)
    assert means["accuracy"] == np.mean(student_logits.argmax(1) == labels)
    assert means["teacher_accuracy"] == np.mean(teacher_logits.argmax(1) == labels)
    assert means["agreement"] == np.mean(student_logits.argmax(1) == teacher_logits.argmax(1))
    norm = np.linalg.norm(student_logits - student_logits.mean(1, keepdims=True), axis=1).mean()
    assert means["student_logit_norm"] == pytest.approx(norm, rel=1e-5)
    for weight, value in zip(distiller.student.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)


def test_logged_values_are_means_over_the_epoch():
    data = batches(3)
    distiller = make_distiller(optimizer=lambda: keras.optimizers.SGD(0.0))
    expected = [spherical_by_hand(*logits_of(distiller, images), labels)[0].mean() for images, labels in data]
    assert run(distiller, data)["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.slow
def test_xla_and_plain_steps_agree():
    trained = [make_distiller(batch_norm=True, jit_compile=xla) for xla in (False, True)]
    means = [run(distiller, batches(5)) for distiller in trained]
    assert distance(*(weights_of(d.student) for d in trained)) < 1e-5
    assert means[0] == pytest.approx(means[1], rel=1e-4)
    assert trained[1].xla and not trained[0].xla


@pytest.mark.parametrize(
    ("replicas", "jit_compile", "calls"),
    [
        (1, False, (1, 3)),  # 3 leaves a single step at the end
        pytest.param(1, False, (1, 3, 8), marks=pytest.mark.slow),
        pytest.param(1, True, (1, 3, 8), marks=pytest.mark.slow),
        pytest.param(2, False, (1, 3, 8), marks=pytest.mark.slow),
    ],
)
def test_the_number_of_steps_per_call_changes_no_bit(replicas, jit_compile, calls, two_replicas):
    data, results = batches(7), []
    for steps_per_call in calls:
        distiller = make_distiller(two_replicas if replicas == 2 else None, batch_norm=True, jit_compile=jit_compile)
        run(distiller, data, steps_per_call=steps_per_call)
        results.append(weights_of(distiller.student))
        assert distiller.traces == replicas
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_hyperparameters_change_without_retracing():
    distiller, data = make_distiller(), batches(1)
    run(distiller, data)
    for name, value in (("temperature", 2.0), ("kd_weight", 0.4), ("radius", 9.0)):
        getattr(distiller, name).assign(value)
    assert float(distiller.label_weight.numpy()) == pytest.approx(0.6)  # follows kd_weight
    logits = logits_of(distiller, data[0][0])
    expected = spherical_by_hand(*logits, data[0][1], temperature=2.0, radius=9.0, kd_weight=0.4, label_weight=0.6)[
        0
    ].mean()
    distiller.means.reset_state()
    assert run(distiller, data)["loss"] == pytest.approx(expected, rel=1e-5)
    distiller.optimizer.learning_rate.assign(0.001)
    run(distiller, data)
    assert distiller.traces == 1


def test_schedules_set_the_weights_before_each_step():
    data, table = batches(1) * 4, tf.constant([0.9, 0.5, 0.1, 0.1])
    distiller = make_distiller()
    distiller.compile(keras.optimizers.SGD(0.0), schedules={"kd_weight": lambda step: tf.gather(table, step)})
    logits = logits_of(distiller, data[0][0])
    expected = [
        spherical_by_hand(*logits, data[0][1], kd_weight=w, label_weight=1 - w)[0].mean() for w in table.numpy()
    ]
    assert run(distiller, data, steps_per_call=4)["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_weight_that_follows_has_no_schedule_of_its_own():
    schedules = {"label_weight": lambda step: 0.5, "kd_weight": lambda step: 0.5}
    with pytest.raises(InputError, match="label_weight follows kd_weight"):
        make_distiller().compile(keras.optimizers.SGD(0.0), schedules=schedules)
    distiller = make_distiller(label_weight=0.1)
    distiller.compile(keras.optimizers.SGD(0.0), schedules=schedules)
    run(distiller, batches(1))
    assert float(distiller.label_weight.numpy()) == 0.5


def test_the_teacher_never_changes_and_is_invisible(tmp_path):
    distiller = make_distiller(batch_norm=True)
    teacher = distiller.teacher
    before = [w.copy() for w in teacher.get_weights()]
    distiller.fit(*batches(1)[0], epochs=2, verbose=0)
    distiller.evaluate(*batches(1)[0], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))
    assert teacher.trainable
    assert [id(w) for w in distiller.trainable_weights] == [id(w) for w in distiller.student.trainable_weights]
    assert not {id(w) for w in distiller.weights} & {id(w) for w in teacher.weights}
    distiller.save(tmp_path / "distiller.keras")
    assert numbers_in_file(distiller, tmp_path) == sum(v.numpy().size for v in own_variables(distiller))
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher is None
    images = batches(1)[0][0]
    assert np.array_equal(loaded.predict(images, verbose=0), distiller.predict(images, verbose=0))
    with pytest.raises(InputError, match="No teacher"):
        loaded.compile("sgd")
        loaded.fit(*batches(1)[0], verbose=0)
    loaded.teacher = teacher
    loaded.compile("sgd", run_eagerly=True)
    loaded.fit(*batches(1)[0], verbose=0)


def test_logits_in_x_are_used_instead_of_the_teachers():
    ((images, labels),) = batches(1)
    live, given = make_distiller(), make_distiller()
    logits = live.teacher(images).numpy()
    given.teacher = None
    live.fit(images, labels, verbose=0, shuffle=False)
    given.fit({"image": images, "teacher_logits": logits}, labels, verbose=0, shuffle=False)
    assert distance(weights_of(live.student), weights_of(given.student)) < 1e-7


def test_teacher_mean_radius_is_measured_once_over_the_first_examples(monkeypatch):
    ((images, _),) = batches(1, size=300)
    distiller = make_distiller(radius="teacher_mean")
    logits = distiller.teacher(images).numpy().astype(np.float64)
    norms = np.linalg.norm(logits - logits.mean(1, keepdims=True), axis=1)
    distiller.adapt(images)
    assert float(distiller.radius.numpy()) == pytest.approx(norms.mean(), rel=1e-5)
    raw = make_distiller(radius="teacher_mean", center=False).adapt(
        tf.data.Dataset.from_tensor_slices(images).batch(128)
    )
    assert float(raw.radius.numpy()) == pytest.approx(np.linalg.norm(logits, axis=1).mean(), rel=1e-5)
    fitted = make_distiller(radius="teacher_sample")
    fitted.fit(images, np.zeros(300, int), verbose=0)
    assert float(fitted.radius.numpy()) == pytest.approx(norms.mean(), rel=1e-5)
    monkeypatch.setattr("skd_tf.distillation.batches._ADAPT_EXAMPLES", 100)
    first = make_distiller(radius="teacher_mean").adapt(tf.data.Dataset.from_tensor_slices(images).batch(64))
    assert float(first.radius.numpy()) == pytest.approx(norms[:100].mean(), rel=1e-5)


def test_sample_weights_and_unlabelled_examples():
    """The weight multiplies the example's loss; an example with label -1 has only its distill term."""
    ((images, labels),) = batches(1)
    weighted, unlabelled = make_distiller(kd_weight=0.5), make_distiller(kd_weight=0.5)
    logits = logits_of(weighted, images)
    loss, _, distill = spherical_by_hand(*logits, labels, kd_weight=0.5, label_weight=0.5)
    weights = np.arange(8) / 4
    history = weighted.fit(images, labels, sample_weight=weights, verbose=0, shuffle=False).history
    assert history["loss"][0] == pytest.approx((loss * weights).sum() / 8, rel=1e-5)
    history = unlabelled.fit(images, np.where(np.arange(8) < 4, -1, labels), verbose=0, shuffle=False).history
    assert history["loss"][0] == pytest.approx(np.where(np.arange(8) < 4, 0.5 * distill, loss).mean(), rel=1e-5)
    assert history["accuracy"][0] == np.mean(logits[0].argmax(1)[4:] == labels[4:])


def test_label_smoothing_and_a_plain_baseline():
    ((images, labels),) = batches(1)
    distiller = make_distiller(loss="cross_entropy", kd_weight=0.9, label_smoothing=0.2)
    targets = np.eye(CLASSES)[labels] * 0.8 + 0.2 / CLASSES
    expected = -(targets * log_softmax(distiller.student(images).numpy().astype(np.float64))).sum(1).mean()
    assert run(distiller, [(images, labels)])["loss"] == pytest.approx(expected, rel=1e-5)


def test_compiled_metrics_get_the_sphere_and_predict_gives_raw_logits():
    ((images, labels),) = batches(1)
    distiller = make_distiller(radius=6.0)
    distiller.compile("sgd", metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nll")])
    logits = distiller.predict(images, verbose=0)
    np.testing.assert_allclose(logits, distiller.student(images), rtol=1e-5)
    nll = -log_softmax(sphere(logits.astype(np.float64), 6.0))[np.arange(8), labels].mean()
    result = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert result["nll"] == pytest.approx(nll, rel=1e-5) == result["label_loss"]
    distiller.teacher = None  # evaluation needs no teacher; it leaves out what cannot be computed
    blind = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert blind["accuracy"] == result["accuracy"] and blind["label_loss"] == pytest.approx(result["label_loss"])
    assert "distill_loss" not in blind and "loss" not in blind


def test_probabilities_on_a_sphere_without_centring():
    logits = np.random.default_rng(0).normal(size=[6, CLASSES])
    found = make_distiller(radius=6.0, center=False).probability_logits(tf.constant(logits))
    np.testing.assert_allclose(found, 6 * logits / np.linalg.norm(logits, axis=1, keepdims=True), rtol=1e-6)


def test_evaluation_counts_a_short_last_batch_once_and_changes_no_weight():
    ((images, labels),) = batches(1, size=11)
    distiller = make_distiller(batch_norm=True)
    before = weights_of(distiller.student)
    result = distiller.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    whole = distiller.evaluate(images, labels, batch_size=11, verbose=0, return_dict=True)
    assert result == pytest.approx(whole, rel=1e-5)
    assert np.array_equal(before, weights_of(distiller.student))


def test_your_own_loss_function():
    def squared(student_logits, teacher_logits, labels, *, temperature):
        gap = tf.reduce_mean(tf.square(student_logits - teacher_logits), -1) / temperature
        return {"label": losses.cross_entropy(student_logits, None, labels)["label"], "distill": gap}

    ((images, labels),) = batches(1)
    distiller = make_distiller(loss=squared, temperature=2.0, kd_weight=1.0)
    student, teacher = logits_of(distiller, images)
    expected = np.square(student - teacher).mean() / 2
    assert run(distiller, [(images, labels)])["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "sphericl"}, ["Unknown loss", "spherical", "sphericl"]),
        ({"temperature": 0}, ["temperature", "> 0"]),
        ({"kd_weight": 1.5}, ["kd_weight", "1.5", "label_weight"]),
        ({"kd_weight": -1, "label_weight": 1}, ["kd_weight", ">= 0"]),
        ({"radius": -2}, ["radius", "-2"]),
        ({"label_smoothing": 1.0}, ["label_smoothing", "[0, 1)"]),
    ],
)
def test_bad_arguments_give_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        Distiller(conv_net(), conv_net(), **settings)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_the_package_imports_nothing_until_it_is_used():
    assert skd_tf.Distiller is Distiller and skd_tf.losses is losses
    with pytest.raises(AttributeError):
        _ = skd_tf.no_such_name


def test_a_loss_without_a_teacher_keeps_its_label_weight():
    distiller = make_distiller(loss="cross_entropy")
    distiller.kd_weight.assign(0.9)
    distiller.compile(keras.optimizers.SGD(0.0), schedules={"kd_weight": lambda step: 0.9})
    metrics = run(distiller, batches(1))
    assert float(distiller.label_weight.numpy()) == 1.0 and metrics["loss"] == pytest.approx(metrics["label_loss"])


def test_a_scalar_that_does_not_exist_or_vanishes_is_refused():
    with pytest.raises(InputError, match=r"no such scalar.*feature_weight|no such scalar.*Did you mean kd_weight"):
        make_distiller().compile(keras.optimizers.SGD(0.0), schedules={"kd_wieght": lambda step: 0.5})
    with pytest.raises(InputError, match="no such scalar"):
        make_distiller().compile(keras.optimizers.SGD(0.0), schedules={"feature_weight": lambda step: 0.5})
    with pytest.raises(InputError, match="temperature is out of range"):
        make_distiller(temperature=1e-46)  # 0 in float32
