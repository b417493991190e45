"""The studies' tables as Markdown, each a function of {cell: record}; with few or no records they say what is missing."""

from experiments.lab import definitions
from experiments.lab import records as study_records
from experiments.lab.formatting import (
    NOT_RUN,
    against_one_text,
    cell_text,
    difference_text,
    footer,
    interval_text,
    label,
    markdown,
    mean_and_error_text,
    mean_text,
    pooled_text,
    radius_text,
    spread_text,
)
from experiments.lab.statistics import (
    group_of,
    mean_and_spread,
    paired,
    seed_changes,
    seed_means,
    seed_ranges,
    teacher_slopes,
)
from experiments.lab.tables import cifar100, held_out, protocol

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
    "one seed; not a published number, of which none is known for this pair."
)


def capacity_gap(records):
    study = definitions.STUDIES["capacity_gap"]
    alone = group_of(study, definitions.NO_PAIR, "none", records)
    rows, skd, ahead = [], [], []
    for pair in study.pairs:
        kd, ours = (group_of(study, pair, row, records) for row in ("kd", "skd"))
        skd.append(ours)
        ahead.append(seed_changes(ours.accuracies, kd.accuracies))
        teacher = next((record["teacher"] for group in (kd, ours) for record in group.records.values()), None)
        facts = ["-"] * 3
        if teacher:
            facts = [f"{teacher['parameters']:,}", f"{teacher['accuracy']:.4f}", f"{teacher['logit_norm']:.1f}"]
        texts = [cell_text(group.accuracies, group.wanted) for group in (kd, ours)]
        texts += [difference_text(group.accuracies, alone.accuracies) for group in (kd, ours)]
        rows.append([pair, *facts, *texts, difference_text(ours.accuracies, kd.accuracies)])
    rows.append(["none: student alone", "-", "-", "-", cell_text(alone.accuracies, alone.wanted), "-", "-", "-", "-"])
    spread = pooled_text("SKD - KD", [list(differences.values()) for differences in ahead])
    heading = f"SKD, R = {radius_text(skd)}" if any(skd) else "SKD"
    head = [
        "teacher",
        "parameters",
        "its top-1",
        "its logits' norm",
        "KD",
        heading,
        "KD - alone",
        "SKD - alone",
        "SKD - KD",
    ]
    pilot = ", ".join(f"{label(row)} {PILOT[row][4]:.3f}" for row in ("none", "kd", "skd"))
    return "\n".join(
        [
            markdown(head, rows),
            "",
            *_slopes(study, records),
            "",
            f"Differences are paired by seed, with the standard error of their mean. {spread}".rstrip(),
            f"A seed's SKD - KD over all four teachers: {mean_and_error_text(seed_means(ahead), form='{:+.4f}')}. "
            f"{_between_ends(study, records)}.",
            footer(study, records),
            f"{PILOT_SOURCE} At T = 4: {pilot}.",
        ]
    )


def _between_ends(study, records):
    """What a seed loses or gains from the smallest teacher to the largest."""
    ends, found = (next(iter(study.pairs)), next(reversed(study.pairs))), {}
    for row in ("kd", "skd"):
        small, large = (group_of(study, pair, row, records).accuracies for pair in ends)
        found[row] = seed_changes(large, small)
    texts = [f"{label(row)} {interval_text(list(change.values()))}" for row, change in found.items()]
    texts.append(f"SKD - KD {interval_text(paired(found['skd'], found['kd']))}")
    return f"From {ends[0]} to {ends[1]}, with a 95% interval: {', '.join(texts)}"


