"""released:NAME: the students in the repository, and what is said where they are missing."""

import json
import pathlib

import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation.evaluate_models import evaluate_models
from skd_tf.models import paths
from skd_tf.runs import lineage
from skd_tf.training import preflight

RELEASED = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "released"
RECORDS = {path.parent.name: json.loads(path.read_text()) for path in sorted(RELEASED.glob("*/record.json"))}
IN_THE_PACKAGE = [name for name, record in RECORDS.items() if record["dataset"] == "fashion_mnist_10k"]


def test_the_students_are_small_and_have_a_card_and_a_record():
    assert IN_THE_PACKAGE and sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 10_000_000
    assert sorted(RECORDS) == sorted(path.parent.name for path in RELEASED.glob("*/student.keras"))
    page = (RELEASED / "README.md").read_text()
    for name, record in RECORDS.items():
        assert (RELEASED / name / "README.md").is_file()
        recorded = lineage.read(RELEASED / name / "student.keras")
        assert recorded.trainings[0]["dataset"] == record["dataset"]
        assert len(recorded.unknown) == ("flagfile" in record)  # a converted teacher has no record of its training
        right, calibrated = record["right"] / record["test_images"], record["calibrated"]
        assert calibrated["right"] == record["right"]  # one temperature moves no maximum
        line = next(line for line in page.splitlines() if line.startswith(f"| [{name}]("))
        assert f"{record['parameters']:,} parameters | {right:.4f} | {calibrated['nll']:.4f} |" in line


@pytest.mark.parametrize("name", IN_THE_PACKAGE)
def test_a_released_student_measures_as_its_record_says(name):
    record = RECORDS[name]
    dataset = data.load(data.DataSettings(dataset=record["dataset"]), train=False)
    found = evaluate_models([f"released:{name}"], dataset, timing=False, bootstrap_samples=0)["models"][0]
    for measured, recorded in ((found, record), (found["calibrated"], record["calibrated"])):
        assert round(measured["accuracy"] * len(dataset.test)) == recorded["right"]
        assert measured["nll"] == pytest.approx(recorded["nll"], abs=1e-5)
    assert found["parameters"] == record["parameters"]


def test_a_missing_one_is_one_line_with_a_remedy(monkeypatch, tmp_path):
    with pytest.raises(
        InputError, match=r"Unknown released student\. Expected one of .*fashion.*Did you mean fashion\?"
    ):
        preflight.check_files(Config(student_checkpoint="released:fashio", loss="cross_entropy"))
    for name in ("../fashion", "fashion/student.keras"):
        with pytest.raises(InputError, match="Unknown released student"):
            paths.keras_file(f"released:{name}")
    monkeypatch.setattr(paths, "_REPOSITORY", tmp_path / "released")  # as in the installed package
    with pytest.raises(InputError, match=r"no released students.*pip install -e \. in a checkout") as caught:
        paths.require("released:fashion")
    assert "://" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_student_starts_from_a_released_one():
    from skd_tf.models.student import StudentSettings, make_student

    dataset = data.load(data.DataSettings(dataset="fashion_mnist_10k"))
    settings = {"student": "cnn_8_16_32", "student_checkpoint": "released:fashion"}
    student = make_student(Config(**settings).pick(StudentSettings), dataset)
    logits = np.asarray(student(dataset.test.images[:500].astype("float32")))
    assert (logits.argmax(1) == dataset.test.labels[:500]).mean() > 0.8
