"""The studies' figures, each a function (figure, {cell: record}) that draws on an empty matplotlib Figure."""

from experiments.lab import definitions
from experiments.lab.formatting import label
from experiments.lab.statistics import group_of, mean_and_spread, paired, teacher_slopes
from experiments.lab.tables import cifar10

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLOURS = {"kd": "#D55E00", "skd": "#0072B2", "skd_teacher_mean": "#009E73", "none": "#777777"}
MARKERS = {"kd": "s", "skd": "o", "skd_teacher_mean": "D", "none": "v"}
_BAR = {"capsize": 3, "elinewidth": 1.0, "linewidth": 1.6, "markersize": 6}
_SPREAD = "bars: standard deviation over seeds; faint dots: seeds"


def styled(axes):
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def note(figure, text):
    figure.supxlabel(text, fontsize=8, color="0.4")


def capacity_gap(figure, records):
    """Student's accuracy against the teacher's parameters, every seed a faint dot; below it SKD - KD."""
    study = definitions.STUDIES["capacity_gap"]
    figure.set_size_inches(8, 6.5)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    styled(axes)
    alone, _ = mean_and_spread(group_of(study, definitions.NO_PAIR, "none", records).accuracies.values())
    if alone is not None:
        axes.plot([], [], " ", label=f"{label('none')}: {alone:.4f},\nbelow what is drawn")
    slopes, ticks = teacher_slopes(study, ("kd", "skd"), records, of_means=True), {}
    for row, side in (("kd", 0.985), ("skd", 1.015)):  # beside each other, not on top
        xs, means, spreads = [], [], []
        for pair in study.pairs:
            group = group_of(study, pair, row, records)
            if not group:
                continue
            teacher = next(iter(group.records.values()))["teacher"]
            size = teacher["parameters"]
            ticks[size] = f"{pair}\n{size / 1e6:.2f} M\n{teacher['accuracy']:.4f}"
            mean, spread = mean_and_spread(group.accuracies.values())
            xs, means, spreads = [*xs, size * side], [*means, mean], [*spreads, spread or 0]
            axes.plot(
                [size * side] * len(group),
                list(group.accuracies.values()),
                MARKERS[row],
                color=COLOURS[row],
                alpha=0.25,
                markersize=4.5,
                markeredgewidth=0,
                zorder=2,
            )
        if xs:
            found = slopes[row]
            text = "" if found is None else "\n{:+.4f} per doubling\n({:+.4f} to {:+.4f})".format(*found)
            axes.errorbar(
                xs,
                means,
                yerr=spreads,
                color=COLOURS[row],
                marker=MARKERS[row],
                label=label(row) + text,
                zorder=3,
                **_BAR,
            )
    ahead = {}
    for pair in study.pairs:
        kd, skd = (group_of(study, pair, row, records) for row in ("kd", "skd"))
        differences = paired(skd.accuracies, kd.accuracies)
        if differences:
            ahead[next(iter(skd.records.values()))["teacher"]["parameters"]] = differences
    styled(below).axhline(0, color=COLOURS["none"], linewidth=1.2, linestyle="--", zorder=1)
    if ahead:
        means, spreads = zip(*map(mean_and_spread, ahead.values()), strict=True)
        below.errorbar(list(ahead), means, yerr=[spread or 0 for spread in spreads], fmt="o", color="black", **_BAR)
        for size, differences in ahead.items():
            below.plot(
                [size] * len(differences),
                differences,
                "o",
                color="black",
                alpha=0.25,
                markersize=4.5,
                markeredgewidth=0,
            )
    below.set_ylabel("SKD - KD, paired")
    for each in (axes, below):
        each.set_xscale("log", base=2)
        each.minorticks_off()
    below.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    below.set_xlabel("teacher, its parameters (log scale), its test top-1")
    axes.set_ylabel("student's test top-1, last epoch")
    axes.set_title("resnet8 on CIFAR-10, taught by nets of growing size", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=1.0)
    note(figure, f"{_SPREAD}; slopes: of the four means, 95% by Student's t")


