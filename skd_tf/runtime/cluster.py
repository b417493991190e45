"""The processes that train together, as TF_CONFIG or Slurm names them; the chief among them decides, writes and prints.

Only the chief decides what depends on a file or a clock, so that all workers take the same way: a worker that waits in a
collective for another that never comes waits forever.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from skd_tf.errors import InputError, input_error
from skd_tf.runtime import compat, slurm

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
_EXPECTED = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
_CHUNK = 4096  # bytes that one collective of `agree` sends
_NUMBERS = 1 << 18  # that one collective of `sum_over_workers` sends
# After TensorFlow's own 10 seconds a busy worker counts as dead. This limit is for a worker that freezes: when a process
# ends, its connections close and the others notice at once.
_HEARTBEAT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Member:
    """One process's place among the workers; worker 0 is the chief.

    Attributes:
      jobs: (name, addresses) of each job in TF_CONFIG's cluster; the chief's job first.
      index: of this process among the addresses of all jobs.
    """

    jobs: tuple[tuple[str, tuple[str, ...]], ...]
    index: int

    @property
    def addresses(self) -> list[str]:
        """host:port of every worker."""
        return [address for _, addresses in self.jobs for address in addresses]

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self.addresses)


class WorkerLost(RuntimeError):
    """Another worker is gone, and training stops. The message is one line."""


def member(strategy: str, environment: Mapping[str, str] | None = None) -> Member | None:
    """This process's place in the cluster that `--strategy` asks for; None if it works alone.

    Args:
      strategy: as in `Config`. "auto" joins a cluster of two or more workers; "mirrored" and "one_device" join none.
      environment: holds TF_CONFIG, or Slurm's variables; `os.environ` by default.

    Raises:
      InputError: TF_CONFIG is malformed, or missing with "multi_worker" outside of Slurm.
    """
    if strategy not in ("auto", "multi_worker"):
        return None
    environment = os.environ if environment is None else environment
    text = environment.get("TF_CONFIG", "").strip()
    if text in ("", "{}"):
        if strategy == "auto":
            return None
        step = slurm.addresses(environment)
        if step:
            return Member((("worker", step[0]),), step[1])
        raise input_error(
            "TF_CONFIG is missing",
            expected=f"the environment variable TF_CONFIG={_EXPECTED}",
            received="no TF_CONFIG",
            remedy="Set it on every worker, or choose another --strategy",
        )
    found = _parse(text)
    return found if strategy == "multi_worker" or found.workers > 1 else None


def _parse(text):
    try:
        record = json.loads(text)
        cluster, task = record["cluster"], record["task"]
        unknown = sorted(set(cluster) - {"chief", "worker"})
        if unknown:
            raise ValueError(f"it has jobs other than chief and worker: {', '.join(unknown)}")
        for addresses in cluster.values():
            for address in addresses if isinstance(addresses, list) else [None]:
                host, _, port = str(address).rpartition(":")
                if not (host and port.isdecimal()):
                    raise ValueError(f"{address} is not host:port")
        jobs = {job: tuple(cluster[job]) for job in ("chief", "worker") if job in cluster}
        chiefs = len(jobs.get("chief", ()))
        if chiefs > 1:
            raise ValueError(f"it has {chiefs} chiefs")
        index = int(task["index"])
        if not 0 <= index < len(jobs.get(task["type"], ())):
            raise ValueError(f"the cluster has no {task['type']} {index}")
        found = Member(tuple(jobs.items()), index + (chiefs if task["type"] == "worker" else 0))
        if len(set(found.addresses)) < found.workers:
            raise ValueError("two workers have the same address")
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise input_error(
            f"TF_CONFIG is malformed: {problem}",
            expected=_EXPECTED,
            received=f"TF_CONFIG={text}",
            remedy="Correct it on every worker, or choose --strategy=mirrored",
        ) from error


@dataclasses.dataclass
class _Joined:
    """The cluster that this process has joined. TensorFlow allows one per process."""

    member: Member = Member((("worker", ("this process",)),), 0)
    strategy: Any = None
    sum_bytes: Any = None
    sum_numbers: Any = None
    sum_large: Any = None
    deciding: bool = False


_joined = _Joined()


def join(me: Member, announce: Callable[[str], Any] = print) -> Any:
    """Waits for all workers and connects to them.

    Args:
      me: from `member`.
      announce: called with a line at a time before the wait.

    Returns:
      A tf.distribute.MultiWorkerMirroredStrategy, the same one at every call.

    Raises:
      InputError: TensorFlow has started already.
      WorkerLost: a worker never came.
    """
    import tensorflow as tf

    if _joined.strategy is None:
        _joined.member = me
        everyone = ", ".join(me.addresses)
        announce(f"Waiting for all workers: {everyone}")
        if not is_chief():
            announce(f"This is worker {me.index}. Only worker 0, {me.addresses[0]}, prints how the run goes.")
        if not os.environ.get("TF_CONFIG", "").strip(" {}"):
            place = {"cluster": dict(me.jobs), "task": {"type": me.jobs[0][0], "index": me.index}}
            os.environ["TF_CONFIG"] = json.dumps(place)
        try:
            with reporting_lost_workers(f"Not all workers have joined: {everyone}"):
                compat.configure_heartbeat(me.jobs, _HEARTBEAT_SECONDS)
                strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except WorkerLost:
            raise
        except RuntimeError as error:
            raise input_error(
                f"TensorFlow has already started without the other workers ({error})",
                expected="a fresh process",
                received=f"TF_CONFIG with {me.workers} workers",
                remedy="Call run() before anything else uses TensorFlow",
            ) from error
        _joined.strategy = strategy
        sizes = (1 + _CHUNK, me.workers, _NUMBERS)
        _joined.sum_bytes, _joined.sum_numbers, _joined.sum_large = (_make_sum(strategy, size) for size in sizes)
    return _joined.strategy


def workers() -> int:
    """How many workers train together; 1 without a cluster."""
    return _joined.member.workers


def max_over_workers(number: int) -> int:
    """The largest of all workers' numbers, whole and >= 0; every worker must call it."""
    if _joined.strategy is None:
        return number
    mine = _joined.member.index
    return int(max(_joined.sum_numbers([number if index == mine else 0 for index in range(workers())])))


