"""MultiStepFunction: the time spent waiting for data."""

import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.multi_step import MultiStepFunction

# Runs 4 steps on one core with data that is ready at once; prints the seconds spent waiting and the total.
ON_ONE_CORE = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from skd_tf.runtime import tf_logging
tf_logging.import_tensorflow()
import numpy as np
import tensorflow as tf
from skd_tf import networks
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller

net = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=10, mean=(0.5,) * 3, std=(0.5,) * 3)
distiller = Distiller(net, None, "cross_entropy")
distiller.compile(optimizers.make_optimizer(optimizers.OptimizerSettings(), 0.05))
batch = np.zeros([32, 32, 32, 3], np.uint8), np.zeros([32], np.int32)
iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
distiller.run_steps(iterator, 4).numpy()
start = time.perf_counter()
waited = distiller.run_steps(iterator, 4).numpy()
print(waited, time.perf_counter() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can restrict a process to one core")
def test_a_step_on_the_only_core_does_not_count_as_waiting():
    run = subprocess.run([sys.executable, "-c", ON_ONE_CORE], capture_output=True, text=True, check=True)
    waited, seconds = map(float, run.stdout.split())
    assert waited < 0.2 * seconds, (waited, seconds)


@pytest.mark.parametrize("eager", [False, True])
def test_a_slow_input_counts_as_waiting(eager):
    def slow(value):
        time.sleep(0.05)
        return np.float32(value)

    stream = tf.data.Dataset.range(8).map(lambda value: tf.numpy_function(slow, [value], tf.float32))
    total = tf.Variable(0.0)
    steps = MultiStepFunction(tf.distribute.get_strategy(), total.assign_add, eager=eager)
    assert 0.4 < float(steps(iter(stream), 8)) < 2
    assert total.numpy() == sum(range(8))
