"""The search as its user runs it, on real digits: what trials share, what they leave, what stops them and what does not."""

import contextlib
import csv
import errno
import json
import signal
import sys
import time

import numpy as np
import pytest

from skd_tf import checkpoints, cli, data, experiment, training, tune
from skd_tf.config import Config
from skd_tf.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.search.distillers import Distillers
from skd_tf.search.plan import OBJECTIVES, Plan
from skd_tf.search.records import Records
from skd_tf.teacher_cache import TeacherCache

# One device, for the tests' two logical CPUs would be two replicas to --strategy=auto.
SMALL = {"student": "cnn_2", "epochs": 2, "batch_size": 100, "learning_rate": 0.1, "strategy": "one_device"}
GRID = ("temperature:choice:1,4", "kd_weight:choice:0.5,0.9")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    config = Config(**SMALL | {"student": "cnn_8", "loss": "cross_entropy", "epochs": 12, "batch_size": 50, "report": False})
    assert experiment.run(config, folder)["student"]["accuracy"] > 0.5
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(teacher, cache):
    return Config(teacher_checkpoint=str(teacher), teacher_cache_dir=str(cache), **SMALL)


@pytest.fixture(scope="module")
def setup(config, tmp_path_factory):
    return experiment.prepare(config, tmp_path_factory.mktemp("setup"), test=False)


@pytest.fixture(scope="module")
def finished(config, setup, tmp_path_factory):
    """A grid of four trials, its folder, and how often students were trained and steps were traced."""
    folder, plan = tmp_path_factory.mktemp("search"), Plan(config, GRID, tuner="grid")
    with counting(training, "train_student") as trained, counting(Distiller, "train_step") as traced:
        ranked = tune.search(plan, folder, setup=setup)
    return plan, folder, ranked, len(trained), len(traced)


