"""Early stopping, the epoch that ships, and trackers: exact on resume, and said in the result."""

import json
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs.report import charts
from skd_tf.runs.result_tables import epochs_of, result_table
from skd_tf.training import experiment
from skd_tf.training.checkpoints import Checkpoints
from tests.helpers.runs import ALONE, assert_same_run, blank_chart, numbers, read_json, student_of, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Without momentum and with a constant rate, the accuracy on 90 validation images rises and falls.
SETTINGS = ALONE | {"epochs": 12, "learning_rate": 0.5, "lr_schedule": "constant", "momentum": 0.0, "student": "cnn_4"}
SETTINGS |= {
    "min_warmup_steps": 0,
    "early_stopping_patience": 2,
    "ship": "best",
    "keep_checkpoints": 20,
    "calibrate": "none",
    "report": True,
    "report_images": 0,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stops early and ships its best epoch: (workdir, what its tracker was given)."""
    folder, seen = tmp_path_factory.mktemp("stopped") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "chart", blank_chart)
        experiment.run(Config(**SETTINGS), folder, callbacks=[seen.append])
    return folder, seen


def test_it_stops_after_the_epochs_without_a_better_one_and_ships_the_best(stopped):
    folder, _ = stopped
    accuracies = [row["val_accuracy"] for row in numbers(folder)]
    best = int(np.argmax(accuracies))
    assert len(accuracies) == best + 1 + 2 < 12 and best > 0
    assert max(accuracies) > max(accuracies[-2:])
    result = read_json(folder / "result.json")
    assert (result["epochs_trained"], result["shipped_epoch"]) == (best + 3, best + 1)
    assert result["student"]["val_accuracy"] == max(accuracies)
    report = (folder / "report.html").read_text()
    said = f"{best + 3} of 12 epochs, stopped early; epoch {best + 1} ships, the best on validation"
    assert epochs_of(result) == said and said in report
    assert f"\nThe student was measured after epoch {best + 1}, the best on validation." in result_table(result)
    held_out = data.load(Config(**SETTINGS).pick(data.DataSettings)).validation
    student = keras.models.load_model(folder / "student.keras", compile=False)
    found = student.predict(held_out.images, verbose=0).argmax(axis=1)
    assert np.mean(found == held_out.labels) == pytest.approx(max(accuracies))


@pytest.mark.slow
def test_resumed_from_anywhere_it_ends_alike(stopped, tmp_path, capsys):
    folder, _ = stopped
    for newest in (0, 1, 3):  # killed after the last step, before it, and long before it
        copy = shutil.copytree(folder, tmp_path / str(newest))
        for name in ("result.json", "measurements.json"):
            (copy / name).unlink()
        for path in Checkpoints(copy / "checkpoints").paths()[len(numbers(folder)) - newest :]:
            path.unlink()
        train(copy, SETTINGS)
        assert_same_run(copy, folder)
        assert student_of(copy) == student_of(folder)
    damaged = max((copy / "checkpoints").glob("best-*"))
    (copy / "result.json").unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(EnvironmentFailure, match="best validation accuracy cannot be read"):
        train(copy, SETTINGS)


def test_without_held_out_images_both_are_refused(tmp_path):
    for setting in ({"ship": "best"}, {"early_stopping_patience": 3}):
        with pytest.raises(InputError, match=f"--{next(iter(setting))} needs validation images"):
            train(tmp_path, ALONE, validation_fraction=0, **setting)
        assert not (tmp_path / "metrics.jsonl").exists()


def test_a_tracker_gets_each_line_and_the_result(stopped):
    folder, seen = stopped
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert seen == [*lines, read_json(folder / "result.json")]


@pytest.mark.slow
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    code = "import json\ndef log(record):\n    record.clear()\n    raise ConnectionError('no\\nserver')\n"
    (tmp_path / "my_tracker.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    seen = []
    config = Config(**ALONE | {"epochs": 2, "callback": "my_tracker:log"})
    result = experiment.run(config, tmp_path / "run", callbacks=[seen.append])
    said = capsys.readouterr().err
    assert said.count("the callback my_tracker:log raised ConnectionError: no server.") == 1
    assert len(seen) == 3 and seen[-1] == result
    assert result["warnings"] == ["the callback my_tracker:log raised ConnectionError: no server"]
    sys.modules.pop("my_tracker")
    for callback, words in (("my_tracker:nothing", "no such function"), ("no_module:log", "no module no_module")):
        with pytest.raises(InputError, match=words):
            train(tmp_path / "other", ALONE, callback=callback)
        assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_the_documented_tracker_logs_to_mlflow_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    mlflow.set_tracking_uri(f"file:{tmp_path}/mlruns")
    page = (ROOT / "docs" / "trackers.md").read_text()
    (code,) = re.findall(r"```python\n(# tracking.py: --callback=tracking:to_mlflow\n.*?)```", page, re.DOTALL)
    (tmp_path / "tracking.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    result = train(tmp_path / "run", ALONE, epochs=2, callback="tracking:to_mlflow")
    (logged,) = mlflow.search_runs(output_format="list")
    rows = numbers(tmp_path / "run")
    losses = mlflow.MlflowClient().get_metric_history(logged.info.run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(row["step"], row["loss"]) for row in rows]
    assert logged.data.metrics["test_accuracy"] == result["student"]["accuracy"]
    assert logged.data.params["student"] == "cnn_2" and logged.info.status == "FINISHED"
