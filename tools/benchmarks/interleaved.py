"""Contenders in processes of their own that take turns: whatever slows the machine for a while slows all of them."""

import multiprocessing
import os
import pickle
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


def resident_mb() -> float:
    """Peak memory of this process, in MB."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
      start is reported and left out.
    """
    context, running, rows = multiprocessing.get_context("spawn"), {}, {}
    for name, prepare in contenders.items():
        connection, other = context.Pipe()
        # Pickled here: its modules are imported once the process is quiet.
        process = context.Process(target=_serve, args=(other, pickle.dumps(prepare)), daemon=True)
        process.start()
        other.close()
        try:
            reason = connection.recv()
        except EOFError:
            reason = "its process died"
        if reason:
            print(f"{name}: left out ({reason})", flush=True)
        else:
            running[name], rows[name] = (process, connection), {"ms": []}
    for _ in range(rounds):
        for name, (_, connection) in running.items():
            rows[name]["ms"].append(_ask(connection, "round"))
    for name, (process, connection) in running.items():
        rows[name] |= {"peak_memory_mb": _ask(connection, "memory"), "median_ms": statistics.median(rows[name]["ms"])}
        process.join(5)
        process.kill()  # an endless fit() may keep it alive
    return rows


def _ask(connection, question):
    connection.send(question)
    return connection.recv()


def _serve(connection, prepare):
    """The contender's process: sends None or why it did not start, then answers each question."""
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    try:
        contender = pickle.loads(prepare)()
        contender.run()  # traces, compiles, fills the pipeline
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".strip().splitlines()[-1])
        return
    connection.send(None)
    while connection.recv() == "round":
        start = time.perf_counter()
        contender.run()
        connection.send(1000 * (time.perf_counter() - start) / contender.steps)
    connection.send(contender.memory_mb())
