"""Contenders in processes of their own, timed in turn: what slows the machine for a while slows all of them."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def race(commands, rounds):
    """Lets each contender make its steps alone, in turn, for so many rounds.

    Args:
      commands: {name: command line of a process that `serve`s}.
      rounds: how often each has its turn.

    Returns:
      {name: {"ms": [a step's milliseconds in each round], "median_ms", and what the process ends with}}; a contender that
      does not start is said and left out.
    """
    processes, rows = {}, {}
    for name, command in commands.items():
        # A pipe that nobody reads would stop the process once it is full.
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        if process.stdout.readline().strip() == "ready":
            processes[name], rows[name] = process, {"ms": []}
        else:
            errors.seek(0)
            reason = errors.read().strip().splitlines()
            print(f"{name}: left out ({reason[-1] if reason else 'ended'})", flush=True)
    for _ in range(rounds):
        for name, process in processes.items():
            rows[name]["ms"].append(float(_ask(process, "go")))
    for name, process in processes.items():
        rows[name] |= json.loads(_ask(process, "end"))
        rows[name]["median_ms"] = statistics.median(rows[name]["ms"])
        process.wait()
    return rows


def _ask(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def serve(prepare, steps_per_round):
    """A contender's side: prepares, then makes a round's steps for each line on standard input, until the line "end".

    Args:
      prepare: () -> (a function that makes `steps_per_round` steps and waits for them, a function that gives memory in MB).
      steps_per_round: by which a round's time is divided.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    steps, memory_mb = prepare()
    steps()  # traces, compiles, fills the pipeline
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            print(json.dumps({"peak_memory_mb": memory_mb()}), file=answers, flush=True)
            os._exit(0)  # an endless fit() cannot be joined
        start = time.perf_counter()
        steps()
        print(1000 * (time.perf_counter() - start) / steps_per_round, file=answers, flush=True)


def resident_mb():
    """The process's peak memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
