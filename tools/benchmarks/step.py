"""Milliseconds of a training step: skd_tf beside keras.distillation and PyTorch, which take turns."""

import functools

from skd_tf.errors import did_you_mean, input_error
from tools.benchmarks import interleaved, results
from tools.benchmarks.contenders import CONTENDERS, GROWTH, Job, operations

_RATIOS = (  # slower, faster: the ratios that docs/performance.md quotes
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


def main(
    *,
    student: str,
    teacher: str,
    batch_size: int,
    rounds: int,
    contender: list[str],
    growth: list[str],
    output: str | None,
) -> None:
    """Runs one race of the contenders and, with `growth`, a second one of skd_tf with further teachers."""
    names, job = contender or list(CONTENDERS), Job(student, teacher, batch_size)
    for name in names:
        if name not in CONTENDERS:
            expected, remedy = ", ".join(CONTENDERS), did_you_mean(name, CONTENDERS, "Choose one of these")
            raise input_error("Unknown contender", expected=expected, received=f"--contender={name}", remedy=remedy)
    print(f"{student} from {teacher}, batch {batch_size}, {results.machine()}\n")
    rows = _race({name: (name, job) for name in names}, rounds)
    record = job._asdict() | {"rounds": rounds, "contenders": rows}
    print(_table(rows), flush=True)
    if growth:
        teachers, growing = [*growth, teacher], [name for name in GROWTH if name in names]
        rows = _race(
            {f"{name}, {net}": (name, job._replace(teacher=net)) for net in teachers for name in growing}, rounds
        )
        record["growth"] = {
            net: {name: rows[f"{name}, {net}"] for name in growing if f"{name}, {net}" in rows} for net in teachers
        }
        print(f"\n{_growth_table(record['growth'], growing)}", flush=True)
    results.write(output, record)


def _race(contenders, rounds):
    """{label: row} for {label: (contender, job)}."""
    prepared = {label: functools.partial(CONTENDERS[name], job) for label, (name, job) in contenders.items()}
    rows = interleaved.race(prepared, rounds)
    for label, row in rows.items():
        count = operations(*contenders[label])
        row["gflop_per_second"] = count and count / row["median_ms"] / 1e6
    return rows


def _table(rows):
    lines, header = [], ("contender", "ms per step, median", "spread", "GFLOP/s", "peak memory, MB")
    for name, row in rows.items():
        median, speed = f"{row['median_ms']:.1f}", row["gflop_per_second"] and f"{row['gflop_per_second']:,.0f}"
        lines.append((name, median, results.spread(row["ms"]), speed or "-", f"{row['peak_memory_mb']:,.0f}"))
    pairs = [pair for pair in _RATIOS if set(pair) <= set(rows)]
    found = {f"{slow} / {fast}": results.ratios(rows[slow], rows[fast]) for slow, fast in pairs}
    ratios = [(name, f"{median:.2f}", results.spread(each, ".2f")) for name, (median, each) in found.items()]
    second = "\n\n" + results.table(("ratio of times in one round", "median", "spread"), ratios) if ratios else ""
    return results.table(header, lines) + second


def _growth_table(studies, names):
    def cell(row):
        return f"{row['median_ms']:.1f} ({results.spread(row['ms'])})" if row else "-"

    lines = [(teacher, *(cell(rows.get(name)) for name in names)) for teacher, rows in studies.items()]
    return results.table(("teacher", *(f"{name}, ms" for name in names)), lines)
