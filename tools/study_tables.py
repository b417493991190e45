"""The studies' tables as Markdown, each a function of {cell: record}; with few or no records they say what is missing."""

import protocol_tables
import studies
import study_records
from study_numbers import group_of, mean_and_spread, paired, teacher_slopes
from study_text import (
    NOT_RUN,
    cell_text,
    difference_text,
    footer,
    label,
    markdown,
    mean_and_error_text,
    mean_text,
    pooled_text,
    radius_text,
    spread_text,
)

# What another source gives for a cell, as (top-1, ...) by temperature or row; one seed, so no spread.
PILOT = {
    "kd": {1: 0.815, 4: 0.835, 16: 0.834},
    "skd": {1: 0.827, 4: 0.850},
    "skd_teacher_mean": {1: 0.787, 4: 0.839, 16: 0.842},
    "none": {4: 0.817},
}
PILOT_RADIUS = {"skd": "6.3", "skd_teacher_mean": "20.6"}
PILOT_SOURCE = (
    "Pilot: resnet56 -> resnet8 in another framework, 12 epochs, batch 128, rate 0.1 falling linearly to 0, kd weight 0.9, "
    "one seed; not a published number. None of this pair is known."
)


def capacity_gap(records):
    study = studies.STUDIES["capacity_gap"]
    alone = group_of(study, studies.NO_PAIR, "none", records)
    rows, skd, ahead = [], [], []
    for pair in study.pairs:
        kd, ours = (group_of(study, pair, row, records) for row in ("kd", "skd"))
        skd.append(ours)
        both = sorted(ours.accuracies.keys() & kd.accuracies.keys())
        ahead.append(dict(zip(both, paired(ours.accuracies, kd.accuracies), strict=True)))
        teacher = next((record["teacher"] for group in (kd, ours) for record in group.records.values()), None)
        facts = ["-"] * 3
        if teacher:
            facts = [f"{teacher['parameters']:,}", f"{teacher['accuracy']:.4f}", f"{teacher['logit_norm']:.1f}"]
        texts = [cell_text(group.accuracies, group.wanted) for group in (kd, ours)]
        texts += [difference_text(group.accuracies, alone.accuracies) for group in (kd, ours)]
        rows.append([pair, *facts, *texts, difference_text(ours.accuracies, kd.accuracies)])
    rows.append(["none: student alone", "-", "-", "-", cell_text(alone.accuracies, alone.wanted), "-", "-", "-", "-"])
    spread = pooled_text("SKD - KD", [list(differences.values()) for differences in ahead], 3)
    heading = f"SKD, R = {radius_text(skd)}" if any(skd) else "SKD"
    head = ["teacher", "parameters", "its top-1", "its logits' norm", "KD", heading, "KD - alone", "SKD - alone", "SKD - KD"]
    pilot = ", ".join(f"{label(row)} {PILOT[row][4]:.3f}" for row in ("none", "kd", "skd"))
    return "\n".join([
        markdown(head, rows), "", *_slopes(study, records), "",
        f"Differences are paired by seed, with the standard error of their mean. {spread}".rstrip(),
        f"A seed's SKD - KD over all four teachers: {mean_and_error_text(seed_means(ahead), form='{:+.4f}')}.",
        footer(study, records), f"{PILOT_SOURCE} At T = 4: {pilot}.",
    ])  # fmt: skip


def seed_means(columns):
    """The mean over columns {seed: number} of every seed that all of them have."""
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return [sum(column[seed] for column in columns) / len(columns) for seed in seeds]


