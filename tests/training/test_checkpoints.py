"""Checkpoints: complete or absent, of this network or refused, resumed bit for bit."""

import errno
import functools
import pathlib
import unittest.mock

import numpy as np
import pytest

from skd_tf.distillation import optimizers
from skd_tf.errors import EnvironmentFailure
from skd_tf.training.checkpoints import Checkpoints, state_of
from tests.helpers.nets import batches, make_distiller, run, weights_of

averaging = functools.partial(optimizers.SGD, 0.05, 0.9, use_ema=True, ema_momentum=0.75)


def save(files, *arguments):
    files.save(*arguments)
    files.wait()


def state(distiller):
    return {name: np.asarray(variable) for name, variable in state_of(distiller).items()}


@pytest.mark.parametrize(
    ("replicas", "optimizer"),
    [(1, None), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, None), (1, averaging), (2, averaging)))],
)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, replicas, optimizer, two_replicas):
    data, strategy = batches(6), two_replicas if replicas == 2 else None
    straight, second = (make_distiller(strategy, batch_norm=True, optimizer=optimizer) for _ in range(2))
    run(straight, data[:4])
    save(Checkpoints(tmp_path), straight, 4, {"seconds": 1.5})
    means = run(straight, data[4:])
    assert Checkpoints(tmp_path).restore(second, pytest.fail) == (4, {"seconds": 1.5})
    assert run(second, data[4:]) == means  # the epoch's means go on too
    np.testing.assert_equal(state(second), state(straight))


def test_the_state_is_that_of_the_student_and_its_optimizer():
    distiller = make_distiller()
    variables = state_of(distiller)
    student = [variable for name, variable in variables.items() if name.startswith("student")]
    assert student == distiller.student.variables
    assert any(variable is distiller.radius for variable in variables.values())
    kernel = distiller.teacher.weights[0].shape
    assert [v.shape for v in variables.values()].count(kernel) == 2  # the student's own kernel and its momentum


def test_damaged_files_are_named_and_passed_over(tmp_path):
    distiller, files, states = make_distiller(), Checkpoints(tmp_path, keep=3), []
    for step in (1, 2, 3):
        run(distiller, batches(1))
        save(files, distiller, step)
        states.append(weights_of(distiller.student))
    oldest, *damaged = files.paths()
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-100])
    warnings = []
    assert files.restore(distiller, warnings.append)[0] == 1
    assert np.array_equal(weights_of(distiller.student), states[0])
    assert len(warnings) == 2 and damaged[1].name in warnings[0] and damaged[0].name in warnings[1]
    oldest.unlink()
    assert files.restore(distiller, warnings.append) is None


@pytest.mark.parametrize("refusal", [OSError(errno.ESTALE, "Stale file handle"), MemoryError()])
def test_what_cannot_be_read_at_the_moment_is_not_damaged(tmp_path, monkeypatch, refusal):
    distiller, files = make_distiller(), Checkpoints(tmp_path)
    save(files, distiller, 7)
    with monkeypatch.context() as patch, pytest.raises(type(refusal)):
        patch.setattr(pathlib.Path, "read_bytes", unittest.mock.Mock(side_effect=refusal))
        files.restore(distiller, pytest.fail)
    assert files.restore(distiller, pytest.fail)[0] == 7


def test_old_ones_go_and_unfinished_ones_do_not_count(tmp_path):
    distiller, files = make_distiller(), Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        save(files, distiller, step)
    (tmp_path / "step-000000020.ckpt.0123abcd.tmp").write_bytes(b"half")
    assert [path.name for path in files.paths()] == ["step-000000010.ckpt", "step-000000015.ckpt"]
    assert files.restore(distiller, pytest.fail)[0] == 15
    assert not list(tmp_path.glob("*.tmp"))


def test_a_best_that_no_checkpoint_has_reached_does_not_count(tmp_path):
    """Its steps are trained again, and may give other numbers. The best before it stays until a checkpoint follows."""
    distiller, files = make_distiller(), Checkpoints(tmp_path)

    def bests():
        return [int(path.name[5:14]) for path in sorted(tmp_path.glob("best-*"))]

    def save_best(files, step, score):
        files.save_best(distiller, step, score)
        files.wait()

    save_best(files, 3, 0.5)
    save(files, distiller, 3)
    save_best(files, 6, 0.9)
    assert bests() == [3, 6]
    again = Checkpoints(tmp_path)
    assert again.restore(distiller, pytest.fail)[0] == 3 and bests() == [3]
    for equal_or_worse in (0.5, 0.4):
        save_best(again, 6, equal_or_worse)
        assert bests() == [3]
    save_best(again, 9, 0.6)
    assert bests() == [3, 9]
    save(again, distiller, 9)
    assert bests() == [3, 9]  # if the checkpoint of step 9 is damaged, that of step 3 is restored
    save(again, distiller, 12)
    assert bests() == [9]
    for step, score in ((15, 0.7), (18, 0.8), (21, 0.9)):  # a resumed run begins at 12, and trains them again
        save_best(again, step, score)
        assert bests() == [9, step]
    for path in again.paths():
        path.unlink()
    assert Checkpoints(tmp_path).restore(distiller, pytest.fail) is None and bests() == []


def test_a_damaged_best_is_named_and_no_other_epoch_ships_in_its_place(tmp_path):
    distiller, files = make_distiller(), Checkpoints(tmp_path)
    for step, score in ((10, 0.5), (20, 0.9)):
        files.save_best(distiller, step, score)
        save(files, distiller, step)
    path = tmp_path / "best-000000020.ckpt"
    path.write_bytes(path.read_bytes()[:-9])
    again, said = Checkpoints(tmp_path), []
    assert again.restore(distiller, said.append)[0] == 20
    assert (
        len(said) == 1 and "best-000000020.ckpt is damaged" in said[0] and "the run cannot ship its best one" in said[0]
    )
    again.save_best(distiller, 30, 0.6)  # better than what is left, worse than the lost one
    with pytest.raises(EnvironmentFailure, match=r"best validation accuracy.*best-000000020\.ckpt.*no such file"):
        again.restore_best(distiller, 20)
    again.restore_best(distiller, 30)
