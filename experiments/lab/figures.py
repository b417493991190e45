"""`python -m experiments.lab figures`: draws the studies' figures from their records.

    python -m experiments.lab figures                    # all, into docs/studies/figures
    python -m experiments.lab figures capacity_gap

Bars are 95% intervals. A filled marker is a mean over seeds, an open one a single seed.
"""

import statistics

from absl import flags
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.lab import definitions, figure_files, records
from experiments.lab.front_page import LEADS
from experiments.lab.statistics import Estimate
from experiments.lab.summaries import HELD_OUT, TEST, Runs, Table, runs_of
from experiments.lab.tables import BUDGETS, SPECS, TEACHERS
from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime.console import say

DESCRIPTION = "Draws the studies' figures from their records."
POSITIONAL = "figure"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
STYLES = {"KD": (ORANGE, "s"), "SKD": (BLUE, "o"), "SKD, R = 22": (GREEN, "D"), "alone": (GREY, "v")}
STYLES["DIST"] = STYLES["DIST, authors' weights"] = (PURPLE, "^")
_AHEAD = "points, right of 0: SKD is ahead"
_LEGEND = "Bars: 95% intervals over students, joint within a study. Filled: mean over seeds. Open: one seed."
_ONE_SEED = "One seed: no intervals."
Rows = list[tuple[str, dict[str, Estimate | None] | None]]  # (label, {panel: estimate}); None for a heading


def forest(figure: Figure, rows: Rows, xlabel: str) -> None:
    """Differences as points with intervals, a line each, test images left and held-out images right."""
    figure.set_size_inches(11, 1.1 + 0.24 * len(rows))
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    for axes, measure in zip(panels, (TEST, HELD_OUT), strict=True):
        _styled(axes).axvline(0, color=GREY, linewidth=1.2, zorder=1)
        for place, (_, estimates) in enumerate(rows):
            if estimates is not None and estimates[measure] is not None:
                _point(axes, estimates[measure], place, BLUE, "o", horizontal=True)
        axes.set_title(f"{measure} images", loc="left", fontsize=10)
        axes.set_xlabel(xlabel)
    labels = [label for label, _ in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=9)
    for text, (_, estimates) in zip(panels[0].get_yticklabels(), rows, strict=True):
        if estimates is None:
            text.set_fontweight("bold")
    panels[0].set_ylim(len(rows) - 0.4, -0.6)


def lines(axes: Axes, curves: dict, ticks: list[str], xlabel: str, title: str) -> None:
    """Curves {label: (style, line, {place on the axis: estimate})} over named places; curves stand beside each other."""
    _styled(axes)
    for number, (label, (style, line, points)) in enumerate(curves.items()):
        colour, marker = STYLES[style]
        shift = 0.0175 * (len(ticks) - 1) * (number - (len(curves) - 1) / 2)
        found = {place + shift: estimate for place, estimate in points.items() if estimate is not None}
        if not found:  # not run
            continue
        one = all(estimate.seeds == 1 for estimate in found.values())
        axes.plot([], [], line, color=colour, marker=marker, markerfacecolor="white" if one else colour, label=label)
        axes.plot(list(found), [estimate.mean for estimate in found.values()], line, color=colour, linewidth=1.4)
        for place, estimate in found.items():
            _point(axes, estimate, place, colour, marker)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=9)
    axes.set(xlabel=xlabel, ylabel="student's accuracy, %")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _styled(axes):
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _point(axes, estimate, place, colour, marker, horizontal=False):
    x, y = (estimate.mean, place) if horizontal else (place, estimate.mean)
    error = {"xerr" if horizontal else "yerr": estimate.half} if estimate.half is not None else {}
    one = estimate.seeds == 1
    style = {"color": colour, "markerfacecolor": "white" if one else colour, "elinewidth": 0.8 if one else 1.5}
    axes.errorbar([x], [y], fmt=marker, markersize=5.5, capsize=2.5, zorder=3, **style, **error)


