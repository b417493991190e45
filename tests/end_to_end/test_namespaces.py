"""A full disk, a read-only one, no network: real ones, in a namespace of the test's own."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.helpers.runs import SMALL, as_flags, assert_same_run

TRIAL = ["unshare", "-mn", "mount", "-t", "tmpfs", "none", "/mnt"]
CAN_MOUNT = shutil.which("unshare") and not subprocess.run(TRIAL, capture_output=True, check=False).returncode
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_MOUNT, reason="a namespace takes root's unshare and mount")]


def module(name, *flags):
    return [sys.executable, "-m", f"skd_tf.{name}", *map(str, flags)]


def train(workdir, teacher, *flags):
    places = f"--workdir={workdir}", f"--teacher_checkpoint={teacher}"
    return module("train", *as_flags(SMALL), "--loss=kd", "--checkpoint_every=3 steps", "--noreport", *places, *flags)


def in_namespace(script, *command, network=True):
    """Runs a shell script as root of a mount namespace; without `network`, the loopback alone is there, and down."""
    unshare = ["unshare", "-m" if network else "-mn", "sh", "-euc", script, "sh", *command]
    return subprocess.run(unshare, capture_output=True, text=True, timeout=400, check=False)


def test_all_commands_work_without_a_network(digits_teacher, tmp_path):
    """TensorFlow's own C++ is checked too, and so are the fresh processes that run what is exported."""
    run, out = tmp_path / "run", tmp_path / "out"
    for command in (
        train(run, digits_teacher, f"--teacher_cache_dir={tmp_path / 'cache'}"),
        module("evaluate", f"--model={run}", f"--teacher={digits_teacher}", "--dataset=digits", "--calibrate"),
        module("export", f"--workdir={run}", f"--output={out}", "--check_images=10"),
        module("report", run),
    ):
        done = in_namespace('[ -z "$(ip -o route 2>/dev/null)" ]; exec "$@"', *command, network=False)
        assert done.returncode == 0, done.stderr
    assert (out / "saved_model" / "saved_model.pb").is_file() and json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("what", ["workdir", "teacher_cache_dir"])
def test_a_read_only_file_system_is_one_line(digits_teacher, tmp_path, what):
    disk = tmp_path / "disk"
    (disk / "place").mkdir(parents=True)
    (disk / "place" / "earlier").write_text("earlier")
    places = {"workdir": tmp_path / "run", "teacher_cache_dir": tmp_path / "cache"} | {what: disk / "place"}
    script = f'mount --bind "{disk}" "{disk}"; mount -o remount,bind,ro "{disk}"; exec "$@"'
    command = train(places["workdir"], digits_teacher, f"--teacher_cache_dir={places['teacher_cache_dir']}")
    done = in_namespace(script, *command)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: The ") and "cannot be written (Read-only file system)" in last
    assert str(disk / "place") in last
    assert [path.name for path in (disk / "place").iterdir()] == ["earlier"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_teacher):
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(train(folder, digits_teacher), check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kilobytes", [4, 40, 60, 80, 120])
def test_a_run_on_a_full_disk_is_one_line_and_resumes_with_more_room(whole, digits_teacher, tmp_path, kilobytes):
    """By its size, it fills at the settings, a record, a checkpoint, the exported student or TensorBoard's events."""
    disk, kept, said = (tmp_path / name for name in ("disk", "kept", "said"))
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size={kilobytes}k none "{disk}"
        code=0; "$@" >"{said}" 2>&1 || code=$?
        echo $code $(find "{disk}" -name "*.tmp") >>"{said}"
        mount -o remount,size=100m "{disk}"
        "$@"
        cp -r "{disk}/run" "{kept}"
    """
    done = in_namespace(script, *train(disk / "run", digits_teacher))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    *_, error, code_and_left = said.read_text().splitlines()
    assert error.startswith("error: ") and "No space left on device" in error
    assert code_and_left in ("1", "2") and "Traceback" not in said.read_text()
    assert_same_run(kept, whole)