def _slopes(study, records):
    """The slopes over the teachers' means, over all runs, and over all runs but the smallest teacher's."""
    smallest = next(iter(study.pairs))
    kinds = {"teachers' means": {"of_means": True}, "all runs": {}, f"all but {smallest}'s": {"without": (smallest,)}}
    found = {kind: teacher_slopes(study, ("kd", "skd"), records, **options) for kind, options in kinds.items()}
    rows = [[name.replace("skd", "SKD").replace("kd", "KD"), *(slope_text(found[kind][name]) for kind in kinds)]
            for name in found["all runs"]]  # fmt: skip
    return [
        "Student's top-1 per doubling of the teacher's parameters, least squares with a 95% interval by Student's t. Runs "
        "of one teacher share what is that teacher's, so the four means are what speaks of teachers at large, with 2 "
        "degrees of freedom:",
        "", markdown(["slope over", *kinds], rows),
    ]  # fmt: skip


def slope_text(found):
    return NOT_RUN if found is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*found)


def temperature(records):
    study, pair = studies.STUDIES["temperature"], "resnet56"
    rows, ranges = [], {}
    for method in studies.BY_TEMPERATURE:
        groups = {t: group_of(study, pair, f"{method}_t{t}", records) for t in studies.TEMPERATURES}
        texts = [cell_text(group.accuracies, group.wanted) for group in groups.values()]
        ranges[method] = seed_ranges(groups.values())
        change = "-" if method == "kd" else difference_text(ranges[method], ranges["kd"])
        texts += [range_text(groups.values()), mean_and_error_text(ranges[method].values()), change]
        rows.append([label(method), radius_text(groups.values()), *texts])
    for method, row in PILOT.items():
        if len(row) > 1:
            texts = [f"{row[t]:.3f}" if t in row else "-" for t in studies.TEMPERATURES]
            rows.append([f"pilot: {label(method)}", PILOT_RADIUS.get(method, "-"), *texts, "-", "-", "-"])
    head = ["", "R", *(f"T = {t}" for t in studies.TEMPERATURES), "range of the means"]
    head += ["a seed's range over T = 1, 4, 16", "minus KD's, paired"]
    return "\n".join([
        markdown(head, rows), "",
        "A range is the highest minus the lowest, and above 0 by noise alone; that of the means mixes one seed with three. "
        "What compares is a seed's own range, and its difference between methods, with the standard error of the mean.",
        footer(study, records), PILOT_SOURCE,
    ])  # fmt: skip


def seed_ranges(groups):
    """{seed: highest minus lowest accuracy} over the groups of several seeds, for seeds that all of them have."""
    columns = [group.accuracies for group in groups if group.wanted > 1]
    return {seed: max(column[seed] for column in columns) - min(column[seed] for column in columns)
            for seed in sorted(set.intersection(*(set(column) for column in columns)))}  # fmt: skip


def radius(records):
    study, pair, rows = studies.STUDIES["radius"], "resnet56", []
    rates = {cell.row: studies.config_of(cell).learning_rate for cell in studies.cells(study)}
    for row in study.rows:
        group = group_of(study, pair, row, records)
        first = study.against.get(row)
        change = difference_text(group.accuracies, group_of(study, pair, first, records).accuracies) if first else "-"
        gains = group.values("by_epoch", "radius_over_student_norm")
        rows.append([
            label(row), radius_text([group]), f"{rates[row]:g}", cell_text(group.accuracies, group.wanted), change,
            mean_text(group, "student", "nll"), mean_text(group, "student", "ece"),
            spread_text([gain[-1] for gain in gains.values()], form="{:.2f}"),
        ])  # fmt: skip
    head = ["", "ships at R", "rate", "top-1", "minus the one it changes, paired", "NLL", "ECE"]
    head.append("R / student's norm at the end")
    return "\n".join([markdown(head, rows), "", footer(study, records)])


def range_text(groups):
    """Highest minus lowest mean over the temperatures that were run."""
    means = [mean for mean in (mean_and_spread(group.accuracies.values())[0] for group in groups) if mean is not None]
    if len(means) < 2:
        return NOT_RUN
    wanted = len(studies.TEMPERATURES)
    return f"{max(means) - min(means):.4f}" + ("" if len(means) == wanted else f" ({len(means)} of {wanted} T)")


