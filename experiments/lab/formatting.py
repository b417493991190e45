"""Words and cells of the studies' tables: names of rows, means with spreads, paired differences, Markdown."""

import statistics

from experiments.lab import definitions
from experiments.lab.statistics import (
    LEVEL,
    mean_and_spread,
    paired,
    pooled_spread,
    residual_spread,
    t_quantile,
    training_seconds,
)

LABELS = {  # of rows, in tables and figures; others by their own name
    "none": "student alone",
    "kd": "KD",
    "kd_half": "KD, kd weight 0.5",
    "skd": "SKD",
    "skd_half": "SKD, kd weight 0.5",
    "skd_teacher_mean": "SKD, radius teacher_mean",
    "float32_live": "float32, teacher live",
    "bfloat16_live": "bfloat16, teacher live",
    "bfloat16_cached": "bfloat16, logits cached in float16",
    "default": "the default",
    "label_on_large": "the default, label term at R = 22",
    "t4": "R = 22, T = 4",
    "t4_not_centered": "the same, not centred: the paper's figure",
    "t4_label_on_default": "the same, label term at R = 6.3",
    "t4_no_label": "the same, no label term",
    "t4_scaled": "the same, loss times 6.3 / 22",
    "t4_rate_0.1": "the same, half the rate",
    "t4_rate_0.05": "the same, a quarter of the rate",
    "t1": "R = 22, T = 1",
    "t1_scaled": "the same, loss times 6.3 / 22",
    "t1_rate_0.1": "the same, half the rate",
    "t1_rate_0.05": "the same, a quarter of the rate",
    "no_teacher": "R = 6.3, no teacher",
    "no_teacher_large": "the same, R = 22",
    "label_on_raw": "label term on raw logits",
    "not_centered": "not centred",
    "teacher_mean": "radius teacher_mean",
    "teacher_sample": "radius teacher_sample",
    "radius_1": "radius sqrt(C)",
    "radius_3": "radius 3 sqrt(C)",
    "radius_4": "radius 4 sqrt(C)",
    "stepwise_weight": "stepwise kd weight",
    "no_distillation": "kd weight 0: no teacher",
    "logit_standardization": "Logit Standardization",
    "logit_standardization_authors": "Logit Standardization, authors' weights",
    "dkd": "DKD",
    "dkd_authors": "DKD, authors' weights",
    "dist": "DIST",
    "dist_authors": "DIST, authors' weights",
}
NOT_RUN = "not run"


def label(row):
    method, _, temperature = row.rpartition("_t")
    if method in LABELS and temperature.isdigit():
        return f"{LABELS[method]}, T = {temperature}"
    return LABELS.get(row, row)


def spread_text(values, form="{:.4f}"):
    """ "mean +- spread" of values, the mean of a single one, or "-"."""
    mean, spread = mean_and_spread(values)
    if mean is None:
        return "-"
    return form.format(mean) + (f" +- {spread:.4f}" if spread is not None else "")


def cell_text(values, wanted):
    """ "mean +- spread (n)" of {seed: value}, "(n of wanted)" where some are missing, or "not run"."""
    if not values:
        return NOT_RUN
    return f"{spread_text(values.values())} ({len(values)}{'' if len(values) == wanted else f' of {wanted}'})"


def difference_text(values, others):
    """ "mean, SE standard error (n)" of the differences of two {seed: value}, paired by seed."""
    return mean_and_error_text(paired(values, others), form="{:+.4f}")


def mean_and_error_text(values, form="{:.4f}"):
    """ "mean, SE standard error (n)" of values."""
    values = list(values)
    mean, spread = mean_and_spread(values)
    if mean is None:
        return "-"
    error = f", SE {spread / len(values) ** 0.5:.4f}" if spread is not None else ""
    return f"{form.format(mean)}{error} ({len(values)})"


def interval_text(values):
    """ "mean (low to high)" by Student's t, 95%; the mean of a single one, or "not run"."""
    mean, spread = mean_and_spread(values)
    if spread is None:
        return NOT_RUN if mean is None else f"{mean:+.4f}"
    half = t_quantile((1 + LEVEL) / 2, len(values) - 1) * spread / len(values) ** 0.5
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def pooled_text(what, differences):
    """A sentence on how far the means of paired differences can be trusted, from the spread pooled over all comparisons."""
    pooled = pooled_spread(differences)
    if pooled is None:
        return ""
    spread, degrees = pooled
    halves = {
        n: t_quantile((1 + LEVEL) / 2, degrees) * spread / n**0.5 for n in sorted({len(d) for d in differences if d})
    }
    means = " and ".join(f"of {n} seeds +- {half:.4f}" for n, half in halves.items())
    return (
        f"One seed's {what} spreads by {spread:.4f} (pooled over {len(differences)} comparisons as if independent, "
        f"{degrees} degrees of freedom). By it a mean has a 95% interval, by Student's t, {means}."
    )


def against_one_text(columns):
    """A sentence on the means of differences from one and the same row, from `residual_spread` of all rows.

    Args:
      columns: {seed: accuracy} of every row, the one that all are compared with among them.
    """
    found = residual_spread(columns)
    if found is None:
        return ""
    spread, degrees, n = found
    others, error = len(columns) - 1, spread * (2 / n) ** 0.5
    one, all_of_them = (error * t_quantile(1 - (1 - LEVEL) / 2 / count, degrees) for count in (1, others))
    return (
        f"Beside what a row and a seed add, accuracies spread by {spread:.4f} ({degrees} degrees of freedom). By it a mean "
        f"difference of {n} seeds has a 95% interval of +- {one:.4f} by Student's t, for all {others} at once +- "
        f"{all_of_them:.4f} (Bonferroni)."
    )


def radius_text(groups):
    """The radii in force, "-" for raw readouts."""
    radii = sorted({round(radius, 3) for group in groups for radius in group.values("radius").values()})
    return ", ".join(f"{radius:g}" for radius in radii) or "-"


def mean_text(group, *keys, form="{:.4f}"):
    mean, _ = mean_and_spread(group.values(*keys).values())
    return "-" if mean is None else form.format(mean)


def markdown(headings, rows):
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def footer(study, records):
    """What holds for all cells of a table: what is averaged, how many there are, and where they ran."""
    cells = definitions.cells(study)
    mine = [records[cell] for cell in cells if cell in records]
    cut = ""
    if study.meant_epochs:
        [epochs] = {definitions.config_of(cell).epochs for cell in cells if not cell.is_teacher}
        cut = f" {epochs} epochs, where {study.meant_epochs} were meant: cut for all methods alike."
    lines = [
        "Top-1 on the test split after the last epoch: mean +- sample standard deviation over seeds (their number), at one "
        f"data_seed and with one teacher of each kind, which understates the spread.{cut}"
    ]
    if mine:
        machines = "; ".join(sorted({record["device"] for record in mine}))
        minutes = statistics.median(map(training_seconds, mine)) / 60
        versions = sorted({f"TensorFlow {record['versions']['tensorflow']}" for record in mine})
        lines.append(
            f"{len(mine)} of {len(cells)} cells, median {minutes:.1f} minutes of training each, on {machines}; "
            f"{', '.join(versions)}."
        )
    else:
        lines.append(f"None of the {len(cells)} cells has been run.")
    return "\n".join(lines)
