"""metrics.jsonl: a line an epoch, as it was, whatever has become of the file; and the settings that were in force."""

import json
import shutil

import keras
import pytest

from skd_tf import bookkeeping, experiment, records, schedules
from skd_tf.config import Config

SETTINGS = {
    "student": "cnn_2", "loss": "cross_entropy", "epochs": 3, "batch_size": 100, "learning_rate": 0.1,
    "strategy": "one_device", "report": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, experiment.run(Config(**SETTINGS), folder)


def edited(text):
    return text.replace('"loss": ', '"loss": 1', 1)


HARMS = {
    "lost in the middle": lambda text: "".join(text.splitlines(keepends=True)[::2]),
    "edited": edited,
    "cut": lambda text: text[:-9],
    "of no JSON": lambda text: "\0" * len(text),
    "gone": lambda text: None,
}


@pytest.mark.parametrize("harm", HARMS)
def test_rows_that_were_lost_or_changed_are_written_again_and_told(tmp_path, capsys, harm):
    rows = [{"epoch": i, "step": 8 * i + 8, "loss": 0.1 + i / 3} for i in range(4)]
    first = records.Records(tmp_path, rows=[], config=Config(**SETTINGS))
    for row in rows:
        first.add(row)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_text()
    assert records.Records(tmp_path, rows=rows[:3], config=Config(**SETTINGS)).rows() == rows[:3]
    assert file.read_text() == "".join(whole.splitlines(keepends=True)[:3]) and not capsys.readouterr().err
    harmed = HARMS[harm](whole)
    file.unlink() if harmed is None else file.write_text(harmed)
    records.Records(tmp_path, rows=rows, config=Config(**SETTINGS))
    assert file.read_text() == whole
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {file} lacked epochs or was changed: the 4 done are written as the checkpoint has them."
    ]


def test_a_resumed_run_has_all_its_rows(finished, tmp_path, capsys):
    folder, result = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    whole = (folder / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(edited(whole))
    again = experiment.run(Config(**SETTINGS), tmp_path / "run")
    assert "lacked epochs or was changed" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == whole and again["student"] == result["student"]


def test_the_rate_on_record_is_that_of_the_last_update(tmp_path, monkeypatch):
    """Loss scaling begins so high that float16 skips steps: rates go by the updates that were made."""

    class High(keras.optimizers.LossScaleOptimizer):
        def __init__(self, inner_optimizer, initial_scale=2.0**24, **options):
            super().__init__(inner_optimizer, initial_scale=initial_scale, **options)

    updates, original = [], bookkeeping.Bookkeeping.on_epoch_end

    def spy(self, *arguments):
        updates.append(int(self._distiller.optimizer.inner_optimizer.iterations.numpy()))
        original(self, *arguments)

    monkeypatch.setattr(keras.optimizers, "LossScaleOptimizer", High)
    monkeypatch.setattr(bookkeeping.Bookkeeping, "on_epoch_end", spy)
    config = Config(**SETTINGS | {"precision": "float16"})
    experiment.run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < updates[0] < 8 and [row["step"] for row in rows] == [8, 16, 24]
    rates = schedules.learning_rate(config, 8)
    assert [row["learning_rate"] for row in rows] == [rates[n - 1] for n in updates]
    assert rows[0]["learning_rate"] != rates[7]
