"""metrics.jsonl: one line per epoch, restored if the file is damaged, with the learning rate that was in force."""

import json
import os
import pathlib
import shutil

import keras
import pytest

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs import metrics_log
from skd_tf.training import experiment, run_callbacks

SETTINGS = {"student": "cnn_2", "loss": "cross_entropy", "epochs": 3, "batch_size": 100, "learning_rate": 0.1}
SETTINGS |= {"strategy": "one_device", "report": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, experiment.run(Config(**SETTINGS), folder)


def edited(text):
    return text.replace('"loss": ', '"loss": 1', 1)


HARMS = {
    "lost in the middle": lambda text: "".join(text.splitlines(keepends=True)[::2]),
    "edited": edited,
    "cut": lambda text: text[:90],
    "not JSON": lambda text: "\0" * len(text),
    "gone": lambda text: None,
}


@pytest.mark.parametrize("harm", HARMS)
def test_lost_or_changed_lines_are_restored_with_a_warning(tmp_path, capsys, harm):
    rows = [{"epoch": i, "step": 8 * i + 8, "loss": 0.1 + i / 3} for i in range(4)]
    first = metrics_log.MetricsLog(tmp_path, known=None, config=Config(**SETTINGS))
    states = [first.add(row) or first.state() for row in rows]
    file, copy = tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "metrics.jsonl"
    whole = file.read_text()
    assert first.rows() == rows and copy.read_text() == whole
    harmed = HARMS[harm](whole)
    file.unlink() if harmed is None else file.write_text(harmed)
    assert metrics_log.MetricsLog(tmp_path, known=states[2], config=Config(**SETTINGS)).rows() == rows[:3]
    for path in (file, copy):
        assert path.read_text() == "".join(whole.splitlines(keepends=True)[:3])
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == f"warning: {file} has lost lines or was changed. The lines so far are restored from {copy}."
    again = metrics_log.MetricsLog(tmp_path, known=states[2], config=Config(**SETTINGS))
    again.add(rows[3])
    assert again.state() == states[3] and not capsys.readouterr().err
    for path in (file, copy):
        path.write_text(edited(whole))
    with pytest.raises(EnvironmentFailure, match=r"records of the epochs done are lost.*metrics\.jsonl"):
        metrics_log.MetricsLog(tmp_path, known=states[1], config=Config(**SETTINGS))
    assert file.read_text() == edited(whole)


def test_a_resumed_run_has_all_its_lines(finished, tmp_path, capsys):
    folder, result = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    whole = (folder / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(edited(whole))
    again = experiment.run(Config(**SETTINGS), tmp_path / "run")
    assert "has lost lines or was changed" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == whole and again["student"] == result["student"]


def test_a_checkpoint_without_a_digest_of_metrics_is_refused(tmp_path, monkeypatch):
    def facts_alone(self):
        return self._facts | {"seconds": 0.0}

    monkeypatch.setattr(run_callbacks.RunCallbacks, "_extra", facts_alone)
    config = Config(**SETTINGS)
    experiment.run(config, tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError) as refused:
        experiment.run(config, tmp_path)
    assert f"Received none in {tmp_path / 'checkpoints'}. Continue with that version" in str(refused.value)


def test_the_recorded_rate_is_that_of_the_last_update(tmp_path, monkeypatch):
    """The loss scale starts so high that float16 skips steps: the schedule counts only the updates that were made."""

    class High(keras.optimizers.LossScaleOptimizer):
        def __init__(self, inner_optimizer, initial_scale=2.0**24, **options):
            super().__init__(inner_optimizer, initial_scale=initial_scale, **options)

    updates, original = [], run_callbacks.RunCallbacks.on_epoch_end

    def spy(self, *arguments):
        updates.append(int(self._distiller.optimizer.inner_optimizer.iterations.numpy()))
        original(self, *arguments)

    monkeypatch.setattr(keras.optimizers, "LossScaleOptimizer", High)
    monkeypatch.setattr(run_callbacks.RunCallbacks, "on_epoch_end", spy)
    config = Config(**SETTINGS | {"precision": "float16"})
    experiment.run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < updates[0] < 8 and [row["step"] for row in rows] == [8, 16, 24]
    rates = schedules.learning_rate(config, 8)
    assert [row["learning_rate"] for row in rows] == [rates[n - 1] for n in updates]
    assert rows[0]["learning_rate"] != rates[7]


def test_many_epochs_do_not_leak_memory(tmp_path):
    """TensorFlow caches each Python number that it converts to a tensor, 0.7 kB each: that would be 9 MB here."""
    kept = metrics_log.MetricsLog(tmp_path, known=None, config=Config(**SETTINGS))

    def add(first, last):
        for step in range(first, last):
            kept.add({"epoch": step, "step": step} | {f"scalar{i}": step + i / 100 for i in range(100)})

    add(1, 20)
    before = _resident_mb()
    add(20, 140)
    assert _resident_mb() - before < 3


def _resident_mb():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
