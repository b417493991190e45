"""Metrics, intervals, temperature scaling and cost, against numbers by hand and loops over single images."""

import math
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from skd_tf import networks
from skd_tf.errors import InputError
from skd_tf.evaluation import bootstrap, cost, final_measurements, metrics, temperature_scaling
from tests.helpers.nets import conv_net
from tests.losses.numpy_reference import kl, softmax


@pytest.fixture(scope="module")
def sample():
    random = np.random.default_rng(0)
    labels = random.integers(0, 8, 400)
    student, teacher = (2 * np.eye(8)[labels] + spread * random.normal(size=[400, 8]) for spread in (1.3, 0.8))
    return student, teacher, labels


def top(row, count):
    return sorted(range(len(row)), key=lambda c: (-row[c], c))[:count]


def both(student, labels, teacher):
    quality = metrics.quality(student, labels) | metrics.over_classes(student, labels)
    return quality | metrics.comparison(student, teacher)


def test_quality_and_closeness_to_the_teacher_are_the_loops_over_images(sample):
    student, teacher, labels = sample
    rows = [softmax(row) for row in student]
    images, pairs = list(zip(rows, labels, strict=True)), list(zip(student, teacher, strict=True))
    bins = [[] for _ in range(15)]
    for p, y in images:
        bins[max(0, math.ceil(p.max() * 15) - 1)].append((float(p.argmax() == y), p.max()))
    recalls = [np.mean([p.argmax() == c for p, y in images if y == c]) for c in range(8)]
    f1 = [
        2 * sum(p.argmax() == y == c for p, y in images) / sum(int(p.argmax() == c) + int(y == c) for p, y in images)
        for c in range(8)
    ]
    expected = {
        "accuracy": np.mean([p.argmax() == y for p, y in images]),
        "top5_accuracy": np.mean([y in top(p, 5) for p, y in images]),
        "nll": np.mean([-math.log(p[y]) for p, y in images]),
        "brier": np.mean([sum((p[c] - (c == y)) ** 2 for c in range(8)) for p, y in images]),
        "ece": sum(abs(sum(hit - sure for hit, sure in bin)) for bin in bins) / len(labels),
        "confidence": np.mean([p.max() for p in rows]),
        "logit_norm": np.mean([np.linalg.norm(row - row.mean()) for row in student]),
        "balanced_accuracy": np.mean(recalls),
        "worst_class_recall": min(recalls),
        "macro_f1": np.mean(f1),
        "agreement": np.mean([s.argmax() == t.argmax() for s, t in pairs]),
        "agreement_at_5": np.mean([len(set(top(s, 5)) & set(top(t, 5))) / 5 for s, t in pairs]),
        "kl_to_teacher": np.mean([kl(t, s) for s, t in pairs]),
        "confidence_gap": np.mean([softmax(t).max() - softmax(s).max() for s, t in pairs]),
    }
    for found in (both(student.astype("float32"), labels, teacher), both(student, labels, teacher + 100.0)):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert found.keys() - expected.keys() == {"ece_debiased"} and 0 <= found["ece_debiased"] < found["ece"]
    assert metrics.quality(student + 100.0, labels)["nll"] == pytest.approx(expected["nll"])  # invariant to a shift
    perfect = {"agreement": 1, "agreement_at_5": 1, "kl_to_teacher": 0, "confidence_gap": 0}
    assert metrics.comparison(teacher, teacher + 3.0) == pytest.approx(perfect, abs=1e-12)
    diagram = metrics.summarize(student, labels).reliability()
    assert [bin["count"] for bin in diagram] == [len(bin) for bin in bins]
    for found, bin in zip(diagram, bins, strict=True):
        if bin:
            assert [found["accuracy"], found["confidence"]] == pytest.approx(np.mean(bin, axis=0))


def test_quality_against_numbers_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
    labels = np.array([0, 1, 2, -1])
    measured = metrics.quality(logits + 5, labels)
    # Each of the three is in a bin of its own: |1 - 0.7|, |0 - 0.5|, |1 - 0.8|.
    expected = {"accuracy": 2 / 3, "confidence": (0.7 + 0.5 + 0.8) / 3, "ece": (0.3 + 0.5 + 0.2) / 3}
    expected["nll"] = -np.log([0.7, 0.3, 0.8]).mean()
    assert {name: measured[name] for name in expected} == pytest.approx(expected)


