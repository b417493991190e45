"""Balanced accuracy, macro F1 and the worst class's recall: where classes are rare, accuracy hides them."""

import json
import pathlib

import numpy as np
import pytest
import sklearn.metrics

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation import bootstrap, final_measurements, metrics
from skd_tf.runs import report, result_tables
from skd_tf.search.plan import Plan, parse_objective
from skd_tf.search.run_search import run_search
from skd_tf.training import experiment

NAMES = ("balanced_accuracy", "macro_f1", "worst_class_recall")
OLD_RUNS = pathlib.Path(__file__).parents[1] / "old_runs" / "0.1.0"


@pytest.fixture(scope="module")
def rare():
    """500 images of 8 classes, one of them with 70% of the images and one (7) with none."""
    random = np.random.default_rng(1)
    labels = random.choice(7, 500, p=[0.7, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01])
    return 2 * np.eye(8)[labels] + 2 * np.eye(8)[0] + random.normal(size=[500, 8]), labels


def test_they_are_those_of_scikit_learn(rare):
    logits, labels = rare
    predicted, present = logits.argmax(axis=1), np.unique(labels)
    assert (predicted == 7).any()  # of the class without images
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=present, average=None)
    f1 = sklearn.metrics.f1_score(labels, predicted, labels=present, average="macro")
    expected = {"balanced_accuracy": recalls.mean(), "macro_f1": f1, "worst_class_recall": recalls.min()}
    assert metrics.over_classes(logits, labels) == pytest.approx(expected)
    assert metrics.over_classes(logits, labels)["balanced_accuracy"] < metrics.quality(logits, labels)["accuracy"] - 0.1
    known = [accuracy for accuracy in metrics.summarize(logits, labels).per_class_accuracy() if accuracy is not None]
    assert min(known) == expected["worst_class_recall"] and np.mean(known) == pytest.approx(recalls.mean())


def test_the_majority_class_alone_is_worth_little():
    logits, labels = np.tile([3.0, 0.0, 0.0], [10, 1]), np.array([0] * 8 + [1, 2])
    found = metrics.over_classes(logits, labels)
    assert found == pytest.approx({"balanced_accuracy": 1 / 3, "macro_f1": 16 / 18 / 3, "worst_class_recall": 0.0})


def test_unlabelled_and_undefined_examples(rare):
    logits, labels = rare
    more = np.concatenate([logits, logits[:50]]), np.concatenate([labels, np.full(50, -1)])
    assert metrics.over_classes(*more) == metrics.over_classes(logits, labels)
    broken = logits.copy()
    broken[labels == 6] = np.nan  # counts as wrong, and as a prediction of no class
    found = metrics.over_classes(broken, labels)
    assert found["worst_class_recall"] == 0.0
    rest = labels != 6
    without = metrics.over_classes(logits[rest], labels[rest])
    assert found["balanced_accuracy"] == pytest.approx(without["balanced_accuracy"] * 6 / 7)
    assert found["macro_f1"] == pytest.approx(without["macro_f1"] * 6 / 7)


def test_every_split_into_equal_classes_gives_the_accuracy():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 20)
    logits = np.eye(5)[labels] + random.normal(size=[100, 5])
    accuracy = metrics.quality(logits, labels)["accuracy"]
    assert metrics.over_classes(logits, labels)["balanced_accuracy"] == pytest.approx(accuracy)


def test_their_intervals_are_those_of_resampled_splits(rare):
    assert np.bincount(rare[1])[:7].min() < 10
    found = bootstrap.intervals(metrics.summarize(*rare), samples=400, seed=2)
    assert "macro_f1" not in found and "worst_class_recall" not in found  # resampling says nothing true of them
    common = rare[1] < 5
    logits, labels = rare[0][common], rare[1][common]
    found = bootstrap.intervals(metrics.summarize(logits, labels), samples=400, seed=2)
    rows = np.random.default_rng(5).integers(0, len(labels), [400, len(labels)])
    draws = [metrics.over_classes(logits[row], labels[row]) for row in rows]
    for name in NAMES[:2]:
        values = np.array([draw[name] for draw in draws])
        expected = np.quantile(values, [0.025, 0.975])
        assert expected == pytest.approx(found[name], abs=0.6 * values.std()), name
        assert found[name] == bootstrap.intervals(metrics.summarize(logits, labels), samples=400, seed=2)[name]
    assert "worst_class_recall" not in found


