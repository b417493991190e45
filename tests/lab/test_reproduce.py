"""`reproduce`: which cells it starts, how they share a machine, what happens on a failure or a signal."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from experiments.lab import definitions, records, reproduce
from experiments.lab.runner import Runner, cores, environment
from skd_tf.errors import InputError
from skd_tf.runs.workdir import locked
from skd_tf.runtime import signals
from tests.lab import study_cases

STUDIES = definitions.STUDIES


class PretendRunner(Runner):
    """Starts study_cases.COMMAND; `jobs_of` says what goes wrong with a row."""

    def __init__(self, folder, cells, jobs=1, commit=False, **jobs_of):
        names = ("runs_dir", "teachers_dir", "results_dir")
        self.places = {"data_dir": None} | {name: str(folder / name) for name in names}
        super().__init__(self.places, jobs, commit=commit)
        self._folder, self._jobs_of, self.results = folder, jobs_of, self.places["results_dir"]
        for number, cell in enumerate(cells):
            self._files(cell).write_text(json.dumps(study_cases.workdir_files(cell, 0.5 + number / 100)))

    def _files(self, cell):
        return self._folder / f"{cell.path.replace('/', '_')}.json"

    def commands(self, cell):
        return [self.command(cell)]

    def command(self, cell):
        job = self._jobs_of.get(cell.row, "")
        return ["python", "-c", study_cases.COMMAND, str(self.workdir(cell)), job, str(self._files(cell))]


@pytest.fixture
def add(tmp_path, monkeypatch):
    """add(name, ...) makes a small study that `reproduce` knows."""
    (tmp_path / "flags").mkdir()

    def make(name, **changes):
        study = study_cases.small_study(tmp_path / "flags", name, **{"seeds": (0,)} | changes)
        monkeypatch.setitem(STUDIES, name, study)
        return study

    return make


@pytest.fixture
def small(add):
    return add("small")


@pytest.mark.parametrize("jobs", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_cell_that_fails_the_next_one_runs(small, tmp_path, jobs, capsys):
    cells = definitions.cells(small)
    runner = PretendRunner(tmp_path, cells, jobs, kd="fails")
    assert runner.run(cells) == 2
    found = {cell.path: r["student"]["accuracy"] for cell, r in records.read_all(runner.results).items()}
    assert found == {"small/none/none/seed0": 0.5, "small/a/skd/seed0": 0.52, "small/b/skd/seed0": 0.54}
    assert capsys.readouterr().out.count("kd/seed0: FAILED, exit code 2: error: Training has diverged.") == 2
    assert not runner.workdir(cells[0]).exists() and runner.workdir(cells[1]).exists()  # a failed cell's is kept


def test_a_signal_reaches_the_children_and_the_same_command_resumes(small, tmp_path, capsys):
    cells = definitions.cells(small)
    runner = PretendRunner(tmp_path, cells, 2, kd="waits")
    begun = [runner.workdir(cell) / "config.json" for cell in cells if cell.row == "kd"]

    def stop():
        while not all(file.is_file() for file in begun):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(signals.Interrupted, match="have saved") as raised:
        runner.run(cells)
    stopper.join()
    assert raised.value.exit_code == 143 and all((file.parent / "saved").exists() for file in begun)
    assert "FAILED" not in capsys.readouterr().out
    before = records.read_all(runner.results)
    assert not any(cell.row == "kd" for cell in before)
    assert runner.run([cell for cell in cells if cell not in before]) == 0
    assert set(records.read_all(runner.results)) == set(cells)
    assert "small/a/kd/seed0: resumes" in capsys.readouterr().out


def test_the_same_training_does_not_run_twice_at_a_time(small, add, tmp_path, capsys):
    twin = add("twin", alone={}, pairs={"a": small.pairs["a"]})
    cells = [c for c in definitions.cells(small, twin) if c.pair == "a" and c.row == "kd"]
    runner = PretendRunner(tmp_path, cells, jobs=2)
    assert runner.run(cells) == 0
    said = "twin/a/kd/seed0: the same training as small/a/kd/seed0, its record is copied."
    assert said in capsys.readouterr().out and not runner.workdir(cells[1]).exists()
    assert (tmp_path / "results_dir/twin/a/kd/seed0.json").is_file()


def test_cells_wait_for_their_teacher_and_others_do_not(small, add, tmp_path, capsys):
    (tmp_path / "flags/teacher.flags").write_text(f"--flagfile={small.base}\n--loss=cross_entropy\n--epochs=3\n")
    taught = add("taught", teachers={"a": str(tmp_path / "flags/teacher.flags")})
    cells = definitions.cells(taught, add("other", seeds=(7,), pairs={}))
    assert PretendRunner(tmp_path, cells, 2, a="sleeps").run(cells) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split(":")[0] for line in lines if ": starts" in line]
    assert starts[:2] == ["taught/none/a/seed0", "taught/none/none/seed0"]  # beside the teacher, which sleeps
    end = next(n for n, line in enumerate(lines) if line.startswith("taught/none/a/seed0: test top-1"))
    early = [line.split(":")[0] for line in lines[:end] if ": starts" in line]
    assert "other/none/none/seed7" in early and not any(path.startswith("taught/a/") for path in early)


def test_students_start_only_with_a_teacher_that_is_trained(small, add, tmp_path, capsys):
    (tmp_path / "flags/teacher.flags").write_text(f"--flagfile={small.base}\n--loss=cross_entropy\n--epochs=3\n")
    taught = add("taught", teachers={"a": str(tmp_path / "flags/teacher.flags")})
    cells = definitions.cells(taught)
    assert PretendRunner(tmp_path, cells, 2, a="fails").run(cells) == 3  # with both students of teacher a
    assert "taught/none/a/seed0: 2 cells that it teaches will not start." in capsys.readouterr().out
    assert not any((tmp_path / "runs_dir/taught/a").rglob("*")) and (tmp_path / "runs_dir/taught/b").is_dir()
    runner = PretendRunner(tmp_path, cells)
    assert runner.run(cells) == 0 and runner.left(cells) == []
    records.file_of(cells[-1], runner.results).unlink()  # of pair b
    assert runner.left(cells) == [cells[-1]]
    student = next(cell for cell in cells if cell.pair == "a")
    records.file_of(student, runner.results).unlink()
    assert runner.left(cells) == [cells[0], student, cells[-1]]  # the teacher has a record, and no weights
    assert "taught/none/a/seed0: its weights are gone: started, at most 0:30" in reproduce.plan_text(
        cells, runner, records.read_all(runner.results)
    )
    (runner.workdir(cells[0]) / "student.keras").touch()
    assert runner.left(cells) == [student, cells[-1]]
    twin = add("twin", teachers={"twin": taught.teachers["a"]}, alone={}, rows={})
    assert PretendRunner(tmp_path, definitions.cells(twin)).run(definitions.cells(twin)) == 0
    assert "twin/none/twin/seed0: starts" in capsys.readouterr().out  # a copied record would leave no weights


def test_only_names_cells(small):
    cells = definitions.cells(small)
    found = [cell.path for cell in reproduce.chosen(cells, ["*/kd/*", "small/none/*"])]
    assert found == ["small/none/none/seed0", "small/a/kd/seed0", "small/b/kd/seed0"]
    assert reproduce.chosen(cells, []) == cells
    with pytest.raises(InputError, match=r"such as small/b/skd/seed0, .*Received only=\*/seed1"):
        reproduce.chosen(cells, ["*/kd/*", "*/seed1"])


def test_records_are_committed_alone(small, tmp_path, monkeypatch, capsys):
    def git(*command):
        return subprocess.run(["git", *command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "someone")
    git("init", "--quiet")
    (tmp_path / "staged").touch()
    git("add", "staged")
    cells = [cell for cell in definitions.cells(small) if cell.row == "skd"]
    PretendRunner(tmp_path, cells, commit=True).run(cells)
    log = git("log", "--format=%s", "--name-only", "--reverse").split("\n\n")
    assert log[0] == "Record: small/a/skd/seed0, test top-1 0.5000" and len(log) == 3
    assert log[2] == "results_dir/small/b/skd/seed0.json\n"
    assert git("diff", "--cached", "--name-only") == "staged\n"
    (tmp_path / ".git/index.lock").touch()  # another git command is running
    more = [cell for cell in definitions.cells(small) if cell.row == "none"]
    runner = PretendRunner(tmp_path, more, commit=True)
    assert runner.run(more) == 0 and "recorded, not committed: " in capsys.readouterr().out
    (tmp_path / ".git/index.lock").unlink()
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    runner.commit_left(records.read_all(runner.results))
    assert "recorded, not committed: git ended with exit code 1" in capsys.readouterr().out
    hook.unlink()
    runner.commit_left(records.read_all(runner.results))  # the next run
    subjects = git("log", "--format=%s").splitlines()
    assert subjects[0] == "Record: small/none/none/seed0, test top-1 0.5000" and len(subjects) == 3


def test_a_workdir_in_use_is_waited_for(small, tmp_path, capsys):
    cell = definitions.cells(small)[0]
    runner = PretendRunner(tmp_path, [cell])
    runner.workdir(cell).mkdir(parents=True)
    with locked(runner.workdir(cell)):
        assert not runner._free(cell)
    assert f"waits for the process {os.getpid()}" in capsys.readouterr().out and runner._free(cell)


def test_each_workdir_in_use_is_announced_once(small, tmp_path, capsys):
    first, second, *_ = definitions.cells(small)
    runner = PretendRunner(tmp_path, [first, second])
    for cell in (first, second):
        runner.workdir(cell).mkdir(parents=True)
    with locked(runner.workdir(first)), locked(runner.workdir(second)):
        assert not any(runner._free(cell) for cell in (first, second) * 3)
    assert capsys.readouterr().out.count("waits for the process") == 2


def test_a_student_is_calibrated_after_its_training(small, tmp_path, capsys):
    class Calibrating(PretendRunner):
        def commands(self, cell):
            write = f"open({str(self.workdir(cell) / 'calibrated.json')!r}, 'w').write({json.dumps(evaluated)!r})"
            return [self.command(cell), ["python", "-c", write if cell.row != "kd" else "import sys; sys.exit(3)"]]

    row = {"temperature": 1.5, "accuracy": 0.5, "confidence": 0.45, "nll": 0.9, "ece": 0.05}
    evaluated = {"models": [{"calibrated": row | {"more": 1}}]}
    cells = [cell for cell in definitions.cells(small) if cell.pair == "a"]
    runner = Calibrating(tmp_path, cells)
    assert runner.run(cells) == 1 and "small/a/kd/seed0: FAILED, exit code 3" in capsys.readouterr().out
    (record,) = records.read_all(runner.results).values()
    assert record["calibrated"] == row
    _, evaluate = Runner(runner.places | {"data_dir": "/data"}).commands(cells[0])
    assert {"--calibrate", "--data_dir=/data", f"--model={runner.workdir(cells[0])}"} <= set(evaluate)
    assert len(Runner(runner.places).commands(study_cases.by_path("imagenet").popitem()[1])) == 1  # nothing held out


def test_the_command_names_the_places_only_where_they_differ(tmp_path):
    root, cells = definitions.ROOT, study_cases.by_path("capacity_gap", "cifar100_full")
    cell = cells["capacity_gap/resnet56/kd/seed0"]
    flags = [f"--flagfile=experiments/studies/{name}.flags" for name in ("base", "pairs/resnet56", "rows/kd")]
    places = {"data_dir": "/data", "runs_dir": str(root / "runs/studies"), "teachers_dir": str(root / "teachers")}
    places["results_dir"] = str(tmp_path)
    plain = ["python", "-m", "skd_tf.train", *flags, "--seed=0"]
    end = ["--data_dir=/data", "--workdir=runs/studies/capacity_gap/resnet56/kd/seed0"]
    assert Runner(places).command(cell) == plain + end
    elsewhere = ["--teacher_checkpoint=/t/resnet56.keras", "--teacher_cache_dir=/r/teacher_cache"]
    elsewhere.append("--workdir=/r/capacity_gap/resnet56/kd/seed0")
    moved = Runner(places | {"teachers_dir": "/t", "runs_dir": "/r", "data_dir": None})
    assert moved.command(cell) == plain + elsewhere
    teacher = Runner(places).command(cells["cifar100_full/none/cifar100_full_resnet56/seed0"])
    assert teacher[-1] == "--workdir=teachers/cifar100_full_resnet56"


def test_the_dry_run_estimates_from_records_alike(small, add, tmp_path):
    cells, runner = definitions.cells(small), PretendRunner(tmp_path, [])
    study_cases.write({cells[0]: study_cases.record(cells[0], 0.5, examples_per_second=2 * 100 / 90)}, runner.results)
    found = records.read_all(runner.results)
    text = reproduce.plan_text(cells, runner, found, jobs=2)
    assert "small/none/none/seed0: done, test top-1 0.5000" in text and "small/a/kd/seed0: 1:30\n" in text
    total = "5 cells, 4 to run: about 3:00 for 4 of them, and the passes of teachers whose logits are not cached yet."
    assert text.endswith(total)
    text = reproduce.plan_text(definitions.cells(small, add("twin", alone={})), runner, found)
    assert "twin/a/kd/seed0: the same training as small/a/kd/seed0" in text and "9 cells, 4 to run" in text


@pytest.mark.slow
def test_cells_without_records_alike_are_estimated_by_operations(tmp_path):
    cells = study_cases.by_path()
    twelve, teacher = cells["capacity_gap/resnet56/kd/seed0"], cells["cifar100_full/none/cifar100_full_resnet56/seed0"]
    alike = {twelve: study_cases.record(twelve, 0.8, examples_per_second=10.0)}  # 100 images
    foreign = cells["cifar100/cifar100_resnet56/kd/seed0"]
    unknown = study_cases.record(foreign, 0.5, examples_per_second=1.0)
    unknown["config"] |= {"teacher_cache_dir": False, "teacher_checkpoint": "mine"}  # live, of unknown operations
    for path, seconds in (
        ("cifar100/cifar100_resnet56/skd/seed1", 120),
        ("precision/resnet20/bfloat16_cached/seed0", 60),
    ):
        assert reproduce.measured_seconds(cells[path], alike) == seconds  # on CIFAR-10 as long; half the epochs
    assert reproduce.measured_seconds(teacher, alike) is None and reproduce.seconds_by_operations(teacher, {}) is None
    small, large = (reproduce._forward(*name) for name in (("resnet8", "cifar10"), ("resnet56", "cifar100")))
    seconds = reproduce.seconds_by_operations(teacher, alike)
    assert reproduce.seconds_by_operations(teacher, alike | {foreign: unknown}) == seconds
    assert 9 < large / small < 11 and seconds == pytest.approx(240 * 50_000 / 10 * large / small)
    none, live = (cells[f"imagenet/resnet34_resnet18/{row}/seed0"] for row in ("none", "skd"))
    ratio = reproduce.seconds_by_operations(live, alike) / reproduce.seconds_by_operations(none, alike)
    assert 1.6 < ratio < 1.7  # 1 + 7.3 / (3 * 3.6)
    text = reproduce.plan_text([teacher, twelve], PretendRunner(tmp_path, []), alike)
    assert "cifar100_full_resnet56/seed0: roughly " in text and "(1 by operations)" in text


def test_several_jobs_take_the_gpus_in_turn_and_share_the_cores(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [environment(slot, gpus=2, jobs=3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert environment(1, gpus=2, jobs=2)["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment(0, gpus=2, jobs=1) == dict(os.environ) == environment(1, gpus=0, jobs=2)
    assert [cores(slot, 2, {0, 2, 3, 5, 7}) for slot in range(2)] == [{0, 3, 7}, {2, 5}]
    assert cores(0, 1, {0, 1}) == set() == cores(1, 3, {0, 1})  # one job, or more jobs than cores: all of them
