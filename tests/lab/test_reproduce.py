"""experiments/lab/reproduce.py: which cells it starts, how they share a machine, what it does when one fails or a signal comes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.lab import definitions, reproduce, time_estimates
from experiments.lab.records import read_all
from experiments.lab.runner import Runner, cores, environment
from skd_tf.errors import InputError
from skd_tf.runs.workdir import locked
from skd_tf.runtime import signals
from tests.lab import study_cases

STUDIES = definitions.STUDIES


class PretendRunner(Runner):
    """Starts study_cases.COMMAND; `jobs_of` says what a cell's does."""

    def __init__(self, folder, cells, jobs=1, commit=False, **jobs_of):
        self.places = {"data_dir": None} | {
            name: str(folder / name) for name in ("runs_dir", "teachers_dir", "results_dir")
        }
        super().__init__(self.places, jobs, commit=commit)
        self._folder, self._jobs_of = folder, jobs_of
        self.results = self.places["results_dir"]
        for number, cell in enumerate(cells):
            (folder / f"{cell.path.replace('/', '_')}.json").write_text(
                json.dumps(study_cases.workdir_files(cell, 0.5 + number / 100))
            )

    def commands(self, cell):
        return [self.command(cell)]

    def command(self, cell):
        files = self._folder / f"{cell.path.replace('/', '_')}.json"
        return [
            "python",
            "-c",
            study_cases.COMMAND,
            str(self.workdir(cell)),
            self._jobs_of.get(cell.row, ""),
            str(files),
        ]


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "flags").mkdir()
    study = study_cases.small_study(tmp_path / "flags", seeds=(0,))
    monkeypatch.setitem(STUDIES, "small", study)
    return study


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_cell_that_fails_is_told_and_the_next_goes_on(small, tmp_path, jobs, capsys):
    cells = definitions.cells(small)
    runner = PretendRunner(tmp_path, cells, jobs, kd="fails")
    assert runner.run(cells) == 2
    recorded = read_all(runner.results)
    assert [cell.path for cell in recorded] == ["small/none/none/seed0", "small/a/skd/seed0", "small/b/skd/seed0"]
    assert [record["student"]["accuracy"] for record in recorded.values()] == [0.5, 0.52, 0.54]
    said = capsys.readouterr().out
    assert said.count("kd/seed0: FAILED, exit code 2: error: Training has diverged.") == 2
    assert not runner.workdir(cells[0]).exists() and runner.workdir(cells[1]).exists()  # a failed one's is kept


def test_a_signal_reaches_the_children_and_the_same_command_goes_on(small, tmp_path, capsys):
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
    assert raised.value.exit_code == 143
    assert all((file.parent / "saved").exists() for file in begun)
    assert "FAILED" not in capsys.readouterr().out
    before = read_all(runner.results)
    assert not any(cell.row == "kd" for cell in before)
    assert runner.run([cell for cell in cells if cell not in before]) == 0
    assert set(read_all(runner.results)) == set(cells)
    assert "small/a/kd/seed0: resumes" in capsys.readouterr().out


def test_the_same_training_is_not_begun_twice_at_a_time(small, tmp_path, monkeypatch, capsys):
    twin = study_cases.small_study(tmp_path / "flags", "twin", seeds=(0,), alone={}, pairs={"a": small.pairs["a"]})
    monkeypatch.setitem(STUDIES, "twin", twin)
    cells = [c for c in definitions.cells(small, twin) if c.pair == "a" and c.row == "kd"]
    runner = PretendRunner(tmp_path, cells, jobs=2)
    assert runner.run(cells) == 0
    assert (
        "twin/a/kd/seed0: the same training as small/a/kd/seed0, its record is taken over." in capsys.readouterr().out
    )
    assert (tmp_path / "results_dir/twin/a/kd/seed0.json").is_file() and not runner.workdir(cells[1]).exists()


