"""What a search leaves for people: trials.csv, trials.jsonl, best.flags, a table, and whether the best is better."""

import csv
import io
import json
import math

from skd_tf.config import flags
from skd_tf.errors import as_text
from skd_tf.runs import text_tables
from skd_tf.runtime.files import write_text
from skd_tf.search.trial_records import FAILED, FINISHED

_SHOWN = 5
_METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss", "agreement")
_STANDARD_ERRORS = 2.0  # below which a difference may be chance


def write(records):
    """Writes the files; returns the finished trials, best first."""
    folder, plan, every = records.folder, records.plan, records.all()
    ranked = records.ranked()
    write_text(folder / "trials.jsonl", "".join(json.dumps(record) + "\n" for record in every))
    write_text(folder / "trials.csv", _csv(every, plan))
    if ranked:
        write_text(folder / "best.flags", flags.write_flags(best_config(records, ranked[0])))
    return ranked


def best_config(records, best):
    """The Config of the best trial's first execution, with the teacher that the search trained, if it did."""
    config = records.plan.config_of(best["values"])
    if config.needs_teacher and not config.teacher_checkpoint:
        config = config.replace(teacher_checkpoint=str(records.folder / "teacher"), teacher_flagfile="", teacher="")
    return config


def _csv(every, plan):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [
        "trial",
        "status",
        *plan.names,
        plan.goal.name,
        "spread",
        "executions",
        "seconds",
        *_others(plan),
        "reason",
    ]
    writer.writerow(columns)
    for record in every:
        runs = record["executions"]
        means = [_mean([run["metrics"].get(name) for run in runs]) for name in _others(plan)]
        seconds = sum(run["seconds"] for run in runs)
        values = [as_text(record["values"][name]) for name in plan.names]
        numbers = [record["objective"], record["spread"], len(runs), round(seconds, 2), *means]
        cells = ["" if number is None else number for number in numbers]
        writer.writerow([record["trial"], record["status"], *values, *cells, record["reason"]])
    return file.getvalue()


def _others(plan):
    return [name for name in _METRICS if name != plan.goal.name]


def _mean(values):
    return sum(values) / len(values) if values and None not in values else None


def closing(records, ranked):
    """The text that a search ends with: the best five, and how sure it is that the best is better than the default."""
    plan, every = records.plan, records.all()
    failed = sum(record["status"] == FAILED for record in every)
    lines = [[plan.goal.name, "spread", "trial", *plan.names]]
    for record in ranked[:_SHOWN]:
        spread = "-" if record["spread"] is None else f"{record['spread']:.4f}"
        values = [short(record["values"][name]) for name in plan.names]
        lines.append([f"{record['objective']:.4f}", spread, str(record["trial"] + 1), *values])
    counts = f"{len(ranked)} trials finished" + f", {failed} failed" * bool(failed)
    runs = plan.executions_per_trial
    how = f"{counts}; {runs} {'executions' if runs > 1 else 'execution'} each, validation split, last epoch"
    return f"{text_tables.aligned(lines)}\n{how}.\n{verdict(records, ranked)}"


def verdict(records, ranked):
    """One sentence: the best beside the default, and whether the difference could be chance."""
    plan, best = records.plan, ranked[0]
    default = default_trial(plan, ranked)
    settings = ", ".join(f"{name} {short(getattr(plan.config, name))}" for name in plan.names)
    if default is None:
        why = "lies outside the space" if plan.default is None else "was not among the finished trials"
        return f"The default ({settings}) {why}: whether the best beats it is not known."
    if default is best:
        return f"The best is the default ({settings})."
    gain = abs(best["objective"] - default["objective"])
    error, what = _standard_error(best, default, plan)
    beside = f"the default's {default['objective']:.4f} ({settings})"
    if error is None:
        return f"The best is {gain:.4f} better than {beside}; how much of it is chance, --executions_per_trial=3 would tell."
    if gain <= _STANDARD_ERRORS * error:
        return (
            f"The best is within noise of the default: {gain:.4f} better than {beside}, with a standard error of "
            f"{error:.4f} {what}. The default is as good a choice."
        )
    many = f", before counting that it is the best of {len(ranked)}" if len(ranked) > 2 else ""
    return (
        f"The best is {gain:.4f} better than {beside}: {gain / error:.1f} standard errors of {error:.4f} {what}{many}."
    )


def default_trial(plan, ranked):
    """The finished trial with the Config's own values; None without one."""
    own = {name: getattr(plan.config, name) for name in plan.names}
    return next((record for record in ranked if record["values"] == own and record["status"] == FINISHED), None)


def _standard_error(one, other, plan):
    """(of the difference of two trials, from what); None where nothing tells it.

    With several executions sqrt((s1^2 + s2^2) / n) over their seeds; with one, or with seeds that all give the same, for an
    accuracy p on m images, sqrt(p1 (1 - p1) / m + p2 (1 - p2) / m): too large rather than too small, for both find the same
    images hard.
    """
    runs = plan.executions_per_trial
    over_seeds = math.hypot(one["spread"], other["spread"]) / math.sqrt(runs) if runs > 1 else 0.0
    if over_seeds:
        return over_seeds, f"over {runs} seeds each"
    if plan.goal.name != "val_accuracy":
        return None, ""
    images = one["validation_examples"]
    variance = sum(p * (1 - p) / images for p in (one["objective"], other["objective"]))
    return math.sqrt(variance) or None, f"on {images:,} validation images"


def short(value):
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)
