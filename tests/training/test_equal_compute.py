"""--student_alone=matched: the student alone gets the computation that distilling took."""

import pytest

from skd_tf.config import Config
from skd_tf.runs import result_tables
from skd_tf.training import nested_runs
from tests.helpers.runs import SMALL, numbers, read_json, train

FLOPS = {"student_flops": 10, "teacher_flops": 60}


def test_epochs_follow_from_the_operations():
    config = Config(loss="kd", teacher="resnet8", epochs=30, lr_schedule="multistep:10,20:0.5")
    matched = nested_runs.student_matched_config(config, **FLOPS)
    assert matched.epochs == 90 and matched.lr_schedule == "multistep:30,60:0.5"  # 30 (3 * 10 + 60) / (3 * 10)
    alone = nested_runs.student_alone_config(config)
    assert {line.split(":")[0] for line in alone.differences(matched)} == {"--epochs", "--lr_schedule"}
    waits = config.replace(warmup_epochs=1.5, early_stopping_patience=5)
    waits = nested_runs.student_matched_config(waits, **FLOPS)
    assert (waits.warmup_epochs, waits.early_stopping_patience) == (4.5, 15)
    cached = config.replace(teacher_cache_dir="cache", teacher_cache_epochs=15)
    assert nested_runs.student_matched_config(cached, **FLOPS).epochs == 60  # half of the teacher's passes
    more = cached.replace(teacher_cache_epochs=100)
    assert more.cached_epochs == 30 and nested_runs.student_matched_config(more, **FLOPS).epochs == 90


@pytest.mark.slow
def test_a_run_shows_both_students_alone(digits_teacher, tmp_path, capsys):
    settings = SMALL | {"teacher_checkpoint": str(digits_teacher), "epochs": 2, "student_alone": "matched"}
    result = train(tmp_path, settings)

    def flops(width):  # of cnn_N by hand
        return 2 * (64 * 9 * width + 16 * 9 * width * 2 * width + 2 * width * 10)

    epochs = round(2 * (3 * flops(2) + flops(8)) / (3 * flops(2)))
    assert 2 < epochs == len(numbers(tmp_path / "student_matched")) and len(numbers(tmp_path / "student_alone")) == 2
    recorded = read_json(tmp_path / "student_matched" / "result.json")["student"]
    for name in ("accuracy", "nll", "calibrated"):
        assert result["student_matched"][name] == recorded[name]
    said = capsys.readouterr().out
    assert "equal compute" in result_tables.result_table(result) and f"as much as {epochs} of the student" in said
    assert f"3 x {flops(2) / 1e6:.3g} MFLOPs per image" in said
    assert "equal compute" in (tmp_path / "report.html").read_text()
