"""A fixture of several tests."""

import keras
import pytest


@pytest.fixture
def fresh_layer_numbers():
    """Keras numbers layers without a name by what the process has built before."""
    keras.utils.clear_session(free_memory=False)
