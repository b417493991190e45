"""Studies: their cells, what makes two cells the same training, the records, and the runs that tools/reproduce.py starts."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import oracles
import pytest

from skd_tf import interrupts
from skd_tf.errors import InputError
from skd_tf.workdir import locked

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import reproduce
import studies
import study_cases
import study_records
import study_tables

STUDIES = studies.STUDIES


def by_path(*names):
    return {cell.path: cell for name in names for cell in studies.cells(STUDIES[name])}


def test_cells_come_seed_by_seed_teachers_first(tmp_path):
    study = study_cases.small_study(
        tmp_path, teachers={"b": "b.flags"}, seeds_of={("skd", "b"): (0, 1, 2), ("none", studies.NO_PAIR): (0,)}
    )
    paths = [cell.path for cell in studies.cells(study)]
    assert paths == [
        "small/none/b/seed0",
        "small/none/none/seed0", "small/a/kd/seed0", "small/a/skd/seed0", "small/b/kd/seed0", "small/b/skd/seed0",
        "small/a/kd/seed1", "small/a/skd/seed1", "small/b/kd/seed1", "small/b/skd/seed1",
        "small/b/skd/seed2",
    ]  # fmt: skip
    assert [cell.is_teacher for cell in studies.cells(study)] == [True] + [False] * 10
    cell = studies.cells(study)[2]
    assert cell.arguments == [f"--flagfile={tmp_path / name}.flags" for name in ("base", "a", "kd")] + ["--seed=0"]


def test_the_first_study_has_five_seeds_at_its_ends():
    cells = studies.cells(STUDIES["capacity_gap"])
    seeds = {(row, pair): sorted(c.seed for c in cells if (c.row, c.pair) == (row, pair)) for row, pair in
             {(c.row, c.pair) for c in cells}}  # fmt: skip
    three, five = [0, 1, 2], [0, 1, 2, 3, 4]
    assert seeds == {("none", "none"): five} | {
        (row, f"resnet{depth}"): five if depth in (20, 56) else three for row in ("kd", "skd") for depth in (20, 32, 44, 56)
    }
    assert {name: len(studies.cells(study)) for name, study in STUDIES.items()} == {
        "capacity_gap": 37, "precision": 9, "precision_long": 6, "temperature": 15, "sphere": 30, "calibration": 0,
        "cifar100": 28,
    }  # fmt: skip


def changed(cell, other):
    """Names of the settings in which two cells differ."""
    one, two = (study_records.settings(studies.config_of(c)) for c in (cell, other))
    return {name for name in one if one[name] != two[name]}


def test_every_row_is_one_change():
    cells = by_path(*STUDIES)
    default = cells["sphere/resnet56/skd/seed0"]
    one_change = {
        "label_on_raw": {"loss", "temperature", "kd_weight", "label_weight"}, "not_centered": {"center"},
        "teacher_mean": {"radius"}, "teacher_sample": {"radius"}, "radius_1": {"radius"}, "radius_3": {"radius"},
        "radius_4": {"radius"}, "stepwise_weight": {"kd_weight"}, "no_distillation": {"kd_weight"},
    }  # fmt: skip
    rows = set(STUDIES["sphere"].rows) - {"skd"}
    assert {row: changed(cells[f"sphere/resnet56/{row}/seed0"], default) for row in rows} == one_change
    for method, t in ((m, t) for m in ("kd", "skd", "skd_teacher_mean") for t in (1, 2, 8, 16)):
        at_4, cell = (cells[f"temperature/resnet56/{method}_t{number}/seed0"] for number in (4, t))
        assert changed(at_4, cell) == {"temperature"} and studies.config_of(cell).temperature == t
    for times in (1, 3, 4):
        radius = studies.config_of(cells[f"sphere/resnet56/radius_{times}/seed0"]).radius
        assert radius == pytest.approx(times * 10**0.5, rel=1e-12)
    for path, cell in cells.items():  # the schedule is one for all, of students and of their teacher
        first = cells["cifar100/none/none/seed0" if cell.study == "cifar100" else "capacity_gap/none/none/seed0"]
        free = {"loss", "loss_settings", "temperature", "kd_weight", "label_weight", "radius", "center", "seed",
                "teacher_checkpoint", "learning_rate"}  # fmt: skip
        if cell.study in ("precision", "precision_long"):
            first = cells[f"{cell.study}/resnet20/bfloat16_cached/seed0"]
            free = {"seed", "precision", "teacher_precision", "teacher_cache_dir"}
        assert changed(first, cell) - free == ({"student", "epochs"} if cell.is_teacher else set()), path


def test_rates_and_weights_are_what_the_search_found_best():
    cells = by_path("capacity_gap")
    for method, pair in (("none", "none"), ("kd", "resnet56"), ("skd", "resnet56")):
        trials, config = study_tables.searched(method), studies.config_of(cells[f"capacity_gap/{pair}/{method}/seed0"])
        weight, rate = max(trials, key=trials.get)
        assert config.learning_rate == rate and weight in (None, config.kd_weight)
        assert {r for _, r in trials} == {0.05, 0.1, 0.2} and len(trials) == (3 if method == "none" else 6)


def test_the_label_on_raw_logits_leaves_the_distill_term_as_it_is():
    cells = by_path("sphere")
    raw, default = (studies.config_of(cells[f"sphere/resnet56/{row}/seed0"]) for row in ("label_on_raw", "skd"))
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 10)) * 4
    labels = np.arange(5)
    mine = oracles.logit_standardization(student, teacher, labels, raw.temperature)
    theirs = oracles.spherical_kd(student, teacher, labels, default.temperature, 2 * 10**0.5)
    np.testing.assert_allclose(raw.kd_weight * mine["distill"], default.kd_weight * theirs["distill"], rtol=1e-5)
    assert raw.label_weight == pytest.approx(1 - default.kd_weight)
    np.testing.assert_allclose(mine["label"], oracles.label_terms(student, labels))


def test_settings_know_a_teacher_by_name_and_leave_out_places():
    config = studies.config_of(by_path("capacity_gap")["capacity_gap/resnet56/kd/seed0"])
    same = config.replace(teacher_checkpoint="/far/away/resnet56.keras", teacher_cache_dir="/cache", steps_per_call=2)
    assert study_records.settings(same) == study_records.settings(config)
    assert "/" not in json.dumps(study_records.settings(same))
    for other in ({"teacher_checkpoint": "resnet44.keras"}, {"seed": 1}, {"teacher_cache_dir": ""}, {"temperature": 5}):
        assert study_records.settings(config.replace(**other)) != study_records.settings(config)
    recorded = study_records.settings(config)
    assert study_records.differences(recorded | {"kd_weight": 0.5}, recorded) == ["--kd_weight: 0.5 -> 0.9"]
    younger = {name: value for name, value in recorded.items() if name != "ema_momentum"}
    assert study_records.differences(younger, recorded) == []  # it had the default before it was a setting
    assert study_records.differences(recorded | {"gone": 1}, recorded) == ["--gone: 1 -> no such setting"]


def test_the_same_training_of_another_study_is_not_run_again(tmp_path):
    cells = by_path(*STUDIES)
    pairs = {  # what the second and third study have in common with the first, and with each other
        "temperature/resnet56/kd_t4/seed0": "capacity_gap/resnet56/kd/seed0",
        "temperature/resnet56/skd_t4/seed0": "capacity_gap/resnet56/skd/seed0",
        "sphere/resnet56/skd/seed2": "capacity_gap/resnet56/skd/seed2",
        "temperature/resnet56/skd_teacher_mean_t4/seed0": "sphere/resnet56/teacher_mean/seed0",
    }
    for path, other in pairs.items():
        others = {cell: study_cases.record(cell, 0.8) for p, cell in cells.items() if not p.startswith(path.split("/")[0])}
        assert study_records.same_cell(cells[path], others).path == other
    others = {cell: study_cases.record(cell, 0.8) for p, cell in cells.items() if not p.startswith("temperature")}
    assert study_records.same_cell(cells["temperature/resnet56/skd_t8/seed0"], others) is None
    cell, other = cells["temperature/resnet56/kd_t4/seed0"], cells["capacity_gap/resnet56/kd/seed0"]
    study_records.take_over(cell, other, study_cases.record(other, 0.81), tmp_path)
    copy = study_records.read_all(tmp_path)[cell]
    assert (copy["student"]["accuracy"], copy["same_training_as"]) == (0.81, other.path)
    assert copy["flagfiles"] == list(cell.flagfiles) and study_records.problems(cell, copy) == []


def test_a_record_holds_what_the_run_left_and_no_path(tmp_path):
    study = study_cases.small_study(tmp_path)
    cells = {cell.path: cell for cell in studies.cells(study)}
    cell = cells["small/a/skd/seed1"]
    for name, text in study_cases.workdir_files(cell, 0.81).items():
        (tmp_path / name).write_text(text)
    study_records.from_workdir(cell, tmp_path, tmp_path / "results")
    record = study_records.read(tmp_path / "results/small/a/skd/seed1.json")
    assert record["student"]["accuracy"] == 0.81 and "val_accuracy" not in record["student"]
    assert record["teacher"] | {"name": "net", "fingerprint": "f00", "accuracy": 0.9} == record["teacher"]
    assert (record["config"]["teacher_checkpoint"], record["config"]["seed"]) == ("a", 1)
    assert record["best_epoch"] == {"epoch": 2, "val_accuracy": 0.7}  # counted from 1, the first of equals
    assert record["by_epoch"]["val_accuracy"] == [0.5, 0.7, 0.7, 0.6]
    assert record["reliability"]["raw_softmax"] == {"count": [3], "confidence": [0.5], "accuracy": [0.4]}
    assert "/somewhere" not in json.dumps(record) and study_records.problems(cell, record) == []
    with pytest.raises(InputError, match=r"other settings.*--seed: 1 -> 0"):
        study_records.from_workdir(cells["small/a/skd/seed0"], tmp_path, tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError, match="left no result"):
        study_records.from_workdir(cell, tmp_path, tmp_path)


class PretendRunner(reproduce.Runner):
    """Starts study_cases.COMMAND; `jobs_of` says what a cell's does."""

    def __init__(self, folder, cells, jobs=1, **jobs_of):
        self.places = {"data_dir": None} | {
            name: str(folder / name) for name in ("runs_dir", "teachers_dir", "results_dir")
        }
        super().__init__(self.places, jobs)
        self._folder, self._jobs_of = folder, jobs_of
        self.results = self.places["results_dir"]
        for number, cell in enumerate(cells):
            (folder / f"{cell.path.replace('/', '_')}.json").write_text(
                json.dumps(study_cases.workdir_files(cell, 0.5 + number / 100))
            )

    def command(self, cell):
        files = self._folder / f"{cell.path.replace('/', '_')}.json"
        return ["python", "-c", study_cases.COMMAND, str(self.workdir(cell)), self._jobs_of.get(cell.row, ""), str(files)]


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "flags").mkdir()
    study = study_cases.small_study(tmp_path / "flags", seeds=(0,))
    monkeypatch.setitem(STUDIES, "small", study)
    return study


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_cell_that_fails_is_told_and_the_next_goes_on(small, tmp_path, jobs, capsys):
    cells = studies.cells(small)
    runner = PretendRunner(tmp_path, cells, jobs, kd="fails")
    assert runner.run(cells) == 2
    recorded = study_records.read_all(runner.results)
    assert [cell.path for cell in recorded] == ["small/none/none/seed0", "small/a/skd/seed0", "small/b/skd/seed0"]
    assert [record["student"]["accuracy"] for record in recorded.values()] == [0.5, 0.52, 0.54]
    said = capsys.readouterr().out
    assert said.count("kd/seed0: FAILED, exit code 2: error: Training has diverged.") == 2
    assert not runner.workdir(cells[0]).exists() and runner.workdir(cells[1]).exists()  # a failed one's is kept