def test_ties_unlabelled_rows_and_few_classes():
    logits = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    measured = metrics.quality(logits, [0, 1, 2, -1])
    assert measured["accuracy"] == pytest.approx(1 / 3) and measured["top5_accuracy"] == 1.0
    assert metrics.summarize(logits, [0, 1, 1, -1]).per_class_accuracy() == [1.0, 0.0, None]
    six = np.zeros([1, 6])
    assert metrics.quality(six, [4])["top5_accuracy"] == 1.0 and metrics.quality(six, [5])["top5_accuracy"] == 0.0
    assert metrics.quality(np.array([[1e4, 0.0], [0.0, 1e4]]), [0, 0])["nll"] == pytest.approx(5e3)  # finite


def test_large_logits_are_read_in_blocks_that_change_nothing(sample, monkeypatch):
    student, teacher, labels = sample
    labels = np.where(np.arange(400) % 9, labels, -1)
    student = np.where(np.arange(8) == np.arange(400)[:, None] % 50, -np.inf, student)
    whole = metrics.summarize(student, labels)
    wanted = whole.quality() | whole.over_classes() | whole.comparison(metrics.summarize(teacher, labels))
    monkeypatch.setattr(metrics, "_BLOCK", 24)
    cut = metrics.summarize(student, labels)
    found = cut.quality() | cut.over_classes() | cut.comparison(metrics.summarize(teacher, labels))
    assert found == pytest.approx(wanted, nan_ok=True, rel=1e-12)
    np.testing.assert_array_equal(cut.top, np.argsort(-student, axis=1, kind="stable")[:, :5])