def _leads(runs, *sections):
    rows = []
    for section in sections:
        rows.append((section, None))
        rows += [(lead.label, {m: lead.estimate(runs, m) for m in (TEST, HELD_OUT)}) for lead in LEADS[section]]
    return rows


def _differences(runs, name):
    """Rows of a table's differences."""
    spec = SPECS[name]
    return [(a, {m: spec.difference(runs, m, a, b) for m in (TEST, HELD_OUT)}) for a, b in spec.against.items()]


def _curve(runs, name, measure, places):
    """{place: estimate} of a table's labels, or of a grid's (row, column)s."""
    spec, found = SPECS[name], {}
    for place, label in enumerate(places):
        if isinstance(spec, Table):
            found[place] = spec.estimate(spec.columns(runs, measure), {label: 1})
        elif (value := spec.value(runs, measure, *label)) is not None:
            found[place] = Estimate(value, None, 1)
    return found


def _capacity_gap(figure, runs):
    ticks = []
    for teacher in TEACHERS:
        found = [r["teacher"]["parameters"] for r in runs.get(f"capacity_gap/{teacher}/skd", {}).values()]
        ticks.append(f"{teacher}\n{found[0] / 1e6:.2f} M" if found else teacher)
    figure.set_size_inches(10, 4.2)
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), (TEST, HELD_OUT), strict=True):
        places = {method: [f"{method} from {teacher}" for teacher in TEACHERS] for method in ("KD", "SKD")}
        curves = {m: (m, "-", _curve(runs, "capacity_gap", measure, places[m])) for m in places}
        lines(axes, curves, ticks, "teacher, its parameters", f"{measure} images")


def _temperature(figure, runs):
    figure.set_size_inches(11, 4.2)
    panels, temperatures = figure.subplots(1, 3), definitions.TEMPERATURES
    ticks = list(map(str, temperatures))
    for axes, methods in zip(panels, (("KD", "SKD"), ("SKD", "SKD, R = 22")), strict=False):
        places = {method: [f"{method}, T = {t}" for t in temperatures] for method in methods}
        curves = {m: (m, "-", _curve(runs, "temperature", TEST, places[m])) for m in methods}
        lines(axes, curves, ticks, "temperature", "CIFAR-10, rate 0.2, test images")
    curves = {}
    for method, rate, line in (("KD", 0.2, "-"), ("KD", 0.4, ":"), ("SKD", 0.2, "-"), ("SKD", 0.4, ":")):
        places = [(f"{method} at rate {rate}", f"T = {t}") for t in temperatures]
        curves[f"{method}, rate {rate}"] = method, line, _curve(runs, "cifar100_temperature", TEST, places)
    lines(panels[2], curves, ticks, "temperature", "CIFAR-100, one seed, test images")


def _schedule(figure, runs):
    figure.set_size_inches(9, 4)
    ticks = [f"{rate:g}" for rate in definitions.RATES]
    methods = ["alone", "KD", "SKD", "DIST, authors' weights"]
    for axes, name, shown in zip(
        figure.subplots(1, 2), ("rates", "cifar100_rates"), (methods[:3], methods), strict=True
    ):
        places = {method: [(method, f"rate {tick}") for tick in ticks] for method in shown}
        curves = {m: (m, "-", _curve(runs, name, TEST, places[m])) for m in shown}
        lines(
            axes, curves, ticks, "peak learning rate", f"{'CIFAR-10' if name == 'rates' else 'CIFAR-100'}, test images"
        )


def _adamw(figure, runs):
    figure.set_size_inches(9, 4)
    ticks = [f"{rate:g}" for rate in definitions.ADAMW_RATES]
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), (TEST, HELD_OUT), strict=True):
        places = {method: [f"{method}, rate {tick}" for tick in ticks] for method in ("alone", "KD", "SKD")}
        curves = {m: (m, "-", _curve(runs, "adamw", measure, places[m])) for m in places}
        lines(axes, curves, ticks, "peak learning rate of AdamW", f"{measure} images")


