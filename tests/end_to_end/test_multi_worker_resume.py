"""Two workers that fill one teacher cache, with a moving average and a scheduled weight: killed and resumed exactly."""

import pytest

from tests.end_to_end.test_multi_worker import CNN_8, assert_killed_run_resumes, train
from tests.helpers.runs import as_flags

pytestmark = pytest.mark.slow

TEACHER = [*as_flags(CNN_8), "--loss=cross_entropy", "--strategy=one_device", "--noreport"]
FLAGS = ["--epochs=20", "--ema_momentum=0.9", "--optimizer=adamw", "--learning_rate=0.01", "--noreport"]
FLAGS += ["--kd_weight=0.9, 0.5 from epoch 10", "--checkpoint_every=7 steps", "--sync_batch_norm"]


def logit_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "cache").glob("*.logits")}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of a run in a folder, which has its cache too."""
    teacher = tmp_path_factory.mktemp("teacher")
    train(teacher, *TEACHER, count=1)
    return lambda folder: (*FLAGS, f"--teacher_checkpoint={teacher}", f"--teacher_cache_dir={folder / 'cache'}")


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder / "run", *flags(folder))
    return folder


@pytest.mark.parametrize(
    ("victim", "words"), [(0, "to compute"), (1, "teacher pass"), (0, "epoch  6/20"), (1, "epoch 13/20")]
)
def test_killed_with_cache_and_average_the_same_command_ends_alike(uninterrupted, flags, tmp_path, victim, words):
    assert_killed_run_resumes(tmp_path / "run", flags(tmp_path), uninterrupted / "run", victim, words)
    assert logit_files(tmp_path) == logit_files(uninterrupted) != {}
