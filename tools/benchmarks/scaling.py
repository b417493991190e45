"""Examples a second and memory at one global batch, by number of replicas and steps per host call, interleaved in one run.

Replicas are GPUs where there are as many, else logical parts of the first device: then what is measured is overhead.
"""

import json
import os
import statistics
import sys
import tempfile

from absl import flags

from tools.benchmarks import interleaved

STEPS = 24  # of a round; a multiple of every number of steps per call


def define(flag_values):
    flags.DEFINE_string("student", "resnet20", "CIFAR network to train", flag_values=flag_values)
    flags.DEFINE_string(
        "teacher", "resnet56", "CIFAR network that teaches; none: labels alone", flag_values=flag_values
    )
    flags.DEFINE_integer("batch_size", 64, "examples a step, over all replicas", flag_values=flag_values)
    flags.DEFINE_multi_integer("replicas", [1, 2, 4], "numbers of replicas; repeatable", flag_values=flag_values)
    flags.DEFINE_multi_integer("steps_per_call", [1, 8], "steps per host call; repeatable", flag_values=flag_values)
    flags.DEFINE_string("jit_compile", "auto", "XLA: auto, true or false", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 5, f"rounds of {STEPS} steps", lower_bound=3, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf.errors import InputError
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json
    from skd_tf.runtime import devices

    shared = {name: flag_values[name].value for name in ("student", "teacher", "batch_size", "jit_compile")}
    unfit = [k for k in flag_values.steps_per_call if STEPS % k]
    if unfit:
        raise InputError(
            f"A round has {STEPS} steps. Expected a divisor. Received steps_per_call={unfit[0]}. Take 1 or 8."
        )
    jobs = {}
    for count in flag_values.replicas:
        devices.per_replica_batch(flag_values.batch_size, count)
        for k in flag_values.steps_per_call:
            jobs[f"{count} replicas, k = {k}"] = shared | {"replicas": count, "steps_per_call": k}
    rows = interleaved.race(
        {name: [sys.executable, __file__, json.dumps(job)] for name, job in jobs.items()}, flag_values.rounds
    )
    for name, row in rows.items():
        row |= jobs[name]
        row["examples_per_second"] = 1000 * flag_values.batch_size / row["median_ms"]
    machine = metrics_log.device().partition(", replicas")[0]
    title = f"{flag_values.student} from {flag_values.teacher}, global batch {flag_values.batch_size}, {machine}"
    print(f"\n{title}\n\n{_table(rows)}", flush=True)
    record = {"rounds": flag_values.rounds, "steps_per_round": STEPS, "rows": rows, "device": machine}
    record |= {"versions": metrics_log.versions(), "git_commit": metrics_log.git_commit()}
    if flag_values.output:
        write_json(flag_values.output, record)


def _table(rows):
    lines = [
        "| replicas | steps per call | examples/s, median | ms a step, spread | cost over one replica | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    one = {row["steps_per_call"]: row["ms"] for row in rows.values() if row["replicas"] == 1}
    for row in rows.values():
        cost = "-"
        if row["replicas"] > 1 and row["steps_per_call"] in one:  # round by round: the machine's pace drifts
            ratios = [mine / its for mine, its in zip(row["ms"], one[row["steps_per_call"]], strict=True)]
            cost = f"{statistics.median(ratios) - 1:+.1%} ({min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})"
        lines.append(
            f"| {row['replicas']} | {row['steps_per_call']} | {row['examples_per_second']:,.0f} | "
            f"{min(row['ms']):.1f} to {max(row['ms']):.1f} | {cost} | {row['peak_memory_mb']:,.0f} |"
        )
    return "\n".join(lines)


def prepare(job):
    """A function that makes the steps of a round with a Distiller of the product, and one that gives the memory in MB."""
    import tensorflow as tf

    from skd_tf import data
    from skd_tf.config import Config
    from skd_tf.runtime import replicas
    from skd_tf.training import train_student
    from skd_tf.training.teacher import Teacher
    from tools.benchmarks.contenders import IMAGES, make_dataset, make_net

    count, gpus = job["replicas"], len(tf.config.list_physical_devices("GPU"))
    if 1 < count <= gpus or count == 1:
        tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[:count], "GPU")
    virtual = 0 if count <= max(gpus, 1) else count
    has_teacher = job["teacher"] != "none"
    config = Config(
        student=job["student"],
        loss="spherical" if has_teacher else "cross_entropy",
        batch_size=job["batch_size"],
        strategy="mirrored" if count > 1 else "one_device",
        virtual_devices=virtual,
        jit_compile=job["jit_compile"],
    )
    strategy, dataset = replicas.make_strategy(config), make_dataset()
    teacher, steps_per_epoch = None, IMAGES // job["batch_size"]
    if has_teacher:
        path = os.path.join(tempfile.mkdtemp(), "teacher.keras")
        make_net(job["teacher"], dataset, stock=True).save(path)
        teacher = Teacher(path, config, dataset, strategy)
    distiller = train_student.build_distiller(config, train_student.Setup(dataset, strategy, teacher), steps_per_epoch)
    if teacher:
        distiller.teacher = teacher.model

    def stream(context):
        return data.train_stream(
            dataset,
            config,
            steps_per_epoch=steps_per_epoch,
            first_step=0,
            last_step=1000 * steps_per_epoch,
            shards=count,
        )

    with strategy.scope():
        iterator = iter(strategy.distribute_datasets_from_function(stream))

    def steps():
        for _ in range(STEPS // job["steps_per_call"]):
            distiller.run_steps(iterator, job["steps_per_call"])
        return distiller.means.result()  # waits for the device

    def memory_mb():
        if gpus:
            names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
            return sum(tf.config.experimental.get_memory_info(name)["peak"] for name in names) / 2**20
        return interleaved.resident_mb()

    return steps, memory_mb


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    job = json.loads(sys.argv[1])
    interleaved.serve(lambda: prepare(job), STEPS)
