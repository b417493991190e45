"""Plan, objective, records, and the values that the oracles draw. No student is trained here."""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import math
import shutil

import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runtime import user_code
from skd_tf.search import results
from skd_tf.search import run_search as running
from skd_tf.search.oracles import ORACLES, make_oracle
from skd_tf.search.plan import OBJECTIVES, TUNERS, Plan, parse_objective
from skd_tf.search.run_search import describe, run_search
from skd_tf.search.trial_records import TrialRecords, is_disk_full
from skd_tf.search.tuner import Tuner
from tests.search.cases import one_line_with

CONFIG = Config(teacher_checkpoint="teacher", student="cnn_2", loss="spherical")
TEMPERATURES = "temperature:choice:1,2,4,8,16"


def test_the_objective_and_its_direction():
    assert parse_objective("val_accuracy").direction == "max" and parse_objective("val_nll").direction == "min"
    assert parse_objective("val_accuracy:min").sign == 1.0 == -parse_objective("val_accuracy").sign
    refused = {"val_acc": "Did you mean val_accuracy", "kd_weight": "has no direction", "loss:up": "has no direction"}
    for text, words in refused.items():
        with one_line_with(words):
            parse_objective(text)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"tuner": "hyperband"}, "--tuner has an unknown value"),
        ({"tuner": "grid", "search": ("temperature:log:1:16",)}, "number of points"),
        ({"max_trials": 0}, "--max_trials=0"),
        ({"executions_per_trial": 0}, "--executions_per_trial=0"),
        ({"search": ("seed:int:0:9",), "executions_per_trial": 2}, "averaged over"),
        ({"config": Config(loss="spherical")}, "needs a teacher"),
        ({"config": Config(loss="cross_entropy"), "search": ("loss:choice:cross_entropy,kd",)}, "needs a teacher"),
        (
            {"search": "loss:choice:spherical,cross_entropy", "objective": "agreement"},
            "is not logged with --loss=cross_entropy",
        ),
        (
            {"config": CONFIG.replace(loss="kd"), "objective": "radius_over_student_norm:min"},
            "is not logged with --loss=kd",
        ),
        ({"objective": "feature_loss"}, "is not logged without --feature_pairs"),
    ],
)
def test_a_bad_plan_is_one_line(options, words):
    with one_line_with(words):
        Plan(**{"config": CONFIG, "search": (TEMPERATURES,)} | options)


def test_the_size_of_a_search_and_its_default():
    grid = Plan(CONFIG, (TEMPERATURES, "loss:choice:spherical,kd", "epochs:int:1:3"), tuner="grid")
    assert grid.trials == 30 and Plan(CONFIG, grid.search, tuner="grid", max_trials=7).trials == 7
    assert grid.default is None  # 30 epochs are not in it
    assert Plan(CONFIG, (TEMPERATURES,)).trials == Plan(CONFIG, (TEMPERATURES,), max_trials=7).trials == 5
    assert Plan(CONFIG, ("epochs:int:1:50",)).trials == Plan(CONFIG, ("temperature:log:1:16",)).trials == 10
    assert Plan(CONFIG, TEMPERATURES) == Plan(CONFIG, [TEMPERATURES])
    two = Plan(CONFIG, ("temperature:log:1:16", "kd_weight:choice:0.5,0.9"))
    assert two.default == {"temperature": 4.0, "kd_weight": 0.9}


# Oracles, without students.


class StoppedError(BaseException):
    """Like a kill: nothing in the search handles it."""


class FakeTrialRunner:
    """A `TrialRunner` with a formula instead of a student. It stops after so many executions, or before the oracle sees
    the end of trial `unseen`."""

    def __init__(self, records, executions, fail, unseen):
        self._records, self.executions, self.fail, self.unseen, self.ran = records, executions, fail, unseen, []

    def run(self, number):
        if len(self.ran) == self.executions:
            raise StoppedError
        self.ran.append(number)
        record = self._records.read(number)
        value = score(record["values"])
        if number in self.fail:
            record |= {"status": "failed", "reason": "the test asked for it"}
        else:
            record |= {"status": "finished", "objective": value, "spread": None, "validation_examples": 500}
            record["executions"] = [{"seed": 0, "seconds": 1.0, "metrics": {"val_accuracy": value}}]
        self._records.write(record)
        if number == self.unseen:
            raise StoppedError
        return record


