"""Milliseconds of a training step, ours and what a user would take instead, interleaved in one run."""

import json
import pathlib
import statistics
import sys

import racing
from absl import flags

_CONTENDERS = pathlib.Path(__file__).with_name("contenders.py")
_RATIOS = (  # slower, faster: what docs/performance.md quotes
    ("keras.distillation float32", "ours live float32"),
    ("keras.distillation bfloat16", "ours live bfloat16"),
    ("keras.distillation float32", "ours cached float32"),
    ("keras.distillation float32", "ours cached bfloat16"),
    ("PyTorch eager float32", "ours live float32"),
    ("PyTorch eager float32", "ours cached float32"),
    ("PyTorch channels_last bfloat16", "ours cached bfloat16"),
    ("ours cached float32", "floor float32"),
    ("ours cached bfloat16", "floor bfloat16"),
)


def define(flag_values):
    flags.DEFINE_string("student", "resnet20", "CIFAR network to train", flag_values=flag_values)
    flags.DEFINE_multi_string("teacher", ["resnet56"], "CIFAR network that teaches; repeatable", flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 64, "examples a step", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 5, "rounds of 30 steps, interleaved", lower_bound=3, flag_values=flag_values)
    flags.DEFINE_multi_string("contender", None, "only these; all by default", flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from contenders import CONTENDERS

    from skd_tf import quiet

    quiet.import_tensorflow()
    from skd_tf import records
    from skd_tf.errors import InputError
    from skd_tf.workdir import write_json

    names = flag_values.contender or list(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise InputError(
            f"Unknown contender. Expected some of {', '.join(CONTENDERS)}. Received contender={unknown[0]}. Check its name."
        )
    studies = {}
    for teacher in flag_values.teacher:
        job = {"student": flag_values.student, "teacher": teacher, "batch_size": flag_values.batch_size}
        commands = {name: [sys.executable, str(_CONTENDERS), name, json.dumps(job)] for name in names}
        studies[teacher] = racing.race(commands, flag_values.rounds)
        print(f"\n{flag_values.student} from {teacher}, batch {flag_values.batch_size}, {records.device()}\n")
        print(_table(studies[teacher]), flush=True)
    record = {"student": flag_values.student, "batch_size": flag_values.batch_size, "rounds": flag_values.rounds}
    record |= {"studies": studies, "device": records.device(), "versions": records.versions()}
    record |= {"git_commit": records.git_commit()}
    if flag_values.output:
        write_json(flag_values.output, record)


def _table(rows):
    lines = ["| contender | ms a step, median | spread | peak memory, MB |", "|---|---|---|---|"]
    for name, row in rows.items():
        low, high = min(row["ms"]), max(row["ms"])
        lines.append(f"| {name} | {row['median_ms']:.1f} | {low:.1f} to {high:.1f} | {row['peak_memory_mb']:.0f} |")
    lines += ["", "| ratio | median of the rounds | spread |", "|---|---|---|"]
    for slower, faster in _RATIOS:
        if slower in rows and faster in rows:
            ratios = [a / b for a, b in zip(rows[slower]["ms"], rows[faster]["ms"], strict=True)]
            lines.append(
                f"| {slower} / {faster} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
            )
    return "\n".join(lines)