@pytest.mark.parametrize(
    "sizes, recalls",
    [
        ((200, 200, 3, 3), 0.9),
        ((10,) * 100, 0.9),
        ((90,) * 10, 0.998),
        ((1000, 3), (0.99, 0.6)),
        ((1000, 1000, 3), (0.99, 0.99, 0.5)),
        ((500, 500, 500, 4), (1, 1, 1, 0.7)),
        ((200, 200, 3, 3), (0.95, 0.9, 0.5, 0.3)),
        ((1000,) * 10, 0.7),
    ],
)
def test_the_interval_of_balanced_accuracy_covers_the_truth(sizes, recalls):
    random, images = np.random.default_rng(0), np.array(sizes)
    found = [bootstrap.of_mean_recall(random.binomial(images, recalls), images) for _ in range(2000)]
    truth = np.mean(np.broadcast_to(recalls, len(sizes)))
    assert np.mean([low <= truth <= high for low, high in found]) > 0.91


def test_without_a_mistake_intervals_have_a_width_or_are_left_out():
    labels = np.repeat([0, 1, 2], 8)
    found = bootstrap.intervals(metrics.summarize(np.eye(3)[labels] * 5, labels), samples=100)
    assert "macro_f1" not in found and found["balanced_accuracy"] == pytest.approx([0.851, 1.0], abs=1e-3)
    assert found["accuracy"][1] == 1.0 and found["accuracy"][0] < 0.9


def test_evaluation_and_its_tables(rare):
    logits, labels = rare
    entry = {"path": "a"} | final_measurements.measure_model(
        final_measurements.ModelLogits(logits), labels, bootstrap_samples=50
    )
    assert {name: entry[name] for name in NAMES} == metrics.over_classes(logits, labels)
    entry |= {"parameters": 1, "flops": 2, "file_bytes": 3}
    result = {"models": [entry], "comparisons": [], "teacher": None, "class_names": list("abcdefgh")}
    result["dataset"] = {"test_examples": 500}
    text = result_tables.evaluation_tables(result)
    for words in ("balanced accuracy", "macro F1", "worst class's recall", f"{entry['macro_f1']:.4f}"):
        assert words in text
    low, high = entry["intervals"]["balanced_accuracy"]
    assert f"{low:.3f} to {high:.3f}" in text


CONFIG = Config(student="cnn_2", loss="cross_entropy", epochs=1, strategy="one_device")


@pytest.mark.slow
def test_a_search_for_balanced_accuracy(tmp_path):
    folder = tmp_path
    plan = Plan(CONFIG, ("learning_rate:choice:0.001,0.2",), tuner="grid", objective="val_balanced_accuracy")
    run_search(plan, folder / "search")
    records = [json.loads(path.read_text()) for path in sorted((folder / "search/trials").glob("*/record.json"))]
    values = [record["executions"][0]["metrics"] for record in records]
    assert [record["objective"] for record in records] == [row["val_balanced_accuracy"] for row in values]
    best = max(records, key=lambda record: record["objective"])["values"]["learning_rate"]
    assert f"--learning_rate={best}" in (folder / "search/best.flags").read_text().splitlines()
    assert all(0 <= row["val_worst_class_recall"] <= row["val_balanced_accuracy"] <= 1 for row in values)
    assert parse_objective("val_macro_f1").direction == "max"
    with pytest.raises(InputError, match="val_balanced_accuracy"):
        parse_objective("val_balancedaccuracy")


@pytest.mark.slow
def test_a_run_and_its_page(tmp_path):
    folder = tmp_path
    experiment.run(CONFIG.replace(learning_rate=0.2), folder / "run")
    result = json.loads((folder / "run" / "result.json").read_text())
    text = (folder / "run" / "report.html").read_text()
    for name, heading in zip(NAMES, ("balanced accuracy", "macro F1", "worst class&#39;s recall"), strict=True):
        assert heading in text and f"{result['student'][name]:.4f}" in text
    # A run of an earlier version has none of the three: its cells stay empty, and alone it has no such column.
    report.write([OLD_RUNS / "finished"], tmp_path / "old.html")
    assert "macro F1" not in (tmp_path / "old.html").read_text()
    report.write([OLD_RUNS / "finished", folder / "run"], tmp_path / "both.html")
    assert "macro F1" in (tmp_path / "both.html").read_text()
