"""The values of few trials: spread over the whole space, for every number of trials, and the same after a restart."""

import itertools
import math

import pytest

from skd_tf.config import Config
from skd_tf.search.oracles import make_oracle
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import TrialRecords

CONFIG = Config(teacher_checkpoint="teacher", student="cnn_2")


def draw(folder, search, trials, seed=0, config=CONFIG, tuner="random"):
    """The values of the trials of a search, which all finish; earlier ones of the folder are replayed."""
    plan = Plan(config, tuple(search), max_trials=trials, search_seed=seed, tuner=tuner)
    records = TrialRecords(folder, plan)
    records.claim()
    oracle = make_oracle(plan)
    oracle.begin(records)
    while (trial := oracle.create_trial("tuner")).status == "RUNNING":
        record = records.read(int(trial.trial_id))
        records.write(record | {"status": "finished", "objective": 0.5})
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.5})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return [record["values"] for record in records.all()]


@pytest.mark.parametrize("trials", [4, 5, 10, pytest.param(20, marks=pytest.mark.slow)])
def test_one_range_is_spread_and_starts_at_the_default(trials, tmp_path):
    drawn = []
    for seed in range(8):
        values = [v["temperature"] for v in draw(tmp_path / str(seed), ["temperature:log:1:16"], trials, seed)]
        assert values[0] == 4.0 and len(values) == trials and all(1 <= value <= 16 for value in values)
        places = sorted(math.log(value, 16) for value in values)
        gaps = [b - a for a, b in itertools.pairwise([0.0, *places, 1.0])]
        assert min(gaps[1:-1]) > 0.35 / trials and max(gaps) < 2.2 / trials  # independent draws: 0.05 and 3.5 at ten
        drawn.append(tuple(values))
    assert len(set(drawn)) == 8


def test_a_narrow_range_has_as_many_values_as_trials(tmp_path):
    drawn = {values["momentum"] for values in draw(tmp_path, ["momentum:linear:0.99901:0.99909"], 6)}
    assert len(drawn) == 6 and all(0.99901 <= value <= 0.99909 for value in drawn)


def test_two_ranges_fill_the_square(tmp_path):
    search = ["temperature:log:1:16", "kd_weight:linear:0:1"]
    values = draw(tmp_path, search, 16)
    cells = {(min(int(2 * math.log(v["temperature"], 4)), 3), min(int(4 * v["kd_weight"]), 3)) for v in values}
    assert len(cells) >= 11  # of 16; independent draws hit 10.3
    for cells_of in (lambda v: int(2 * math.log(v["temperature"], 4)), lambda v: int(4 * v["kd_weight"])):
        counts = [sum(min(cells_of(v), 3) == i for v in values) for i in range(4)]
        assert min(counts) >= 3


@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_more_trials_go_on_where_the_search_ended(tuner, tmp_path):
    search = ["temperature:log:1:16", "loss:choice:spherical,kd"]
    few = draw(tmp_path / "a", search, 2, tuner=tuner)
    more = draw(tmp_path / "a", search, 4, tuner=tuner)
    assert more[:2] == few and more == draw(tmp_path / "b", search, 4, tuner=tuner)


@pytest.mark.slow
def test_a_finite_space_is_tried_completely_and_nothing_twice(tmp_path):
    for i, (search, size) in enumerate(
        [
            (["temperature:choice:1,2,4,8,16", "loss:choice:spherical,kd"], 10),
            (["epochs:int:1:30"], 30),
            (["temperature:int:1:4"], 4),
        ]
    ):
        values = draw(tmp_path / str(i), search, 50, config=CONFIG.replace(epochs=5))
        assert len(values) == len({tuple(v.values()) for v in values}) == size
    values = draw(tmp_path / "bayesian", ["temperature:log:1:16:5"], 8, tuner="bayesian")
    assert sorted(v["temperature"] for v in values) == [1, 2, 4, 8, 16]
    assert values == draw(tmp_path / "bayesian", ["temperature:log:1:16:5"], 8, tuner="bayesian")


def test_a_default_outside_the_space_is_not_tried(tmp_path):
    values = [v["temperature"] for v in draw(tmp_path, ["temperature:linear:5:9"], 4)]
    assert values[0] == 7.0 and all(5 <= value <= 9 for value in values)  # the middle first
