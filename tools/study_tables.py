"""The studies' tables as Markdown, each a function of {cell: record}; with few or no records they say what is missing."""

import protocol_tables
import studies
from study_numbers import group_of, mean_and_spread, paired, teacher_slopes
from study_text import (
    NOT_RUN,
    cell_text,
    difference_text,
    footer,
    label,
    markdown,
    mean_text,
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
    rows, skd = [], []
    for pair in study.pairs:
        kd, ours = (group_of(study, pair, row, records) for row in ("kd", "skd"))
        skd.append(ours)
        teacher = next((record["teacher"] for group in (kd, ours) for record in group.records.values()), None)
        facts = [f"{teacher['parameters']:,}", f"{teacher['accuracy']:.4f}"] if teacher else ["-", "-"]
        texts = [cell_text(group.accuracies, group.wanted) for group in (kd, ours)]
        texts += [difference_text(group.accuracies, alone.accuracies) for group in (kd, ours)]
        rows.append([pair, *facts, *texts, difference_text(ours.accuracies, kd.accuracies)])
    rows.append(["none: student alone", "-", "-", cell_text(alone.accuracies, alone.wanted), "-", "-", "-", "-"])
    heading = f"SKD, R = {radius_text(skd)}" if any(skd) else "SKD"
    head = ["teacher", "parameters", "its top-1", "KD", heading, "KD - alone", "SKD - alone", "SKD - KD"]
    pilot = ", ".join(f"{label(row)} {PILOT[row][4]:.3f}" for row in ("none", "kd", "skd"))
    slopes = [f"- {name.replace('skd', 'SKD').replace('kd', 'KD')}: {slope_text(found)}"
              for name, found in teacher_slopes(study, ("kd", "skd"), records).items()]  # fmt: skip
    return "\n".join([
        markdown(head, rows), "",
        "Student's top-1 per doubling of the teacher's parameters (least squares over all teachers and seeds; 95% interval "
        "by Student's t, n - 2 degrees of freedom, which takes the runs as independent: yet there are but four teachers):",
        "", *slopes, "", "Differences are paired by seed, with the standard error of their mean.", footer(study, records),
        f"{PILOT_SOURCE} At T = 4: {pilot}.",
    ])  # fmt: skip


def slope_text(found):
    return NOT_RUN if found is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*found)


def temperature(records):
    study, pair = studies.STUDIES["temperature"], "resnet56"
    rows = []
    for method in studies.BY_TEMPERATURE:
        groups = {t: group_of(study, pair, f"{method}_t{t}", records) for t in studies.TEMPERATURES}
        texts = [cell_text(group.accuracies, group.wanted) for group in groups.values()]
        rows.append([label(method), radius_text(groups.values()), *texts, range_text(groups.values())])
    for method, row in PILOT.items():
        if len(row) > 1:
            texts = [f"{row[t]:.3f}" if t in row else "-" for t in studies.TEMPERATURES]
            rows.append([f"pilot: {label(method)}", PILOT_RADIUS.get(method, "-"), *texts, "-"])
    head = ["", "R", *(f"T = {t}" for t in studies.TEMPERATURES), "range over T"]
    return "\n".join([markdown(head, rows), "", footer(study, records), PILOT_SOURCE])


def radius(records):
    study, pair = studies.STUDIES["radius"], "resnet56"
    spheres = {cell.row: cell for cell in studies.cells(studies.STUDIES["temperature"]) if cell.seed == 0}
    rows = []
    for t in (1, 4):
        default = group_of(studies.STUDIES["temperature"], pair, f"skd_t{t}", records)
        rate = studies.config_of(spheres[f"skd_t{t}"]).learning_rate
        rows.append([f"T = {t}, the default radius", radius_text([default]), f"{rate:g}", *_radius_texts(default)])
        for row in study.rows:
            if row.split("_")[0] == f"t{t}":
                group = group_of(study, pair, row, records)
                rate = next(studies.config_of(cell).learning_rate for cell in studies.cells(study) if cell.row == row)
                rows.append([label(row), radius_text([group]), f"{rate:g}", *_radius_texts(group)])
    head = ["", "R", "rate", "top-1", "validation top-1 at half-time", "NLL", "ECE", "R / student's norm at the end"]
    return "\n".join([markdown(head, rows), "", footer(study, records)])


