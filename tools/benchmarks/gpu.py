"""Training steps on a GPU that has JAX and no TensorFlow: skd_tf's networks on Keras' JAX backend.

    python -m tools.benchmarks gpu --output=experiments/results/benchmarks/gpu.json

One compiled loop of steps over images in device memory: bfloat16, spherical loss, SGD with momentum; the teacher runs
live or its logits are given. There is no input pipeline: the speed is an upper bound for a GPU, which
experiments/README.md converts into hours.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import keras

from experiments.lab.jax import epochs
from skd_tf import losses, networks
from skd_tf.errors import input_error
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime.files import write_json

_CLASSES = {32: 100, 224: 1000}  # by image size: CIFAR-100's and ImageNet's
_REPEATS = 3


def main(*, lines: list[str], steps: int, output: str | None) -> None:
    """Times the lines, teacher:student:size:batch; writes the record after each."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    epochs.do_without_tensorflow()
    found = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__, "steps": []}
    for text, line in [(text, _line(text)) for text in lines]:
        seconds = _seconds_per_step(**line, steps=steps)
        line |= {"milliseconds": round(1e3 * seconds, 3), "images_per_second": round(line["batch_size"] / seconds)}
        found["steps"].append(line)
        print(f"{text}: {line['milliseconds']:.2f} ms per step, {line['images_per_second']:,} images/s", flush=True)
        if output:
            write_json(output, found)


def _line(text):
    teacher, student, size, batch = (text.split(":") + [""] * 4)[:4]
    known = teacher in ("cached", *NETWORK_NAMES) and student in NETWORK_NAMES and size in map(str, _CLASSES)
    if not known or text.count(":") != 3 or not batch.isdigit() or int(batch) < 1:
        raise input_error(
            "Not a line to measure",
            expected=f"teacher:student:size:batch, networks of skd_tf and size {' or '.join(map(str, _CLASSES))}",
            received=text,
            remedy="Correct --lines",
        )
    return {"teacher": teacher, "student": student, "size": int(size), "batch_size": int(batch)}


def _seconds_per_step(teacher, student, size, batch_size, steps):
    """Median of the repeats, without compilation and a first repeat."""
    classes, count, live = _CLASSES[size], 4 * batch_size, teacher != "cached"

    def weights_of(name):
        shape = {"input_shape": (size, size, 3), "num_classes": classes, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        model = networks.build(name, **shape)
        return model, *epochs.values_of(model)

    student, weights, averages = weights_of(student)
    teacher, *frozen = weights_of(teacher) if live else (None, [], [])
    images = jax.random.randint(jax.random.key(0), (count, size, size, 3), 0, 256).astype("uint8")
    labels, logits = jnp.arange(count) % classes, jax.random.normal(jax.random.key(1), (count, classes))

    def loss_of(weights, averages, images, labels, taught):
        z, averages = student.stateless_call(weights, averages, images, training=True)
        terms = losses.spherical_kd(z, taught, labels, temperature=4.0, radius=2 * classes**0.5, center=True)
        return (0.1 * terms["label"] + 0.9 * terms["distill"]).mean(), averages

    @jax.jit
    def run(state, frozen, images, labels, logits):
        def step(state, number):
            weights, averages, velocity = state
            batch = (jnp.arange(batch_size) + number * batch_size) % count
            pixels = images[batch].astype("float32")
            taught = teacher.stateless_call(*frozen, pixels, training=False)[0] if live else logits[batch]
            (_, averages), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                weights, averages, pixels, labels[batch], taught
            )
            velocity = [0.9 * v - 0.01 * (g + 5e-4 * w) for v, g, w in zip(velocity, gradients, weights, strict=True)]
            return ([w + v for w, v in zip(weights, velocity, strict=True)], averages, velocity), ()

        return jax.lax.scan(step, state, jnp.arange(steps))

    state, times = (weights, averages, [jnp.zeros_like(w) for w in weights]), []
    for _ in range(1 + _REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(run(state, frozen, images, labels, logits))
        times.append((time.perf_counter() - begin) / steps)
    return statistics.median(times[1:])