def sphere(records):
    study = studies.STUDIES["sphere"]
    default = group_of(study, "resnet56", "skd", records)
    alone = group_of(studies.STUDIES["capacity_gap"], studies.NO_PAIR, "none", records)
    rows, changed = [], []
    for row in study.rows:
        group = group_of(study, "resnet56", row, records)
        changed += [group] * (row != "skd")
        change = "-" if row == "skd" else difference_text(group.accuracies, default.accuracies)
        rows.append([
            "SKD, the default" if row == "skd" else label(row),
            f"an image's own; ships at {radius_text([group])}" if row == "teacher_sample" else radius_text([group]),
            cell_text(group.accuracies, group.wanted), change, difference_text(group.accuracies, alone.accuracies),
            mean_text(group, "student", "nll"),
            mean_text(group, "student", "ece"), mean_text(group, "student", "logit_norm", form="{:.2f}"),
        ])  # fmt: skip
    head = ["one change", "R", "top-1", "minus the default", "minus the student alone", "NLL", "ECE", "student's raw norm"]
    note = pooled_text("difference from the default", [paired(g.accuracies, default.accuracies) for g in changed], 3)
    return "\n".join([
        markdown(head, rows), "", f"Differences are paired by seed, with the standard error of their mean. {note}".rstrip()
        + (f" Of {len(study.rows) - 1} comparisons one in twenty passes it by chance." if note else ""),
        footer(study, records),
    ])  # fmt: skip


def calibration(records):
    rows = []
    for study, pair, row in calibrated_students():
        group = group_of(study, pair, row, records)
        texts = calibration_texts(group)
        rows.append([label(row), "-" if pair == studies.NO_PAIR else pair, radius_text([group]), str(len(group)), *texts])
    head = ["student", "teacher", "R", "n", "top-1", "confidence - top-1", "ECE", "NLL", "raw: confidence - top-1"]
    head += ["raw: ECE", "raw: NLL", "fitted: temperature", "fitted: ECE", "fitted: NLL"]
    return "\n".join([
        markdown(head, rows), "",
        "Mean +- sample standard deviation over n seeds, test split, last epoch; ECE over 15 bins, NLL in nats. First as "
        "the student ships, which for a spherical one is softmax(project(z; R)); then by softmax(z), the raw softmax, where "
        "that is another; then as it ships with one temperature on top, fitted on the held-out images (arXiv:1706.04599), "
        "of the seeds where that was measured.",
    ])  # fmt: skip


def calibrated_students():
    """(Study, pair, row) of each kind of student once, in the order of the studies that calibration reads."""
    found, seen = [], []
    for study in (studies.STUDIES[name] for name in studies.STUDIES["calibration"].drawn_from):
        for cell in studies.cells(study):
            settings = study_records.settings(studies.config_of(cell))
            if cell.seed == 0 and settings not in seen:
                seen.append(settings)
                found.append((study, cell.pair, cell.row))
    return found


def calibration_texts(group):
    texts = [spread_text(group.accuracies.values())]
    for source in ("student", "raw_softmax"):
        gaps = paired(group.values(source, "confidence"), group.values(source, "accuracy"))
        texts.append(spread_text(gaps, form="{:+.4f}"))
        texts += [spread_text(group.values(source, name).values()) for name in ("ece", "nll")]
    texts.append(spread_text(group.values("calibrated", "temperature").values(), form="{:.3f}"))
    return texts + [spread_text(group.values("calibrated", name).values()) for name in ("ece", "nll")]


