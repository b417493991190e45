"""Starts several workers of one training on this machine, to try --strategy=multi_worker.

python -m tools.launch_local_cluster --workers=2 -- --recipe=digits/teacher --workdir=runs/cluster

Every worker gets the flags after --; they belong to `python -m skd_tf.train`. The output of worker i starts with [i].
When one worker fails, the others are stopped, and the exit code is that of the first that failed.
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
from collections.abc import Callable, Mapping, Sequence

_GRACE_SECONDS = 10


def free_addresses(count: int) -> list[str]:
    """`count` unused addresses host:port of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:  # all stay open until the end, so that no port appears twice
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def start(
    command: Sequence[str], addresses: Sequence[str], environment: Mapping[str, str] = os.environ
) -> list[subprocess.Popen]:
    """Starts one process per address; TF_CONFIG tells each its place in the cluster."""
    processes = []
    for index in range(len(addresses)):
        place = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
        # In sessions of their own, Ctrl-C reaches only this process, which then stops each of them once.
        process = subprocess.Popen(
            command,
            env={**environment, "TF_CONFIG": json.dumps(place), "PYTHONUNBUFFERED": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        processes.append(process)
    return processes


def wait(processes: Sequence[subprocess.Popen], write: Callable[[str], object]) -> int:
    """Forwards the workers' output until all have ended; stops the rest when one fails, or on Ctrl-C.

    Args:
      processes: the result of `start`.
      write: is called with each line of output, prefixed with its worker.

    Returns:
      The exit code of the first worker that failed, 128 + n if signal n ended it; 0 if none failed.
    """

    def forward(index, process):
        for line in process.stdout:
            write(f"[{index}] {line.rstrip()}")

    threads = [threading.Thread(target=forward, args=pair, daemon=True) for pair in enumerate(processes)]
    for thread in threads:
        thread.start()
    try:
        _sleep_while(lambda: _running(processes) and not any(process.poll() for process in processes))
        failed = [process.returncode for process in processes if process.poll()]
        if failed:  # the others print that they lost a worker, and end
            _sleep_while(lambda: _running(processes), _GRACE_SECONDS)
    except KeyboardInterrupt:
        failed = [-signal.SIGINT]
    here = threading.current_thread() is threading.main_thread()  # no other may set it
    handler = (
        signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    )  # a second Ctrl-C must not leave workers behind
    for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in _running(processes):
            end(process)
        _sleep_while(lambda: _running(processes), _GRACE_SECONDS)
    if here:
        signal.signal(signal.SIGINT, handler)
    for thread in threads:
        thread.join(_GRACE_SECONDS)
    return next((code if code > 0 else 128 - code for code in failed), 0)


def _running(processes):
    return [process for process in processes if process.poll() is None]


def _sleep_while(condition, limit_seconds=float("inf")):
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline and condition():
        time.sleep(0.1)


def main() -> None:
    """Starts the workers, forwards their output, and exits with their exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.launch_local_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2, help="processes to start (default: 2)")
    parser.add_argument("flags", nargs="+", metavar="-- --flag", help="flags of skd_tf.train")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"too few workers. Expected at least 1. Received --workers={options.workers}. Raise it.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the workers too; they are in other sessions
    command = [sys.executable, "-m", "skd_tf.train", "--strategy=multi_worker", *options.flags]
    sys.exit(wait(start(command, free_addresses(options.workers)), lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
