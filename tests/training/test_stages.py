"""What a whole run prints: a line per stage, the gain with its interval, a next step."""

import re

import pytest

import skd_tf

SETTINGS = {"teacher": "cnn_4", "student": "cnn_2", "student_alone": "train", "epochs": 6, "report": False}
SETTINGS |= {"optimizer": "adamw", "learning_rate": 0.05, "batch_size": 32}


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
