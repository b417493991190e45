"""experiments/lab/reproduce.py on real digits: stopped in mid-epoch, killed, started again; it ends as an undisturbed one."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.lab import definitions, records
from tests.lab import study_cases

TESTS = pathlib.Path(__file__).resolve().parent
PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {tools!r}, {root!r}]
import studies, test_study_runs
studies.STUDIES["small"] = test_study_runs.study(sys.argv.pop(1))
import reproduce
from skd_tf import cli
cli.run(reproduce.main, description="", define=reproduce.define, required=(), positional="study")
""".format(tests=str(TESTS), tools=str(TESTS.parent / "tools"), root=str(TESTS.parent))


def study(folder):
    """A teacher, a student without one, and three with it, two of them the same training."""
    made = study_cases.small_study(folder, seeds=(0,))
    folder = pathlib.Path(folder)
    more = {
        "base": "--dataset=digits\n--student=cnn_4\n--epochs=40\n--batch_size=32\n--learning_rate=0.1\n--noreport\n"
        "--teacher_cache_dir=runs/studies/teacher_cache\n--teacher_cache_epochs=3\n",
        "t": "--dataset=digits\n--student=resnet8\n--loss=cross_entropy\n--epochs=3\n--learning_rate=0.1\n--noreport\n",
        "to_t": "--teacher_checkpoint=teachers/t\n",
        "again": "--loss=kd\n--temperature=4\n",
    }
    for name, text in more.items():
        (folder / f"{name}.flags").write_text(text)
    rows = made.rows | {"again": str(folder / "again.flags")}
    return definitions.Study(
        "small",
        "Which?",
        base=made.base,
        alone=made.alone,
        rows=rows,
        seeds=(0,),
        pairs={"t": str(folder / "to_t.flags")},
        teachers={"t": str(folder / "t.flags")},
    )


def start(folder, flags_folder):
    places = [f"--{name}={folder / name}" for name in ("runs_dir", "teachers_dir", "results_dir")]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(flags_folder), "small", *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records_of(folder, flags_folder):
    known = {"small": study(flags_folder)}
    return {cell.path: record for cell, record in records.read_all(folder / "results_dir", known).items()}


@pytest.mark.slow
def test_a_study_that_is_stopped_and_killed_ends_with_an_undisturbed_ones_records(tmp_path):
    flags_folder, calm, rough = (tmp_path / name for name in ("flags", "calm", "rough"))
    for folder in (flags_folder, calm, rough):
        folder.mkdir()
    undisturbed = start(calm, flags_folder)
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    assert "small/t/again/seed0: the same training as small/t/kd/seed0, its record is taken over." in output
    expected = records_of(calm, flags_folder)
    assert len(expected) == 5 and not list((calm / "runs_dir/small").glob("**/config.json"))  # their workdirs are gone
    for row, number, code in (("kd", signal.SIGTERM, 143), ("skd", signal.SIGINT, 130), ("skd", signal.SIGKILL, -9)):
        tool, log = start(rough, flags_folder), rough / f"runs_dir/small/t/{row}/seed0.log"
        begun = len(log.read_text()) if log.is_file() else 0
        while not (log.is_file() and re.search(r"epoch +\d+/40", log.read_text()[begun:])):
            assert tool.poll() is None, tool.stdout.read()
            time.sleep(0.02)
        tool.send_signal(number)
        tool.communicate()
        assert tool.returncode == code
        deadline = time.monotonic() + 30  # a child whose parent was killed ends by itself, its state saved
        while "is saved" not in log.read_text()[begun:] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "is saved" in log.read_text()[begun:]
    tool = start(rough, flags_folder)
    output, _ = tool.communicate()
    assert tool.returncode == 0, output
    assert "small/t/skd/seed0: resumes" in output
    found = records_of(rough, flags_folder)
    assert found.keys() == expected.keys()
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
    for path, record in found.items():
        assert {name: record[name] for name in exact} == {name: expected[path][name] for name in exact}, path
    assert json.dumps(found).count(str(tmp_path)) == 1 + 2 + 3 * 3  # names of flagfiles alone
