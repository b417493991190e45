"""The report: what it shows of one run and of several."""

import json
import re
import warnings

import numpy as np
import pytest

from skd_tf.errors import InputError
from skd_tf.runs import report, verdict
from skd_tf.runs.report import failures, run_data, svg
from skd_tf.runtime.files import write_json
from tests.helpers.commands import python
from tests.helpers.report_runs import CLASSES, few_charts_but, make_run, page, part, text_of
from tests.helpers.runs import read_json

LABELS = [
    "Loss: spherical by epoch",
    "Loss: cross_entropy by epoch",
    "Accuracy by epoch",
    "Learning rate by epoch",
    "Weight of the distill term by epoch",
]
LABELS += ["Throughput by epoch", "Logit norms before and after", "confidence minus accuracy", "Accuracy by class"]
LABELS += ["Seconds of each part"]

few_charts = few_charts_but("test_the_report_of_a_run_shows_all_its_parts")


def test_the_report_of_a_run_shows_all_its_parts(tmp_path):
    path = make_run(tmp_path, temperature=2.0)
    (text, tags), result = page(path), read_json(path / "result.json")
    for row in (result["teacher"], result["student_alone"], result["student"]):
        for key in ("accuracy", "nll", "ece", "parameters"):
            assert format(row[key], "," if key == "parameters" else ".4f") in text, key
    assert "<code>--temperature</code>" in text and "<code>--epochs</code>" not in text
    labels = set(re.findall(r'aria-label="([^"]+)"', text))
    assert [words for words in LABELS if not any(words in label for label in labels)] == []
    # The teacher's, the lone student's, the distilled student's and that of its raw softmax.
    assert sum("Reliability diagram" in label for label in labels) == 4
    assert tags.count("svg") == len(labels) - 1  # beside the charts, the bar of the verdict
    assert not set(svg.COLOURS.values()) & set(re.findall(r"#[0-9a-f]{6}", text))  # each is replaced by a variable
    assert "&lt;b&gt;" in text and "<b>&amp;" not in text and "$x$" in text  # text, not markup or mathematics


def test_the_first_lines_answer_three_questions(tmp_path):
    path = make_run(tmp_path, extra={"warnings": ["The teacher has seen <12> test images."]})
    (text, _), result = page(path), read_json(path / "result.json")
    compared = result["verdict"]["comparisons"]["student against student_alone"]
    assert text.index('class="verdict ') < text.index("Is it good?") < text.index("Where does it fail?")
    assert text.index("What next?") < text.index("<h2>Result</h2>")
    assert f'class="verdict {compared["word"]} barred"' in text and result["verdict"]["text"] in text_of(text)
    assert f"Right on {result['student']['accuracy']:.1%} of 300 test images" in text
    fails = text_of(part(text, "Where does it fail?"))
    assert "The teacher has seen <12> test images." in fails and "Student and teacher disagree on" in fails
    records = read_json(path / "measurements.json")
    accuracies = records["models"]["student"]["per_class_accuracy"]
    worst = int(np.argmin(accuracies))
    assert f"Least accurate classes: {CLASSES[worst]} ({accuracies[worst]:.0%} right)" in fails
    assert "<code><span>python</span> <span>-m</span>" in part(text, "What next?")


def test_a_run_that_held_out_nothing_is_not_told_to_calibrate(tmp_path):
    path = make_run(tmp_path, calibrate="none", validation_fraction=0)
    epochs = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({k: v for k, v in epoch.items() if not k.startswith("val_")}) + "\n" for epoch in epochs)
    (path / "metrics.jsonl").write_text(text)
    assert "--calibrate" not in text_of(part(page(path)[0], "What next?"))


def test_the_commands_of_a_report_name_the_run(tmp_path):
    path = make_run(tmp_path, name="my run", calibrate="none")
    following = text_of(part(page(path)[0], "What next?"))
    assert f"python -m skd_tf.export '--workdir={path}' '--output={path}_export' --format=litert" in following
    assert f"python -m skd_tf.evaluate '--model={path}' --calibrate" in following
    assert f"skd_tf.train '--flagfile={path}/flags.txt' '--teacher_checkpoint={path}/teacher'" in following
    assert "RUN" not in following
    path = make_run(tmp_path, name="another", student_alone="runs/alone", teacher_checkpoint="big.keras")
    result = read_json(path / "result.json")
    write_json(path / "result.json", result | {"config": result["config"] | {"seed": 3}})  # as that student alone
    following = text_of(part(page(path)[0], "What next?"))
    assert f"--workdir={path}_seed_4 --seed=4 --student_alone=train" in following


