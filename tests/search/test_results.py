"""The results of a search: tables, the comparison with the default, and pictures. No student is trained here."""

import itertools
import json
import math

import pytest

from skd_tf.config import Config
from skd_tf.search import plot, results
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import TrialRecords

CONFIG = Config(teacher_checkpoint="teacher", student="cnn_2", loss="spherical")
TEMPERATURES = "temperature:choice:1,2,4,8,16"


def fake_records(folder, plan, objectives, spreads=None):
    records = TrialRecords(folder, plan)
    records.claim()
    spreads = spreads or [None] * len(objectives)
    for number, (values, objective, spread) in enumerate(zip(_combinations(plan), objectives, spreads, strict=False)):
        record = {"trial": number, "status": "finished", "values": values, "reason": "", "validation_examples": 1000}
        record |= {"started": 2 * number, "ended": 2 * number + 1, "objective": objective, "spread": spread}
        metrics = {"val_accuracy": objective, "step": 8}
        record["executions"] = [{"seed": 0, "seconds": 1.0, "metrics": metrics}]
        records.write(record | ({"status": "failed", "reason": "loss=nan"} if objective is None else {}))
    return records


def _combinations(plan):
    points = [d.values or [d.ends[0] + (d.ends[1] - d.ends[0]) * i / 4 for i in range(5)] for d in plan.space]
    return (dict(zip(plan.names, values, strict=True)) for values in itertools.product(*points))


def test_a_picture_of_few_trials_in_a_large_space(tmp_path):
    """Its time grows with the trials, and not with the 10^8 combinations."""
    names = ("temperature", "learning_rate", "weight_decay", "momentum", "kd_weight", "label_smoothing")
    grids = [f"{name}:choice:{','.join(f'0.{digit}1' for digit in range(1, 10))}" for name in names]
    plan = Plan(CONFIG, (*grids, "batch_size:choice:8,16,32,64", "epochs:choice:1,2,3,4"), tuner="random", max_trials=3)
    ranked = fake_records(tmp_path, plan, [0.8, 0.9, 0.7]).ranked()
    curves = plot._curves(ranked, plan, plot._x_dimension(plan))
    assert [len(trials) for trials in curves.values()] == [1, 1, 1]
    assert [name[-1] for name in curves] == ["1", "2", "3"] and all("batch_size 8, epochs" in name for name in curves)


@pytest.mark.parametrize(
    "objectives, spreads, words",
    [
        ([0.80, 0.81, 0.82, 0.83, 0.80], None, "Best and default cannot be told apart with 1,000 validation images"),
        ([0.80, 0.81, 0.70, 0.83, 0.80], None, "standard errors of"),
        ([0.80, 0.81, 0.90, 0.83, 0.80], None, "The best is the default (temperature 4)."),
        (
            [0.80, 0.88, 0.90, 0.89, 0.80],
            None,
            ". 2 of 4 others cannot be told apart from it with 1,000 validation images.",
        ),
        ([0.80, 0.81, None, 0.83, 0.80], None, "is not among the finished trials"),
        ([0.80, 0.81, 0.82, 0.83, 0.80], [0.001] * 5, "standard errors of 0.0008"),
        ([0.80, 0.81, 0.82, 0.83, 0.80], [0.01] * 5, "Best and default cannot be told apart with 3 seeds each"),
        ([0.80, 0.81, 0.82, 0.83, 0.80], [0.0043] * 5, "with 3 seeds each (2.78 are needed)"),
        ([0.80, 0.81, 0.82, 0.83, 0.80], [0.0046] * 5, "Best and default cannot be told apart with 3 seeds each"),
        ([0.80, 0.81, 0.82, 0.83, 0.80], [0.0] * 5, "cannot be told apart with 1,000 validation images"),
        ([1.0, 1.0, 0.0, 1.0, 1.0], [0.0] * 5, "To see if that is noise"),
    ],
)
def test_whether_the_best_beats_the_default(objectives, spreads, words, tmp_path):
    plan = Plan(CONFIG, (TEMPERATURES,), tuner="grid", executions_per_trial=3 if spreads else 1)
    records = fake_records(tmp_path, plan, objectives, spreads)
    ranked = results.write(records)
    text = results.summary(records, ranked)
    assert words in text, text
    assert "4 trials finished, 1 failed" in text if None in objectives else "5 trials finished" in text
    rows = (tmp_path / "trials.csv").read_text().splitlines()
    assert len(rows) == 6 and rows[0].startswith("trial,status,temperature,val_accuracy,spread")
    assert [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()] == records.all()


def test_equal_weights_of_teachers_are_the_default(tmp_path):
    plan = Plan(CONFIG.replace(teacher_checkpoint="a.keras,b.keras"), ("teacher_weights:choice:1,1|2,1",), tuner="grid")
    assert plan.default == {"teacher_weights": "1,1"}
    records = fake_records(tmp_path, plan, [0.5, 0.6])
    assert "better than the default's 0.5000 (teacher_weights 1,1)" in results.verdict(records, records.ranked())


def test_the_default_may_lie_outside_or_be_beyond_judgement(tmp_path):
    outside = Plan(CONFIG, ("temperature:choice:1,2",))
    between = Plan(CONFIG, ("temperature:linear:1:9:3",), tuner="grid")
    by_nll = Plan(CONFIG, ("temperature:choice:1,4",), objective="val_nll")
    unknown = "is not among the searched values"
    cases = (outside, 0.6, unknown), (between, 0.6, unknown), (by_nll, 0.5, "use --executions_per_trial=3")
    for number, (plan, best, words) in enumerate(cases):
        records = fake_records(tmp_path / str(number), plan, [0.5, 0.6])
        assert records.ranked()[0]["objective"] == best
        assert words in results.verdict(records, records.ranked())


@pytest.mark.parametrize(
    "search",
    [
        (TEMPERATURES, "loss:choice:spherical,kd"),
        ("loss:choice:spherical,kd",),
        ("temperature:log:1:16", "learning_rate:log:0.01:0.1"),
        ("epochs:int:1:5", "center:choice:true,false"),
        ("radius:choice:auto,3,6",),
        (r"layer_rates:choice:^logits$: 10, stage\w+_bn$: 2|^logits$: 1",),
    ],
)
def test_every_space_has_a_picture(search, tmp_path, monkeypatch):
    plan = Plan(CONFIG, search, executions_per_trial=2)
    records = fake_records(tmp_path, plan, [0.5, None, *(0.6 + 0.001 * i for i in range(30))], [0.01] * 32)
    drawn, prepare = [], plot._prepare_x_axis
    monkeypatch.setattr(plot, "_prepare_x_axis", lambda axes, *rest: (drawn.append(axes), prepare(axes, *rest))[1])
    path = plot.write(records, records.ranked())
    across = plot._x_dimension(plan)
    if across.ends:  # the axis is the range
        span = math.log if across.kind == "log" else float
        (low, high), (first, last) = map(span, across.ends), map(span, drawn[0].get_xlim())
        assert first == pytest.approx(low - 0.03 * (high - low)) and last == pytest.approx(high + 0.03 * (high - low))
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