def cifar100(records):
    study, pair = studies.STUDIES["cifar100"], "cifar100_resnet56"
    alone = group_of(study, studies.NO_PAIR, "none", records)
    configs = {cell.row: studies.config_of(cell) for cell in studies.cells(study)}
    taught = (group_of(study, pair, row, records) for row in study.rows)
    teacher = next((record["teacher"] for group in taught for record in group.records.values()), None)
    accuracy, nll, ece = (f"{teacher[name]:.4f}" if teacher else "-" for name in ("accuracy", "nll", "ece"))
    rows = [["resnet56, the teacher", "-", "-", "-", accuracy, "-", nll, ece, "-"]]
    rate = f"{configs['none'].learning_rate:g}"
    rows.append([label("none"), "-", rate, "-", cell_text(alone.accuracies, alone.wanted), "-", *_quality(alone)])
    for row in study.rows:
        group = group_of(study, pair, row, records)
        rows.append([
            label(row), weights_text(configs[row]), f"{configs[row].learning_rate:g}", radius_text([group]),
            cell_text(group.accuracies, group.wanted), difference_text(group.accuracies, alone.accuracies), *_quality(group),
        ])  # fmt: skip
    head = ["method", "label, distill weight", "rate", "R", "top-1", "minus alone, paired, standard error"]
    head += ["NLL", "ECE", "agreement"]
    return "\n".join([
        markdown(head, rows), "", footer(study, records),
        "KD's and SKD's authors' weights are the matched ones. No published number stands beside these: none is known for "
        "resnet8, and the field's tables are of 240 epochs on 50,000 images.",
    ])  # fmt: skip


def cifar100_temperature(records):
    """KD and SKD at about equal R / T; of raw logits the norm that counts is the teacher's."""
    study, rates, rows = studies.STUDIES["cifar100_temperature"], studies.HARDNESS_RATES, []
    for temperatures in studies.EQUAL_HARDNESS:
        line, tested, own = [], {}, {}
        for method, t in zip(("kd", "skd"), temperatures, strict=True):
            groups = {rate: group_of(study, "cifar100_resnet56", f"{method}_t{t}_{rate:g}", records) for rate in rates}
            tested[method] = {rate: group.accuracies for rate, group in groups.items()}
            held_out = {rate: group.values("by_epoch", "val_accuracy") for rate, group in groups.items()}
            if all(held_out.values()):
                own[method] = protocol_tables.best_rate({rate: found[0][-1] for rate, found in held_out.items()})
            path = ("teacher", "logit_norm") if method == "kd" else ("radius",)
            norms = [norm for group in groups.values() for norm in group.values(*path).values()]
            texts = {rate: cell_text(group.accuracies, group.wanted) for rate, group in groups.items()}
            line += [str(t), f"{norms[0] / t:.1f}" if norms else "-"]
            line += [f"**{text}**" if rate == own.get(method) else text for rate, text in texts.items()]
        line += [difference_text(tested["skd"][rate], tested["kd"][rate]) for rate in rates]
        each = difference_text(*(tested[method][own[method]] for method in ("skd", "kd"))) if len(own) == 2 else "-"
        rows.append([*line, each])
    at = [f"at {rate:g}" for rate in rates]
    head = ["KD: T", "norm / T", *at, "SKD: T", "R / T", *at, *(f"SKD - KD {rate}" for rate in at), "each at its own rate"]
    return "\n".join([
        markdown(head, rows), "",
        "The norm is the teacher's mean over the test split; in bold a method's own rate at this T, by the rule above.",
        footer(study, records),
    ])  # fmt: skip


def weights_text(config):
    """The weights of label and distill term."""
    label_weight = config.label_weight
    if label_weight is None:
        label_weight = "1 - distill" if isinstance(config.kd_weight, str) else round(1 - config.kd_weight, 12)
    return ", ".join(weight if isinstance(weight, str) else f"{weight:g}" for weight in (label_weight, config.kd_weight))


def _quality(group):
    return [mean_text(group, "student", name) for name in ("nll", "ece", "agreement")]


TABLES = protocol_tables.TABLES | {table.__name__: table for table in (
    capacity_gap, temperature, radius, sphere, calibration, cifar100, cifar100_temperature,
)}  # fmt: skip
