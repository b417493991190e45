"""Milliseconds of a training step, ours and what a user would take instead, interleaved in one run."""

import json
import pathlib
import statistics
import sys

from absl import flags

from tools.benchmarks import interleaved

_CONTENDERS = pathlib.Path(__file__).with_name("contenders.py")
_RATIOS = (  # slower, faster: what docs/performance.md quotes
    ("keras.distillation float32", "ours live float32"),
    ("keras.distillation bfloat16", "ours live bfloat16"),
    ("keras.distillation float32", "ours cached float32"),
    ("keras.distillation float32", "ours cached bfloat16"),
    ("keras.distillation bfloat16", "ours cached bfloat16"),
    ("PyTorch eager float32", "ours live float32"),
    ("PyTorch eager float32", "ours cached float32"),
    ("PyTorch channels_last bfloat16", "ours live bfloat16"),
    ("PyTorch channels_last bfloat16", "ours cached bfloat16"),
    ("PyTorch compiled bfloat16", "ours cached bfloat16"),
    ("ours cached float32", "floor float32"),
    ("ours cached bfloat16", "floor bfloat16"),
    ("ours cached bfloat16", "pipeline"),
)


def define(flag_values):
    flags.DEFINE_string("student", "resnet20", "CIFAR network to train", flag_values=flag_values)
    flags.DEFINE_string("teacher", "resnet56", "CIFAR network that teaches", flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 64, "examples a step", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 7, "rounds of 30 steps, interleaved", lower_bound=3, flag_values=flag_values)
    flags.DEFINE_multi_string("contender", None, "only these; all by default", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "growth",
        [],
        "a second race: ours with this teacher too; repeatable, as --growth=resnet20 --growth=resnet110",
        flag_values=flag_values,
    )
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging
    from tools.benchmarks.contenders import CONTENDERS, GROWTH, operations

    tf_logging.import_tensorflow()
    from skd_tf.errors import InputError
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json

    names = flag_values.contender or list(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise InputError(
            f"Unknown contender. Expected some of {', '.join(CONTENDERS)}. Received contender={unknown[0]}. Check its name."
        )
    job = {"student": flag_values.student, "teacher": flag_values.teacher, "batch_size": flag_values.batch_size}

    def race(contenders):
        """{label: row} of {label: (contender, job)}."""
        rows = interleaved.race(
            {
                label: [sys.executable, str(_CONTENDERS), name, json.dumps(job)]
                for label, (name, job) in contenders.items()
            },
            flag_values.rounds,
        )
        for label, row in rows.items():
            done = operations(*contenders[label])
            row["gflop_per_second"] = done and done / row["median_ms"] / 1e6
        return rows

    print(f"{flag_values.student} from {flag_values.teacher}, batch {flag_values.batch_size}, {metrics_log.device()}\n")
    record = job | {"rounds": flag_values.rounds, "contenders": race({name: (name, job) for name in names})}
    print(_table(record["contenders"]), flush=True)
    if flag_values.growth:
        teachers = [*flag_values.growth, flag_values.teacher]
        growing = [name for name in GROWTH if name in names]
        rows = race({f"{name}, {net}": (name, job | {"teacher": net}) for net in teachers for name in growing})
        found = {net: [name for name in growing if f"{name}, {net}" in rows] for net in teachers}
        record["growth"] = {net: {name: rows[f"{name}, {net}"] for name in names} for net, names in found.items()}
        print(f"\n{_growth_table(record['growth'])}", flush=True)
    record |= {
        "device": metrics_log.device(),
        "versions": metrics_log.versions(),
        "git_commit": metrics_log.git_commit(),
    }
    if flag_values.output:
        write_json(flag_values.output, record)


def _table(rows):
    lines = ["| contender | ms a step, median | spread | GFLOP/s | peak memory, MB |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        pace = f"{row['gflop_per_second']:,.0f}" if row["gflop_per_second"] else "-"
        lines.append(f"| {name} | {_ms(row)} | {_spread(row)} | {pace} | {row['peak_memory_mb']:,.0f} |")
    lines += ["", "| ratio of times in one round | median | spread |", "|---|---|---|"]
    for slower, faster in _RATIOS:
        if slower in rows and faster in rows:
            ratios = [a / b for a, b in zip(rows[slower]["ms"], rows[faster]["ms"], strict=True)]
            lines.append(
                f"| {slower} / {faster} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
            )
    return "\n".join(lines)


def _growth_table(studies):
    names = list(next(iter(studies.values())))
    lines = [f"| teacher | {' | '.join(f'{name}, ms' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for teacher, rows in studies.items():
        cells = (f"{_ms(rows[name])} ({_spread(rows[name])})" if name in rows else "-" for name in names)
        lines.append(f"| {teacher} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(row):
    return f"{row['median_ms']:.1f}"


def _spread(row):
    return f"{min(row['ms']):.1f} to {max(row['ms']):.1f}"
