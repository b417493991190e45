"""README.md stays short, and its numbers are those of the records and of the pages that it links to."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text, start):
    """The cells of each line of the first table after `start`, without its header."""
    table = re.search(r"(?:^\|.*\n)+", text[text.index(start) :], re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_it_has_at_most_700_words_and_100_lines():
    assert len(TEXT.split()) <= 700 and len(TEXT.splitlines()) <= 100


def test_every_link_and_picture_exists():
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", TEXT)]
    assert [path for path in targets if not path.startswith("https:") and not (ROOT / path).is_file()] == []


def test_the_results_are_those_of_the_page_of_evidence():
    evidence = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    summary = {tuple(cells[:2]): cells[2:] for cells in rows(evidence, "<!-- table: summary -->")}
    results = rows(TEXT, "## Does it help?")
    assert len(results) == 4
    for pair, epochs, *numbers in results:
        alone, kd, skd, dist, _, minus_kd, minus_best = summary[pair, epochs]
        minus_dist = minus_best.removesuffix(" (DIST)") if minus_best.endswith("(DIST)") else dist
        assert numbers == [*(cell.split()[0] for cell in (alone, kd, skd)), minus_kd, minus_dist]


def test_the_comparison_with_keras_is_its_records():
    digits = json.loads((RESULTS / "digits/keras_distillation.json").read_text())["rows"]
    steps = json.loads((RESULTS / "benchmarks/step.json").read_text())["contenders"]
    keras, ours = digits["keras.distillation, its default loss"], digits['skd_tf, loss="kd"']
    keras_kd, ours_skd = digits["keras.distillation, loss=KLDivergence()"], digits['skd_tf, loss="spherical"']
    ms = {name: f"{step['median_ms']:.0f} ms" for name, step in steps.items()}
    table = {cells[0]: [cells[1], cells[3]] for cells in rows(TEXT, "## Why not")}
    assert len(table) == 8
    alone = digits["student alone"]["accuracy"]
    assert table[f"top-1 on digits, default loss (alone: {alone:.2f})"] == [
        f"{keras['accuracy']:.2f}",
        f"{ours['accuracy']:.2f} (Spherical: {ours_skd['accuracy']:.2f})",
    ]
    assert f"Keras reaches {keras_kd['accuracy']:.2f} if its default loss is passed as an instance" in TEXT
    assert table["bfloat16 training step, live teacher"] == [
        ms["keras.distillation bfloat16"],
        ms["ours live bfloat16"],
    ]
    assert table["the same, cached teacher logits"] == ["no cache", ms["ours cached bfloat16"]]
    assert table["a saved file holds"] == [
        f"{keras['saved']:,} numbers, with the teacher",
        f"{ours['saved']}: student and 4 hyperparameters",
    ]
    assert f"the authors' step takes {ms['PyTorch channels_last bfloat16']} in PyTorch." in TEXT


def test_the_gain_of_the_demo_is_its_record():
    record = json.loads((RESULTS / "fashion/skd.json").read_text())
    gain = record["accuracy"]
    low, high = (f"{100 * end:.1f}" for end in gain["interval"])
    raised = f"raised this student's top-1 by {100 * gain['difference']:.1f} points (95% interval {low} to {high})"
    assert raised in " ".join(TEXT.split()) and float(low) > 0
    assert record["seeds"] == len(gain["differences"]) == 10 and f"{record['parameters']:,} parameters" in TEXT
