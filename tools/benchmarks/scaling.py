"""Examples per second and memory at one global batch, by number of replicas and steps per host call.

Each replica is a GPU if there are enough, else a logical part of the first device; the latter measures overhead.
"""

import functools
import pathlib
import tempfile

import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import input_error
from skd_tf.runtime import devices
from skd_tf.training import train_student
from skd_tf.training.experiment import make_strategy
from skd_tf.training.teacher import Teacher
from tools.benchmarks import interleaved, results
from tools.benchmarks.contenders import IMAGES, make_dataset, make_net
from tools.benchmarks.interleaved import Contender

STEPS = 24  # of a round; a multiple of every number of steps per call


def main(
    *,
    student: str,
    teacher: str,
    batch_size: int,
    replicas: list[int],
    steps_per_call: list[int],
    jit_compile: str,
    rounds: int,
    output: str | None,
) -> None:
    """Runs one race of all combinations of `replicas` and `steps_per_call`."""
    for k in steps_per_call:
        if STEPS % k:
            received = f"--steps_per_call={k}"
            raise input_error(
                f"A round has {STEPS} steps", expected="a divisor", received=received, remedy="Take 1 or 8"
            )
    shared = {"student": student, "teacher": teacher, "batch_size": batch_size, "jit_compile": jit_compile}
    jobs = {}
    for count in replicas:
        devices.per_replica_batch(batch_size, count)
        for k in steps_per_call:
            jobs[f"{count} replicas, k = {k}"] = shared | {"replicas": count, "steps_per_call": k}
    rows = interleaved.race({name: functools.partial(prepare, **job) for name, job in jobs.items()}, rounds)
    for name, row in rows.items():
        row |= jobs[name] | {"examples_per_second": 1000 * batch_size / row["median_ms"]}
    machine = results.machine().partition(", replicas")[0]
    print(f"\n{student} from {teacher}, global batch {batch_size}, {machine}\n\n{_table(rows)}", flush=True)
    results.write(output, {"rounds": rounds, "steps_per_round": STEPS, "rows": rows, "device": machine})


def _table(rows):
    one, lines = {row["steps_per_call"]: row for row in rows.values() if row["replicas"] == 1}, []
    for row in rows.values():
        count, k, cost = row["replicas"], row["steps_per_call"], "-"
        if count > 1 and k in one:
            median, found = results.ratios(row, one[k])
            cost = f"{median - 1:+.1%} ({results.spread([ratio - 1 for ratio in found], '+.1%')})"
        speed, memory = f"{row['examples_per_second']:,.0f}", f"{row['peak_memory_mb']:,.0f}"
        lines.append((str(count), str(k), speed, results.spread(row["ms"]), cost, memory))
    header = "replicas", "steps per call", "examples/s, median", "ms per step, spread", "cost over one replica"
    return results.table((*header, "peak memory, MB"), lines)


def prepare(
    *, student: str, teacher: str, batch_size: int, jit_compile: str, replicas: int, steps_per_call: int
) -> Contender:
    """Training steps of skd_tf's Distiller on so many replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    if replicas == 1 or replicas <= len(gpus):
        tf.config.set_visible_devices(gpus[:replicas], "GPU")
    config = Config(
        student=student,
        loss="cross_entropy" if teacher == "none" else "spherical",
        batch_size=batch_size,
        strategy="mirrored" if replicas > 1 else "one_device",
        virtual_devices=0 if replicas <= max(len(gpus), 1) else replicas,
        jit_compile=jit_compile,
    )
    strategy, dataset = make_strategy(config), make_dataset()
    assert strategy.num_replicas_in_sync == replicas
    opened, steps_per_epoch = None, IMAGES // batch_size
    if teacher != "none":
        path = pathlib.Path(tempfile.mkdtemp()) / "teacher.keras"
        make_net(teacher, dataset, stock=True).save(path)
        opened = Teacher(str(path), config, dataset, strategy)
    shared = train_student.SharedResources(dataset, strategy, opened)
    distiller = train_student.build_distiller(config, shared, steps_per_epoch)
    if opened:
        distiller.teacher = opened.model
    limits = {"steps_per_epoch": steps_per_epoch, "first_step": 0, "last_step": 1000 * steps_per_epoch}

    def stream(context):
        return data.train_stream(dataset, config.pick(data.StreamSettings), **limits, shards=replicas)

    with strategy.scope():
        iterator = iter(strategy.distribute_datasets_from_function(stream))

    def run():
        for _ in range(STEPS // steps_per_call):
            distiller.run_steps(iterator, steps_per_call)
        return distiller.means.result()  # waits for the device

    return Contender(run, STEPS, _gpu_memory_mb if gpus else interleaved.resident_mb)


def _gpu_memory_mb():
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return sum(tf.config.experimental.get_memory_info(name)["peak"] for name in names) / 2**20
