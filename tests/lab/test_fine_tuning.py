"""The study of fine-tuning: its table is its record, and its pictures are the first of each kind."""

import json
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from experiments.studies.fine_tuning import __main__ as study
from experiments.studies.fine_tuning import animals

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_table_of_the_page_is_its_record():
    record = json.loads((ROOT / "experiments/results/fine_tuning/students.json").read_text())
    page = (ROOT / "docs/fine_tuning.md").read_text()
    assert study.table(record) in page
    assert f"{100 * record['teacher']['accuracy']:.1f}% top-1" in page
    record["students"]["KD"]["int8"]["ece"][0] += 0.1
    assert study.table(record) not in page


def test_the_pictures_are_the_first_of_each_kind(tmp_path, monkeypatch):
    labels = [number for _ in range(3) for number in (0, *animals.KINDS)]
    examples = [{"label": label, "image": np.full([2, 2, 3], i, np.uint8)} for i, label in enumerate(labels)]
    monkeypatch.setattr(tfds, "load", lambda name, split, **_: examples)
    monkeypatch.setattr(animals, "SIZES", {"train": 2, "test": 1})
    animals.write("data", tmp_path / "animals")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert len(found) == 30 and found[0] == "animals/test/bear/0.png" and found[-1] == "animals/train/wolf/1.png"
    second = tf.io.decode_png((tmp_path / "animals/train/bear/1.png").read_bytes()).numpy()
    assert labels[second[0, 0, 0]] == 3 and second[0, 0, 0] == 11 + 1
