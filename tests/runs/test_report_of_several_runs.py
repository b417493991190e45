"""The report on several runs: their names, what they have in common, and which is best."""

import dataclasses
import re
import shutil

import pytest

from skd_tf.config import Config
from skd_tf.runs.report import run_data, several_runs
from skd_tf.runtime.files import write_json
from tests.helpers.report_runs import CLASSES, few_charts_but, make_run, page, part, text_of
from tests.helpers.runs import read_json

few_charts = few_charts_but(
    "test_losses_that_differ_have_no_common_axis",
    "test_a_run_shown_twice_has_two_labels_and_a_run_without_measurements_has_no_diagrams",
)


@pytest.mark.slow
def test_losses_that_differ_have_no_common_axis(tmp_path):
    paths = [make_run(tmp_path, name=f"t{t}", temperature=t) for t in (2.0, 4.0)]
    other = make_run(tmp_path, name="other", temperature=4.0)
    text, _ = page(*paths, other)
    labels = re.findall(r'aria-label="(Loss:[^"]+)"', text)
    assert labels == ["Loss: spherical, temperature 2.0 by epoch", "Loss: spherical, temperature 4.0 by epoch"]
    assert "cannot be told apart" in text_of(text) or "is ahead" in text_of(text)


def test_several_runs_side_by_side(tmp_path):
    paths = [make_run(tmp_path, seed=i, name=f"run {i}", temperature=t) for i, t in enumerate((2.0, 4.0, 4.0))]
    text, _ = page(*paths)
    assert "<code>--temperature</code>" in text and "<code>--teacher</code>" not in text  # only where they differ
    for path in paths:
        assert path.name in text and f"{read_json(path / 'result.json')['student']['accuracy']:.4f}" in text
    series = run_data.chart_series([run_data.read(path) for path in paths])
    assert [member.label for member in series] == ["run 0", "run 1", "run 2"]


def test_a_run_shown_twice_has_two_labels_and_a_run_without_measurements_has_no_diagrams(tmp_path):
    path = make_run(tmp_path)
    (path / "measurements.json").unlink()
    text, _ = page(path, path)
    assert "run (1)" in text and "run (2)" in text
    assert "Reliability diagram" not in text and "Without measurements" in text


def test_runs_in_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    """As runs/LOSS/SEED, each of which ends in a number."""
    paths = [tmp_path / loss / str(seed) for loss in ("kd", "spherical") for seed in range(2)]
    run = make_run(tmp_path)
    for path in paths:
        shutil.copytree(run, path)
    runs = run_data.read_all([*paths, paths[0]])
    names = ["kd/0 (1)", "kd/1", "spherical/0", "spherical/1", "kd/0 (5)"]
    assert [run.name for run in runs] == names == [member.label for member in run_data.chart_series(runs)]
    text = text_of(page(*paths)[0])
    assert "kd/0 has the highest top-1 kd/1, spherical/0 and spherical/1 cannot be told apart" in text
    assert [run.name for run in run_data.read_all(paths[:2])] == ["0", "1"]


def test_a_run_without_a_teacher_is_not_called_distilled_beside_others(tmp_path):
    alone = make_run(tmp_path, name="plain", without=("teacher", "student_alone"), loss="cross_entropy")
    text = text_of(page(alone, make_run(tmp_path, name="other"))[0])
    assert "plain, student " in text and "plain, student distilled" not in text and "other, student distilled" in text


def test_a_run_of_an_earlier_version_is_compared_with_the_settings_that_it_had(tmp_path):
    """It recorded no setting that is newer than it, and today's default may not be what it did."""
    new, old = (make_run(tmp_path, name=name, min_warmup_steps=0) for name in ("new", "old"))
    result = read_json(old / "result.json")
    for name in ("version", "min_warmup_steps", "validation_split", "feature_pairs", "feature_weight"):
        del result["config"][name]
    write_json(old / "result.json", result)
    runs = run_data.read_all([new, old])
    differing = run_data.settings(runs, {field.name: field.default for field in dataclasses.fields(Config)})
    assert differing == [("--validation_split", "stratified", ["stratified", "uniform"])]
    first, second = run_data.chart_series(runs)
    assert first.loss == second.loss  # so they share an axis


def test_runs_with_other_classes_are_not_compared_class_by_class(tmp_path):
    paths = [make_run(tmp_path, name="ten"), make_run(tmp_path, name="other", classes=[*CLASSES[:-1], "last"])]
    paths += [make_run(tmp_path, name="more", classes=[*CLASSES, "one more"])]
    assert "Accuracy by class" in page(paths[0])[0]
    for other in paths[1:]:
        text, _ = page(paths[0], other)
        assert "Accuracy by class" not in text and "The runs have different classes" in text


def test_runs_on_different_test_images_are_not_ranked(tmp_path):
    paths = [make_run(tmp_path, seed=i, name=f"run {i}") for i in range(2)]  # each with its own labels
    text = text_of(page(*paths)[0])
    assert "Measured on different test images" in text and "is ahead" not in text
    assert "run 1: " in text and "on 300 test images of" in text
    details = read_json(paths[1] / "measurements.json")  # an earlier version recorded no labels
    del details["labels"]
    write_json(paths[1] / "measurements.json", details | {"dataset": {"test": 299}})
    assert "Measured on different test images" in text_of(page(*paths)[0])


def test_other_pixels_under_the_same_labels_are_said(tmp_path):
    paths = [make_run(tmp_path, name=f"run {i}") for i in range(2)]
    assert "other pixels" not in text_of(page(*paths)[0])
    for path, digest in zip(paths, "ab", strict=True):
        details = read_json(path / "measurements.json")
        details["dataset"]["test_pixels"] = digest
        write_json(path / "measurements.json", details)
    assert "The test images of run 0 and those of run 1 have other pixels" in text_of(page(*paths)[0])


def test_without_labels_in_one_run_all_are_compared_by_their_agreement(tmp_path):
    paths = [make_run(tmp_path, name=f"run {i}") for i in range(3)]
    result = read_json(paths[2] / "result.json")
    del result["student"]["accuracy"]
    write_json(paths[2] / "result.json", result)
    which = part(page(*paths)[0], "Which is best?")
    assert which.count("agreement with the teacher") == 3 and "points" not in which


def test_runs_on_other_versions_of_the_data_are_ranked_with_a_warning(tmp_path):
    """As when only training images were added."""
    paths = [make_run(tmp_path, name=f"run {i}") for i in range(3)]
    assert "has the versions" not in text_of(page(*paths)[0])
    for i, path in enumerate(paths):
        details = read_json(path / "measurements.json")
        write_json(path / "measurements.json", details | {"dataset": {"version": f"v{i % 2}", "test": 300}})
    text = text_of(page(*paths)[0])
    assert "the versions v0 (run 0 and run 2) and v1 (run 1)" in text and "cannot be told apart" in text


@pytest.mark.parametrize("number", [0, 1])
def test_a_run_without_measurements_is_not_called_level(tmp_path, number):
    paths = [make_run(tmp_path, seed=seed, name=f"run {seed}", temperature=2.0 + seed) for seed in range(2)]
    (paths[number] / "measurements.json").unlink()
    runs = run_data.read_all(paths)
    found = several_runs.headline(runs)
    reason = f"not compared, because measurements.json of run {number} is missing"
    assert found.tone == "unknown" and "cannot be told apart" not in found.text and reason in found.text
    assert any(reason in answer for answer in lines_of(runs))


def lines_of(runs):
    return [text for answer in several_runs.answers(runs) for text, _ in answer.items]
