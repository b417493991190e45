"""Records of finished runs that were not trained, for tests of the report."""

import html
import html.parser
import json
import re

import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.data.dataset import Split
from skd_tf.evaluation import final_measurements, hard_images
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.runs import predictions, report, verdict
from skd_tf.runs.report import charts
from skd_tf.runtime.files import write_json
from tests.helpers.runs import blank_chart

CLASSES = ['<b>&"one"', "$x$", "three", "four"]
SPEED = {"examples_per_second": 100.0, "input_wait_share": 0.1, "seconds": 3.0}
CURVES = {"accuracy": 0.5, "val_accuracy": 0.4, "val_nll": 1.0, "learning_rate": 0.1, "kd_weight": 0.9}
CURVES |= {"student_logit_norm": 2.0, "radius_over_student_norm": 2.0, **SPEED}


def make_run(folder, *, seed=0, without=(), classes=CLASSES, name="run", extra=None, most=48, **settings):
    """Writes the records of a finished run without training it."""
    random, path = np.random.default_rng(seed), folder / name
    (path / "student_alone").mkdir(parents=True)
    labels = random.integers(0, len(classes), 300)
    shapes = {"teacher": (8, 0.4), "student_alone": (4, 0.7), "student": (3, 0.6)}
    parameters = {"teacher": 9000, "student_alone": 400, "student": 400}
    targets = np.eye(len(classes))[labels]
    logits = {m: size * (targets + s * random.normal(size=targets.shape)) for m, (size, s) in shapes.items()}
    raw = {"student": 0.3 * logits["student"]}
    models = {m: ModelLogits(z, raw.get(m), parameters[m]) for m, z in logits.items() if m not in without}
    rows, details = final_measurements.measure(models, labels)
    details["student"]["cost"] = {"latency_ms": {"median": 0.25}, "file_bytes": 12_345}
    config = Config(**{"student": "cnn_4", "teacher": "resnet8", "loss": "spherical"} | settings)
    result = rows | SPEED | {"radius": 4.0, "class_names": list(classes), "config": config.to_json()}
    result |= {"versions": {"skd_tf": "0"}, "device": "a machine", "git_commit": None} | (extra or {})
    facts = {"seconds": {"training": 3.0, "export": 1.0}, "teacher": {"name": "resnet8", "path": "p"}}
    facts |= {"models": details, "labels": predictions.encode(labels), "dataset": {"test": 300}}
    result["verdict"] = verdict.of_run(result, facts, 5000)
    write_json(path / "result.json", result)
    write_json(path / "measurements.json", facts)
    images = random.integers(0, 256, [300, 8, 8, 1]).astype(np.uint8)
    files = np.array([f"/photos/{row}.jpg" for row in range(300)], object)
    pictures = hard_images.collect(Split(images, labels, np.arange(300), files=files), models, most)
    write_json(path / "report_images.json", pictures)
    epochs = [{"epoch": i, "step": 8 * i, "loss": 1 / (1 + i)} | CURVES for i in range(4)]
    for file in (path / "metrics.jsonl", path / "student_alone" / "metrics.jsonl"):
        file.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    return path


def few_charts_but(*names):
    """A fixture for a module: only the tests of these names look at the drawings."""

    @pytest.fixture(autouse=True)
    def few_charts(request, monkeypatch):
        if request.node.name not in names:
            monkeypatch.setattr(charts, "chart", blank_chart)

    return few_charts


class _Checker(html.parser.HTMLParser):
    """Well-formed: every element closed in order, every id once."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.open += [tag] * (tag not in self.VOID)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag


def page(*paths):
    """The text of a checked report of some runs, and its elements."""
    text, checker = report.write(paths, paths[0].parent / "report.html").read_text(), _Checker()
    checker.feed(text)
    assert not checker.open and len(set(checker.ids)) == len(checker.ids)
    assert "script" not in checker.tags
    assert not re.search(r"(?:src|href|url\()=?[\"']?https?:", text) and "@import" not in text  # no network
    return text, checker.tags


def text_of(fragment):
    """The words of some HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", fragment)).split())


def part(text, heading):
    """The section or card of a report under one heading."""
    return re.search(rf"<h2>{re.escape(heading)}</h2>(.*?)(?:</section>|<div class=\"answer\">)", text, re.DOTALL)[1]