def temperature(figure, records):
    """Student's accuracy against the temperature, each method's range in the legend; beside it all spheres against R / T."""
    figure.set_size_inches(12, 5)
    left, right = figure.subplots(1, 2, sharey=True)
    alone = group_of(definitions.STUDIES["capacity_gap"], definitions.NO_PAIR, "none", records)
    for axes in (left, right):
        _alone_band(styled(axes), alone)
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    for method in definitions.BY_TEMPERATURE:
        groups = {
            t: group_of(definitions.STUDIES["temperature"], "resnet56", f"{method}_t{t}", records)
            for t in definitions.TEMPERATURES
        }
        groups = {t: group for t, group in groups.items() if group}
        if not groups:
            continue
        radii = sorted({radius for group in groups.values() for radius in group.values("radius").values()})
        means = [mean_and_spread(group.accuracies.values())[0] for group in groups.values()]
        name = label(method) + (
            f", R = {', '.join(dict.fromkeys(f'{radius:.3g}' for radius in radii))}" if radii else ""
        )
        part = (
            ""
            if len(groups) == len(definitions.TEMPERATURES)
            else f", {len(groups)} of {len(definitions.TEMPERATURES)} T"
        )
        _curve(left, groups, method, f"{name}\nrange {max(means) - min(means):.4f}{part}")
        norms = [n for group in groups.values() for n in group.values("teacher", "logit_norm").values()]
        if radii:
            _curve(right, {radii[0] / t: group for t, group in groups.items()}, method, name)
        elif norms:  # raw logits lie on no sphere; the teacher's mean norm says how soft its targets are
            _curve(right, {norms[0] / t: group for t, group in groups.items()}, method, f"{name}, teacher's norm / T")
    for times, marker in ((1, "<"), (3, "^"), (4, ">")):
        row, name = f"radius_{times}", f"R = {times} sqrt(C), T = 4"
        group = group_of(definitions.STUDIES["sphere"], "resnet56", row, records)
        for radius in sorted(set(group.values("radius").values())):
            _curve(right, {radius / 4: group}, "skd", name, marker)
    left.set_xticks(definitions.TEMPERATURES, [str(t) for t in definitions.TEMPERATURES])
    left.set(xlabel="temperature T (log scale)", ylabel="student's test top-1, last epoch")
    left.set_title("resnet56 -> resnet8 on CIFAR-10", loc="left", fontsize=11)
    right.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    right.set_xlabel("R / T (log scale); of KD, the teacher's mean norm / T")
    right.set_title("the same by R / T", loc="left", fontsize=11)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="best")
    note(figure, f"{_SPREAD}, where a point has several")


def _curve(axes, groups, row, name, marker=None):
    """A line through the means of {x: group}, their standard deviations, every seed of several a faint dot."""
    marker = marker or MARKERS[row]
    means, spreads = zip(*(mean_and_spread(group.accuracies.values()) for group in groups.values()), strict=True)
    axes.errorbar(
        list(groups),
        means,
        yerr=[spread or 0 for spread in spreads] if any(spreads) else None,
        color=COLOURS[row],
        marker=marker,
        label=name,
        **_BAR,
    )
    for x, group in groups.items():
        if len(group) > 1:
            axes.plot(
                [x] * len(group),
                list(group.accuracies.values()),
                marker,
                color=COLOURS[row],
                alpha=0.25,
                markersize=4.5,
                markeredgewidth=0,
            )


def sphere(figure, records):
    """Each change's accuracy minus the default's of the same seed."""
    study = definitions.STUDIES["sphere"]
    groups = {label(row): group_of(study, "resnet56", row, records) for row in study.rows if row != "skd"}
    default = group_of(study, "resnet56", "skd", records)
    _dots(figure, groups, default, "SKD's default", "resnet56 -> resnet8 on CIFAR-10, one change each")


def cifar100(figure, records):
    """Each method's accuracy minus the student alone's of the same seed."""
    study = definitions.STUDIES["cifar100"]
    groups = {label(row): group_of(study, pair, row, records) for pair in study.pairs for row in study.rows}
    alone = group_of(study, definitions.NO_PAIR, "none", records)
    _dots(figure, groups, alone, "the student alone", "resnet56 -> resnet8 on CIFAR-100")