@contextlib.contextmanager
def counting(owner, name):
    """A list with the arguments of every call of a function, which goes on."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    setattr(owner, name, counted)
    try:
        yield calls
    finally:
        setattr(owner, name, function)


def numbers(record):
    """A record without what may differ between two runs of the same search."""
    timed = ("seconds", "examples_per_second", "input_wait_share")
    runs = [{k: v for k, v in run["metrics"].items() if k not in timed} for run in record["executions"]]
    return [record["trial"], record["status"], record["values"], record["objective"], runs]


def test_a_search_leaves_all_it_promises(finished, config):
    plan, folder, ranked, trained, traced = finished
    assert trained == 4 and traced == 1  # one trace for all four trials
    assert [record["objective"] for record in ranked] == sorted((r["objective"] for r in ranked), reverse=True)
    with open(folder / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    pairs = {(row["temperature"], row["kd_weight"]) for row in rows}
    assert pairs == {(t, w) for t in ("1.0", "4.0") for w in ("0.5", "0.9")}
    assert [float(row["val_accuracy"]) for row in rows] == [r["objective"] for r in Records(folder, plan).all()]
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 4
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    # A finished trial keeps no weights, and nobody keeps the teacher.
    kept = [path.name for path in (folder / "trials").rglob("*") if path.is_file() and not path.name.startswith("events")]
    assert set(kept) == {"record.json", "config.json", "metrics.jsonl"}
    student_bytes = 4 * sum(np.prod(v.shape) for v in _build(config).variables)
    assert not list(folder.rglob("*.keras")) and not list(folder.rglob("*.ckpt")) and student_bytes > 0
    logged = set(ranked[0]["executions"][0]["metrics"]) - {"epoch", "step"}
    assert logged == set(OBJECTIVES)


def _build(config):
    from skd_tf import networks

    return networks.build(config.student, input_shape=(8, 8, 1), num_classes=10)


def test_the_best_flagfile_repeats_the_best_to_the_last_digit(finished, tmp_path):
    _, folder, ranked, _, _ = finished
    best, _ = cli.read_flagfile(folder / "best.flags")
    assert {name: getattr(best, name) for name in ranked[0]["values"]} == ranked[0]["values"]
    result = experiment.run(best.replace(report=False), tmp_path)
    assert result["student"]["val_accuracy"] == ranked[0]["objective"]


def test_tensorboard_shows_the_same(finished):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util import tensor_util

    def read(path):
        reader = event_accumulator.EventAccumulator(str(path))
        reader.Reload()
        content = {tag: reader.SummaryMetadata(tag).plugin_data.content for tag in reader.PluginTagToContent("hparams")}
        return reader, {tag: plugin_data_pb2.HParamsPluginData.FromString(value) for tag, value in content.items()}

    plan, folder, _, _, _ = finished
    _, parts = read(folder / "tensorboard" / "space")
    experiment_ = parts["_hparams_/experiment"].experiment
    assert [info.name for info in experiment_.hparam_infos] == plan.names
    assert experiment_.metric_infos[0].name.tag == "val_accuracy"
    for record in Records(folder, plan).all():
        reader, parts = read(folder / "tensorboard" / f"{record['trial']:04d}" / "seed-0")
        start = parts["_hparams_/session_start_info"].session_start_info
        assert {name: value.number_value for name, value in start.hparams.items()} == record["values"]
        value = tensor_util.make_ndarray(reader.Tensors("val_accuracy")[-1].tensor_proto)
        assert value == pytest.approx(record["objective"])


def test_the_same_command_again_runs_nothing_and_says_the_same(finished, setup, capsys):
    plan, folder, ranked, _, _ = finished
    """And with --final_run the best alone is trained on all of train, and measured on the test split."""
    with counting(training, "train_student") as trained:
        assert tune.search(plan, folder, setup=setup) == ranked
    assert not trained
    out = capsys.readouterr().out
    assert "4 trials finished" in out and "best.flags" in out
    tune.search(plan, folder, setup=setup, final_run=True)
    final = json.loads((folder / "final" / "result.json").read_text())
    assert final["config"]["validation_fraction"] == 0 and 0 <= final["student"]["accuracy"] <= 1
    assert final["config"]["temperature"] == ranked[0]["values"]["temperature"]


def test_stopped_in_mid_trial_the_same_search_ends_with_the_same_numbers(finished, setup, tmp_path, capsys):
    plan, folder, _, _, _ = finished
    calls, run_steps = [], Distiller.run_steps

    def stop(self, *arguments):
        calls.append(arguments)
        if len(calls) == 7:  # a trial has four host calls of five steps or less
            raise KeyboardInterrupt
        return run_steps(self, *arguments)

    often = Plan(plan.config.replace(checkpoint_every="5 steps"), GRID, tuner="grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "run_steps", stop)
        with pytest.raises(KeyboardInterrupt):
            tune.search(often, tmp_path, setup=setup)
    assert [record["status"] for record in Records(tmp_path, often).all()] == ["finished", "running"]
    assert (tmp_path / "trials.csv").is_file()
    capsys.readouterr()
    with counting(training, "train_student") as trained:
        tune.search(often, tmp_path, setup=setup)
    assert len(trained) == 3 and "Resuming at step" in capsys.readouterr().out  # what was finished is not run again
    again = [numbers(record) for record in Records(tmp_path, often).all()]
    assert again == [numbers(record) for record in Records(folder, plan).all()]


# What trials share.


def weights_after(distiller):
    return {name: np.array(variable.numpy()) for name, variable in checkpoints.state_of(distiller).items()}


@pytest.mark.parametrize("strategy", ["one_device", pytest.param("mirrored", marks=pytest.mark.slow)])
def test_a_reused_distiller_is_a_new_one_to_the_last_bit(config, tmp_path, strategy):
    """Every setting that is assigned instead of traced, one trial after another, beside a Distiller made for each alone."""
    config = config.replace(strategy=strategy, epochs=1)
    setup = experiment.prepare(config, tmp_path, test=False)
    first = config.replace(temperature=2.0, kd_weight=0.3, learning_rate=0.5, weight_decay=1e-3, seed=3)
    others = [
        config.replace(temperature=9.0, kd_weight=0.9, radius=3.0, lr_schedule="constant", warmup_epochs=0.5),
        config.replace(radius="teacher_mean", weight_decay=2e-2, seed=7),
    ]
    kept = Distillers()
    training.train_student(first, setup, folder_of(tmp_path / "first"), kept)
    for number, other in enumerate(others):
        reused, one = training.train_student(other, setup, folder_of(tmp_path / f"reused-{number}"), kept)
        assert reused.traces == setup.strategy.num_replicas_in_sync  # of the first trial, on each replica
        new, two = training.train_student(other, setup, folder_of(tmp_path / f"new-{number}"))
        mine, theirs = weights_after(reused), weights_after(new)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()
        assert one["val_accuracy"] == two["val_accuracy"]


def folder_of(path):
    path.mkdir()
    return path


def test_what_is_traced_makes_a_new_distiller_and_schedules_are_assigned(config, setup, tmp_path):
    kept = Distillers()
    config = config.replace(epochs=1, optimizer="adamw")
    schedule = config.replace(kd_weight="0.9, 0.5 from epoch 0.5")
    one, _ = training.train_student(schedule, setup, folder_of(tmp_path / "a"), kept)
    other_schedule = config.replace(kd_weight="linear 0.1 to 0.4 over 1 epochs", weight_decay=0.3)
    two, _ = training.train_student(other_schedule, setup, folder_of(tmp_path / "b"), kept)
    new, _ = training.train_student(other_schedule, setup, folder_of(tmp_path / "c"))
    assert two is one and one.traces == 1
    mine, theirs = weights_after(two), weights_after(new)
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    for change in (
        {"loss": "kd"}, {"center": False}, {"label_weight": 0.1}, {"radius": "teacher_sample"}, {"batch_size": 50},
        {"label_smoothing": 0.1}, {"momentum": 0.5, "optimizer": "sgd"}, {"kd_weight": 0.5}, {"student": "cnn_4"},
    ):  # fmt: skip
        assert kept(schedule.replace(**change), setup, 8) is not one, change
    assert len(kept._kept) == 4  # the oldest are given up


def test_the_second_trial_starts_in_a_fifth_of_the_first_ones_time(config, setup, tmp_path, monkeypatch):
    """From the trial's beginning to the end of its first step, tracing included."""
    times, run_steps, begun = [], Distiller.run_steps, {}

    def timed(self, iterator, steps):
        waited = run_steps(self, iterator, steps)
        if "at" in begun:
            self.means.result()  # waits for the step
            times.append(time.perf_counter() - begun.pop("at"))
        return waited

    monkeypatch.setattr(Distiller, "run_steps", timed)
    kept = Distillers()
    config = config.replace(student="resnet8", steps_per_call=1, epochs=1)
    for number, temperature in enumerate((1.0, 2.0, 4.0)):
        begun["at"] = time.perf_counter()
        training.train_student(config.replace(temperature=temperature), setup, folder_of(tmp_path / str(number)), kept)
    assert min(times[1:]) < times[0] / 5, times


