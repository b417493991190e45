"""The verdict on a run: every way to be worse than no distillation is said, with what to try; and what it is computed from."""

import itertools
import json
import shlex

import absl.flags
import numpy as np
import pytest
from scipy import stats

from skd_tf import tune
from skd_tf.config import Config, flags
from skd_tf.runs import next_steps, predictions, verdict
from skd_tf.search.plan import Plan

CLASSES = [f"class {i}" for i in range(10)]
CONFIG = {"loss": "spherical", "epochs": 30}


def answers(labels, accuracy, seed):
    """Predicted classes of which a share is right, the others one class off."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < accuracy, labels, (labels + 1) % 10)


def judge(steps=5000, images=2000, without=(), config=CONFIG, change=None, data_dir="", **accuracies):
    labels = np.arange(images) % 10
    shares = {"teacher": 0.95, "student_alone": 0.80, "student": 0.80} | accuracies
    predicted = {name: answers(labels, shares[name], i) for i, name in enumerate(shares) if name not in without}
    if change:
        change(predicted, labels)
    models = {name: {"accuracy": float((guess == labels).mean())} for name, guess in predicted.items()}
    known = {"class_names": CLASSES, "config": config, "steps": steps, "data_dir": data_dir}
    return verdict.judge(models, predicted, labels, **known)


def test_ahead_level_and_behind_are_said_in_words():
    for accuracy, images, word, start in (
        (0.90, 2000, "ahead", "Distilling helped: +"),
        (0.80, 9000, "level", "Distilled and alone cannot be told apart with 9,000 test images"),
        (0.80, 500, "level", "Undecided: too few test images to tell. With 500 test images, distilled minus alone is "),
        (0.60, 2000, "behind", "Distilling made it WORSE: -"),
    ):
        found = judge(student=accuracy, images=images)
        assert found["word"] == word and verdict.lines(found)[0].startswith(start), found
        assert verdict.lines(found)[1] == verdict.OVER_IMAGES
        tips = [line for line in verdict.lines(found) if line.startswith("Try next")]
        assert len(tips) == (word != "ahead")
        assert (found["warnings"] == []) and ("--loss=kd" in found["next"]) == (word != "ahead")
    assert "--loss=kd" not in judge(student=0.6, config=CONFIG | {"loss": "kd"})["next"]
    for optimizer, temperature, advised in (("adamw", 4.0, True), ("adamw", 1.0, False), ("sgd", 4.0, False)):
        settings = {"loss": "kd", "optimizer": optimizer, "temperature": temperature}
        tips = judge(student=0.6, config=CONFIG | settings)["next"]
        assert ("--temperature=1, with --optimizer=adamw" in tips) == advised


def test_a_wide_interval_around_zero_is_undecided():
    wide = ((-0.035, 0.355), (-0.143, 0.011), (-0.021, 0.021), (0.0, 0.05))
    narrow = ((-0.019, 0.02), (-0.035, 0.004), (0.01, 0.9), (-0.9, -0.01))
    for low, high, undecided in (*((*ends, True) for ends in wide), *((*ends, False) for ends in narrow)):
        assert verdict.undecided({"interval": [low, high]}) == undecided


def commands(tips, path):
    """The arguments that a shell would give each command of some tips: {program: arguments}."""
    typed = [next_steps.typed(tip, path).partition("python -m skd_tf.")[2] for tip in tips]
    return {words[0]: words[1:] for words in map(shlex.split, typed) if words}


def test_the_commands_of_a_verdict_can_be_typed(tmp_path):
    run, settings = tmp_path / "my run", CONFIG | {"teacher": "cnn_4", "validation_fraction": 0.0}
    found = judge(student=0.6, config=settings)
    made = commands(found["next"], run)
    assert made["train"] == [
        f"--flagfile={run}/flags.txt",
        f"--teacher_checkpoint={run}/teacher",
        f"--workdir={run}_next",
    ]
    assert made["tune"][:4] == [*made["train"][:2], f"--workdir={run}_tune", "--validation_fraction=0.1"]
    for arguments in made.values():
        run.mkdir(exist_ok=True)
        (run / "flags.txt").write_text(flags.write_flags(Config(loss="spherical", teacher="cnn_4", epochs=30)))
        flag_values = absl.flags.FlagValues()
        tune.define(flag_values)
        flags.parse(arguments, flag_values)
        config = flags.config_from(flag_values)
        assert config.teacher_checkpoint == f"{run}/teacher" and config.epochs == 30
        if flag_values.search:
            assert Plan(config, flag_values.search).names == ["temperature", "kd_weight"]
    assert all(str(run) in line for line in verdict.lines(found, run)[-1].splitlines() if "python" in line)


def test_commands_follow_the_settings_of_the_run():
    of = {loss: commands(judge(student=0.6, config=CONFIG | {"loss": loss})["next"], "r") for loss in ("wttm", "dist")}
    assert [word for word in of["wttm"]["tune"] if "search" in word] == ["--search=kd_weight:linear:0.1:0.9"]  # no T
    assert "train" not in of["dist"]  # no tip is a flag to add
    tips = judge(student=0.6, teacher=0.5, config=CONFIG | {"teacher_checkpoint": "t"}, data_dir="/my data")["next"]
    assert any("a better teacher (--teacher_checkpoint=FILE)" in tip for tip in tips)
    made = commands(tips, "r")
    assert all("--data_dir=/my data" in words and not any("teacher" in w for w in words) for words in made.values())
    assert next_steps.command("export", "--workdir=RUN", {"dataset": "mine:data"}).endswith(" --dataset=mine:data")


def test_a_teacher_below_the_student_alone_is_said():
    (warning,) = judge(teacher=0.70)["warnings"]
    assert (
        warning.startswith("The teacher (top-1 0.") and "below the student alone" in warning and "chance" not in warning
    )
    (warning,) = judge(teacher=0.78, images=100, without=("student",))["warnings"]
    assert "not by more than chance" in warning
    assert judge(teacher=0.85)["warnings"] == []


def test_a_class_that_is_never_right_is_named():
    def lose(predicted, labels):
        predicted["student"][labels == 3] = 0

    (warning,) = judge(change=lose)["warnings"]
    assert warning == "The student gets every test image of 1 of 10 classes wrong: class 3 (200 images)."
    (warning,) = judge(change=lose, without=("teacher", "student_alone"))["warnings"]
    assert warning.startswith("The model gets every test image")


def test_a_student_that_has_learned_nothing_is_said_once():
    def collapse(predicted, labels):
        predicted["student"][:] = 7

    (warning,) = judge(change=collapse)["warnings"]
    assert "no better than always answering the most common class (0.1000)" in warning


def test_few_steps_are_said_with_the_epochs_that_would_do():
    found = judge(steps=150, student=0.5)
    assert found["warnings"] == [
        "The run had 150 optimizer steps, fewer than any skd_tf recipe that trains from scratch (700 or more)."
    ]
    assert found["next"][0] == "train longer, --epochs=140 or more"  # 30 epochs of 5 steps: 140 have 700
    assert judge(steps=700)["warnings"] == []
    for start in ({"student": "net.keras"}, {"student": "resnet8", "student_checkpoint": "runs/first"}):
        fine_tuned = judge(steps=150, student=0.5, config=CONFIG | start)
        assert fine_tuned["warnings"] == [] and not any("train longer" in tip for tip in fine_tuned["next"])


def test_one_line_says_how_to_know_where_the_student_alone_was_not_trained():
    found = judge(without=("student_alone",))
    (line,) = verdict.lines(found)
    assert found["word"] == "unknown" and "--student_alone=train" in line
    assert verdict.lines(judge(without=("student_alone", "teacher"))) == []  # nothing was distilled


def test_the_interval_holds_the_true_difference_in_95_of_100_sets():
    """Paired answers that agree more often than by chance; n is small and one count may be 0."""
    random, held = np.random.default_rng(0), []
    for n, (both, first, second) in itertools.product(
        (60, 400), [(0.7, 0.15, 0.05), (0.9, 0.03, 0.03), (0.95, 0.04, 0.0)]
    ):
        for _ in range(400):
            kind = random.choice(4, n, p=[both, first, second, 1 - both - first - second])
            right = np.ones(n, int)
            found = verdict.compare(np.isin(kind, (0, 1)).astype(int), np.isin(kind, (0, 2)).astype(int), right)
            low, high = found["interval"]
            held.append(low <= first - second <= high)
        assert 0.92 <= np.mean(held[-400:]) <= 1.0
    assert 0.94 <= np.mean(held) <= 0.985


def test_a_comparison_by_hand():
    labels = np.zeros(100, int)
    first, second = np.ones(100, int), np.ones(100, int)
    first[:80], second[:70] = 0, 0
    second[95:] = 0
    found = verdict.compare(first, second, labels)  # 80 right and 75 right; 10 and 5 of one alone
    assert (found["only_first_right"], found["only_second_right"], found["difference"]) == (10, 5, 0.05)
    p, q = 11 / 102, 6 / 102
    half = 1.96 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert found["interval"] == pytest.approx([p - q - half, p - q + half], abs=1e-5)
    for b, c in ((10, 5), (1, 0), (3, 9), (300, 420)):
        kinds = np.repeat([0, 1], [b, c])
        mid_p = stats.binomtest(b, b + c).pvalue - stats.binom.pmf(b, b + c, 0.5)
        assert verdict.compare(kinds, 1 - kinds, np.zeros(b + c, int))["p_value"] == pytest.approx(mid_p, rel=1e-9)
    kinds = np.repeat([0, 1], [7, 7])
    assert verdict.compare(kinds, 1 - kinds, np.zeros(14, int))["p_value"] == 1.0
    assert verdict.compare(labels, labels, labels)["p_value"] == 1.0


def test_several_models_are_compared_with_the_best_in_words():
    labels = np.zeros(400, int)
    models = [("a", answers(labels, 0.70, 0)), ("b", answers(labels, 0.90, 1)), ("c", answers(labels, 0.89, 2))]
    found = verdict.compare_with_best(models, labels)
    assert [(one["first"], one["second"], one["word"]) for one in found] == [("b", "a", "ahead"), ("b", "c", "level")]
    for one, (_, predicted) in zip(found, (models[0], models[2]), strict=True):
        assert one.items() >= verdict.compare(models[1][1], predicted, labels).items() and one["difference"] > 0
    first, second, note = verdict.comparison_lines(found)
    low, high = (100 * end for end in found[0]["interval"])
    gain = 100 * found[0]["difference"]
    interval = f"95% interval {low:+.1f} to {high:+.1f}"
    assert first == f"b is ahead of a on the same 400 images: {gain:+.1f} points of top-1, {interval}."
    assert second.startswith("b and c cannot be told apart on these 400 images: +") and "alone" in note
    assert len(verdict.comparison_lines(found[:1])) == 1 and verdict.compare_with_best(models[:1], labels) == []


def test_without_predictions_the_interval_is_that_of_independent_images():
    paired = verdict.compare(
        answers(np.zeros(900, int), 0.8, 0), answers(np.zeros(900, int), 0.7, 1), np.zeros(900, int)
    )
    found = verdict.compare_accuracies(0.8, 0.7, 900)
    assert found["word"] == "ahead" and not found["paired"] and paired["paired"]
    half = 1.96 * ((0.8 * 0.2 + 0.7 * 0.3) / 900) ** 0.5
    assert found["interval"] == pytest.approx([0.1 - half, 0.1 + half], abs=1e-4)


@pytest.mark.parametrize("classes", [2, 10, 127, 128, 1000, 40_000])
def test_predictions_survive_a_record(classes):
    random = np.random.default_rng(classes)
    drawn = random.integers(-1, classes, 5000)
    record = json.loads(json.dumps(predictions.encode(drawn)))
    np.testing.assert_array_equal(predictions.decode(record), drawn)
    with pytest.raises(ValueError):
        predictions.decode(record | {"count": 4999})
    with pytest.raises(ValueError):
        predictions.decode(record | {"zlib_base64": record["zlib_base64"][8:]})


def test_predictions_are_compact():
    random = np.random.default_rng(0)
    sizes = [len(predictions.encode(random.integers(0, classes, 10_000))["zlib_base64"]) for classes in (10, 100)]
    assert sizes[0] < 7000 and sizes[1] < 11_500