def calibration(figure, records):
    """Reliability of the largest teacher's students, and the ECE of all of them."""
    figure.set_size_inches(11, 6.5)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    study = definitions.STUDIES["capacity_gap"]
    styled(left).plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="confidence = accuracy")
    curves = [
        (label("none"), definitions.NO_PAIR, "none", "as_shipped", "-"),
        ("KD", "resnet56", "kd", "as_shipped", "-"),
        ("SKD, on the sphere", "resnet56", "skd", "as_shipped", "-"),
        ("SKD, raw softmax", "resnet56", "skd", "raw_softmax", ":"),
    ]
    for name, pair, row, source, line in curves:
        confidence, accuracy = _pooled(group_of(study, pair, row, records).values("reliability", source).values())
        if confidence:
            left.plot(
                confidence,
                accuracy,
                line,
                color=COLOURS[row],
                marker=MARKERS[row],
                markersize=4.5,
                linewidth=1.5,
                markerfacecolor="white" if line == ":" else COLOURS[row],
                label=name,
            )
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="top probability", ylabel="accuracy")
    left.set_title("Reliability, teacher resnet56", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=9, loc="lower right")
    names = []
    for study, pair, row in cifar10.calibrated_students():
        group = group_of(study, pair, row, records)
        if not group:
            continue
        names.append(label(row) + (f", {pair}" if study.name == "capacity_gap" and pair != definitions.NO_PAIR else ""))
        method, _, temperature = row.rpartition("_t")
        kind = method if temperature.isdigit() else row
        place, colour, marker = len(names) - 1, COLOURS.get(kind, COLOURS["skd"]), MARKERS.get(kind, "o")
        for source, face in (("raw_softmax", "white"), ("student", colour)):
            mean, spread = mean_and_spread(group.values(source, "ece").values())
            if mean is not None:
                right.errorbar(
                    [mean], [place], xerr=[spread or 0], fmt=marker, color=colour, markerfacecolor=face, **_BAR
                )
        mean, _ = mean_and_spread(group.values("calibrated", "ece").values())
        if mean is not None:
            right.plot([mean], [place], "x", color="black", markersize=5)
    styled(right).set_yticks(range(len(names)), names, fontsize=8)
    right.invert_yaxis()
    right.set_xscale("log")
    right.minorticks_off()
    ticks = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xlim(0.004, 0.8)
    right.set_xlabel("ECE (log scale), mean and standard deviation over seeds")
    right.set_title("Expected calibration error", loc="left", fontsize=11)
    note(
        figure,
        "filled: as it ships; open: raw softmax; x: temperature fitted; 15 bins; last epoch; left: pooled "
        "over seeds, bins of fewer than 20 images left out",
    )


def _alone_band(axes, group):
    mean, spread = mean_and_spread(group.accuracies.values())
    if mean is not None:
        name = f"{label('none')}\n{mean:.4f}"
        axes.axhline(mean, color=COLOURS["none"], linewidth=1.2, linestyle="--", zorder=1, label=name)
        axes.axhspan(
            mean - (spread or 0), mean + (spread or 0), color=COLOURS["none"], alpha=0.15, linewidth=0, zorder=0
        )


def _dots(figure, groups, origin, origin_name, title):
    """A line for each group: its differences from `origin`, paired by seed, their mean and standard deviation."""
    figure.set_size_inches(8, 1.6 + 0.36 * len(groups))
    axes = styled(figure.add_subplot())
    for place, group in enumerate(groups.values()):
        differences = paired(group.accuracies, origin.accuracies)
        mean, spread = mean_and_spread(differences)
        if mean is None:
            words = "  no seed in common yet" if group else "  not run"
            axes.text(0, place, words, va="center", fontsize=8, color="0.5")
            continue
        axes.plot(
            differences,
            [place] * len(differences),
            "o",
            color=COLOURS["skd"],
            alpha=0.3,
            markersize=5,
            markeredgewidth=0,
        )
        axes.errorbar([mean], [place], xerr=[spread or 0], fmt="o", color=COLOURS["skd"], **_BAR)
    if not axes.lines:
        axes.set_xlim(-0.01, 0.01)
    origin_mean, spread = mean_and_spread(origin.accuracies.values())
    if spread:
        axes.axvspan(-spread, spread, color=COLOURS["none"], alpha=0.15, linewidth=0, zorder=0)
    axes.axvline(0, color=COLOURS["none"], linewidth=1.2, linestyle="--", zorder=1)
    axes.set_yticks(range(len(groups)), [f"{name} ({len(group)})" for name, group in groups.items()])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(
        f"test top-1 minus that of {origin_name}" + (f", {origin_mean:.4f}" if origin_mean is not None else "")
    )
    axes.set_title(title, loc="left", fontsize=11)
    note(figure, f"paired by seed (number of seeds); {_SPREAD}; band: standard deviation of {origin_name}")


def _pooled(diagrams, least=20):
    """(confidences, accuracies) of reliability diagrams' bins, pooled; bins of fewer examples than `least` are left out."""
    sums = {}
    for diagram in diagrams:
        for place, count in enumerate(diagram["count"]):
            if count:
                row = sums.setdefault(place, [0, 0.0, 0.0])
                row[0] += count
                row[1] += count * diagram["confidence"][place]
                row[2] += count * diagram["accuracy"][place]
    kept = [(confidence / n, accuracy / n) for _, (n, confidence, accuracy) in sorted(sums.items()) if n >= least]
    return tuple(zip(*kept, strict=True)) if kept else ((), ())


FIGURES = {draw.__name__: draw for draw in (capacity_gap, temperature, sphere, calibration, cifar100)}
