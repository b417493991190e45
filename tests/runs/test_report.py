"""The report: what it shows of one run and of several, and that a browser renders it completely without a network."""

import functools
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation import final_measurements
from skd_tf.runs import report
from skd_tf.runs.report import run_data, svg
from skd_tf.runtime.files import write_json
from tests.helpers.commands import python
from tests.helpers.runs import read_json

CLASSES = ['<b>&"one"', "$x$", "three", "four"]
SPEED = {"examples_per_second": 100.0, "input_wait_share": 0.1, "seconds": 3.0}
CURVES = {"accuracy": 0.5, "val_accuracy": 0.4, "val_nll": 1.0, "learning_rate": 0.1, "kd_weight": 0.9}
CURVES |= {"student_logit_norm": 2.0, "radius_over_student_norm": 2.0, **SPEED}
LABELS = ["Loss by epoch", "Accuracy by epoch", "Learning rate by epoch", "Weight of the distill term by epoch"]
LABELS += ["Throughput by epoch", "Logit norms before and after", "confidence minus accuracy", "Accuracy by class"]
LABELS += ["Seconds of each part"]


def make_run(folder, *, seed=0, without=(), classes=CLASSES, name="run", **settings):
    """Writes the records of a finished run without training it."""
    random, path = np.random.default_rng(seed), folder / name
    (path / "student_alone").mkdir(parents=True)
    labels = random.integers(0, len(classes), 300)
    shapes = {"teacher": (8, 0.4), "student_alone": (4, 0.7), "student": (3, 0.6)}
    parameters = {"teacher": 9000, "student_alone": 400, "student": 400}
    targets = np.eye(len(classes))[labels]
    logits = {m: size * (targets + s * random.normal(size=targets.shape)) for m, (size, s) in shapes.items()}
    rows, details = final_measurements.measure(logits, {"student": 0.3 * logits["student"]}, labels, parameters)
    rows = {name: row for name, row in rows.items() if name not in without}
    config = Config(student="cnn_4", teacher="resnet8", **settings)
    result = rows | SPEED | {"radius": 4.0, "class_names": list(classes), "config": config.to_json()}
    result |= {"versions": {"skd_tf": "0"}, "device": "a machine", "git_commit": None}
    write_json(path / "result.json", result)
    facts = {"seconds": {"training": 3.0, "export": 1.0}, "teacher": {"name": "resnet8", "path": "p"}}
    write_json(path / "measurements.json", {"models": details} | facts)
    epochs = [{"epoch": i, "step": 8 * i, "loss": 1 / (1 + i)} | CURVES for i in range(4)]
    for file in (path / "metrics.jsonl", path / "student_alone" / "metrics.jsonl"):
        file.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    return path


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
    assert "script" not in checker.tags and "img" not in checker.tags
    assert not re.search(r"(?:src|href|url\()=?[\"']?https?:", text) and "@import" not in text  # no network
    return text, checker.tags


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
    assert tags.count("svg") == len(labels)
    assert not set(svg.COLOURS.values()) & set(re.findall(r"#[0-9a-f]{6}", text))  # each is replaced by a variable
    assert "&lt;b&gt;" in text and "<b>&amp;" not in text and "$x$" in text  # text, not markup or mathematics


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


def test_many_classes_and_a_run_without_teacher(tmp_path):
    classes = [f"class {i}" for i in range(60)]
    text, _ = page(make_run(tmp_path, classes=classes, without=("teacher", "student_alone")))
    assert "Accuracy by class" in text and "points over" not in text


def test_a_wrong_path_is_an_input_error(tmp_path):
    path, damaged = make_run(tmp_path), make_run(tmp_path, name="damaged")
    (damaged / "result.json").write_text("{")
    for run, file, words in (
        (tmp_path, "page.html", "No finished run"),
        (path, "nowhere/page.html", "no folder"),
        (damaged, "page.html", "damaged"),
    ):
        with pytest.raises(InputError, match=words):
            report.write([run], tmp_path / file)


def test_the_command_takes_runs_as_arguments_and_needs_no_tensorflow(tmp_path):
    paths = [make_run(tmp_path, seed=i, name=f"run{i}") for i in range(2)]
    code = "import sys; sys.modules['tensorflow'] = None; del sys.argv[0]; from skd_tf import report; report.cli_main()"
    printed = python("-c", code, "report.py", *paths, f"--output={tmp_path / 'both.html'}")
    assert "both.html" in printed and (tmp_path / "both.html").stat().st_size > 50_000


_PROBE = """<!doctype html><title>probe</title><link rel="icon" href="data:,">
<iframe id="f" style="border:0;height:900px"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("f"), found = [];
async function show(page, width) {
  frame.style.width = width + "px";
  await new Promise(done => { frame.onload = done; frame.src = page + "?" + width; });
  await new Promise(done => setTimeout(done, 200));
  const page_ = frame.contentDocument, view = frame.contentWindow;
  const broken = [...page_.images].filter(i => !i.complete || !i.naturalWidth).length;
  const flat = [...page_.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height < 50).length;
  found.push({page, width, inner: view.innerWidth, scroll: page_.documentElement.scrollWidth, broken, flat,
              charts: page_.querySelectorAll("svg").length,
              requests: view.performance.getEntriesByType("resource").length});
}
(async () => {
  for (const page of ["one.html", "all.html"]) for (const width of [375, 1280]) await show(page, width);
  document.getElementById("out").textContent = "FOUND" + JSON.stringify(found) + "END";
})();
</script>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, asked, **options):
        self.asked = asked
        super().__init__(*arguments, **options)

    def log_message(self, *parts):
        self.asked.append(self.path)


@pytest.mark.slow
def test_a_browser_renders_it_completely(tmp_path):
    """In headless Chromium: no broken image, console error, request or horizontal scrolling, on phone and desktop."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    long = [make_run(tmp_path, seed=i, name=f"run_with_a_rather_long_name_{i}_" + "x" * 60) for i in range(3)]
    report.write(long[:1], tmp_path / "one.html")
    report.write(long, tmp_path / "all.html")
    (tmp_path / "probe.html").write_text(_PROBE)
    asked = []
    handler = functools.partial(_Handler, asked=asked, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
        options += ["--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [browser, *options, f"http://127.0.0.1:{server.server_port}/probe.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        server.shutdown()
    match = re.search(r"FOUND(.*)END", done.stdout)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(match[1])
    pages = [(page, width) for page in ("one.html", "all.html") for width in (375, 1280)]
    assert [(row["page"], row["width"]) for row in found] == pages
    for row in found:
        assert row["inner"] == row["width"] and row["scroll"] <= row["width"], row
        assert row["broken"] == row["flat"] == row["requests"] == 0 and row["charts"] > 10, row
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert {path.partition("?")[0] for path in asked} <= {"/probe.html", "/one.html", "/all.html"}