def sum_over_workers(array: "np.ndarray") -> "np.ndarray":
    """The sum of all workers' arrays, float32 and of one shape; every worker must call it."""
    import numpy as np  # 0.1 seconds, which no --help needs

    if _joined.strategy is None:
        return array
    flat, summed = array.ravel(), np.empty(array.size, np.float32)
    for start in range(0, array.size, _NUMBERS):
        part = flat[start : start + _NUMBERS]
        summed[start : start + len(part)] = _joined.sum_large(np.pad(part, (0, _NUMBERS - len(part))))[: len(part)]
    return summed.reshape(array.shape)


def from_chief(read: Callable[[], "np.ndarray"], shape: tuple[int, ...]) -> "np.ndarray":
    """The chief's array, float32 of this shape, on all workers; `InputError` on all if it cannot be read."""
    import numpy as np

    found = []
    agree(lambda: found.append(read()))
    return sum_over_workers(found[0] if found else np.zeros(shape, np.float32))


def share(work: Sequence[T]) -> Sequence[T]:
    """This worker's part of a list that the workers divide among them."""
    return work[_joined.member.index :: workers()]


def is_chief() -> bool:
    """Whether this process is the chief; true without a cluster."""
    return _joined.member.index == 0


def chief_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: only the chief calls the function. The other workers get None at once and do not wait.

    The function must not contain a collective; creating a variable in the strategy's scope is one.
    """

    @functools.wraps(function)
    def on_chief(*arguments, **options):
        return function(*arguments, **options) if is_chief() else None

    return on_chief


def agree(decide: Callable[[], Any]) -> Any:
    """Calls `decide` on the chief and returns its result on every worker; the others wait for it.

    Args:
      decide: returns a value that JSON can hold. It may call `agree` itself, but must not contain a collective.

    Raises:
      InputError: on every worker, if `decide` raised it.
    """
    if _joined.strategy is None or _joined.deciding:
        return decide()
    value, problem = json.loads(_broadcast(_decided(decide) if is_chief() else ""))
    if problem is not None:
        raise InputError(problem)
    return value


def _decided(decide):
    _joined.deciding = True
    try:
        return json.dumps([decide(), None])
    except InputError as error:
        return json.dumps([None, str(error)])
    finally:
        _joined.deciding = False


def _broadcast(text):
    """The chief's text on every worker: a sum to which the others add zeros, in chunks of one fixed size.

    Before each chunk goes the number of bytes that follow it.
    """
    content, received, left = text.encode(), b"", 1
    while left:
        chunk, content = content[:_CHUNK].ljust(_CHUNK, b"\0"), content[_CHUNK:]
        left, *summed = _joined.sum_bytes([len(content), *chunk])
        received += bytes(map(int, summed))
    return received.rstrip(b"\0").decode()


def _make_sum(strategy, size):
    """A function that sums `size` numbers over all workers, float32 `[size]`. Every worker must call it.

    Every device can sum float32, which holds bytes and small integers exactly.
    """
    import tensorflow as tf

    local_replicas = strategy.num_replicas_in_sync // workers()

    def replica(values):
        context = tf.distribute.get_replica_context()
        first = tf.equal(context.replica_id_in_sync_group % local_replicas, 0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, values, 0.0))

    @tf.function(input_signature=[tf.TensorSpec([size])], autograph=False)
    def total(values):
        return strategy.experimental_local_results(strategy.run(replica, (values,)))[0]

    return lambda values: total(tf.constant(values, tf.float32)).numpy()


@contextlib.contextmanager
def reporting_lost_workers(what: str = "Another worker has stopped, so training has stopped too") -> Iterator[None]:
    """Turns the error of a collective that cannot finish into a `WorkerLost` of one line."""
    import tensorflow as tf

    errors = tf.errors
    gone = errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError
    try:
        yield
    except errors.OpError as error:
        if workers() == 1 or not (isinstance(error, gone) or "ollective ops is aborted" in error.message):
            raise
        lines = [line.strip(" :") for line in error.message.splitlines()]
        reason = next((line.partition("aborted by: ")[2] for line in lines if "aborted by: " in line), lines[0])
        raise WorkerLost(
            f"{what} ({reason}). See its output for the cause. To resume, start the same command on all workers again."
        ) from error