def test_a_studys_cells_wait_for_its_teacher_and_others_do_not(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "flags/teacher.flags").write_text(f"--flagfile={small.base}\n--loss=cross_entropy\n--epochs=3\n")
    teachers = {"a": str(tmp_path / "flags/teacher.flags")}
    taught = study_cases.small_study(tmp_path / "flags", "taught", seeds=(0,), teachers=teachers)
    monkeypatch.setitem(STUDIES, "taught", taught)
    other = study_cases.small_study(
        tmp_path / "flags", "other", seeds=(7,), pairs={}, alone={"none": small.alone["none"]}
    )
    monkeypatch.setitem(STUDIES, "other", other)
    cells = definitions.cells(taught, other)
    assert PretendRunner(tmp_path, cells, 2, a="sleeps").run(cells) == 0
    lines = capsys.readouterr().out.splitlines()
    begins = [line.split(":")[0] for line in lines if ": begins" in line]
    assert begins[:2] == ["taught/none/a/seed0", "other/none/none/seed7"]  # beside the teacher, which sleeps
    end = next(n for n, line in enumerate(lines) if line.startswith("taught/none/a/seed0: test top-1"))
    assert sum(": begins" in line for line in lines[:end]) == 2


def test_only_names_cells(small):
    cells = definitions.cells(small)
    assert [cell.path for cell in reproduce.chosen(cells, ["*/kd/*", "small/none/*"])] == [
        "small/none/none/seed0",
        "small/a/kd/seed0",
        "small/b/kd/seed0",
    ]
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
    assert git("log", "--format=%s", "--name-only", "--reverse").split("\n") == [
        "Record: small/a/skd/seed0, test top-1 0.5000",
        "",
        "results_dir/small/a/skd/seed0.json",
        "Record: small/b/skd/seed0, test top-1 0.5100",
        "",
        "results_dir/small/b/skd/seed0.json",
        "",
    ]
    assert git("diff", "--cached", "--name-only") == "staged\n"
    (tmp_path / ".git/index.lock").touch()  # another git command is running
    more = [cell for cell in definitions.cells(small) if cell.row == "none"]
    runner = PretendRunner(tmp_path, more, commit=True)
    assert runner.run(more) == 0
    assert "recorded, not committed: " in capsys.readouterr().out
    (tmp_path / ".git/index.lock").unlink()
    runner.commit_left(read_all(runner.results))  # the next run
    assert git("log", "--format=%s").splitlines()[0] == "Record: small/none/none/seed0, test top-1 0.5000"
    assert len(git("log", "--format=%s").splitlines()) == 3


def test_a_workdir_that_is_in_use_is_waited_for(small, tmp_path, capsys):
    cell = definitions.cells(small)[0]
    runner = PretendRunner(tmp_path, [cell])
    runner.workdir(cell).mkdir(parents=True)
    with locked(runner.workdir(cell)):
        assert not runner._free(cell)
    assert f"waits for the process {os.getpid()}" in capsys.readouterr().out
    assert runner._free(cell)


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
    (record,) = read_all(runner.results).values()
    assert record["calibrated"] == row
    config = definitions.config_of(cells[0])
    commands = Runner(runner.places | {"data_dir": "/data"}).commands(cells[0])
    assert config.validation_fraction and len(commands) == 2
    assert {"--calibrate", "--data_dir=/data", f"--model={runner.workdir(cells[0])}"} <= set(commands[1])
    assert len(Runner(runner.places).commands(study_cases.by_path("imagenet").popitem()[1])) == 1


def test_the_command_names_the_places_only_where_they_are_others(tmp_path):
    root = definitions.ROOT
    cell = study_cases.by_path("capacity_gap")["capacity_gap/resnet56/kd/seed0"]
    flags = [f"--flagfile=experiments/studies/{name}.flags" for name in ("base", "pairs/resnet56", "rows/kd")]
    places = {
        "data_dir": "/data",
        "runs_dir": str(root / "runs/studies"),
        "teachers_dir": str(root / "teachers"),
        "results_dir": str(tmp_path),
    }
    plain = ["python", "-m", "skd_tf.train", *flags, "--seed=0"]
    end = ["--data_dir=/data", "--workdir=runs/studies/capacity_gap/resnet56/kd/seed0"]
    assert Runner(places).command(cell) == plain + end
    command = Runner(places | {"teachers_dir": "/t", "runs_dir": "/r", "data_dir": None}).command(cell)
    assert command == [
        *plain,
        "--teacher_checkpoint=/t/resnet56.keras",
        "--teacher_cache_dir=/r/teacher_cache",
        "--workdir=/r/capacity_gap/resnet56/kd/seed0",
    ]
    teacher = next(cell for cell in definitions.cells(STUDIES["cifar100_full"]) if cell.row == "cifar100_full_resnet56")
    assert Runner(places).command(teacher)[-1] == "--workdir=teachers/cifar100_full_resnet56"


