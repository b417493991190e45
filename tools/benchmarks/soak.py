"""Trains a tiny network for a given time and watches memory, file handles, threads and speed.

It is one real run with a teacher cache and thousands of epochs, which SIGTERM stops.
"""

import contextlib
import json
import os
import pathlib
import signal
import tempfile
import threading
import time

import numpy as np

from skd_tf.config import Config
from skd_tf.runtime import signals
from skd_tf.runtime.console import say
from skd_tf.training import experiment
from tools.benchmarks import results

_WARM_UP = 0.2  # share of the time in which allocators and caches fill
_SECONDS_BETWEEN_SAMPLES = 5.0


def main(*, minutes: float, output: str | None) -> None:
    """Trains for `minutes`, and prints what changed between the end of the warm-up and the end."""
    folder, samples = pathlib.Path(tempfile.mkdtemp()), []
    common = {"batch_size": 100, "report": False}
    teacher = Config(student="cnn_8", loss="cross_entropy", epochs=12, learning_rate=0.1, **common)
    experiment.run(teacher, folder / "teacher")
    config = Config(
        student="cnn_2",
        loss="spherical",
        epochs=10_000,
        steps_per_call=4,
        teacher_checkpoint=str(folder / "teacher"),
        teacher_cache_dir=str(folder / "cache"),
        teacher_cache_epochs=20,
        checkpoint_every="50 steps",
        **common,
    )
    threading.Thread(target=_watch, args=(time.monotonic() + 60 * minutes, samples), daemon=True).start()
    with contextlib.suppress(signals.Interrupted):
        experiment.run(config, folder / "run")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    record = summary(samples, [json.loads(line)["seconds"] for line in lines])
    say(json.dumps(record, indent=1))
    results.write(output, record)


def _watch(end, samples):
    """Samples (seconds, MB of memory, open file handles, threads) of this process, then stops it by SIGTERM."""
    start = time.monotonic()
    while time.monotonic() < end:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        handles, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        samples.append((time.monotonic() - start, memory_mb, handles, threads))
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    os.kill(os.getpid(), signal.SIGTERM)


def summary(samples: list[tuple[float, float, int, int]], epoch_ends: list[float]) -> dict[str, object]:
    """Statistics of the samples after the warm-up; of speed, the last third of the epochs over the first.

    Args:
      samples: (seconds, MB of memory, open file handles, threads).
      epoch_ends: seconds from the start of training to the end of each epoch.
    """
    table = np.array(samples)
    table = table[table[:, 0] >= _WARM_UP * table[-1, 0]]
    minutes, memory, handles, threads = table[:, 0] / 60, *table[:, 1:].T
    epochs = np.diff(epoch_ends)[int(_WARM_UP * len(epoch_ends)) :]
    third = len(epochs) // 3
    return {
        "minutes": samples[-1][0] / 60,
        "epochs": len(epoch_ends),
        "memory_mb": [float(memory[0]), float(memory[-1])],
        "memory_slope_mb_per_minute": float(np.polyfit(minutes, memory, 1)[0]),
        "file_handles": [int(handles.min()), int(handles.max())],
        "threads": [int(threads.min()), int(threads.max())],
        "epoch_seconds_last_over_first_third": float(np.median(epochs[-third:]) / np.median(epochs[:third])),
    }
