"""Two workers with a teacher cache that both fill, a moving average and a scheduled weight: killed, and resumed exactly."""

import signal

import numpy as np
import pytest

from tests.end_to_end.test_multi_worker import Workers, train_flags
from tests.training.test_experiment import checkpoint_arrays, numbers

pytestmark = pytest.mark.slow

TEACHER = ["--student=cnn_8", "--epochs=12", "--loss=cross_entropy", "--strategy=one_device", "--noreport"]
FLAGS = [
    "--epochs=20",
    "--ema_momentum=0.9",
    "--optimizer=adamw",
    "--learning_rate=0.01",
    "--noreport",
    "--kd_weight=0.9, 0.5 from epoch 10",
    "--checkpoint_every=7 steps",
    "--sync_batch_norm",
]


def command(folder, teacher):
    flags = [*FLAGS, f"--teacher_checkpoint={teacher}", f"--teacher_cache_dir={folder / 'cache'}"]
    return train_flags(folder / "run", *flags)


def logit_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "cache").glob("*.logits")}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    alone = Workers(*train_flags(folder, *TEACHER), count=1, limit_seconds=200)
    assert alone.wait() == [0], alone.lines
    return folder


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    workers = Workers(*command(folder, teacher), limit_seconds=300)
    assert workers.wait() == [0, 0], workers.lines
    return folder


@pytest.mark.parametrize(
    ("victim", "words"), [(0, "to compute"), (1, "teacher pass"), (0, "epoch  6/20"), (1, "epoch 13/20")]
)
def test_killed_with_cache_and_average_the_same_command_ends_alike(uninterrupted, teacher, tmp_path, victim, words):
    workers = Workers(*command(tmp_path, teacher), limit_seconds=300)
    workers.wait_for(words)
    workers.kill(victim)
    codes = workers.wait()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    assert not (tmp_path / "run" / "result.json").exists()
    again = Workers(*command(tmp_path, teacher), limit_seconds=300)
    assert again.wait() == [0, 0], again.lines
    assert any("Resuming at step" in line for line in again.lines) or not words.startswith("epoch")
    assert numbers(tmp_path / "run") == numbers(uninterrupted / "run")
    ours, theirs = checkpoint_arrays(tmp_path / "run"), checkpoint_arrays(uninterrupted / "run")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert logit_files(tmp_path) == logit_files(uninterrupted) != {}