def score(values):
    return 0.9 - 0.01 * abs(math.log2(values["temperature"]) - 1.3) - 0.05 * (values.get("loss") == "kd")


def fake_search(folder, plan, *, executions=None, fail=(), unseen=None):
    """Runs a search to its end or its stop; returns the numbers of the trials that ran."""
    records = TrialRecords(folder, plan)
    records.claim()
    runner, oracle = FakeTrialRunner(records, executions, fail, unseen), make_oracle(plan)
    oracle.begin(records)
    with contextlib.suppress(StoppedError):
        Tuner(oracle, records, runner).search()
    return runner.ran


def drawn(folder, plan):
    return [record["values"] for record in TrialRecords(folder, plan).all()]


SEARCHES = {
    "random": Plan(CONFIG, ("temperature:log:1:16", "loss:choice:spherical,kd"), max_trials=7, search_seed=0),
    "grid": Plan(CONFIG, ("temperature:log:1:16:4", "loss:choice:spherical,kd"), tuner="grid"),
    "bayesian": Plan(CONFIG, ("temperature:log:1:16",), tuner="bayesian", max_trials=6),
}


@pytest.mark.parametrize("tuner", [pytest.param(t, marks=[pytest.mark.slow] * (t == "bayesian")) for t in SEARCHES])
def test_a_search_stopped_anywhere_draws_what_an_uninterrupted_one_draws(tuner, tmp_path):
    """Stopped before a trial, or after its end and before the oracle has seen it; then after each of two more trials."""
    if tuner == "bayesian":
        pytest.importorskip("sklearn", reason="the extra skd_tf[bayesian] is not installed")
    plan, straight, step = SEARCHES[tuner], tmp_path / "straight", 1 if tuner == "random" else 3
    every = list(range(plan.trials))
    assert fake_search(straight, plan, fail=(2,)) == every
    expected = drawn(straight, plan)
    assert len({json.dumps(values) for values in expected}) == plan.trials
    stops = [("executions", n) for n in every[1::step]] + [("unseen", n) for n in every[:-1:step]]
    for kind, number in stops:
        folder = tmp_path / f"{kind}-{number}"
        ran = fake_search(folder, plan, fail=(2,), **{kind: number})
        if kind == "executions":
            assert TrialRecords(folder, plan).all()[-1]["status"] == "running"  # drawn, and stopped before its end
        for executions in (1, 1, None):
            ran += fake_search(folder, plan, executions=executions, fail=(2,))
        assert ran == every, (kind, number)  # nothing lost, nothing twice
        assert drawn(folder, plan) == expected, (kind, number)
    if tuner == "grid":
        points = itertools.product((1.0, 2.51984, 6.3496, 16.0), ("spherical", "kd"))
        assert {(v["temperature"], v["loss"]) for v in expected} == set(points)


def test_a_seed_is_a_seed_and_the_first_trial_is_the_default(tmp_path):
    draws = []
    for number, seed in enumerate((0, 0, 1)):
        plan = dataclasses.replace(SEARCHES["random"], search_seed=seed)
        fake_search(tmp_path / str(number), plan)
        draws.append(drawn(tmp_path / str(number), plan))
    one, two, other = draws
    assert one == two != other
    assert one[0] == other[0] == {"temperature": 4.0, "loss": "spherical"}


def test_more_trials_continue_a_search_and_failures_never_stop_it(tmp_path):
    plan = SEARCHES["random"]
    assert fake_search(tmp_path, plan, fail=range(7)) == list(range(7))
    assert not TrialRecords(tmp_path, plan).ranked()
    more = dataclasses.replace(plan, max_trials=12)
    assert fake_search(tmp_path, more) == list(range(7, 12))
    assert fake_search(tmp_path, plan) == []


def test_another_search_is_refused(tmp_path):
    plan = SEARCHES["random"]
    fake_search(tmp_path, plan, executions=3)
    other = Plan(CONFIG.replace(student="cnn_4"), ("temperature:log:1:8",), tuner="bayesian", objective="val_nll")
    changes = ("--student: cnn_2 -> cnn_4", "--tuner: random -> bayesian", "val_accuracy:max -> val_nll:min")
    with one_line_with("--overwrite", *changes):
        TrialRecords(tmp_path, other).claim()
    fresh = TrialRecords(tmp_path, dataclasses.replace(other, config=other.config.replace(overwrite=True)))
    (tmp_path / "teacher_cache").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "teacher_cache")  # the link is removed, and the folder stays
    fresh.claim()
    assert (tmp_path / "teacher_cache").is_dir() and fresh.all() == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="does not belong to a search"):
        TrialRecords(tmp_path / "run", plan).claim()


