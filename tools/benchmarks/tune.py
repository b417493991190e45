"""The cost of a search beside the same number of plain student trainings and the teacher's passes.

A round is half of the plain trainings, the search, then the other half, so that a slow hour slows both sides. Every
plain training builds, traces and validates as `skd_tf.train` does, but in this process, which favours
the plain trainings.
"""

import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import tensorflow as tf

from skd_tf.config import Config
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.training.teacher import Teacher
from skd_tf.training.train_student import SharedResources, train_student
from tools.benchmarks import results
from tools.benchmarks.contenders import make_dataset, make_net

_LIMIT = 1.1  # promised: the search takes at most so many times as long as the plain trainings
_VALIDATION = 1280


def main(
    *, student: str, teacher: str, batch_size: int, trials: int, epochs: int, rounds: int, output: str | None
) -> None:
    """Runs the rounds and prints the ratio of search to plain trainings."""
    job = {"student": student, "teacher": teacher, "batch_size": batch_size, "trials": trials, "epochs": epochs}
    rows = [measure(**job) for _ in range(rounds)]
    ratios, lines = [row["search_seconds"] / row["plain_seconds"] for row in rows], []
    for number, (row, ratio) in enumerate(zip(rows, ratios, strict=True), start=1):
        seconds = [row["teacher_seconds"], row["search_seconds"], row["plain_seconds"]]
        first, later = row["trials"][0], statistics.median(row["trials"][1:])
        lines.append((str(number), *(f"{s:.1f}" for s in seconds), f"{ratio:.2f}", f"{first:.1f}", f"{later:.1f}"))
    header = "round", "teacher's passes, s", "search, s", "plain trainings, s", "ratio", "first trial, s"
    print(f"\n{trials} trials of {student} from {teacher}, {results.machine()}\n")
    print(results.table((*header, "later trials, median s"), lines))
    median, spread = statistics.median(ratios), results.spread(ratios, ".2f")
    print(f"\nsearch without the teacher's passes / plain trainings: {median:.2f} ({spread})")
    print(f"promised: at most {_LIMIT}", flush=True)
    results.write(output, job | {"rounds": rows, "ratio": median})


def measure(*, student: str, teacher: str, batch_size: int, trials: int, epochs: int) -> dict[str, object]:
    """Seconds of a round: {"teacher_seconds", "search_seconds" without these, "plain_seconds", "trials", "plains"}."""
    folder, whole = pathlib.Path(tempfile.mkdtemp()), make_dataset()
    dataset = dataclasses.replace(whole, validation=whole.train.take(slice(0, _VALIDATION)))
    make_net(teacher, dataset, stock=True).save(folder / "teacher.keras")
    config = Config(
        student=student,
        loss="spherical",
        teacher_checkpoint=str(folder / "teacher.keras"),
        teacher_cache_dir=str(folder / "cache"),
        epochs=epochs,
        batch_size=batch_size,
        strategy="one_device",
        dataset="random",
    )
    strategy = tf.distribute.get_strategy()
    opened = Teacher(config.teacher_checkpoint, config, dataset, strategy)
    teacher_seconds = _seconds(lambda: opened.epoch_logits(epochs))

    alone = SharedResources(dataset, strategy, None)
    plain = config.replace(loss="cross_entropy", keep_checkpoints=1)

    def train(number):
        place = folder / f"plain-{number}"
        place.mkdir()
        return _seconds(lambda: train_student(plain, alone, place, keep_best=False))

    plan, ranked = Plan(config, (f"temperature:log:1:16:{trials}",), tuner="grid"), []
    shared = SharedResources(dataset, strategy, opened)
    plains = [train(number) for number in range(trials // 2)]
    search_seconds = _seconds(lambda: ranked.extend(run_search(plan, folder / "search", resources=shared)))
    plains += [train(number) for number in range(trials // 2, trials)]
    return {
        "teacher_seconds": teacher_seconds,
        "search_seconds": search_seconds,
        "plain_seconds": sum(plains),
        "trials": [record["executions"][0]["seconds"] for record in sorted(ranked, key=lambda record: record["trial"])],
        "plains": plains,
    }


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