def test_too_few_images_are_said_in_place_of_level(tmp_path, monkeypatch):
    path = make_run(tmp_path)
    few = {"word": "level", "difference": 0.167, "interval": [-0.035, 0.355], "images": 19, "paired": True}
    monkeypatch.setattr(verdict, "compare", lambda *_: few)
    top = text_of(re.search(r'<div class="verdict .*?Is it good', page(path)[0], re.DOTALL)[0])
    assert top.count("Undecided: too few test images to tell") == 1 and "With 19 test images, distilled" in top
    assert "Level" not in top
    assert "undecided, too few test images to tell." in page(path, make_run(tmp_path, name="other"))[0]


def test_the_sphere_is_named_only_with_a_loss_on_the_sphere(tmp_path):
    with_sphere = page(make_run(tmp_path))[0]
    plain = page(make_run(tmp_path, name="kd", loss="kd", extra={"radius": None}))[0]
    for words in ("Confidence and the sphere", "before the sphere", "trained on the sphere"):
        assert words in with_sphere and words not in plain, words
    assert "<h2>Confidence</h2>" in plain


def test_confusions_are_counted(tmp_path):
    path = make_run(tmp_path)
    run = run_data.read(path)
    said, labels = run.predicted["student"], run.labels
    rows = failures.matrix(run)
    for i, row in enumerate(rows):
        assert [cell[0] for cell in row.cells] == [int(((labels == i) & (said == j)).sum()) for j in range(4)]
        assert sum(cell[1] for cell in row.cells) == pytest.approx(1) and [c[2] for c in row.cells].index(True) == i
    pairs = failures.pairs(run)
    most = max(row.cells[j][0] for i, row in enumerate(rows) for j in range(4) if i != j)
    assert pairs[0].images == most and sum(pair.images for pair in pairs) <= (said != labels).sum()
    i, j = (CLASSES.index(name) for name in (pairs[0].label, pairs[0].said))
    assert pairs[0].teacher == ((labels == i) & (run.predicted["teacher"] == j)).sum()
    many = run_data.read(make_run(tmp_path, name="many", classes=[f"class {i}" for i in range(60)]))
    assert failures.matrix(many) == [] and 0 < len(failures.pairs(many)) <= 15
    assert "class 1" in part(page(tmp_path / "many")[0], "Confused classes")


def test_pictures_are_shown_counted_and_left_out(tmp_path):
    path = make_run(tmp_path)
    text, tags = page(path)
    known = read_json(path / "report_images.json")
    assert tags.count("img") == len(known) <= 48 and f"contains {len(known)} test images" in text
    assert [p["picture"] for p in known] == re.findall(r'<img src="([^"]+)"', text)
    assert [p["file"] for p in known] == re.findall(r'class="file" title="(/photos/\d+.jpg)"', text)
    kinds = [p["kind"] for p in known]
    for most in (0, 5, 11):
        few = report.write([path], tmp_path / "few.html", images=most).read_text()
        assert few.count("<img") == most and ("--report_images=0" in few) == bool(most)
        file = report.write([path], path / "report.html", images=most)
        report.rewrite(path)  # as an export does
        assert file.read_text().count("<img") == most
    assert run_data.read(path, 11).pictures[0] == known[0] and kinds.count("disagreement") > 5
    assert {"mistake", "disagreement"} == {p["kind"] for p in run_data.read(path, 5).pictures}


def test_a_stranger_s_record_brings_no_picture_from_elsewhere(tmp_path):
    path = make_run(tmp_path)
    known = read_json(path / "report_images.json")
    known[0]["picture"], known[1]["picture"] = "https://example.com/seen.png", 'data:image/png;base64,AA" onload="x'
    write_json(path / "report_images.json", known)
    text, tags = page(path)
    assert tags.count("img") == len(known) - 2 and "example.com" not in text and "onload" not in text