def test_a_missing_or_damaged_record_is_seen(tmp_path):
    plan, record = SEARCHES["random"], tmp_path / "trials" / "0001" / "record.json"
    fake_search(tmp_path, plan, executions=3)
    shutil.copytree(record.parent, record.parent.with_name("0001_backup"))
    assert len(TrialRecords(tmp_path, plan).all()) == 4
    record.unlink()
    with pytest.raises(InputError, match="0001"):
        TrialRecords(tmp_path, plan).all()
    record.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        TrialRecords(tmp_path, plan).all()


def test_a_search_killed_while_it_clears_can_be_overwritten_again(tmp_path, monkeypatch):
    plan = SEARCHES["random"]
    records = TrialRecords(tmp_path, plan)
    records.claim()
    (tmp_path / "trials/0000").mkdir(parents=True)
    (tmp_path / "best.flags").write_text("")
    fresh = TrialRecords(tmp_path, dataclasses.replace(plan, config=plan.config.replace(overwrite=True)))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        fresh.claim()
    fresh.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.json"]


def test_a_search_goes_on_with_its_own_teacher_and_data_only(tmp_path):
    records = TrialRecords(tmp_path, SEARCHES["random"])
    records.claim()
    facts = {"data": ["folder:x", "1", 90, "a"], "images": "b", "images_in": "memory"}
    assert records.images_were_in() == ""
    records.require_same_inputs("teacher", facts)
    assert records.images_were_in() == "memory"
    records.require_same_inputs("teacher", dict(facts))
    records.require_same_inputs(None, facts)  # a trial without a teacher changes nothing
    records.claim()
    with pytest.raises(InputError, match="The teacher has changed"):
        records.require_same_inputs("another", facts)
    for change, words in (
        ({"data": ["folder:x", "1", 91, "a"]}, "The data has changed since this search"),
        ({"images": "c"}, "mean, std"),
        ({"images": "c", "images_in": "none"}, "--cache_dataset=memory"),
    ):
        with pytest.raises(InputError, match=words):
            records.require_same_inputs("teacher", facts | change)


def test_a_search_goes_on_with_the_code_of_its_losses_only(tmp_path, monkeypatch):
    plan = Plan(CONFIG, ("loss:choice:kd,my_loss:terms",), max_trials=2)
    code = {"my_loss:terms": "a"}
    monkeypatch.setattr(user_code, "fingerprint_if_own", code.get)
    records = TrialRecords(tmp_path, plan)
    records.claim()
    facts = {"data": [], "images": "b", "images_in": "memory"}
    records.require_same_inputs(None, facts)
    records.require_same_inputs(None, facts)
    code["my_loss:terms"] = "b"
    with pytest.raises(InputError, match="The code of --loss=my_loss:terms has changed since this search started"):
        records.require_same_inputs(None, facts)


def test_a_full_disk_is_known_through_what_came_from_it():
    error = InputError("The workdir cannot be written.")
    error.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(error)
    assert not is_disk_full(InputError("Another thing.")) and not is_disk_full(OSError(13, "Permission denied"))


def test_tuners_have_oracles():
    assert tuple(ORACLES) == TUNERS and OBJECTIVES["val_accuracy"] == "max"


def test_a_final_run_that_needs_validation_images_is_refused_before_the_search(tmp_path):
    (tmp_path / "teacher.keras").touch()
    for setting in ({"early_stopping_patience": 3}, {"ship": "best"}):
        plan = Plan(CONFIG.replace(teacher_checkpoint=str(tmp_path / "teacher.keras"), **setting), (TEMPERATURES,))
        for start in (run_search, describe):
            with pytest.raises(InputError, match="The final run has no validation images"):
                start(plan, tmp_path, final_run=True)


@pytest.mark.parametrize(
    "settings, losses, words",
    [
        ({"dataset": "images:pictures", "kd_weight": 1}, "kd,dkd", "--loss needs the class of each image"),
        ({"unlabelled": "images:more"}, "kd,cross_entropy", "--loss learns nothing from the images of --unlabelled"),
    ],
)
def test_a_searched_loss_fits_images_without_labels(tmp_path, settings, losses, words):
    (tmp_path / "teacher.keras").touch()
    config = CONFIG.replace(teacher_checkpoint=str(tmp_path / "teacher.keras"), **settings)
    objective = "val_kl_to_teacher" if "dataset" in settings else "val_accuracy"
    for start in (run_search, describe):
        with pytest.raises(InputError, match=words):
            start(Plan(config, (f"loss:choice:{losses}",), objective=objective), tmp_path / "search")