def test_a_signal_reaches_the_children_and_the_same_command_goes_on(small, tmp_path, capsys):
    cells = studies.cells(small)
    runner = PretendRunner(tmp_path, cells, 2, kd="waits")
    begun = [runner.workdir(cell) / "config.json" for cell in cells if cell.row == "kd"]

    def stop():
        while not all(file.is_file() for file in begun):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(interrupts.Interrupted, match="have saved") as raised:
        runner.run(cells)
    stopper.join()
    assert raised.value.exit_code == 143
    assert all((file.parent / "saved").exists() for file in begun)
    assert "FAILED" not in capsys.readouterr().out
    before = study_records.read_all(runner.results)
    assert not any(cell.row == "kd" for cell in before)
    assert runner.run([cell for cell in cells if cell not in before]) == 0
    assert set(study_records.read_all(runner.results)) == set(cells)
    assert "small/a/kd/seed0: resumes" in capsys.readouterr().out


def test_a_workdir_that_is_in_use_is_waited_for(small, tmp_path, capsys):
    cell = studies.cells(small)[0]
    runner = PretendRunner(tmp_path, [cell])
    runner.workdir(cell).mkdir(parents=True)
    with locked(runner.workdir(cell)):
        assert not runner._free(cell)
    assert f"waits for the process {os.getpid()}" in capsys.readouterr().out
    assert runner._free(cell)


