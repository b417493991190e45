"""Results of a search: trials.csv, trials.jsonl, best.flags, and a summary that compares the best with the default."""

import csv
import io
import json
import math
from typing import Any

from skd_tf.config import Config, flags
from skd_tf.errors import as_text, counted
from skd_tf.runs import result_tables, run_files
from skd_tf.runs.report.seeds import student_t
from skd_tf.runtime.files import write_text
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import FAILED, TrialRecord, TrialRecords

METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss", "agreement")  # shown beside the objective
_SHOWN_TRIALS = 5
_STANDARD_ERRORS = 2.0  # a smaller difference may be noise, if the standard error is known well


def write(records: TrialRecords) -> list[TrialRecord]:
    """Writes the files; returns the finished trials, best first."""
    folder, ranked, trials = records.folder, records.ranked(), records.all()
    write_text(folder / "trials.jsonl", "".join(json.dumps(record) + "\n" for record in trials))
    write_text(folder / "trials.csv", _csv(trials, records.plan))
    if ranked:
        write_text(folder / "best.flags", flags.write_flags(best_config(records, ranked[0])))
    return ranked


def best_config(records: TrialRecords, best: TrialRecord) -> Config:
    """The Config of the best trial's first execution, with the settings of whole runs that trials leave out.

    If the search trained its teacher, it names that one.
    """
    plan = records.plan
    config = plan.config_of(best["values"]).replace(**{name: getattr(plan.config, name) for name in plan.of_whole_runs})
    if not config.needs_teacher or config.teacher_checkpoint:
        return config
    return config.replace(teacher_checkpoint=str(records.folder / run_files.TEACHER), teacher_flagfile="", teacher="")


def _csv(trials, plan):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    others = [name for name in METRICS if name != plan.goal.name]
    writer.writerow(
        ["trial", "status", *plan.names, plan.goal.name, "spread", "executions", "seconds", *others, "reason"]
    )
    for record in trials:
        runs = record["executions"]
        values = [as_text(record["values"][name]) for name in plan.names]
        means = [_mean([run["metrics"].get(name) for run in runs]) for name in others]
        seconds = round(sum(run["seconds"] for run in runs), 2)
        numbers = ["" if n is None else n for n in (record["objective"], record["spread"], len(runs), seconds, *means)]
        writer.writerow([record["trial"], record["status"], *values, *numbers, record["reason"]])
    return file.getvalue()


def _mean(values):
    return sum(values) / len(values) if values and None not in values else None


def summary(records: TrialRecords, ranked: list[TrialRecord]) -> str:
    """The text that ends a search: a table of the best five trials, and the `verdict`."""
    plan = records.plan
    failed = sum(record["status"] == FAILED for record in records.all())
    lines = [[plan.goal.name, "spread", "trial", *plan.names]]
    for record in ranked[:_SHOWN_TRIALS]:
        spread = "-" if record["spread"] is None else f"{record['spread']:.4f}"
        values = [short(record["values"][name]) for name in plan.names]
        lines.append([f"{record['objective']:.4f}", spread, str(record["trial"] + 1), *values])
    counts = f"{counted(len(ranked), 'trial')} finished" + f", {failed} failed" * bool(failed)
    how = (
        f"{counts}; {counted(plan.executions_per_trial, 'execution')} each, validation split, {plan.config.ship} epoch"
    )
    return f"{result_tables.aligned(lines)}\n{how}.\n{verdict(records, ranked)}"


def verdict(records: TrialRecords, ranked: list[TrialRecord]) -> str:
    """Compares the best trial with the default, and says whether the difference may be noise."""
    plan, best = records.plan, ranked[0]
    default = default_trial(plan, ranked)
    settings = ", ".join(f"{name} {short(value)}" for name, value in plan.own_values.items())
    if default is None:
        why = "is not among the searched values" if plan.default is None else "is not among the finished trials"
        return f"The default ({settings}) {why}, so it is unknown whether the best beats it."
    if default is best:
        level, source = 0, ""
        for other in ranked[1:]:
            error, words, least = _standard_error(best, other, plan)
            source = words or source
            level += error is not None and abs(best["objective"] - other["objective"]) <= least * error
        others = counted(len(ranked) - 1, "other")
        apart = f" {level} of {others} cannot be told apart from it with {source}." if level else ""
        return f"The best is the default ({settings}).{apart}"
    gain = abs(best["objective"] - default["objective"])
    if not gain:
        return f"The best is no better than the default ({settings})."
    error, source, least = _standard_error(best, default, plan)
    reference = f"the default's {default['objective']:.4f} ({settings})"
    if error is None:
        return f"The best is {gain:.4f} better than {reference}. To see if that is noise, use --executions_per_trial=3."
    if gain <= least * error:
        return (
            f"Best and default cannot be told apart with {source}: the best is {gain:.4f} better than {reference}, with a "
            f"standard error of {error:.4f}."
        )
    selection = f", not counting that it is the best of {len(ranked)}" if len(ranked) > 2 else ""
    return (
        f"The best is {gain:.4f} better than {reference}: {gain / error:.2f} standard errors of {error:.4f} "
        f"with {source} ({least:.2f} are needed){selection}."
    )


def default_trial(plan: Plan, ranked: list[TrialRecord]) -> TrialRecord | None:
    """The finished trial with the Config's own values, if there is one."""
    return next((record for record in ranked if record["values"] == plan.own_values), None)


def standard_error(record: TrialRecord) -> float:
    """The binomial standard error sqrt(p (1 - p) / m) of a trial's validation accuracy p on m images."""
    p = record["objective"]
    return math.sqrt(p * (1 - p) / record["validation_examples"])


def _standard_error(one, other, plan):
    """(standard error of the difference of two trials, what it comes from, how many of it a gain needs to be no noise).

    It is (None, "", 0) if the error is unknown. Several executions give sqrt((s1^2 + s2^2) / n) over n seeds, and Student's t
    with 2 (n - 1) degrees of freedom. If there is one, or all seeds agree, a validation
    accuracy has sqrt(e1^2 + e2^2) of the binomial `standard_error`s. That is too large rather than too small, because
    both students find the same images hard.
    """
    runs = plan.executions_per_trial
    over_seeds = math.hypot(one["spread"], other["spread"]) / math.sqrt(runs) if runs > 1 else 0.0
    if over_seeds:
        return over_seeds, f"{runs} seeds each", student_t(2 * (runs - 1))
    if plan.goal.name != "val_accuracy":
        return None, "", 0.0
    over_images = math.hypot(standard_error(one), standard_error(other))
    return over_images or None, counted(one["validation_examples"], "validation image"), _STANDARD_ERRORS


def short(value: Any) -> str:
    """A value for people: floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)
