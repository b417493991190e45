"""Contenders in processes of their own that take turns: whatever slows the machine for a while slows all of them."""

import multiprocessing
import os
import pathlib
import pickle
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


def resident_mb() -> float:
    """Peak memory of this process, in MB."""
    status = pathlib.Path("/proc/self/status")
    if status.is_file():  # Linux: ru_maxrss would begin with the peak of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Contender(NamedTuple):
    """A function that makes the steps of one round and waits for them, their number, and a function for the memory."""

    run: Callable[[], object]
    steps: int
    memory_mb: Callable[[], float] = resident_mb


def race(contenders: dict[str, Callable[[], Contender]], rounds: int) -> dict[str, dict]:
    """Times contenders in turn, for a number of rounds.

    Args:
      contenders: {name: function that prepares it in its process}; a `functools.partial` of a function of a module.
      rounds: number of turns of each.

    Returns:
      {name: {"ms": [milliseconds per step of each round], "median_ms", "peak_memory_mb"}}. A contender that does not
      start, or that fails later, is reported and left out.
    """
    context, running, rows = multiprocessing.get_context("spawn"), {}, {}
    for name, prepare in contenders.items():
        connection, other = context.Pipe()
        # Pickled here: its modules are imported once the process is quiet.
        process = context.Process(target=_serve, args=(other, pickle.dumps(prepare)), daemon=True)
        process.start()
        other.close()
        running[name], rows[name] = (process, connection), {"ms": []}
        _answer(name, running, rows)
    for _ in range(rounds):
        for name in list(running):
            milliseconds = _answer(name, running, rows, "round")
            if name in rows:
                rows[name]["ms"].append(milliseconds)
    for name, (process, _) in list(running.items()):
        peak = _answer(name, running, rows, "memory")
        if name in rows:
            rows[name] |= {"peak_memory_mb": peak, "median_ms": statistics.median(rows[name]["ms"])}
        process.join(5)
        process.kill()  # an endless fit() may keep it alive
    return rows


def _answer(name, running, rows, question=None):
    """What a contender answers; one that fails or dies is reported and left out of `running` and `rows`."""
    process, connection = running[name]
    try:
        if question:
            connection.send(question)
        reason, answer = connection.recv()
    except (EOFError, OSError):
        reason, answer = "its process died", None
    if reason:
        print(f"{name}: left out ({reason})", flush=True)
        process.kill()
        del running[name], rows[name]
    return answer


def _serve(connection, prepare):
    """The contender's process: sends (None, answer) once it has started and to each question, or (why it failed, None)."""
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    try:
        contender = pickle.loads(prepare)()
        contender.run()  # traces, compiles, fills the pipeline
        connection.send((None, None))
        while connection.recv() == "round":
            start = time.perf_counter()
            contender.run()
            connection.send((None, 1000 * (time.perf_counter() - start) / contender.steps))
        connection.send((None, contender.memory_mb()))
    except Exception as error:
        connection.send((f"{type(error).__name__}: {error}".strip().splitlines()[-1], None))