def _slopes(study, records):
    """The slopes over the teachers' means, over all runs, and over all runs but the smallest teacher's."""
    smallest = next(iter(study.pairs))
    kinds = {"teachers' means": {"of_means": True}, "all runs": {}, f"all but {smallest}'s": {"without": (smallest,)}}
    found = {kind: teacher_slopes(study, ("kd", "skd"), records, **options) for kind, options in kinds.items()}
    rows = [
        [name.replace("skd", "SKD").replace("kd", "KD"), *(slope_text(found[kind][name]) for kind in kinds)]
        for name in found["all runs"]
    ]
    return [
        "Student's top-1 per doubling of the teacher's parameters, least squares with a 95% interval by Student's t. Runs "
        "of one teacher share what is that teacher's, so the four means are what speaks of teachers at large, with 2 "
        "degrees of freedom:",
        "",
        markdown(["slope over", *kinds], rows),
    ]


def slope_text(found):
    return NOT_RUN if found is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*found)


def temperature(records):
    study, pair = definitions.STUDIES["temperature"], "resnet56"
    rows, ranges = [], {}
    for method in definitions.BY_TEMPERATURE:
        groups = {t: group_of(study, pair, f"{method}_t{t}", records) for t in definitions.TEMPERATURES}
        texts = [cell_text(group.accuracies, group.wanted) for group in groups.values()]
        ranges[method] = seed_ranges([group.accuracies for group in groups.values() if group.wanted > 1])
        change = "-" if method == "kd" else difference_text(ranges[method], ranges["kd"])
        texts += [range_text(groups.values()), mean_and_error_text(ranges[method].values()), change]
        rows.append([label(method), radius_text(groups.values()), *texts])
    for method, row in PILOT.items():
        if len(row) > 1:
            texts = [f"{row[t]:.3f}" if t in row else "-" for t in definitions.TEMPERATURES]
            rows.append([f"pilot: {label(method)}", PILOT_RADIUS.get(method, "-"), *texts, "-", "-", "-"])
    head = ["", "R", *(f"T = {t}" for t in definitions.TEMPERATURES), "range of the means"]
    several = [str(t) for t in definitions.TEMPERATURES if len(study.seeds_for(f"skd_t{t}", pair)) > 1]
    head += [f"a seed's range over T = {', '.join(several)}", "minus KD's, paired"]
    return "\n".join(
        [
            markdown(head, rows),
            "",
            "A range is the highest minus the lowest, and above 0 by noise alone; that of the means mixes numbers of seeds. "
            "What compares is a seed's own range, and its difference between methods, with the standard error of the mean.",
            footer(study, records),
            PILOT_SOURCE,
        ]
    )