def test_the_teacher_runs_once_an_epoch_for_the_whole_search(teacher, tmp_path):
    config = Config(teacher_checkpoint=str(teacher), teacher_cache_dir=str(tmp_path / "cache"), **SMALL)
    plan = Plan(config, ("temperature:choice:1,2,4", "radius:choice:auto,teacher_mean"), tuner="grid")
    with counting(TeacherCache, "write") as writes, counting(data, "load") as loads:
        tune.search(plan, tmp_path / "search")
    passes = [cache for cache, *_ in writes if cache.dtype == np.float16]  # the exact ones are of un-augmented images
    assert len(passes) == config.epochs and len(loads) == 1
    # By construction: what a search holds has no test split.
    assert experiment.prepare(config, tmp_path, test=False).dataset.test is None


def test_several_seeds_a_trial_give_mean_and_spread(config, setup, tmp_path, capsys):
    plan = Plan(config, ("temperature:choice:1,4",), tuner="grid", executions_per_trial=2)
    ranked = tune.search(plan, tmp_path, setup=setup)
    for record in ranked:
        values = [run["metrics"]["val_accuracy"] for run in record["executions"]]
        assert [run["seed"] for run in record["executions"]] == [0, 1]
        assert record["objective"] == np.mean(values) and record["spread"] == pytest.approx(np.std(values, ddof=1))
    assert "2 executions each" in capsys.readouterr().out


def test_a_loss_without_a_teacher_is_searched_beside_one_with(config, setup, tmp_path):
    plan = Plan(config.replace(loss="cross_entropy"), ("loss:choice:cross_entropy,kd",), tuner="grid")
    ranked = tune.search(plan, tmp_path / "search", setup=setup)
    alone = next(record for record in ranked if record["values"]["loss"] == "cross_entropy")
    without = training.Setup(setup.dataset, setup.strategy, None)
    _, history = training.train_student(plan.config_of(alone["values"]), without, folder_of(tmp_path / "alone"))
    assert history["val_accuracy"] == alone["objective"]


