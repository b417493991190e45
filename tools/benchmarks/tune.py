"""What a search costs beside the same number of plain student trainings and the teacher's passes.

A round is: half of the plain trainings, the search, the other half. A slow hour is then on both sides. Every plain training
builds, traces and validates as `skd_tf.train` does; only its process is not its own, which is to the search's disadvantage.
"""

import dataclasses
import pathlib
import statistics
import tempfile
import time

from absl import flags

_LIMIT = 1.1  # of the plain trainings
_VALIDATION = 1280


def define(flag_values):
    flags.DEFINE_string("student", "resnet8", "CIFAR network to train", flag_values=flag_values)
    flags.DEFINE_string("teacher", "resnet20", "CIFAR network that teaches", flag_values=flag_values)
    flags.DEFINE_integer("trials", 6, "students of a search", lower_bound=2, flag_values=flag_values)
    flags.DEFINE_integer("epochs", 2, "of 12,800 images, each student's", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 64, "examples a step", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 3, "rounds", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json

    job = {name: flag_values[name].value for name in ("student", "teacher", "trials", "epochs", "batch_size")}
    rounds = [measure(job) for _ in range(flag_values.rounds)]
    ratios = [row["search_seconds"] / row["plain_seconds"] for row in rounds]
    print(
        f"\n{job['trials']} trials of {job['student']} from {job['teacher']}, {metrics_log.device()}\n\n{_table(rounds)}"
    )
    print(
        f"\nsearch without the teacher's passes / plain trainings: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); at most {_LIMIT} is promised.",
        flush=True,
    )
    record = job | {"rounds": rounds, "ratio": statistics.median(ratios), "device": metrics_log.device()}
    record |= {"versions": metrics_log.versions(), "git_commit": metrics_log.git_commit()}
    if flag_values.output:
        write_json(flag_values.output, record)


def measure(job):
    """One round: {"teacher_seconds", "search_seconds" without them, "plain_seconds", "trials" and "plains" one by one}."""
    import tensorflow as tf

    from skd_tf import tune
    from skd_tf.config import Config
    from skd_tf.search.plan import Plan
    from skd_tf.training import train_student
    from skd_tf.training.teacher import Teacher
    from tools.benchmarks.contenders import make_dataset, make_net

    folder, whole = pathlib.Path(tempfile.mkdtemp()), make_dataset()
    held_out = whole.train.take(slice(0, _VALIDATION))
    dataset = dataclasses.replace(whole, validation=held_out)
    make_net(job["teacher"], dataset, stock=True).save(folder / "teacher.keras")
    config = Config(
        student=job["student"],
        teacher_checkpoint=str(folder / "teacher.keras"),
        teacher_cache_dir=str(folder / "cache"),
        epochs=job["epochs"],
        batch_size=job["batch_size"],
        strategy="one_device",
        dataset="random",
    )
    strategy = tf.distribute.get_strategy()
    teacher = Teacher(config.teacher_checkpoint, config, dataset, strategy)
    teacher_seconds = _seconds(lambda: teacher.epoch_files(job["epochs"]))

    alone = train_student.Setup(dataset, strategy, None)
    plain = config.replace(loss="cross_entropy", keep_checkpoints=1)

    def train(number):
        place = folder / f"plain-{number}"
        place.mkdir()
        return _seconds(lambda: train_student.train_student(plain, alone, place, keep_best=False))

    plan = Plan(config, (f"temperature:log:1:16:{job['trials']}",), tuner="grid")
    shared = train_student.Setup(dataset, strategy, teacher)
    half = job["trials"] // 2
    plains = [train(number) for number in range(half)]
    ranked = []
    search_seconds = _seconds(lambda: ranked.extend(tune.search(plan, folder / "search", setup=shared)))
    plains += [train(number) for number in range(half, job["trials"])]
    trials = [record["executions"][0]["seconds"] for record in sorted(ranked, key=lambda record: record["trial"])]
    return {
        "teacher_seconds": teacher_seconds,
        "search_seconds": search_seconds,
        "plain_seconds": sum(plains),
        "trials": trials,
        "plains": plains,
    }


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _table(rounds):
    lines = [
        "| round | teacher's passes, s | search, s | plain trainings, s | ratio | first trial, s | later trials, median s |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rounds, start=1):
        first, later = row["trials"][0], statistics.median(row["trials"][1:])
        ratio = row["search_seconds"] / row["plain_seconds"]
        seconds = " | ".join(f"{row[name]:.1f}" for name in ("teacher_seconds", "search_seconds", "plain_seconds"))
        lines.append(f"| {number} | {seconds} | {ratio:.2f} | {first:.1f} | {later:.1f} |")
    return "\n".join(lines)
