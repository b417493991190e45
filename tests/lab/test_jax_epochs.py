"""experiments/lab/jax/epochs.py, where JAX is installed and Keras runs on it:

KERAS_BACKEND=jax python -m pytest --noconftest -o addopts= tests/lab/test_jax_epochs.py
"""

import math
import os

import numpy as np
import pytest

pytest.importorskip("jax")
if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("Keras does not run on JAX here", allow_module_level=True)


import jax.numpy as jnp
import keras

from experiments.lab.jax.epochs import Epochs, accuracy_of, key_of

BATCH, EPOCHS, DECAY, PEAK = 8, 3, 0.01, 0.3


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


@pytest.fixture
def data():
    generator = np.random.default_rng(2)
    images = generator.integers(0, 256, (45, 32, 32, 3)).astype("uint8")
    return jnp.asarray(images), jnp.asarray(generator.integers(0, 10, 45).astype("int32"))


def epochs_of(model):
    return Epochs(model, images=45, batch_size=BATCH, epochs=EPOCHS, weight_decay=DECAY)


def test_the_teachers_logits_are_of_the_views_that_the_student_sees(model, data):
    epochs = epochs_of(model)
    run, teach = epochs.train(lambda logits, taught, labels: abs(logits - taught).max(axis=1)), epochs.teach()
    state = epochs.first_state()
    for epoch in range(EPOCHS):
        key = key_of("student", 0, epoch)
        taught = teach(epoch, key, data[0])
        before = state
        state, (gap, _) = run(state, 0.0, key, *data, taught)
        assert gap < 2e-3  # float16
        _, (elsewhere, _) = run(before, 0.0, key_of("teacher", 0, epoch), *data, taught)
        assert elsewhere > 0.1


def test_steps_are_the_cosine_with_momentum_and_l2(model, data):
    """Against float64: with a loss that has no gradient, L2 alone moves the weights."""
    epochs, steps = epochs_of(model), 45 // BATCH
    run, state = epochs.train(lambda logits, taught, labels: 0.0 * logits.sum(axis=1)), epochs.first_state()
    for epoch in range(EPOCHS):
        state, _ = run(state, PEAK, key_of("student", 0, epoch), *data, None)
    weight, velocity, total = np.float64(1), np.float64(0), steps * EPOCHS
    warmup = round(0.05 * total)
    for step in range(total):
        cosine = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        velocity = 0.9 * velocity + DECAY * weight
        weight -= PEAK * (min(1, (step + 1) / warmup) if step < warmup else cosine) * velocity
    kernel, trained = np.asarray(model.trainable_variables[0]), np.asarray(state[1][0])
    np.testing.assert_allclose(trained, kernel * weight, rtol=1e-5)


def test_accuracy_is_of_images_as_they_are(model, data):
    images, labels = map(np.asarray, data)
    expected = (np.asarray(model(images.astype("float32"))).argmax(1) == labels).mean()
    assert accuracy_of(model, epochs_of(model).first_state(), images, labels, batch_size=20) == expected