def test_a_final_run_takes_no_student_alone_of_other_settings(tmp_path):
    for name in ("teacher.keras", "student.keras"):
        (tmp_path / name).touch()
    config = CONFIG.replace(teacher_checkpoint=str(tmp_path / "teacher.keras"), student_alone=str(tmp_path))
    with pytest.raises(InputError, match="--student_alone names a run whose settings may not be those of the best"):
        run_search(Plan(config, (TEMPERATURES,)), tmp_path / "search", final_run=True)


def test_what_trials_leave_out_is_said_and_stays_in_the_best_settings(tmp_path):
    plan = Plan(CONFIG.replace(callback="my_tracker:log", student_alone="train"), (TEMPERATURES,))
    trial = plan.config_of({"temperature": 2.0})
    assert (trial.callback, trial.student_alone) == ("", "none")
    best = results.best_config(TrialRecords(tmp_path, plan), {"values": {"temperature": 2.0}})
    assert (best.callback, best.student_alone, best.temperature) == ("my_tracker:log", "train", 2.0)
    (said,) = running._left_out(plan)
    assert said == "Trials train without --student_alone and --callback: only best.flags and the final run use them."
    assert running._left_out(Plan(CONFIG, (TEMPERATURES,))) == []
    grid = Plan(CONFIG, ("temperature:linear:1:4:4", "kd_weight:choice:0.5,0.9"), tuner="grid", max_trials=5)
    assert running._left_out(grid) == ["--max_trials=5 tries only the first 5 of the grid's 8 points."]
    assert running._left_out(dataclasses.replace(grid, max_trials=None)) == []


def test_steps_to_profile_are_checked_by_each_trial_if_epochs_are_searched(tmp_path):
    config = Config(loss="cross_entropy", epochs=1, profile_steps="30,40")  # digits has 6 steps of 128 in an epoch
    describe(Plan(config, "epochs:choice:8,9"), tmp_path)
    with pytest.raises(InputError, match="--profile_steps is past the end of the run"):
        describe(Plan(config, "learning_rate:choice:0.1,0.2"), tmp_path)


def test_a_dry_run_refuses_the_workdirs_and_tuners_that_the_search_refuses(tmp_path, monkeypatch):
    config = Config(loss="cross_entropy")
    plan = Plan(config, "learning_rate:choice:0.1,0.2")
    TrialRecords(tmp_path / "search", plan).claim()
    assert "learning_rate:choice" in describe(plan, tmp_path / "search")
    other = Plan(config, "learning_rate:choice:0.1,0.3")
    with pytest.raises(InputError, match=r"another search.*0\.2 -> learning_rate:choice:0\.1,0\.3"):
        describe(other, tmp_path / "search")
    describe(Plan(config.replace(overwrite=True), other.search), tmp_path / "search")
    (tmp_path / "trials.csv").touch()
    with pytest.raises(InputError, match="does not belong to a search"):
        describe(plan, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs scikit-learn"):
        describe(Plan(config, plan.search, tuner="bayesian"), tmp_path / "new")


def test_a_searched_network_or_loss_that_does_not_exist_is_refused_before_the_search(tmp_path):
    for search in ("student:choice:cnn_2,nowhere:net", "loss:choice:cross_entropy,nowhere:loss"):
        plan = Plan(Config(loss="cross_entropy", teacher="cnn_2"), search)
        with pytest.raises(InputError, match="nowhere"):
            describe(plan, tmp_path)
    with pytest.raises(InputError, match="math:net"):
        run_search(Plan(Config(loss="cross_entropy"), "student:choice:cnn_2,math:net"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_does_not_refuse_a_default_that_no_trial_uses(tmp_path):
    (tmp_path / "teacher.keras").touch()
    config = CONFIG.replace(teacher_checkpoint=str(tmp_path / "teacher.keras"), batch_size=5000)
    text = describe(Plan(config, ("batch_size:choice:8,16",)), tmp_path / "search")
    assert "--batch_size=8" in text and "batch_size:choice:8,16" in text
    with pytest.raises(InputError, match="5000"):
        describe(Plan(config, (TEMPERATURES,)), tmp_path / "search")
