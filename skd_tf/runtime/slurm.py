"""The cluster of a Slurm job step, from the variables that srun gives to each task."""

import itertools
import re
from collections.abc import Mapping

from skd_tf.errors import input_error

_NODES, _TASKS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"), ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
_FIRST_PORT, _PORTS = 20_000, 12_000  # below those that Linux gives to outgoing connections
_OF_STEP = 16  # ports from one step of a job to the next
_STEPS_APART = 463  # from one job to the next, modulo all 750: the golden ratio keeps the steps of close jobs apart


def addresses(environment: Mapping[str, str]) -> tuple[tuple[str, ...], int] | None:
    """host:port of every task, in the order of their ranks, and this task's rank; None outside of a job step.

    `tf.distribute.cluster_resolver.SlurmClusterResolver` does the same with TensorFlow, but sorts the nodes by name, which
    gives tasks the wrong addresses where Slurm has another order, and needs GPUs.

    Args:
      environment: holds SLURM_PROCID and the lists of nodes and tasks.

    Raises:
      InputError: a variable is missing or malformed.

    Examples:
      >>> step = {"SLURM_STEP_NODELIST": "gpu[08-10,2],login", "SLURM_STEP_TASKS_PER_NODE": "2,1(x4)"}
      >>> addresses(step | {"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"})
      (('gpu08:23856', 'gpu08:23857', 'gpu09:23856', 'gpu10:23856', 'gpu2:23856', 'login:23856'), 1)
    """
    if "SLURM_PROCID" not in environment:
        return None
    nodes, tasks = (
        next((environment[name] for name in names if name in environment), "") for names in (_NODES, _TASKS)
    )
    try:
        hosts, counts = expand_nodes(nodes), _expand_counts(tasks)
        rank = int(environment["SLURM_PROCID"])
        job, step = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        first = _FIRST_PORT + (job * _STEPS_APART + step) * _OF_STEP % _PORTS
        if len(hosts) != len(counts):
            raise ValueError(f"{len(hosts)} nodes, but tasks for {len(counts)}")
        found = tuple(f"{host}:{first + i}" for host, count in zip(hosts, counts, strict=True) for i in range(count))
        if not 0 <= rank < len(found):
            raise ValueError(f"there is no task {rank} among {len(found)}")
    except ValueError as error:
        raise input_error(
            f"Slurm's variables are malformed: {error}",
            expected=f"{_NODES[0]}, {_TASKS[0]} and SLURM_PROCID, as srun sets them",
            received=f"{_NODES[0]}={nodes} {_TASKS[0]}={tasks} SLURM_PROCID={environment['SLURM_PROCID']}",
            remedy="Start the workers with srun, or set TF_CONFIG",
        ) from error
    return found, rank


def expand_nodes(text: str) -> list[str]:
    """The hosts in a list such as "gpu[08-10,2],login"."""
    hosts: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        parts = re.split(r"\[([^\]]*)\]", item)  # text, numbers, text, numbers, ...
        choices = [_expand_numbers(part) if i % 2 else [part] for i, part in enumerate(parts)]
        hosts += map("".join, itertools.product(*choices))
    if not hosts:
        raise ValueError("there is no node")
    return hosts


def _expand_numbers(text):
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1)]
    return numbers


def _expand_counts(text):
    """[2, 1, 1] from "2,1(x2)"."""
    counts = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ValueError(f"{part!r} is not a number of tasks")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts
