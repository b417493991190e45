"""A disk that is full, one that is read-only, no network: real ones, in a namespace of the test's own."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.training.test_experiment import checkpoint_arrays, numbers

TRIAL = ["unshare", "-mn", "mount", "-t", "tmpfs", "none", "/mnt"]
CAN_MOUNT = shutil.which("unshare") and not subprocess.run(TRIAL, capture_output=True, check=False).returncode
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_MOUNT, reason="a namespace takes root's unshare and mount")]

FLAGS = [
    "--student=cnn_2",
    "--epochs=3",
    "--batch_size=100",
    "--learning_rate=0.1",
    "--checkpoint_every=3 steps",
    "--strategy=one_device",
    "--noreport",
]


def module(name, *flags):
    return [sys.executable, "-m", f"skd_tf.{name}", *map(str, flags)]


def train(*flags, loss="cross_entropy"):
    return module("train", *FLAGS, f"--loss={loss}", *flags)


def in_namespace(script, *command, network=True):
    """Runs a shell script as root of a mount namespace, with no network device but a loopback that is down if need be."""
    unshare = ["unshare", "-m" if network else "-mn", "sh", "-euc", script, "sh", *command]
    return subprocess.run(unshare, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    subprocess.run([*train(f"--workdir={folder}"), "--student=cnn_8", "--epochs=20"], check=True, capture_output=True)
    return folder


def require_same(folder, other):
    assert numbers(folder) == numbers(other)
    one, two = checkpoint_arrays(folder), checkpoint_arrays(other)
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_without_any_network_all_commands_end_well(teacher, tmp_path):
    """TensorFlow's own C++ is seen too, and the fresh processes that run what is exported."""
    run, out = tmp_path / "run", tmp_path / "out"
    commands = [
        train(
            f"--workdir={run}",
            f"--teacher_checkpoint={teacher}",
            f"--teacher_cache_dir={tmp_path / 'cache'}",
            loss="kd",
        ),
        module("evaluate", f"--model={run}", f"--teacher={teacher}", "--dataset=digits", "--calibrate"),
        module("export", f"--workdir={run}", f"--output={out}", "--check_images=10"),
        module("report", run),
    ]
    for command in commands:
        done = in_namespace('[ -z "$(ip -o route 2>/dev/null)" ]; exec "$@"', *command, network=False)
        assert done.returncode == 0, done.stderr
    assert (out / "saved_model" / "saved_model.pb").is_file() and json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("what", ["workdir", "teacher_cache_dir"])
def test_a_read_only_file_system_is_one_line(teacher, tmp_path, what):
    (tmp_path / "disk" / "workdir").mkdir(parents=True)
    (tmp_path / "disk" / "workdir" / "earlier").write_text("earlier")
    places = {"workdir": tmp_path / "run", "teacher_cache_dir": tmp_path / "cache"} | {
        what: tmp_path / "disk" / "workdir"
    }
    flags = [f"--{name}={path}" for name, path in places.items()]
    script = f'mount --bind "{tmp_path}/disk" "{tmp_path}/disk"; mount -o remount,bind,ro "{tmp_path}/disk"; exec "$@"'
    done = in_namespace(script, *train(*flags, f"--teacher_checkpoint={teacher}", loss="kd"))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: The ") and "cannot be written (Read-only file system)" in last
    assert str(places[what]) in last
    assert [path.name for path in places[what].iterdir()] == ["earlier"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("whole")
    command = train(f"--workdir={folder}", f"--teacher_checkpoint={teacher}", loss="kd")
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kilobytes", [4, 40, 60, 80, 120])
def test_a_disk_that_fills_up_is_one_line_and_with_more_room_the_run_ends_alike(whole, teacher, tmp_path, kilobytes):
    """It fills at the settings, a record, a checkpoint, the exported student or TensorBoard's events, as the size has it."""
    (tmp_path / "disk").mkdir()
    disk, kept, said = (tmp_path / name for name in ("disk", "kept", "said"))
    script = f"""
        mount -t tmpfs -o size={kilobytes}k none "{disk}"
        code=0; "$@" >"{said}" 2>&1 || code=$?
        echo $code $(find "{disk}" -name "*.tmp") >>"{said}"
        mount -o remount,size=100m "{disk}"
        "$@"
        cp -r "{disk}/run" "{kept}"
    """
    done = in_namespace(script, *train(f"--workdir={disk / 'run'}", f"--teacher_checkpoint={teacher}", loss="kd"))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    *_, error, code_and_left = said.read_text().splitlines()
    assert error.startswith("error: ") and "No space left on device" in error
    assert code_and_left in ("1", "2") and "Traceback" not in said.read_text()
    require_same(kept, whole)
