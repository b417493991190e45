"""Callbacks know which way each metric should go; steps_per_execution runs its steps in one call."""

import keras
import pytest
import tensorflow as tf

from skd_tf.errors import InputError
from tests.helpers.nets import batches, distance, make_distiller, weights_of

IMAGES, LABELS = batches(1, size=44)[0]


@pytest.mark.slow
def test_callbacks_know_the_direction_of_each_metric(tmp_path):
    kinds = [
        lambda name: keras.callbacks.EarlyStopping(name, patience=9),
        lambda name: keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=name, save_best_only=True),
        lambda name: keras.callbacks.ReduceLROnPlateau(name, patience=9),
    ]
    rising = ("accuracy", "agreement", "teacher_accuracy")
    falling = ("loss", "label_loss", "distill_loss")
    distiller = make_distiller()
    callbacks = {
        (i, p + n): kind(p + n) for i, kind in enumerate(kinds) for p in ("", "val_") for n in rising + falling
    }
    distiller.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), callbacks=[*callbacks.values()], verbose=0)
    for (_, name), callback in callbacks.items():
        wanted = keras.ops.greater if name.removeprefix("val_") in rising else keras.ops.less
        assert callback.monitor_op is wanted, name


@pytest.mark.slow
def test_the_best_accuracy_is_kept():
    distiller = make_distiller(optimizer=lambda: keras.optimizers.SGD(0.5))
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)
    history = distiller.fit(
        IMAGES, LABELS, validation_data=(IMAGES, LABELS), epochs=6, callbacks=[stop], verbose=0, shuffle=False
    ).history
    result = distiller.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert result["accuracy"] == pytest.approx(max(history["val_accuracy"]))


def test_loss_weights_are_refused():
    with pytest.raises(InputError, match=r"takes no loss_weights.*kd_weight"):
        make_distiller().compile("sgd", loss_weights=[0.5])


@pytest.mark.slow
@pytest.mark.parametrize(("arrays", "count"), [(True, 43), pytest.param(False, 44, marks=pytest.mark.slow)])
def test_steps_per_execution_takes_its_steps_in_one_call(arrays, count):
    """44 images in batches of 4 are 11 steps; the last batch of 43 is shorter."""
    found = {}
    for steps in (1, 5):
        distiller = make_distiller(batch_norm=True)
        distiller.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"], steps_per_execution=steps)
        data = IMAGES[:count], LABELS[:count]
        data = data if arrays else (tf.data.Dataset.from_tensor_slices(data).batch(4),)
        options = {"batch_size": 4} if arrays else {}
        calls = counted_calls(distiller)
        history = distiller.fit(*data, epochs=2, shuffle=False, verbose=0, **options).history
        assert int(distiller.optimizer.iterations) == 22
        # The first step is called alone, because its batch is inspected.
        assert len(calls) == (22 if steps == 1 else 2 * -(-11 // steps) + 1)
        result = distiller.evaluate(*data, verbose=0, return_dict=True, **options)
        found[steps] = weights_of(distiller.student), history["loss"] + history["accuracy"] + [result["loss"]]
    for weights, means in found.values():
        assert distance(found[1][0], weights) < 1e-6
        assert found[1][1] == pytest.approx(means, rel=1e-5)


@pytest.mark.slow
def test_steps_per_execution_on_two_replicas_changes_nothing_but_the_number_of_calls(two_replicas):
    """41 images in batches of 4 are 11 steps; the last batch leaves one replica without images."""
    data, found = (IMAGES[:41], LABELS[:41]), {}
    for steps in (1, 5):
        distiller = make_distiller(two_replicas, batch_norm=True)
        with two_replicas.scope():
            distiller.compile(keras.optimizers.SGD(0.05), steps_per_execution=steps)
        calls = counted_calls(distiller)
        history = distiller.fit(*data, batch_size=4, epochs=2, shuffle=False, verbose=0).history
        assert int(distiller.optimizer.iterations.numpy()) == 22
        assert len(calls) == (22 if steps == 1 else 2 * -(-11 // steps) + 1)
        result = distiller.evaluate(*data, batch_size=4, verbose=0, return_dict=True)
        found[steps] = weights_of(distiller.student), history["loss"] + history["accuracy"] + [result["loss"]]
    assert distance(found[1][0], found[5][0]) < 1e-6
    assert found[1][1] == pytest.approx(found[5][1], rel=1e-5)


def counted_calls(distiller):
    """A list with one entry per call from Python into a graph of training steps."""
    calls, steps = [], distiller._train_steps

    def counted(plain):
        return lambda *arguments: [calls.append(plain), plain(*arguments)][1]

    steps._single, steps._to_end = counted(steps._single), counted(steps._to_end)
    return calls
