"""What a worker holds of an epoch in memory: the logits of its records, and the tables by image.

The package's own input over made-up images of one pixel, so that all else is small. Resident memory at its peak, beyond what
the process had before the stream began. `docs/scale.md` reckons from the record.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

BATCH = 256


def define(flag_values):
    flags.DEFINE_integer("records", 256_000, "logits a file", lower_bound=BATCH, flag_values=flag_values)
    flags.DEFINE_integer("classes", 1000, "numbers a record", lower_bound=2, flag_values=flag_values)
    flags.DEFINE_integer("images", 8_000_000, "of the tables", lower_bound=BATCH, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json

    job = {name: getattr(flag_values, name) for name in ("records", "classes", "images")}
    found = dict(job)
    for part in PARTS:  # each in a process of its own
        command = [sys.executable, __file__, json.dumps(job | {"part": part})]
        found |= json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )
    print("\n".join(f"{name}: {value:,.2f}" for name, value in found.items() if name not in job), flush=True)
    found |= {
        "device": metrics_log.device(),
        "versions": metrics_log.versions(),
        "git_commit": metrics_log.git_commit(),
    }
    if flag_values.output:
        write_json(flag_values.output, found)


def _peak(*, reset=False):
    """The most resident memory so far, in bytes, or since the last reset, which makes it what is resident now."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _stream(count, classes, files=(), **settings):
    """(resident bytes before, batches of two epochs of the product's own input over `count` images, steps an epoch)."""
    import numpy as np

    from skd_tf import data
    from skd_tf.config import Config
    from skd_tf.data import augmentation

    split = data.Split(np.ones([count, 1, 1, 1], np.uint8), np.ones(count, np.int32), np.arange(count))
    names, shifts = tuple(map(str, range(classes))), augmentation.Augmentation(1, False)
    dataset = data.Dataset("made", "1", names, (0.5,), (0.5,), shifts, split, None, None)
    steps, config = count // BATCH, Config(batch_size=BATCH, **settings)
    before = _peak(reset=True)
    stream = data.train_stream(
        dataset, config, steps_per_epoch=steps, first_step=0, last_step=2 * steps, logit_files=list(files)
    )
    return before, iter(stream), steps


def logits(job):
    """Peak memory over a file's size, in the first epoch and where the second takes its place."""
    import numpy as np

    from skd_tf.data import teacher_cache

    with tempfile.TemporaryDirectory() as folder:
        cache = teacher_cache.TeacherCache(folder, "float16", print)
        block = np.random.default_rng(0).normal(size=[BATCH, job["classes"]]).astype(np.float16)
        for epoch in range(2):
            cache.write(f"epoch{epoch}", np.tile(block, [-(-job["records"] // BATCH), 1])[: job["records"]])
        files = [str(cache.path(f"epoch{epoch}")) for epoch in range(2)]
        size = 2 * job["records"] * job["classes"]
        before, batches, steps = _stream(job["records"], job["classes"], files, teacher_cache_dir=folder)
        next(batches)
        first = _peak() - before
        for _ in range(steps + 5):
            next(batches)
        return {"first epoch's peak / file": first / size, "second epoch's peak / file": (_peak() - before) / size}


def tables(job):
    """Bytes an image of the stream itself, beside its pixels, labels and index."""
    before, batches, _ = _stream(job["images"], 2)
    next(batches)
    return {"stream's tables, bytes an image": (_peak() - before) / job["images"]}


PARTS = {part.__name__: part for part in (logits, tables)}

if __name__ == "__main__":
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    job = json.loads(sys.argv[1])
    print(json.dumps(PARTS[job["part"]](job)))
