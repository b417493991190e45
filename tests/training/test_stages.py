"""What a whole run prints: a line per stage, the gain with its interval, a next step."""

import re
import types

import pytest

import skd_tf
from skd_tf.training import run_outputs

SETTINGS = {"teacher": "cnn_4", "student": "cnn_2", "student_alone": "train", "epochs": 6, "report": False}
SETTINGS |= {"optimizer": "adamw", "learning_rate": 0.05, "batch_size": 32}


def test_a_run_records_where_it_read_its_data():
    """The commands that it suggests give --data_dir."""
    dataset = types.SimpleNamespace(train=[0], test=None, unlabelled=None, png_bits=None, name="mnist", version="3")
    resources, watch = types.SimpleNamespace(dataset=dataset, teacher=None), types.SimpleNamespace(seconds={})
    for data_dir, recorded in ((None, {}), ("/data", {"data_dir": "/data"})):
        found = run_outputs.details_of(resources, {}, watch, data_dir)["dataset"]
        assert {name: value for name, value in found.items() if name == "data_dir"} == recorded


@pytest.mark.slow
def test_a_run_prints_its_stages_the_gain_and_a_next_step(tmp_path, capsys):
    skd_tf.run(skd_tf.Config(**SETTINGS), tmp_path / "my run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    stages = [line.split(":")[0].split() for line in lines if " epochs in " in line]
    assert stages == [["teacher", "cnn_4"], ["alone", "cnn_2"], ["distilled", "cnn_2"]]
    assert sum(line.startswith("test split") for line in lines) == 1  # the teacher and the student alone print no table
    assert any(re.search(r"points of top-1 .*95% interval", line) for line in lines)
    assert lines[-1].startswith(f"Next: python -m skd_tf.predict '{tmp_path}/my run' PICTURES --output=answers.csv, ")