def hardness(records):
    """KD and SKD on CIFAR-10 at about equal R / T; of raw logits the norm that counts is the teacher's."""
    study, rows = definitions.STUDIES["temperature"], []
    for t in (t for t in definitions.TEMPERATURES if 4 * t in definitions.TEMPERATURES):
        kd, skd = (group_of(study, "resnet56", row, records) for row in (f"kd_t{4 * t}", f"skd_t{t}"))
        both = sorted(kd.accuracies.keys() & skd.accuracies.keys())
        norms = [kd.records[both[0]]["teacher"]["logit_norm"], skd.records[both[0]]["radius"]] if both else []
        soft = [f"{norm / its:.1f}" for norm, its in zip(norms, (4 * t, t), strict=True)] if both else ["-", "-"]
        tested = [cell_text({seed: group.accuracies[seed] for seed in both}, len(both)) for group in (kd, skd)]
        change = difference_text(skd.accuracies, kd.accuracies)
        rows.append([str(4 * t), soft[0], tested[0], str(t), soft[1], tested[1], change])
    head = ["KD: T", "norm / T", "top-1", "SKD: T", "R / T", "top-1", "SKD - KD, paired"]
    note = (
        "Of the table above (cells, spread), the seeds that both have; the norm is the teacher's over the test split."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def radius(records):
    study, pair, rows = definitions.STUDIES["radius"], "resnet56", []
    rates = {cell.row: definitions.config_of(cell).learning_rate for cell in definitions.cells(study)}
    for row in study.rows:
        group = group_of(study, pair, row, records)
        first = study.against.get(row)
        change = difference_text(group.accuracies, group_of(study, pair, first, records).accuracies) if first else "-"
        gains = group.values("by_epoch", "radius_over_student_norm")
        rows.append(
            [
                label(row),
                radius_text([group]),
                f"{rates[row]:g}",
                cell_text(group.accuracies, group.wanted),
                change,
                mean_text(group, "student", "nll"),
                mean_text(group, "student", "ece"),
                spread_text([gain[-1] for gain in gains.values()], form="{:.2f}"),
            ]
        )
    head = ["", "ships at R", "rate", "top-1", "minus the one it changes, paired", "NLL", "ECE"]
    head.append("R / student's norm at the end")
    return "\n".join([markdown(head, rows), "", footer(study, records)])


def range_text(groups):
    """Highest minus lowest mean over the temperatures that were run."""
    means = [mean for mean in (mean_and_spread(group.accuracies.values())[0] for group in groups) if mean is not None]
    if len(means) < 2:
        return NOT_RUN
    wanted = len(definitions.TEMPERATURES)
    return f"{max(means) - min(means):.4f}" + ("" if len(means) == wanted else f" ({len(means)} of {wanted} T)")


def sphere(records):
    study = definitions.STUDIES["sphere"]
    default = group_of(study, "resnet56", "skd", records)
    alone = group_of(definitions.STUDIES["capacity_gap"], definitions.NO_PAIR, "none", records)
    rows, columns = [], []
    for row in study.rows:
        group = group_of(study, "resnet56", row, records)
        columns.append(group.accuracies)
        change = "-" if row == "skd" else difference_text(group.accuracies, default.accuracies)
        rows.append(
            [
                "SKD, the default" if row == "skd" else label(row),
                f"an image's own; ships at {radius_text([group])}" if row == "teacher_sample" else radius_text([group]),
                cell_text(group.accuracies, group.wanted),
                change,
                difference_text(group.accuracies, alone.accuracies),
                mean_text(group, "student", "nll"),
                mean_text(group, "student", "ece"),
                mean_text(group, "student", "logit_norm", form="{:.2f}"),
            ]
        )
    head = [
        "one change",
        "R",
        "top-1",
        "minus the default",
        "minus the student alone",
        "NLL",
        "ECE",
        "student's raw norm",
    ]
    note = "Differences are paired by seed, with the standard error of their mean."
    return "\n".join([markdown(head, rows), "", f"{note} {against_one_text(columns)}".rstrip(), footer(study, records)])


def pilot_schedule(records):
    """One seed at the studies' schedule, then step by step at the pilot's; beside it the pilot, below the differences."""
    study = definitions.STUDIES["pilot_schedule"]
    sources = (study, *(definitions.STUDIES[name] for name in study.drawn_from))
    of_path = {cell.path: records.get(cell, {}) for cell in definitions.cells(*sources)}

    def texts(row, pair="resnet56", first="capacity_gap"):
        schedules = (
            f"{first}/{pair}/{row}",
            f"rates/{pair}/{row}_0.1",
            *(f"pilot_schedule/{pair}/{row}{end}" for end in definitions.PILOT_SCHEDULES),
        )
        found = [of_path.get(f"{path}/seed0") for path in schedules]
        return [
            "-" if record is None else f"{record['student']['accuracy']:.4f}" if record else NOT_RUN for record in found
        ]

    top = {
        row: [*texts(row, pair), f"{PILOT[row][4]:.3f}"]
        for row, pair in (("none", definitions.NO_PAIR), ("kd", "resnet56"), ("skd", "resnet56"))
    }
    rows = [[label(row), *values] for row, values in top.items()]
    rows.append([f"SKD, {label('not_centered')}", *texts("not_centered", first="sphere"), "-"])
    for row, other in (("kd", "none"), ("skd", "none"), ("skd", "kd")):
        differences = [
            "-" if NOT_RUN in both else f"{float(both[0]) - float(both[1]):+.4f}"
            for both in zip(top[row], top[other], strict=True)
        ]
        rows.append([f"{label(row)} - {label(other)}", *differences])
    head = ["seed 0, T = 4", "rate 0.2", "rate 0.1", "no warm-up", "linear", "50,000 images", "warm-up again", "pilot"]
    return "\n".join([markdown(head, rows), "", footer(study, records)])


def calibration(records):
    rows = []
    for study, pair, row in calibrated_students():
        group = group_of(study, pair, row, records)
        texts = calibration_texts(group)
        rows.append(
            [label(row), "-" if pair == definitions.NO_PAIR else pair, radius_text([group]), str(len(group)), *texts]
        )
    head = ["student", "teacher", "R", "n", "top-1", "confidence - top-1", "ECE", "NLL", "raw: confidence - top-1"]
    head += ["raw: ECE", "raw: NLL", "fitted: n", "fitted: temperature", "fitted: ECE", "fitted: NLL"]
    return "\n".join(
        [
            markdown(head, rows),
            "",
            "Mean +- sample standard deviation over n seeds, test split, last epoch; ECE over 15 bins, NLL in nats. First as "
            "the student ships, which for a spherical one is softmax(project(z; R)); then by softmax(z), the raw softmax, where "
            "that is another; then as it ships with one temperature on top, fitted on the held-out images (arXiv:1706.04599), "
            "of n seeds. Hardware, cells and what the spread leaves out are those of the studies above.",
        ]
    )


def calibrated_students():
    """(Study, pair, row) of each kind of student once, in the order of the studies that calibration reads."""
    found, seen = [], []
    for study in (definitions.STUDIES[name] for name in definitions.STUDIES["calibration"].drawn_from):
        for cell in definitions.cells(study):
            settings = study_records.settings(definitions.config_of(cell))
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
    fitted = group.values("calibrated", "temperature")
    texts += [str(len(fitted)), spread_text(fitted.values(), form="{:.3f}")]
    return texts + [spread_text(group.values("calibrated", name).values()) for name in ("ece", "nll")]


def evidence(records):
    """The page in front: the student alone, KD and SKD of each kind of student."""
    study, lines, ahead = definitions.STUDIES["capacity_gap"], [], []

    def line(students, alone, kd, skd, dist=None):
        gains = seed_changes(skd, kd)
        texts = [cell_text(values, len(values)) if values else "-" for values in (alone, kd, skd, dist)]
        lines.append([students, *texts, interval_text(list(gains.values()))])
        return gains

    alone = group_of(study, definitions.NO_PAIR, "none", records).accuracies
    for pair in study.pairs:
        kd, skd = (group_of(study, pair, row, records).accuracies for row in ("kd", "skd"))
        ahead.append(line(f"resnet8, CIFAR-10, from {pair}, 12 epochs", alone, kd, skd))
    lines.append(["the mean of these four", "-", "-", "-", "-", interval_text(seed_means(ahead))])
    tested = cifar100.accuracies(records)
    line("resnet8, CIFAR-100, from resnet56, 12 epochs", *(tested[row] for row in cifar100.COMPARED))
    tested = cifar100.gpu_accuracies()
    line("resnet20, CIFAR-100, from resnet56, 50 epochs, one rate (a)", *(tested[row] for row in cifar100.COMPARED))
    head = ["students", "alone", "KD", "SKD", "DIST, authors' weights", "SKD - KD, 95% interval over seeds"]
    return "\n".join(
        [
            markdown(head, lines),
            "",
            "Test top-1, last epoch, as the student ships: mean +- standard deviation (seeds), at one data_seed and with one "
            "teacher of each kind, which understates the spread.",
            "(a) Trained on a GPU by this package's networks and losses on Keras' JAX backend; 0.2, SKD's own rate, for all.",
        ]
    )


TABLES = (
    protocol.TABLES
    | cifar100.TABLES
    | held_out.TABLES
    | {
        table.__name__: table
        for table in (evidence, capacity_gap, temperature, hardness, radius, sphere, pilot_schedule, calibration)
    }
)