def test_the_command_names_the_places_only_where_they_are_others(tmp_path):
    root = studies.ROOT
    cell = by_path("capacity_gap")["capacity_gap/resnet56/kd/seed0"]
    flags = [f"--flagfile=experiments/studies/{name}.flags" for name in ("base", "pairs/resnet56", "rows/kd")]
    places = {"data_dir": "/data", "runs_dir": str(root / "runs/studies"), "teachers_dir": str(root / "teachers"),
              "results_dir": str(tmp_path)}  # fmt: skip
    plain = ["python", "-m", "skd_tf.train", *flags, "--seed=0"]
    end = ["--data_dir=/data", "--workdir=runs/studies/capacity_gap/resnet56/kd/seed0"]
    assert reproduce.Runner(places).command(cell) == plain + end
    command = reproduce.Runner(places | {"teachers_dir": "/t", "runs_dir": "/r", "data_dir": None}).command(cell)
    assert command == [*plain, "--teacher_checkpoint=/t/resnet56.keras", "--teacher_cache_dir=/r/teacher_cache",
                       "--workdir=/r/capacity_gap/resnet56/kd/seed0"]  # fmt: skip
    teacher = studies.cells(STUDIES["cifar100"])[0]
    assert reproduce.Runner(places).command(teacher)[-1] == "--workdir=teachers/cifar100_resnet32"


