"""A step whose loss or gradient is not finite: it skips its update, stops the loop, and is the same on all replicas."""

import numpy as np
import pytest

from skd_tf.training.checkpoints import state_of
from tests.helpers.nets import batches, make_distiller, run, weights_of


def with_nan(count, at):
    data = batches(count, size=16)
    data[at][0][3] = np.nan
    return data


def values_of(distiller):
    return {name: variable.numpy().copy() for name, variable in state_of(distiller).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps_per_call", "jit_compile"),
    [(4, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, False), (8, True)))],
)
def test_the_state_before_the_step_is_kept(steps_per_call, jit_compile):
    bad, good = (make_distiller(None, batch_norm=True, jit_compile=jit_compile) for _ in range(2))
    run(bad, with_nan(8, at=5), steps_per_call=steps_per_call)
    run(good, batches(8, size=16)[:5], steps_per_call=1)
    assert {"label_loss", "distill_loss", "loss", "gradient"} <= {*bad.guard.found()} and not good.guard.found()
    states = values_of(bad), values_of(good)
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[1])
    assert int(bad.optimizer.iterations) == 5


@pytest.mark.slow
def test_on_two_replicas_one_bad_image_stops_both(two_replicas):
    bad, good = (make_distiller(two_replicas, batch_norm=True) for _ in range(2))
    run(bad, with_nan(6, at=3), steps_per_call=3)
    run(good, batches(6, size=16)[:3], steps_per_call=3)
    assert bad.guard.found() and np.array_equal(weights_of(bad.student), weights_of(good.student))
    for variable in state_of(bad).values():
        copies = [copy.numpy() for copy in two_replicas.experimental_local_results(variable.value)]
        assert all(np.array_equal(copies[0], copy) for copy in copies) and np.isfinite(copies[0]).all()


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_moving_statistics_that_overflow_stop_the_run_while_the_loss_is_finite(jit_compile):
    """A variance of 1e50 is infinite in float32. BatchNorm then divides by infinity, and the loss stays finite."""
    distiller, data = make_distiller(None, batch_norm=True, jit_compile=jit_compile), batches(4, size=16)
    run(distiller, data[:2], steps_per_call=2)
    before = values_of(distiller)
    data[2][0][:] *= 1e25
    run(distiller, data[2:], steps_per_call=2)
    assert "moving statistics" in distiller.guard.found() and "loss" not in distiller.guard.found()
    after = values_of(distiller)
    assert all(np.array_equal(before[name], after[name]) for name in before)
