"""The predictor: every example once and in order, on several devices as on one."""

import threading

import numpy as np
import pytest

from skd_tf import networks
from skd_tf.evaluation.predictor import Predictor, local_devices


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, [75, 8, 8, 1], np.uint8)


def network():
    return networks.build("cnn_8", input_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,), seed=3)


@pytest.mark.parametrize("scope", [True, False])
def test_two_devices_equal_one(pixels, two_replicas, scope):
    """Also with weights that have changed in between, for a network of one device and for a mirrored one."""
    if scope:
        with two_replicas.scope():
            net = network()
    else:
        net = network()
    one, two = Predictor(net, 10, devices=()), Predictor(net, 10, local_devices(two_replicas))
    assert len(two._places) == 2 and len(Predictor(net)._places) == 1 + scope
    for _ in range(2):
        logits, expected = two(pixels), net(pixels).numpy()
        assert np.array_equal(logits, one(pixels)) and logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        net.set_weights([2 * weights for weights in net.get_weights()])


def test_the_next_images_are_read_while_a_batch_is_computed(pixels):
    reading, computing = threading.Event(), threading.Event()

    class Images:
        def __len__(self):
            return 20

        def __getitem__(self, rows):
            if rows[0] == 10:
                assert computing.wait(10)
                reading.set()
            return pixels[rows]

    class Model:
        def __call__(self, images, training):
            return images[:, 0, 0, :]

    predictor = Predictor(Model(), 10)
    forward = predictor._places[0]

    def slow(images):
        computing.set()
        assert reading.wait(10)
        return forward(images)

    predictor._places[0] = slow
    assert np.array_equal(predictor(Images())[:, 0], pixels[:20, 0, 0, 0])


def test_an_error_while_reading_is_raised_where_it_is_used():
    class Images:
        def __len__(self):
            return 100

        def __getitem__(self, rows):
            raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        Predictor(network(), 10)(Images())