def test_the_dry_run_estimates_from_records_alike(small, tmp_path):
    cells = studies.cells(small)
    results = tmp_path / "results"
    study_cases.write({cells[0]: study_cases.record(cells[0], 0.5, examples_per_second=2 * 100 / 90)}, results)
    records = study_records.read_all(results)
    runner = PretendRunner(tmp_path, [])
    text = reproduce.plan_text(cells, runner, records, results, jobs=2)
    assert "small/none/none/seed0: done, test top-1 0.5000" in text and "small/a/kd/seed0: 1:30\n" in text
    assert text.endswith("5 cells, 4 to run: about 3:00 for 4 of them.")
    others = studies.cells(STUDIES["cifar100"])
    assert "28 cells, 28 to run: time unknown." in reproduce.plan_text(others, runner, records, results)


def test_several_jobs_are_dealt_out_to_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [reproduce.environment(slot, gpus=2, jobs=3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert reproduce.environment(1, gpus=2, jobs=2)["CUDA_VISIBLE_DEVICES"] == "7"
    assert reproduce.environment(0, gpus=2, jobs=1) == dict(os.environ) == reproduce.environment(1, gpus=0, jobs=2)


def test_several_jobs_share_the_cores():
    assert [reproduce.cores(slot, 2, {0, 2, 3, 5, 7}) for slot in range(2)] == [{0, 3, 7}, {2, 5}]
    assert reproduce.cores(0, 1, {0, 1}) == set() == reproduce.cores(1, 3, {0, 1})  # one job, or more jobs than cores: all


def test_an_unknown_study_is_one_line():
    command = [sys.executable, str(studies.ROOT / "tools/reproduce.py"), "capacity_gp", "--dry_run"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "Received study=capacity_gp. Did you mean capacity_gap?" in run.stderr