@pytest.mark.slow
def test_the_logits_of_many_classes_are_measured_in_seconds():
    """A fifth of ImageNet's test images. With a log-softmax for each metric they took 18 seconds."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=[10_000, 1000]).astype("float32"), random.integers(0, 1000, 10_000)
    models = {name: final_measurements.ModelLogits(logits) for name in ("teacher", "student")}
    start = time.process_time()
    rows, _ = final_measurements.measure(models, labels)
    assert time.process_time() - start < 5 and rows["student"]["agreement"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_prediction_is_wrong_and_agrees_with_none(bad):
    logits, labels = np.eye(7), np.arange(7)
    logits[2, 2] = bad
    measured = metrics.quality(logits, labels)
    assert measured["accuracy"] == measured["top5_accuracy"] == pytest.approx(6 / 7) and math.isnan(measured["nll"])
    assert metrics.quality(np.full([2, 3], bad), [0, 1])["top5_accuracy"] == 0.0
    assert metrics.summarize(logits, labels).per_class_accuracy() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    near = metrics.comparison(logits, logits)
    assert near["agreement"] == near["agreement_at_5"] == pytest.approx(6 / 7)
    assert sum(row["count"] for row in metrics.summarize(logits, labels).reliability()) == 7
    # A logit of minus infinity rules a class out; the prediction is still defined.
    assert metrics.quality(np.array([[0.0, -math.inf]]), [0])["accuracy"] == 1.0


def test_bootstrap_intervals_are_those_of_resampled_splits(sample):
    student, teacher, labels = sample
    summary = metrics.summarize(student, labels)
    found = bootstrap.intervals(summary, metrics.summarize(teacher, labels), samples=600, seed=3)
    quality = both(student, labels, teacher)
    rows = np.random.default_rng(7).integers(0, len(labels), [300, len(labels)])  # other draws, by plain indexing
    draws = [both(student[row], labels[row], teacher[row]) for row in rows]
    assert set(found) == set(quality) - {"logit_norm", "ece", "worst_class_recall"}
    for name, (low, high) in found.items():
        if name == "ece_debiased":
            continue  # not resampled; tests/evaluation/test_calibration_error.py
        if name in bootstrap.FRACTIONS:
            right = round(quality[name] * len(labels))
            wilson = stats.binomtest(right, len(labels)).proportion_ci(method="wilson")
            assert (low, high) == pytest.approx(tuple(wilson), abs=1e-6), name
            continue
        values = np.array([draw[name] for draw in draws])
        assert np.quantile(values, [0.025, 0.975]) == pytest.approx([low, high], abs=0.6 * values.std()), name
    (low, high), p = found["accuracy"], quality["accuracy"]
    assert low < p < high
    # The normal approximation of a proportion, p +- 1.96 sqrt(p (1 - p) / n).
    assert high - low == pytest.approx(3.92 * math.sqrt(p * (1 - p) / 400), rel=0.15)
    again = [bootstrap.intervals(summary, samples=20, seed=seed) for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]


def test_intervals_leave_out_unlabelled_images_also_beside_a_teacher(sample):
    student, teacher, labels = sample
    rows = np.arange(400) % 4 > 0
    some = [metrics.summarize(logits, np.where(rows, labels, -1)) for logits in (student, teacher)]
    alone = [metrics.summarize(logits[rows], labels[rows]) for logits in (student, teacher)]
    assert bootstrap.intervals(*some, samples=20) == bootstrap.intervals(*alone, samples=20)


def test_a_known_temperature_is_recovered(sample):
    random, logits, fit = (
        np.random.default_rng(1),
        np.repeat(sample[1], 20, axis=0),
        temperature_scaling.fit_temperature,
    )
    labels = np.array([random.choice(8, p=softmax(row)) for row in logits])
    fitted = fit(2.5 * logits, labels)
    assert fitted == pytest.approx(2.5, rel=0.06)  # labels drawn from softmax(logits): any other scale is wrong
    below, best, above = (metrics.quality(2.5 * logits / (s * fitted), labels)["nll"] for s in (0.99, 1, 1.01))
    assert best < min(below, above)
    assert fit(5 * logits, labels) == pytest.approx(2 * fitted, rel=1e-6)
    assert fit(2.5 * logits[:50], [*labels[:49], -1]) == pytest.approx(fit(2.5 * logits[:49], labels[:49]))


@pytest.mark.parametrize("labels", [[0, 1], [1, 0], [-1, -1]])
def test_there_is_no_temperature_without_a_minimum(labels):
    with pytest.raises(InputError):
        temperature_scaling.fit_temperature(np.array([[3.0, 0.0], [0.0, 2.0]]), labels)


def test_operations_against_the_layers_by_hand():
    net = conv_net(1)  # two 3x3 convolutions on 6x6 pixels, 2 -> 4 -> 6 channels, and a head of 6 x 5
    assert cost.flops(net, (6, 6, 2)) == 2 * (36 * 9 * 2 * 4 + 36 * 9 * 4 * 6 + 6 * 5)
    layers = keras.layers
    parts = [layers.Conv2D(8, 3, strides=2, padding="same", groups=2, use_bias=False)]
    parts += [layers.DepthwiseConv2D(3, padding="valid"), layers.Flatten(), layers.Dense(3)]
    grouped = keras.Sequential([keras.Input([8, 8, 4]), *parts])
    expected = 4 * 4 * 8 * 9 * 2 + 2 * 2 * 8 * 9 + 2 * 2 * 8 * 3
    assert cost.flops(grouped, (8, 8, 4)) == 2 * expected


def test_an_answer_that_is_not_finite_leaves_the_histograms_of_norms_whole():
    logits = np.random.default_rng(0).normal(size=[20, 7])
    broken = logits.copy()
    broken[3] = math.nan
    models = {name: final_measurements.ModelLogits(found) for name, found in (("teacher", logits), ("student", broken))}
    _, details = final_measurements.measure(models, np.zeros(20, int))
    assert [sum(details[name]["norms"]["counts"]) for name in models] == [20, 19]
    assert np.isfinite(details["student"]["norms"]["edges"]).all()


def test_operations_in_a_compiled_function_of_a_saved_model_are_unknown():
    kernels = tf.random.normal([3, 3, 4, 4]), tf.random.normal([3, 3, 4, 2])
    compiled = tf.function(lambda x: tf.nn.conv2d(x, kernels[1], 1, "SAME"), jit_compile=True)

    def model(images, training):
        return compiled(tf.nn.conv2d(images, kernels[0], 1, "SAME"))

    assert cost.flops(model, (8, 8, 4)) is None


def test_operations_of_a_branch_are_unknown():
    kernel = tf.random.normal([3, 3, 4, 4])

    def model(images, training):
        return tf.cond(tf.reduce_sum(images) > 0, lambda: tf.nn.conv2d(images, kernel, 1, "SAME"), lambda: images)

    assert cost.flops(model, (8, 8, 4)) is None


def test_operations_of_attention_transposed_and_volume_convolutions_by_hand():
    layers, images = keras.layers, keras.Input([8, 8, 4])

    def counted(features):
        return cost.flops(keras.Model(images, layers.Dense(3)(layers.Flatten()(features))), (8, 8, 4))

    tokens, width, heads = layers.Reshape([64, 4])(images), 8, 2
    attention = layers.MultiHeadAttention(heads, width)(tokens, tokens)
    projections, products = 4 * 64 * 4 * heads * width, 2 * 64 * 64 * heads * width
    assert counted(attention) == 2 * (projections + products + 64 * 4 * 3)
    mixed = layers.EinsumDense("abcd,de->abce", output_shape=(8, 8, 5))(images)
    assert counted(mixed) == 2 * (64 * 4 * 5 + 320 * 3)
    assert counted(layers.Conv2DTranspose(5, 3, padding="same")(images)) == 2 * (64 * 4 * 9 * 5 + 320 * 3)
    volume = layers.Conv3D(2, 3, padding="same")(layers.Reshape([8, 8, 4, 1])(images))
    assert counted(volume) == 2 * (256 * 27 * 2 + 512 * 3)
    assert counted(layers.LSTM(2)(tokens)) is None  # a loop
    with tf.Graph().as_default():
        operands = tf.zeros([2, 8, 4]), tf.zeros([4, 5])
        assert cost._einsum(tf.raw_ops.Einsum(inputs=operands, equation="...d,de->...e").op) == 2 * 8 * 4 * 5


def test_operations_agree_with_tensorflow_and_the_literature():
    net = networks.build("resnet20", input_shape=(32, 32, 3), num_classes=10)
    counted = cost.flops(net, (32, 32, 3))
    assert counted / 2 == pytest.approx(41e6, rel=0.02)  # He et al. 2016: 0.041 G multiply-adds
    concrete = tf.function(net).get_concrete_function(tf.TensorSpec([1, 32, 32, 3]))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation() | {"output": "none"}
    profiled = tf.compat.v1.profiler.profile(concrete.graph, options=options).total_float_ops
    assert counted <= profiled < 1.05 * counted  # the profiler counts biases and additions too


def test_timing_has_medians_with_quartiles():
    timed = cost.timing(conv_net(1), np.zeros([3, 6, 6, 2], np.uint8), seconds=0.05)
    assert timed["latency_ms"]["batch"] == 1 and timed["images_per_second"]["batch"] == 128
    for row in timed.values():
        low, high = row["quartiles"]
        assert 0 < low <= row["median"] <= high and row["calls"] >= 10


def test_measurements_hold_raw_and_spherical_quality(sample):
    student, teacher, labels = sample
    sphere = 6 * student / np.linalg.norm(student - student.mean(axis=1, keepdims=True), axis=1, keepdims=True)
    fitted = temperature_scaling.Calibration(1.5, 90)
    of = final_measurements.ModelLogits
    models = {"teacher": of(teacher, parameters=9), "student": of(sphere, student, 3, fitted)}
    rows, details = final_measurements.measure(models, labels)
    assert rows["student"]["nll"] == metrics.quality(sphere, labels)["nll"]
    assert details["student"]["raw"] == metrics.quality(student, labels)
    expected = {"temperature": 1.5, "validation_examples": 90} | metrics.quality(sphere / 1.5, labels)
    assert rows["student"]["calibrated"] == expected and "calibrated" not in rows["teacher"]
    norm = np.linalg.norm(student - student.mean(axis=1, keepdims=True), axis=1).mean()
    assert rows["student"]["logit_norm"] == pytest.approx(norm)  # not the sphere's radius
    assert rows["student"]["agreement"] == np.mean(student.argmax(axis=1) == teacher.argmax(axis=1))
    assert "agreement" not in rows["teacher"]
    for name in rows:
        counts = details[name]["norms"]["counts"]
        assert sum(counts) == len(labels) and details[name]["norms"]["edges"] == details["student"]["norms"]["edges"]