def test_the_best_of_each_column_is_bold_and_every_known_column_is_shown(tmp_path):
    calibrated = {"temperature": 2.5, "accuracy": 0.5, "nll": 0.0001, "ece": 0.9, "confidence": 0.5}
    path = make_run(tmp_path)
    result = read_json(path / "result.json")
    result["student"] |= {"calibrated": calibrated, "ece_debiased": 0.0123}
    write_json(path / "result.json", result)
    text, _ = page(path)
    first, more = (part(text, heading) for heading in ("Result", "More measurements"))
    assert "<b>0.0001</b>" in first and "distilled, calibrated, logits / 2.5" in first  # NLL: the lowest
    accuracies = [result[name]["accuracy"] for name in ("teacher", "student_alone", "student")]
    assert f"<b>{max(accuracies):.4f}</b>" in first and f"<b>{min(accuracies):.4f}</b>" not in first
    assert "<b>400</b>" in first and "9,000" in first and "<b>9,000</b>" not in first  # parameters
    assert "ms at batch 1" in first and "0.25" in first and ">12<" in first.replace("</td>", "<")  # kB
    assert "ECE debiased" in more and "0.0123" in more and "macro F1" in more


def test_a_run_of_an_earlier_version_has_an_unpaired_interval(tmp_path):
    path = make_run(tmp_path)
    (path / "report_images.json").unlink()
    result, details = read_json(path / "result.json"), read_json(path / "measurements.json")
    del result["verdict"], details["labels"]
    for model in details["models"].values():
        del model["predictions"]
    write_json(path / "result.json", result)
    write_json(path / "measurements.json", details)
    text, tags = page(path)
    assert "recorded no predictions" in text_of(text) and "Confused classes" not in text and "img" not in tags


def test_names_in_any_script_are_drawn_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "猫" in svg.chart(lambda axes: axes.set(title="猫"), "title")


def test_many_classes_and_a_run_without_teacher(tmp_path):
    classes = [f"class {i}" for i in range(60)]
    text, _ = page(make_run(tmp_path, classes=classes, without=("teacher", "student_alone")))
    assert "Accuracy by class" in text and "student alone" not in text


def test_a_wrong_path_is_an_input_error(tmp_path):
    path, damaged = make_run(tmp_path), make_run(tmp_path, name="damaged")
    (damaged / "result.json").write_text("{")
    strange = make_run(tmp_path, name="strange")
    (strange / "measurements.json").unlink()
    write_json(strange / "result.json", read_json(strange / "result.json") | {"verdict": {"word": "<script>"}})
    for run, file, words in (
        (tmp_path, "page.html", "No finished run"),
        (path, "nowhere/page.html", "no folder"),
        (damaged, "page.html", "damaged"),
        (strange, "page.html", "unknown verdict"),
    ):
        with pytest.raises(InputError, match=words):
            report.write([run], tmp_path / file)


def test_a_damaged_file_of_a_finished_run_is_named(tmp_path):
    run, cut = make_run(tmp_path), '{"epoch": 0, "lo'
    for name, content, words in (
        ("measurements.json", cut, "is damaged"),
        ("exports.json", cut, "is damaged"),
        ("metrics.jsonl", cut, "is damaged"),
        ("metrics.jsonl", "", "is missing or empty"),
        ("metrics.jsonl", None, "is missing or empty"),
    ):
        file = run / name
        before = file.read_text() if file.is_file() else None
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(InputError, match=f"finished run {words}.*Received {file}"):
            report.write([run], tmp_path / "page.html")
        file.unlink(missing_ok=True) if before is None else file.write_text(before)


@pytest.mark.slow
def test_the_command_takes_runs_as_arguments_and_needs_no_tensorflow(tmp_path):
    paths = [make_run(tmp_path, seed=i, name=f"run{i}") for i in range(2)]
    code = "import sys; sys.modules['tensorflow'] = None; del sys.argv[0]; from skd_tf import report; report.cli_main()"
    printed = python("-c", code, "report.py", *paths, f"--output={tmp_path / 'both.html'}")
    assert "both.html" in printed and (tmp_path / "both.html").stat().st_size > 50_000


def test_exported_files_are_shown_as_they_were_measured(tmp_path):
    run, ends = make_run(tmp_path), {"accuracy": [0.7, 0.9], "nll": [0.5, 0.7], "ece_debiased": [0.0, 0.05]}
    file = {"accuracy": 0.8123, "nll": 0.6, "ece": 0.04, "ece_debiased": 0.02, "intervals": ends, "bytes": 12_000}
    files = [file | {"file": "saved_model", "latency_ms": None}]
    files.append(file | {"file": "student_int8.tflite", "latency_ms": {"median": 0.42}})
    assert "Exported files" not in report.write([run], tmp_path / "a.html").read_text()
    write_json(run / "exports.json", {"output": "out", "files": files})
    page = report.write([run], tmp_path / "b.html").read_text()
    text = page[page.index("Exported files") :]
    for words in ("student_int8.tflite", "0.8123", "0.42", "0.7000\N{EN DASH}0.9000"):
        assert words in text, words
