"""metrics.jsonl: one line per epoch, restored if the file is damaged, with the learning rate that was in force."""

import functools
import json
import os
import pathlib

import keras
import pytest

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs import metrics_log
from skd_tf.training import experiment, run_callbacks, train_student
from tests.helpers.runs import ALONE

CONFIG = Config(**ALONE)


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
    log = functools.partial(metrics_log.MetricsLog, tmp_path, config=CONFIG)
    first = log(known=None)
    states = [first.add(row) or first.state() for row in rows]
    files = file, copy = tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "metrics.jsonl"
    whole = file.read_text()
    assert first.rows() == rows and copy.read_text() == whole
    harmed = HARMS[harm](whole)
    file.unlink() if harmed is None else file.write_text(harmed)
    again = log(known=states[2])
    assert again.rows() == rows[:3]
    assert [path.read_text() for path in files] == ["".join(whole.splitlines(keepends=True)[:3])] * 2
    warning = f"warning: {file} has lost lines or was changed. The lines so far are restored from {copy}.\n"
    assert capsys.readouterr().err == warning
    again = log(known=states[2])
    again.add(rows[3])
    assert again.state() == states[3] and not capsys.readouterr().err
    for path in files:
        path.write_text(edited(whole))
    with pytest.raises(EnvironmentFailure, match=r"records of the epochs done are lost.*metrics\.jsonl"):
        log(known=states[1])
    assert file.read_text() == edited(whole)


def test_a_run_whose_checkpoints_are_gone_says_that_it_starts_again(tmp_path, capsys):
    for warned in (False, True):
        log = metrics_log.MetricsLog(tmp_path, known=None, config=CONFIG)
        assert ("training starts again at step 0" in capsys.readouterr().err) == warned and not log.rows()
        log.add({"epoch": 0, "step": 8})


@pytest.mark.slow
def test_a_resumed_run_has_all_its_lines(tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    result, whole = experiment.run(CONFIG, tmp_path), file.read_text()
    (tmp_path / "result.json").unlink()
    file.write_text(edited(whole))
    again = experiment.run(CONFIG, tmp_path)
    assert "has lost lines or was changed" in capsys.readouterr().err
    assert file.read_text() == whole and again["student"] == result["student"]


@pytest.mark.slow
def test_a_checkpoint_without_a_digest_of_metrics_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_callbacks.RunCallbacks, "_extra", lambda self: self._facts | {"seconds": 0.0})
    experiment.run(CONFIG, tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError) as refused:
        experiment.run(CONFIG, tmp_path)
    assert f"Received none in {tmp_path / 'checkpoints'}. Continue with that version" in str(refused.value)


def test_the_recorded_rate_is_that_of_the_last_update(tmp_path, monkeypatch):
    """The loss scale starts so high that float16 skips steps: the schedule counts only the updates that were made."""

    scaled = keras.optimizers.LossScaleOptimizer
    monkeypatch.setattr(scaled, "__init__", functools.partialmethod(scaled.__init__, initial_scale=2.0**24))
    updates, original = [], run_callbacks.RunCallbacks.on_epoch_end

    def spy(self, *arguments):
        updates.append(int(self._distiller.optimizer.inner_optimizer.iterations.numpy()))
        original(self, *arguments)

    monkeypatch.setattr(run_callbacks.RunCallbacks, "on_epoch_end", spy)
    config = CONFIG.replace(precision="float16")
    train_student.train_student(config, experiment.prepare(config, tmp_path), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < updates[0] < 8 and [row["step"] for row in rows] == [8, 16, 24]
    rates = schedules.learning_rate(CONFIG, 8)
    assert [row["learning_rate"] for row in rows] == [rates[n - 1] for n in updates]
    assert rows[0]["learning_rate"] != rates[7]


@pytest.mark.slow
def test_many_epochs_do_not_leak_memory(tmp_path):
    """TensorFlow caches each Python number that it converts to a tensor, 0.7 kB each: that would be 9 MB here."""
    kept = metrics_log.MetricsLog(tmp_path, known=None, config=CONFIG)

    def add(first, last):
        for step in range(first, last):
            kept.add({"epoch": step, "step": step} | {f"scalar{i}": step + i / 100 for i in range(100)})

    add(1, 20)
    before = _resident_mb()
    add(20, 140)
    assert _resident_mb() - before < 3


def _resident_mb():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