# What stops a trial, and what a search.


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(config, setup, tmp_path, capsys):
    plan = Plan(config, ("learning_rate:choice:1e30,0.1", "batch_size:choice:100,5000"), tuner="grid")
    ranked = tune.search(plan, tmp_path, setup=setup)
    every = Records(tmp_path, plan).all()
    assert [record["status"] for record in every] == ["failed", "failed", "finished", "failed"]
    assert "diverged" in every[0]["reason"] and str(tmp_path) not in every[0]["reason"]
    assert not list(tmp_path.rglob("*.ckpt"))
    assert "smaller than a batch" in every[1]["reason"]
    # It trained on what a failed trial had left.
    _, history = training.train_student(plan.config_of(ranked[0]["values"]), setup, folder_of(tmp_path / "alone"))
    assert history["val_accuracy"] == ranked[0]["objective"]
    assert "1 trials finished, 3 failed" in capsys.readouterr().out


def test_no_trial_that_finishes_is_an_error(config, setup, tmp_path):
    plan = Plan(config, ("batch_size:choice:5000,6000",), tuner="grid")
    with pytest.raises(InputError, match=r"No trial has finished.*smaller than a batch"):
        tune.search(plan, tmp_path, setup=setup)


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["skd_tf/tune.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        tune.cli_main()
    return ended.value.code


@pytest.mark.parametrize("stop", [signal.SIGINT, OSError(errno.ENOSPC, "No space left on device")])
def test_ctrl_c_and_a_full_disk_end_with_the_command_that_goes_on(stop, config, tmp_path, monkeypatch, capsys):
    flags = [f"--{name}={getattr(config, name)}" for name in (*SMALL, "teacher_checkpoint", "teacher_cache_dir")]
    full = isinstance(stop, OSError)
    flags += [f"--workdir={tmp_path / 'a search'}", "--search=temperature:log:1:16", "--max_trials=1"]
    write = checkpoints.Checkpoints.write

    def fail(self, *arguments):
        if full:
            raise stop
        write(self, *arguments)
        signal.raise_signal(stop)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "write", fail)
        code = command(patch, *flags, "--overwrite")
    err = capsys.readouterr().err
    assert code == (1 if full else 130)
    assert "go on" in err or "goes on" in err
    assert "--overwrite" not in err and "'--workdir=" in err and "Traceback" not in err
    assert command(monkeypatch, *flags) == 0
    out = capsys.readouterr().out
    assert "Trial 1 of 1, resumed" in out


def test_errors_of_the_command_come_before_tensorflow_and_touch_nothing(teacher, tmp_path, monkeypatch, capsys):
    flags = [f"--workdir={tmp_path / 's'}", f"--teacher_checkpoint={teacher}", "--search=temperature:log:1:16"]
    for wrong, words in (
        (["--teacher_checkpoint=nowhere"], "No model there"),
        (["--tuner=magic"], "Unknown tuner"),
        (["--validation_fraction=0"], "never sees the test split"),
        (["--objective=speed"], "No run logs such a value"),
    ):
        assert command(monkeypatch, *flags, *wrong) == 2
        assert words in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setenv("KERASTUNER_TUNER_ID", "chief")
        assert command(patch, *flags) == 2
        assert "KERASTUNER_ORACLE_IP" in capsys.readouterr().err
    assert command(monkeypatch, *flags, "--dry_run") == 0
    assert "Search: 10 trials, random, val_accuracy max" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()


def test_the_hypermodel_in_a_stock_tuner(config, setup, tmp_path):
    """keras_tuner.RandomSearch itself; no trial stores the teacher, which runs live here."""
    import keras_tuner

    live = config.replace(teacher_cache_dir="", epochs=1)
    shared = experiment.prepare(live, tmp_path, test=False)
    hypermodel = tune.DistillationHyperModel(live, ["temperature:log:1:16"], setup=shared)
    tuner = keras_tuner.RandomSearch(
        hypermodel, objective="val_accuracy", max_trials=2, seed=1, directory=str(tmp_path), project_name="stock"
    )
    tuner.search(verbose=0)
    best = tuner.oracle.get_best_trials(2)
    assert len({trial.hyperparameters.get("temperature") for trial in best}) == 2
    assert all(trial.status == "COMPLETED" and 0 <= trial.score <= 1 for trial in best)
    model = hypermodel.build(best[0].hyperparameters)
    assert isinstance(model, Distiller) and float(model.temperature.numpy()) == pytest.approx(
        best[0].hyperparameters.get("temperature")
    )
    weights = next((tmp_path / "stock").rglob("checkpoint.weights.h5"))
    assert weights.stat().st_size < 3 * 4 * sum(np.prod(v.shape) for v in model.student.variables) + 200_000
    tuner.search(x=setup.dataset.train.images, y=setup.dataset.train.labels, epochs=1, verbose=0)  # done: returns at once