def _budget(figure, runs):
    figure.set_size_inches(9, 4)
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), (TEST, HELD_OUT), strict=True):
        curves = {}
        for method in ("alone", "KD", "SKD", "DIST"):
            places = [f"{method}, {epochs} epochs" for epochs in BUDGETS]
            curves[method] = method, "-", _curve(runs, "budget", measure, places)
        lines(axes, curves, [str(epochs) for epochs in BUDGETS], "epochs", f"{measure} images")


def _calibration(figure, runs):
    spec = SPECS["calibration"]
    figure.set_size_inches(10, 1.2 + 0.26 * len(spec.entries))
    kinds = (
        ("", "without a fitted temperature", BLUE, "o"),
        (", raw logits", "raw logits", GREY, "s"),
        (", fitted", "fitted", ORANGE, "D"),
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, ticks in zip(panels, ("ECE", "NLL"), ((0.01, 0.03, 0.1, 0.3), (0.5, 1, 2, 4)), strict=True):
        _styled(axes)
        for end, kind, colour, marker in kinds:
            values = spec.columns(runs, f"{measure}{end}").values()
            means = [statistics.mean(column.values()) if column else None for column in values]
            axes.plot(means, range(len(means)), marker, color=colour, markersize=5.5, label=kind)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(f"{measure} on test images, mean over seeds (log scale)")
    panels[0].set_yticks(range(len(spec.entries)), list(spec.entries), fontsize=9)
    panels[0].set_ylim(len(spec.entries) - 0.4, -0.6)
    panels[1].legend(frameon=False, fontsize=8, loc="upper right")


_LONGER = [section for section in LEADS if "50 epochs" in section]
FIGURES = {
    "forest": lambda figure, runs: forest(figure, _leads(runs, *LEADS), _AHEAD),
    "capacity_gap": _capacity_gap,
    "temperature": _temperature,
    "sphere": lambda figure, runs: forest(figure, _differences(runs, "sphere"), "points, minus SKD's default"),
    "radius": lambda figure, runs: forest(figure, _differences(runs, "radius"), "points, minus the entry it changes"),
    "schedule": _schedule,
    "adamw": _adamw,
    "budget": _budget,
    "cifar100": lambda figure, runs: forest(figure, _differences(runs, "cifar100"), "points, minus SKD"),
    "longer": lambda figure, runs: forest(figure, _leads(runs, *_LONGER), _AHEAD),
    "calibration": _calibration,
}


def draw(name: str, runs: Runs, folder=figure_files.FOLDER):
    """Draws one figure and returns its path."""
    figure = Figure(dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot no display is looked for
    FIGURES[name](figure, runs)
    if name != "calibration":
        figure.supxlabel(_ONE_SEED if name in ("radius", "schedule") else _LEGEND, fontsize=8, color="0.4")
    path = figure_files.path_of(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={figure_files.KEY: figure_files.digest(name, runs)})
    return path


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of `figures`."""
    results = str(definitions.ROOT / definitions.RESULTS)
    flags.DEFINE_multi_string("figure", None, "what to draw, also without the flag's name; all by default", flag_values)
    flags.DEFINE_string("results_dir", results, "folder of the records", flag_values)
    flags.DEFINE_string("output_dir", str(figure_files.FOLDER), "folder of the figures", flag_values)


def main(flag_values: flags.FlagValues) -> None:
    """Draws the figures that are named."""
    runs = runs_of(records.read_all(flag_values.results_dir), flag_values.results_dir)
    for name in flag_values.figure or FIGURES:
        if name not in FIGURES:
            remedy = did_you_mean(name, FIGURES, "Name one of them")
            known = f"one of {', '.join(FIGURES)}"
            raise input_error("No such figure", expected=known, received=f"figure={name}", remedy=remedy)
        say(f"{name}: {draw(name, runs, flag_values.output_dir)}")
