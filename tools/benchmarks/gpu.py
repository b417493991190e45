"""Steps of teacher and student on a GPU that has JAX and no TensorFlow: this package's networks by Keras' JAX backend.

    python tools/benchmark.py gpu --pairs=resnet56:resnet20:32,resnet32x4:resnet8x4:32
    python tools/benchmark.py gpu --pairs=resnet34:resnet18:224 --batch_size=256 --steps=20

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

_CLASSES = {32: 100, 224: 1000}  # by the images' size: CIFAR-100's and ImageNet's
_REPEATS = 3


def define(flag_values):
    flags.DEFINE_list("pairs", "resnet56:resnet20:32", "teacher:student:size, separated by commas", flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 64, "images a step", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("steps", 200, "steps of a repeat", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    os.environ["KERAS_BACKEND"] = "jax"
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    import jax
    import jax_teacher
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    jax_teacher.do_without_tensorflow()
    found = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__, "steps": []}
    batch_size = flag_values.batch_size
    for pair in flag_values.pairs:
        teacher, student, size = pair.split(":")
        for live in (True, False):
            line = {"teacher": teacher, "student": student, "size": int(size), "live": live, "batch_size": batch_size}
            seconds = _seconds_a_step(**line, steps=flag_values.steps)
            line |= {"milliseconds": round(1e3 * seconds, 3), "images_per_second": round(batch_size / seconds)}
            found["steps"].append(line)
            print(f"{pair}, {'live' if live else 'cached logits'}: {line['milliseconds']:.2f} ms a step, "
                  f"{line['images_per_second']:,} images a second", flush=True)  # fmt: skip
    if flag_values.output:
        pathlib.Path(flag_values.output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _seconds_a_step(teacher, student, size, batch_size, live, steps):
    """Median of the repeats; compilation and a first repeat are not among them."""
    import jax
    import jax.numpy as jnp

    from skd_tf import networks

    classes, count = _CLASSES[size], 4 * batch_size

    def weights_of(name):
        shape = {"input_shape": (size, size, 3), "num_classes": classes, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        model = networks.build(name, **shape)
        return model, *([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))

    student, weights, averages = weights_of(student)
    teacher, *frozen = weights_of(teacher) if live else (None, [], [])
    images = jax.random.randint(jax.random.key(0), (count, size, size, 3), 0, 256).astype("uint8")
    labels, logits = jnp.arange(count) % classes, jax.random.normal(jax.random.key(1), (count, classes))

    def projected(z):
        z = z.astype("float32") - z.mean(-1, keepdims=True)
        return 2 * classes**0.5 * z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-7)

    def loss_of(weights, averages, images, labels, taught):
        z, averages = student.stateless_call(weights, averages, images, training=True)
        z, target = projected(z), jax.nn.log_softmax(projected(taught) / 4)
        label = -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1).mean()
        distill = 16 * (jnp.exp(target) * (target - jax.nn.log_softmax(z / 4))).sum(-1).mean()
        return 0.1 * label + 0.9 * distill, averages

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
