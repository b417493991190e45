"""`reproduce` and `paired_difference` in processes of their own, with real training."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.lab import definitions, records
from tests.lab import study_cases

PROGRAM = """
import sys
from experiments.lab import __main__, definitions
from tests.lab import test_reproduce_processes
definitions.STUDIES["small"] = test_reproduce_processes.real_study(sys.argv.pop(1))
__main__.main()
"""


def real_study(folder):
    """A teacher, a student without one, and three with it, two of them the same training, on digits."""
    made, folder = study_cases.small_study(folder), pathlib.Path(folder)
    more = {
        "base": "--dataset=digits\n--student=cnn_4\n--epochs=40\n--batch_size=32\n--learning_rate=0.1\n--noreport\n"
        "--teacher_cache_dir=runs/studies/teacher_cache\n--teacher_cache_epochs=3\n",
        "t": "--dataset=digits\n--student=resnet8\n--loss=cross_entropy\n--epochs=3\n--learning_rate=0.1\n--noreport\n",
        "to_t": "--teacher_checkpoint=teachers/t\n",
        "again": "--loss=kd\n--temperature=4\n",
    }
    files = {name: str(folder / f"{name}.flags") for name in more}
    for name, text in more.items():
        pathlib.Path(files[name]).write_text(text)
    rows = made.rows | {"again": files["again"]}
    parts = {"pairs": {"t": files["to_t"]}, "teachers": {"t": files["t"]}, "rows": rows, "seeds": (0,)}
    return definitions.Study("small", "Which?", base=files["base"], alone=made.alone, **parts)


def start(folder, flags_folder):
    places = [f"--{name}={folder / name}" for name in ("runs_dir", "teachers_dir", "results_dir")]
    command = [sys.executable, "-c", PROGRAM, str(flags_folder), "reproduce", "small", *places]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=definitions.ROOT, text=True, **streams)


def lines_of(file):
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.mark.slow
def test_a_study_that_is_stopped_and_killed_ends_with_an_undisturbed_ones_records(tmp_path):
    flags_folder, calm, rough = (tmp_path / name for name in ("flags", "calm", "rough"))
    for folder in (flags_folder, calm, rough):
        folder.mkdir()
    known = {"small": real_study(flags_folder)}
    undisturbed = start(calm, flags_folder)
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    assert "small/t/again/seed0: the same training as small/t/kd/seed0, its record is copied." in output
    expected = records.read_all(calm / "results_dir", known)
    assert len(expected) == 5 and not list((calm / "runs_dir/small").glob("**/config.json"))  # their workdirs are gone
    for row, number, code in (("kd", signal.SIGTERM, 143), ("skd", signal.SIGINT, 130), ("skd", signal.SIGKILL, -9)):
        tool, log = start(rough, flags_folder), rough / f"runs_dir/small/t/{row}/seed0.log"
        begun = len(log.read_text()) if log.is_file() else 0
        metrics = rough / f"runs_dir/small/t/{row}/seed0/metrics.jsonl"
        epochs = lines_of(metrics)
        while lines_of(metrics) <= epochs:
            assert tool.poll() is None, tool.stdout.read()
            time.sleep(0.02)
        tool.send_signal(number)
        tool.communicate()
        assert tool.returncode == code
        deadline = time.monotonic() + 30  # a child whose parent was killed saves its state and ends
        while "is saved" not in log.read_text()[begun:] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "is saved" in log.read_text()[begun:]
    tool = start(rough, flags_folder)
    output, _ = tool.communicate()
    assert tool.returncode == 0 and "small/t/skd/seed0: resumes" in output, output
    found = records.read_all(rough / "results_dir", known)
    exact = (
        "config",
        "teacher",
        "student",
        "raw_softmax",
        "radius",
        "reliability",
        "by_epoch",
        "best_epoch",
        "dataset",
    )
    for cell, record in expected.items():
        assert {name: found[cell][name] for name in exact} == {name: record[name] for name in exact}, cell.path
    assert json.dumps(list(found.values())).count(str(tmp_path)) == 1 + 2 + 3 * 3  # the names of flagfiles alone


@pytest.mark.slow
def test_a_paired_difference_has_one_teacher_for_all_seeds(tmp_path):
    (tmp_path / "teacher.flags").write_text(
        "--dataset=digits\n--student=cnn_4\n--loss=cross_entropy\n--epochs=10\n--learning_rate=0.1\n"
    )
    flags = ["--dataset=digits", "--student=cnn_4", "--loss=kd", "--epochs=1", "--noreport", "--seeds=2"]
    places = [f"--workdir={tmp_path / 'runs'}", f"--output={tmp_path / 'out.json'}"]
    places.append(f"--teacher_flagfile={tmp_path / 'teacher.flags'}")
    command = [sys.executable, "-m", "experiments.lab", "paired_difference", *flags, *places]
    done = subprocess.run(command, cwd=definitions.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    results = [json.loads((tmp_path / f"runs/seed{seed}/result.json").read_text()) for seed in (0, 1)]
    differences = [r["student"]["accuracy"] - r["student_alone"]["accuracy"] for r in results]
    assert (
        record["accuracy"]["differences"] == pytest.approx(differences) and record["teacher"] == results[1]["teacher"]
    )
    error = abs(differences[0] - differences[1]) / 2  # of two values
    assert record["accuracy"]["standard_error"] == pytest.approx(error)