def test_the_dry_run_estimates_from_records_alike(small, tmp_path):
    cells = definitions.cells(small)
    results = tmp_path / "results"
    study_cases.write({cells[0]: study_cases.record(cells[0], 0.5, examples_per_second=2 * 100 / 90)}, results)
    records = read_all(results)
    runner = PretendRunner(tmp_path, [])
    text = reproduce.plan_text(cells, runner, records, results, jobs=2)
    assert "small/none/none/seed0: done, test top-1 0.5000" in text and "small/a/kd/seed0: 1:30\n" in text
    assert text.endswith(
        "5 cells, 4 to run: about 3:00 for 4 of them, beside the passes of teachers whose logits are not cached yet."
    )
    twin = study_cases.small_study(tmp_path / "flags", "twin", seeds=(0,), alone={})
    text = reproduce.plan_text(definitions.cells(small, twin), runner, records, results)
    assert "twin/a/kd/seed0: the same training as small/a/kd/seed0" in text and "9 cells, 4 to run" in text


def test_what_has_no_record_alike_is_reckoned_by_operations(small, tmp_path):
    cells = study_cases.by_path("capacity_gap", "cifar100", "cifar100_full", "precision", "imagenet")
    twelve = cells["capacity_gap/resnet56/kd/seed0"]
    alike = {twelve: study_cases.record(twelve, 0.8, examples_per_second=10.0)}  # 100 images
    assert (
        time_estimates.measured(cells["cifar100/cifar100_resnet56/skd/seed1"], alike) == 120
    )  # on CIFAR-10 it took as long
    assert time_estimates.measured(cells["precision/resnet20/bfloat16_cached/seed0"], alike) == 60  # half the epochs
    teacher = cells["cifar100_full/none/cifar100_full_resnet56/seed0"]
    assert time_estimates.measured(teacher, alike) is None and time_estimates.reckoned(teacher, {}) is None
    forward = {name: time_estimates._forward(*name) for name in (("resnet8", "cifar10"), ("resnet56", "cifar100"))}
    ratio = forward["resnet56", "cifar100"] / forward["resnet8", "cifar10"]
    assert 9 < ratio < 11 and time_estimates.reckoned(teacher, alike) == pytest.approx(240 * 50_000 / 10 * ratio)
    none, live = (cells[f"imagenet/resnet34_resnet18/{row}/seed0"] for row in ("none", "skd"))
    assert (
        1.6 < time_estimates.reckoned(live, alike) / time_estimates.reckoned(none, alike) < 1.7
    )  # 1 + 7.3 / (3 * 3.6)
    text = reproduce.plan_text([teacher, twelve], PretendRunner(tmp_path, []), alike, tmp_path)
    assert "cifar100_full_resnet56/seed0: roughly " in text and "(1 by operations)" in text


def test_several_jobs_are_dealt_out_to_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [environment(slot, gpus=2, jobs=3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert environment(1, gpus=2, jobs=2)["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment(0, gpus=2, jobs=1) == dict(os.environ) == environment(1, gpus=0, jobs=2)


def test_several_jobs_share_the_cores():
    assert [cores(slot, 2, {0, 2, 3, 5, 7}) for slot in range(2)] == [{0, 3, 7}, {2, 5}]
    assert cores(0, 1, {0, 1}) == set() == cores(1, 3, {0, 1})  # one job, or too many: all


def test_an_unknown_study_is_one_line():
    command = [sys.executable, str(definitions.ROOT / "experiments/lab/reproduce.py"), "capacity_gp", "--dry_run"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "Received study=capacity_gp. Did you mean capacity_gap?" in run.stderr
