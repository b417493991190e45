"""Signals stop the program where nothing is lost."""

import signal
import time

import pytest

from skd_tf.runtime import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_an_object_is_deleted_is_not_lost(number):
    """Python drops what `__del__` raises."""

    class Deleted:
        def __del__(self):
            signal.raise_signal(number)

    with pytest.raises(signals.Interrupted) as caught, signals.raised():
        Deleted()
        time.sleep(5)
    assert caught.value.signal == number
