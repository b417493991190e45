"""Steps of teacher and student on a GPU that has JAX and no TensorFlow: this package's networks by Keras' JAX backend.

    python -m tools.benchmarks gpu --output=experiments/results/benchmarks/gpu.json

One compiled loop of steps over images in device memory, bfloat16, spherical loss, SGD with momentum; the teacher live or its
logits at hand. No input pipeline: what a GPU could do, for the hours in experiments/README.md.
"""

import json
import os
import pathlib
import statistics
import sys
import time

from absl import flags

from skd_tf.errors import InputError
from skd_tf.networks.names import NETWORK_NAMES

_LINES = [  # teacher:student:size of the images:batch
    *("resnet56:resnet20:32:64", "cached:resnet20:32:64", "resnet32x4:resnet8x4:32:64", "cached:resnet8x4:32:64"),
    *("resnet34:resnet18:224:256", "cached:resnet18:224:256", "resnet152:resnet18:224:256"),
]
_CLASSES = {32: 100, 224: 1000}  # by the images' size: CIFAR-100's and ImageNet's
_REPEATS = 3


def define(flag_values):
    what = 'lines to measure, teacher:student:size:batch; "cached" in place of a teacher is its logits at hand'
    flags.DEFINE_list("lines", _LINES, what, flag_values=flag_values)
    flags.DEFINE_integer("steps", 100, "steps of a repeat", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    os.environ["KERAS_BACKEND"] = "jax"
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    import jax
    import keras

    from experiments.lab.jax import epochs

    keras.config.set_dtype_policy("mixed_bfloat16")
    epochs.do_without_tensorflow()
    found = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__, "steps": []}
    for text, line in [(text, _line(text)) for text in flag_values.lines]:
        seconds = _seconds_a_step(**line, steps=flag_values.steps)
        line |= {"milliseconds": round(1e3 * seconds, 3), "images_per_second": round(line["batch_size"] / seconds)}
        found["steps"].append(line)
        print(
            f"{text}: {line['milliseconds']:.2f} ms a step, {line['images_per_second']:,} images a second", flush=True
        )
        if flag_values.output:
            pathlib.Path(flag_values.output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _line(text):
    parts = text.split(":")
    known = ("cached", *NETWORK_NAMES), NETWORK_NAMES, tuple(map(str, _CLASSES))
    fits = len(parts) == 4 and all(part in names for part, names in zip(parts, known, strict=False))
    if not fits or not parts[3].isdigit() or int(parts[3]) < 1:
        raise InputError(
            f"Not a line to measure. Expected teacher:student:size:batch of networks of skd_tf.networks and sizes of "
            f"{', '.join(map(str, _CLASSES))}. Received {text}. Correct --lines."
        )
    return {"teacher": parts[0], "student": parts[1], "size": int(parts[2]), "batch_size": int(parts[3])}


def _seconds_a_step(teacher, student, size, batch_size, steps):
    """Median of the repeats; compilation and a first repeat are not among them."""
    import jax
    import jax.numpy as jnp

    from experiments.lab.jax import epochs
    from skd_tf import losses, networks

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