def _radius_texts(group):
    half = {seed: column[len(column) // 2 - 1] for seed, column in group.values("by_epoch", "val_accuracy").items()}
    gain = {seed: column[-1] for seed, column in group.values("by_epoch", "radius_over_student_norm").items()}
    means = [mean_and_spread(column.values())[0] for column in (half, gain)]
    half, gain = ("-" if mean is None else form.format(mean) for form, mean in zip(("{:.4f}", "{:.2f}"), means, strict=True))
    quality = [mean_text(group, "student", name) for name in ("nll", "ece")]
    return [cell_text(group.accuracies, group.wanted), half, *quality, gain]


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
    rows = []
    for row in study.rows:
        group = group_of(study, "resnet56", row, records)
        change = "-" if row == "skd" else difference_text(group.accuracies, default.accuracies)
        rows.append([
            "SKD, the default" if row == "skd" else label(row),
            "an image's own" if row == "teacher_sample" else radius_text([group]),
            cell_text(group.accuracies, group.wanted), change, difference_text(group.accuracies, alone.accuracies),
            mean_text(group, "student", "nll"),
            mean_text(group, "student", "ece"), mean_text(group, "student", "logit_norm", form="{:.2f}"),
        ])  # fmt: skip
    head = ["one change", "R", "top-1", "minus the default", "minus the student alone", "NLL", "ECE", "student's raw norm"]
    return "\n".join([
        markdown(head, rows), "", "Differences are paired by seed, with the standard error of their mean.",
        footer(study, records),
    ])  # fmt: skip


def calibration(records):
    rows = []
    for name in studies.STUDIES["calibration"].drawn_from:
        study = studies.STUDIES[name]
        for pair in (studies.NO_PAIR, *study.pairs):
            for row in study.alone if pair == studies.NO_PAIR else study.rows:
                group = group_of(study, pair, row, records)
                if name == "sphere" and row == "skd":  # stands among the first study's
                    continue
                teacher = "-" if pair == studies.NO_PAIR else pair
                rows.append([label(row), teacher, str(len(group)), *calibration_texts(group)])
    head = ["student", "teacher", "n", "top-1", "confidence - top-1", "ECE", "NLL",
            "raw: confidence - top-1", "raw: ECE", "raw: NLL"]  # fmt: skip
    return "\n".join([
        markdown(head, rows), "",
        "Mean +- sample standard deviation over n seeds, test split, last epoch; ECE over 15 bins, NLL in nats. First as "
        "the student ships, which for a spherical one is softmax(project(z; R)); then by softmax(z), the raw softmax, where "
        "that is another.",
    ])  # fmt: skip


def calibration_texts(group):
    texts = [spread_text(group.accuracies.values())]
    for source in ("student", "raw_softmax"):
        gaps = paired(group.values(source, "confidence"), group.values(source, "accuracy"))
        texts.append(spread_text(gaps, form="{:+.4f}"))
        texts += [spread_text(group.values(source, name).values()) for name in ("ece", "nll")]
    return texts


def cifar100(records):
    study, pair = studies.STUDIES["cifar100"], "cifar100_resnet32"
    alone = group_of(study, studies.NO_PAIR, "none", records)
    teacher = group_of(study, studies.NO_PAIR, pair, records)
    rows = [["resnet32, the teacher", "-", "-", cell_text(teacher.accuracies, teacher.wanted), "-", *_quality(teacher)]]
    rows.append(["student alone", "-", "-", cell_text(alone.accuracies, alone.wanted), "-", *_quality(alone)])
    configs = {cell.row: studies.config_of(cell) for cell in studies.cells(study)}
    for row in study.rows:
        group = group_of(study, pair, row, records)
        rows.append([
            label(row), weights_text(configs[row]), radius_text([group]), cell_text(group.accuracies, group.wanted),
            difference_text(group.accuracies, alone.accuracies), *_quality(group),
        ])  # fmt: skip
    head = ["method", "label, distill weight", "R", "top-1", "minus alone, paired, standard error"]
    head += ["NLL", "ECE", "agreement"]
    return "\n".join([
        markdown(head, rows), "", footer(study, records),
        "KD's and SKD's authors' weights are the matched ones. No published number stands beside these: none is known for "
        "resnet8, and the field's tables are of 240 epochs on 50,000 images.",
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
    capacity_gap, temperature, radius, sphere, calibration, cifar100,
)}  # fmt: skip
