"""The loop over steps: workers whose clocks differ do the same."""

import types

import pytest
import tensorflow as tf

from skd_tf.runtime import cluster
from skd_tf.training import loop


@pytest.mark.parametrize("own_clock_is_due", [True, False])
def test_a_checkpoint_is_due_for_all_workers_or_for_none(monkeypatch, own_clock_is_due, tmp_path):
    asked, saved, looked = [], [], []

    def max_over_workers(number):
        asked.append(number)
        return max(number, int(len(asked) == 2))  # in the second call another worker's clock is due

    monkeypatch.setattr(cluster, "max_over_workers", max_over_workers)
    guard = types.SimpleNamespace(reset=lambda: None, found=lambda: looked.append(len(asked)) or ())
    means = types.SimpleNamespace(result=dict, reset_state=lambda: None)
    strategy = tf.distribute.get_strategy()
    distiller = types.SimpleNamespace(
        distribute_strategy=strategy, guard=guard, means=means, run_steps=lambda iterator, steps: 0.0
    )
    callbacks = types.SimpleNamespace(on_call=lambda step: None, on_epoch_end=lambda *_: False, save=saved.append)
    limits = {"first_step": 0, "last_step": 10, "steps_per_epoch": 10, "steps_per_call": 2}
    interval = loop.Interval(1e-9 if own_clock_is_due else 1e9, "seconds")
    profile = loop.Profile(None, tmp_path)
    loop.train(distiller, lambda *_: tf.data.Dataset.range(1), callbacks, **limits, interval=interval, profile=profile)
    assert saved == ([2, 4, 6, 8, 10] if own_clock_is_due else [4, 10])
    assert looked == ([1, 2, 3, 4, 5] if own_clock_is_due else [2, 5])  # which asks the device, with all workers
