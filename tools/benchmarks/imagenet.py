"""What this machine does at ImageNet's size, part by part: input from JPEG files, students' steps, teachers' passes, checks.

Pictures are synthetic, 500 x 375, a JPEG of about 110 kB each as ImageNet's are on average; nets have random weights, which
costs the same. Files lie in the page cache: no disk is measured. `docs/scale.md` reckons from the record.
"""

import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile

from absl import flags

from tools.benchmarks import interleaved

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

STEPS = 4  # of a round
PICTURES, CLASSES = 1280, 1000
HASHED_MB = 256


def steps_of(kind):
    """Steps of a round; the input's must be more than its buffers hold."""
    return 16 * STEPS if kind == "input" else STEPS


def define(flag_values):
    flags.DEFINE_multi_string("student", ["resnet18"], "ImageNet network to train; repeatable", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "teacher",
        ["resnet34", "resnet50", "resnet152"],
        "ImageNet network that teaches; repeatable",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("batch_size", 64, "examples a step", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("precision", "bfloat16", "of students and teachers", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 3, f"rounds of {STEPS} steps, interleaved", lower_bound=3, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json

    job = {"batch_size": flag_values.batch_size, "precision": flag_values.precision}
    with tempfile.TemporaryDirectory() as folder:
        job["folder"] = folder
        picture_bytes = _write_pictures(pathlib.Path(folder))
        parts = {"input": {}, "check of logits": {}}
        parts |= {f"step of {name}, logits given": {"net": name, "kind": "step"} for name in flag_values.student}
        parts |= {f"pass of {name}": {"net": name, "kind": "pass"} for name in flag_values.teacher}
        rows = interleaved.race(
            {name: [sys.executable, __file__, json.dumps(job | {"kind": name} | part)] for name, part in parts.items()},
            flag_values.rounds,
        )
    for name, row in rows.items():
        units, scale = (HASHED_MB, "MB") if name.startswith("check") else (job["batch_size"], "images")
        row[f"{scale}_per_second"] = 1000 * units / row["median_ms"]
    print(
        f"224 x 224, batch {job['batch_size']}, {job['precision']}, {metrics_log.device()}\n\n{_table(rows)}",
        flush=True,
    )
    del job["folder"]
    record = job | {"rounds": flag_values.rounds, "picture_bytes": picture_bytes, "parts": rows}
    record |= {
        "device": metrics_log.device(),
        "versions": metrics_log.versions(),
        "git_commit": metrics_log.git_commit(),
    }
    if flag_values.output:
        write_json(flag_values.output, record)


def _table(rows):
    lines = ["| part | a second, median | spread of ms a step | peak memory, MB |", "|---|---|---|---|"]
    for name, row in rows.items():
        unit = "MB" if "MB_per_second" in row else "images"
        spread = f"{min(row['ms']):,.0f} to {max(row['ms']):,.0f}"
        lines.append(f"| {name} | {row[f'{unit}_per_second']:,.1f} {unit} | {spread} | {row['peak_memory_mb']:,.0f} |")
    return "\n".join(lines)


def _write_pictures(folder):
    """Writes PICTURES JPEG files, CLASS/NUMBER.jpg, of smooth shapes and grain; returns their mean size in bytes."""
    import numpy as np
    import tensorflow as tf

    random, sizes = np.random.default_rng(0), []
    for number in range(PICTURES):
        coarse = tf.image.resize(random.uniform(0, 255, [12, 16, 3]), [375, 500], method="bicubic").numpy()
        pixels = np.clip(coarse + random.normal(0, 19, coarse.shape), 0, 255).astype(np.uint8)
        encoded = tf.io.encode_jpeg(pixels, quality=90).numpy()
        path = folder / f"{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        sizes.append(len(encoded))
    return statistics.mean(sizes)


def _stream(job):
    """The product's own input, resized crops and the logits of a record file, without end."""
    import numpy as np

    from skd_tf import data
    from skd_tf.config import Config
    from skd_tf.data import teacher_cache

    config = Config(
        dataset=f"folder:{job['folder']}",
        augmentation="resized_crop",
        image_size=224,
        validation_fraction=0.0,
        batch_size=job["batch_size"],
        teacher_cache_dir=job["folder"],
    )
    dataset = data.load(config, test=False)
    cache = teacher_cache.TeacherCache(tempfile.mkdtemp(), "float16", print)
    cache.write("logits", np.random.default_rng(0).normal(size=[len(dataset.train), CLASSES]))
    dataset = dataclasses.replace(dataset, class_names=tuple(map(str, range(CLASSES))))  # records of ImageNet's length
    steps = len(dataset.train) // job["batch_size"]
    return data.train_stream(
        dataset, config, steps_per_epoch=steps, first_step=0, last_step=10**6, logit_files=[str(cache.path("logits"))]
    )


def input_alone(job):
    batches = iter(_stream(job))
    return lambda: [next(batches) for _ in range(steps_of("input"))]


def _batch(job):
    """One batch, over and over: (images, labels) with logits, so that nothing but the step is timed."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    images = random.integers(0, 256, [job["batch_size"], 224, 224, 3], np.uint8)
    logits = random.normal(size=[job["batch_size"], CLASSES]).astype(np.float16)
    labels = random.integers(0, CLASSES, job["batch_size"]).astype(np.int32)
    return tf.data.Dataset.from_tensors(({"image": images, "teacher_logits": logits}, labels)).repeat()


def _net(job):
    from skd_tf import networks
    from skd_tf.models.precision import set_precision

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    net = networks.build(job["net"], input_shape=(224, 224, 3), num_classes=CLASSES, mean=mean, std=std)
    return set_precision(net, job["precision"])


def step(job):
    from skd_tf.config import Config
    from skd_tf.distillation import optimizers
    from skd_tf.distillation.distiller import Distiller

    config = Config(precision=job["precision"], batch_size=job["batch_size"])
    distiller = Distiller(_net(job), None, "spherical")
    distiller.compile(optimizers.make_optimizer(config, 0.05))
    iterator = iter(_batch(job))

    def steps():
        distiller.run_steps(iterator, STEPS)
        return distiller.means.result()

    return steps


def teacher_pass(job):
    import tensorflow as tf

    from skd_tf.models.fold_batch_norm import fold_batch_norm

    net = fold_batch_norm(_net(job))
    images = next(iter(_batch(job)))[0]["image"]
    forward = tf.function(lambda: net(images, training=False), autograph=False)
    return lambda: [forward().numpy() for _ in range(STEPS)]


def check(job):
    """The check of a file of the teacher cache, as before its first use; it has just been written, so no disk is read."""
    import numpy as np

    from skd_tf.data import teacher_cache

    shape = HASHED_MB * 10**6 // (2 * CLASSES), CLASSES
    folder = tempfile.mkdtemp(dir=job["folder"])
    teacher_cache.TeacherCache(folder, "float16", print).write("logits", np.zeros(shape, np.float16))

    def checks():
        for _ in range(STEPS):
            assert teacher_cache.TeacherCache(folder, "float16", print).has("logits", shape)

    return checks


PARTS = {"input": input_alone, "check of logits": check, "step": step, "pass": teacher_pass}

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    interleaved.serve(
        lambda: (functools.partial(PARTS[job["kind"]], job)(), interleaved.resident_mb), steps_of(job["kind"])
    )
