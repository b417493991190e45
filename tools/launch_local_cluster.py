"""Starts several workers of one training on this machine, to try --strategy=multi_worker.

python -m tools.launch_local_cluster --workers=2 -- --flagfile=experiments/digits/teacher.flags --workdir=runs/cluster

What follows -- goes to `python -m skd_tf.train`, the same for every worker. The output of worker i begins with [i]. When one
fails the others are ended; the exit code is that of the first that failed.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

_GRACE_SECONDS = 10


def free_addresses(count):
    """`count` addresses host:port of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:  # all held at once, so that no port is given twice
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def start(command, addresses, environment=None):
    """Starts one process of a command a worker, each told its place by TF_CONFIG; returns the processes."""
    processes, inherited = [], os.environ if environment is None else environment
    for index in range(len(addresses)):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**inherited, "TF_CONFIG": json.dumps(place), "PYTHONUNBUFFERED": "1"}
        # Sessions of their own: Ctrl-C reaches this process alone, which then ends each of them once.
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
    return processes


def wait(processes, write):
    """Passes the workers' output on until all have ended; ends the others once one fails, or on Ctrl-C.

    Args:
      processes: what `start` returned.
      write: called with each line of output, its worker before it.

    Returns:
      The exit code of the first that failed, else 0; 128 + n for one that signal n ended.
    """

    def pass_on(index, process):
        for line in process.stdout:
            write(f"[{index}] {line.rstrip()}")

    threads = [threading.Thread(target=pass_on, args=pair, daemon=True) for pair in enumerate(processes)]
    for thread in threads:
        thread.start()
    try:
        while not any(process.poll() for process in processes) and any(process.poll() is None for process in processes):
            time.sleep(0.1)
        failed = [process.returncode for process in processes if process.poll()]
    except KeyboardInterrupt:
        failed = [-signal.SIGINT]
    # A worker that loses another says so by itself.
    if failed and failed[0] != -signal.SIGINT:
        _wait_for_all(processes)
    for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            if process.poll() is None:
                end(process)
        _wait_for_all(processes)
    for thread in threads:
        thread.join(_GRACE_SECONDS)
    return next((code if code > 0 else 128 - code for code in failed), 0)


def _wait_for_all(processes):
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes to start (default: 2)")
    parser.add_argument("flags", nargs="+", metavar="-- --flag", help="flags of skd_tf.train")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"too few workers. Expected at least 1. Received --workers={options.workers}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the workers, in sessions of their own, are ended too
    command = [sys.executable, "-m", "skd_tf.train", "--strategy=multi_worker", *options.flags]
    sys.exit(wait(start(command, free_addresses(options.workers)), lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
