"""Cluster: the processes that train together, and the one of them that decides, writes and prints.

TF_CONFIG names them. What depends on a file or a clock is decided by the chief, so that no two workers ever take different
ways: one that waits in a collective for another that does not come waits for ever.
"""

import contextlib
import dataclasses
import functools
import json
import os

from skd_tf.errors import InputError, input_error

_EXPECTED = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
_CHUNK = 4096  # bytes of an agreement in one collective
# TensorFlow's own 10 seconds take a busy worker for a dead one. A process that ends is noticed at once anyway, by its
# connections; this is for one that freezes.
_HEARTBEAT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Member:
    """One process's place among the workers; worker 0 is the chief.

    Attributes:
      jobs: (name, addresses) of TF_CONFIG's cluster, the chief's first.
      index: among the addresses of all jobs.
    """

    jobs: tuple
    index: int

    @property
    def addresses(self):
        return [address for _, addresses in self.jobs for address in addresses]

    @property
    def workers(self):
        return len(self.addresses)


class WorkerLost(RuntimeError):
    """Another worker is gone, and with it the training; one line."""


def member(strategy, environment=None):
    """This process's place in the cluster that `--strategy` asks for; None for a process by itself.

    Args:
      strategy: `Config.strategy`. "auto" joins a cluster of several workers; "mirrored" and "one_device" never look.
      environment: where TF_CONFIG stands; `os.environ` unless given.

    Raises:
      InputError: TF_CONFIG missing under "multi_worker", or malformed.
    """
    if strategy not in ("auto", "multi_worker"):
        return None
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "").strip()
    if text in ("", "{}"):
        if strategy == "auto":
            return None
        raise input_error(
            "TF_CONFIG is missing",
            expected=f"the environment variable TF_CONFIG={_EXPECTED}",
            received="nothing",
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
                    raise ValueError(f"{address} is no host:port")
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
            expected=f"{_EXPECTED}",
            received=f"TF_CONFIG={text}",
            remedy="Correct it on every worker, or choose --strategy=mirrored",
        ) from error


@dataclasses.dataclass
class _Joined:
    """What this process has joined: TensorFlow allows one cluster a process, from its start to its end."""

    member: Member = Member((("worker", ("here",)),), 0)
    strategy: object = None
    broadcast: object = None
    largest: object = None
    deciding: bool = False


_joined = _Joined()


def join(me, announce=print):
    """Waits for all workers and connects to them.

    Args:
      me: what `member` found.
      announce: called with one line before the wait.

    Returns:
      A tf.distribute.MultiWorkerMirroredStrategy, the same one at every call.

    Raises:
      InputError: TensorFlow has started before.
      WorkerLost: some worker never came.
    """
    import tensorflow as tf

    if _joined.strategy is None:
        _joined.member = me
        announce(f"Waiting for all workers: {', '.join(me.addresses)}")
        try:
            with reporting_lost_workers(f"Not all workers came: {', '.join(me.addresses)}"):
                _configure_heartbeat(me)
                strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            if isinstance(error, WorkerLost):
                raise
            raise input_error(
                f"TensorFlow has already started without the other workers ({error})",
                expected="a fresh process",
                received=f"TF_CONFIG with {me.workers} workers",
                remedy="Call run() before anything else uses TensorFlow",
            ) from error
        _joined.strategy, _joined.broadcast = strategy, _make_broadcast(strategy)
        _joined.largest = _make_largest(strategy, me.workers)
    return _joined.strategy


def _configure_heartbeat(me):
    """What MultiWorkerMirroredStrategy configures unless it is configured already, with another heartbeat."""
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    if context.context().coordination_service is None:
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=f"/job:{me.jobs[0][0]}/replica:0/task:0",
            heartbeat_timeout_in_ms=1000 * _HEARTBEAT_SECONDS,
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(addresses))
                for name, addresses in me.jobs
            ],
        )


def workers():
    return _joined.member.workers


def any_worker(number):
    """The largest of all workers' numbers, >= 0 and whole; every worker must ask."""
    return number if _joined.largest is None else _joined.largest(number)


def share(work):
    """This worker's part of a list of which every worker does a part."""
    return work[_joined.member.index :: workers()]


def is_chief():
    return _joined.member.index == 0


def chief_only(function):
    """Makes a function do nothing, and return None, on all workers but the chief; nobody waits for it.

    It must hold no collective, and the making of a variable in the strategy's scope is one.
    """

    @functools.wraps(function)
    def on_chief(*arguments, **options):
        return function(*arguments, **options) if is_chief() else None

    return on_chief


def agree(decide):
    """What the chief's `decide()` returns, on every worker; the others wait for it.

    Args:
      decide: called on the chief alone, and there free to agree again; returns something JSON can hold. No collective.

    Raises:
      InputError: the one that decide() raised, on every worker.
    """
    if _joined.strategy is None or _joined.deciding:
        return decide()
    value, problem = json.loads(_joined.broadcast(_decided(decide) if is_chief() else ""))
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


def _make_broadcast(strategy):
    """A function that gives every worker the chief's text, by sums to which only the chief adds something.

    float32 holds every byte exactly, and is what every device can sum. One shape: a collective cannot change its own.
    """
    import numpy as np
    import tensorflow as tf

    def replica(chunk):
        context = tf.distribute.get_replica_context()
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, first * chunk)

    @tf.function(input_signature=[tf.TensorSpec([1 + _CHUNK])], autograph=False)
    def total(chunk):
        return strategy.experimental_local_results(strategy.run(replica, (chunk,)))[0]

    def broadcast(text):
        content, received, left = text.encode(), b"", 1
        while left:
            chunk = np.frombuffer(content[:_CHUNK], np.uint8)
            content = content[_CHUNK:]
            sent = np.zeros(1 + _CHUNK, np.float32)
            sent[0], sent[1 : 1 + len(chunk)] = len(content), chunk
            got = total(tf.constant(sent)).numpy()
            left = int(got[0])
            received += got[1:].astype(np.uint8).tobytes()
        return received.rstrip(b"\0").decode()

    return broadcast


def _make_largest(strategy, count):
    """A function of a worker's number that gives all workers the largest: each adds it at a place of its own."""
    import numpy as np
    import tensorflow as tf

    def replica(row):
        # A tensor of this replica's device: an argument has none, which the sum is then told to go to.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(row))

    @tf.function(input_signature=[tf.TensorSpec([count])], autograph=False)
    def total(row):
        return strategy.experimental_local_results(strategy.run(replica, (row,)))[0]

    def largest(number):
        row = np.zeros(count, np.float32)
        row[_joined.member.index] = (
            number * count / strategy.num_replicas_in_sync
        )  # every replica of this worker adds it
        return round(float(total(tf.constant(row)).numpy().max()))

    return largest


@contextlib.contextmanager
def reporting_lost_workers(what="Another worker has stopped, and training with it"):
    """Turns what TensorFlow raises when a collective cannot end into a `WorkerLost` of one line."""
    import tensorflow as tf

    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except tf.errors.OpError as error:
        if workers() == 1 or not (isinstance(error, gone) or "ollective ops is aborted" in error.message):
            raise
        lines = [line.strip(" :") for line in error.message.splitlines()]
        reason = next((line.partition("aborted by: ")[2] for line in lines if "aborted by: " in line), lines[0])
        raise WorkerLost(
            f"{what} ({reason}). Its own output says why. Start the same command on all workers again: it resumes."
        ) from error
