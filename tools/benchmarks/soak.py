"""python -m tools.benchmarks.soak --minutes=10: trains a tiny net without end, and watches memory, file handles, threads and pace.

One real run, cache on, thousands of epochs; after the given time it is stopped by SIGTERM, as anybody would.
"""

import json
import os
import pathlib
import signal
import tempfile
import threading
import time

import numpy as np
from absl import flags

from skd_tf.config import app
from skd_tf.runtime import tf_logging

_WARM_UP = 0.2  # of the time: allocators and caches fill
_SECONDS_BETWEEN_SAMPLES = 5.0
_RUN = {
    "student": "cnn_2",
    "batch_size": 100,
    "epochs": 10_000,
    "loss": "spherical",
    "steps_per_call": 4,
    "teacher_cache_epochs": 20,
    "checkpoint_every": "50 steps",
    "report": False,
}


def define(flag_values):
    flags.DEFINE_float("minutes", 10.0, "how long", lower_bound=0.5, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def sample():
    """(MB of memory, open file handles, threads) of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def watch(end, rows):
    start = time.monotonic()
    while time.monotonic() < end:
        rows.append((time.monotonic() - start, *sample()))
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    os.kill(os.getpid(), signal.SIGTERM)


def summary(rows, seconds_of_epochs):
    """What the samples come to after the warm-up; pace compares the last third of the epochs with the first."""
    table = np.array(rows)
    table = table[table[:, 0] >= _WARM_UP * table[-1, 0]]
    minutes, memory, handles, threads = table[:, 0] / 60, *table[:, 1:].T
    epochs = np.diff(seconds_of_epochs)[int(_WARM_UP * len(seconds_of_epochs)) :]
    third = len(epochs) // 3
    return {
        "minutes": rows[-1][0] / 60,
        "epochs": len(seconds_of_epochs),
        "memory_mb": [float(memory[0]), float(memory[-1])],
        "memory_slope_mb_per_minute": float(np.polyfit(minutes, memory, 1)[0]),
        "file_handles": [int(handles.min()), int(handles.max())],
        "threads": [int(threads.min()), int(threads.max())],
        "epoch_seconds_last_over_first_third": float(np.median(epochs[-third:]) / np.median(epochs[:third])),
    }


def main(flag_values):
    tf_logging.import_tensorflow()
    from skd_tf.config import Config
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json
    from skd_tf.runtime import signals
    from skd_tf.runtime.console import say
    from skd_tf.training import experiment

    folder, rows = pathlib.Path(tempfile.mkdtemp()), []
    common = {name: _RUN[name] for name in ("batch_size", "report")}
    teacher = Config(student="cnn_8", loss="cross_entropy", epochs=12, learning_rate=0.1, **common)
    experiment.run(teacher, folder / "teacher")
    end = time.monotonic() + 60 * flag_values.minutes
    threading.Thread(target=watch, args=(end, rows), daemon=True).start()
    try:
        config = Config(**_RUN, teacher_checkpoint=str(folder / "teacher"), teacher_cache_dir=str(folder / "cache"))
        experiment.run(config, folder / "run")
    except signals.Interrupted:
        pass
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    record = summary(rows, [json.loads(line)["seconds"] for line in lines])
    record |= {
        "device": metrics_log.device(),
        "versions": metrics_log.versions(),
        "git_commit": metrics_log.git_commit(),
    }
    say(json.dumps(record, indent=1))
    if flag_values.output:
        write_json(flag_values.output, record)


if __name__ == "__main__":
    app.run(main, description="Trains without end and watches for leaks.", define=define, required=())
