"""A training command that kills itself at the n-th moment of a kind.

python killed_run.py KIND N --flag=value ...

    step          a host call has ended
    half          half of a checkpoint's bytes are written
    checkpoint    all of them are, to a temporary name
    renamed       it has its name, and the older ones still exist
    half cache, cache, half text        the same of teacher logits, and of records, settings and results
    never         it does not
    half row      half of an epoch's line in metrics.jsonl is written

SHARD_ROWS in the environment is the length of the shards of teacher logits.
"""

import contextlib
import os
import pathlib
import signal
import sys

_ONE_HEADER = 2048  # bytes: anything longer counts as a file's body

kind, moments_left = sys.argv[1], [None] * int(sys.argv[2])
del sys.argv[1:3]


def count_down():
    moments_left.pop()
    if not moments_left:
        os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten:
    """A file that counts a moment in each write of more than `least` bytes: half of them are on their way to disk."""

    def __init__(self, file, least):
        self._file, self._least = file, least

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        data = data if isinstance(data, str) else memoryview(data).cast("B")
        if len(data) <= self._least:
            return self._file.write(data)
        written = self._file.write(data[: len(data) // 2])
        self._file.flush()
        count_down()
        return written + self._file.write(data[len(data) // 2 :])


def in_files(suffixes, moment, least=_ONE_HEADER):
    """Counts a moment of every atomic file with one of these suffixes."""
    from skd_tf.runtime import atomic_files

    original = atomic_files.writing

    @contextlib.contextmanager
    def writing(path):
        seen = moment if pathlib.Path(path).suffix in suffixes else None
        with original(path) as file:
            yield HalfWritten(file, least) if seen == "half" else file
            if seen == "whole":
                file.flush()
                count_down()
        if seen == "renamed":
            count_down()

    atomic_files.writing = writing


def after_steps():
    from skd_tf.training.run_callbacks import RunCallbacks

    original = RunCallbacks.on_call
    RunCallbacks.on_call = lambda self, step: (count_down(), original(self, step))


def in_rows():
    from skd_tf.runs import metrics_log

    @contextlib.contextmanager
    def opened(*arguments):
        with open(*arguments) as file:
            yield HalfWritten(file, 0)

    metrics_log.open = opened


MOMENTS = {
    "step": after_steps,
    "half": lambda: in_files([".ckpt"], "half"),
    "checkpoint": lambda: in_files([".ckpt"], "whole"),
    "renamed": lambda: in_files([".ckpt"], "renamed"),
    "half cache": lambda: in_files([".logits"], "half"),
    "cache": lambda: in_files([".logits"], "whole"),
    "half text": lambda: in_files([".json", ".jsonl", ".txt"], "half", least=0),
    "half row": in_rows,
    "never": lambda: None,
}


if __name__ == "__main__":
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    if "SHARD_ROWS" in os.environ:
        from skd_tf.data import logit_shards

        logit_shards.MOST_ROWS = int(os.environ["SHARD_ROWS"])
    MOMENTS[kind]()
    from skd_tf import train

    train.cli_main()
