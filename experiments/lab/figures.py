"""`python -m experiments.lab figures`: draws the studies' figures from their records.

    python -m experiments.lab figures                    # all, into docs/studies/figures
    python -m experiments.lab figures capacity_gap

Bars are 95% intervals. A filled marker is a mean over seeds, an open one a single seed.
"""

from absl import flags
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.lab import definitions, figure_files, records
from experiments.lab.front_page import LEADS
from experiments.lab.statistics import Estimate, contrast
from experiments.lab.summaries import HELD_OUT, TEST, Runs, runs_of
from experiments.lab.tables import SPECS, TEACHERS
from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime.console import say

DESCRIPTION = "Draws the studies' figures from their records."
POSITIONAL = "figure"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
STYLES = {"KD": (ORANGE, "s"), "SKD": (BLUE, "o"), "SKD, R = 22": (GREEN, "D"), "alone": (GREY, "v")}
STYLES["DIST, authors' weights"] = (PURPLE, "^")
_LEGEND = "Bars: 95% intervals over students. Filled: mean over seeds. Open: one seed."
Rows = list[tuple[str, dict[str, Estimate | None] | None]]  # (label, {panel: estimate}); None for a heading


def forest(figure: Figure, rows: Rows, xlabel: str) -> None:
    """Differences as points with intervals, a line each, test images left and held-out images right."""
    figure.set_size_inches(10, 1.1 + 0.24 * len(rows))
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
        shift = 0.07 * (number - (len(curves) - 1) / 2)
        found = {place + shift: estimate for place, estimate in points.items() if estimate is not None}
        axes.plot([], [], line, color=colour, marker=marker, label=label)
        axes.plot(list(found), [estimate.mean for estimate in found.values()], line, color=colour, linewidth=1.4)
        for place, estimate in found.items():
            _point(axes, estimate, place, colour, marker)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=9)
    axes.set_xlabel(xlabel)
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
    thin = 0.8 if estimate.seeds == 1 else 1.5
    face = "white" if estimate.seeds == 1 else colour
    axes.errorbar(
        [x],
        [y],
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=5.5,
        elinewidth=thin,
        capsize=2.5,
        zorder=3,
        **error,
    )


def _leads(runs, *sections):
    rows = []
    for section in sections or LEADS:
        rows.append((section, None))
        rows += [(lead.label, {m: lead.estimate(runs, m) for m in (TEST, HELD_OUT)}) for lead in LEADS[section]]
    return rows


def _differences(runs, name, labels=None):
    """Rows of a table's differences."""
    spec = SPECS[name]
    pairs = {label: other for label, other in spec.against.items() if labels is None or label in labels}
    return [(label, {m: spec.difference(runs, m, label, o) for m in (TEST, HELD_OUT)}) for label, o in pairs.items()]


def _means(runs, name, measure, places):
    """{place: mean with its interval} of a table's entries, from {place: label}."""
    spec = SPECS[name]
    columns = spec.columns(runs, measure)
    return {place: spec.estimate(columns, {label: 1}) for place, label in places.items()}


def _single(runs, name, row, columns):
    """{place: accuracy} of a grid's row on test images."""
    found = {place: SPECS[name].value(runs, TEST, row, column) for place, column in enumerate(columns)}
    return {place: Estimate(value, None, 1) for place, value in found.items() if value is not None}


def _forest(figure, runs):
    forest(figure, _leads(runs), "points, right of 0: SKD is ahead")


def _capacity_gap(figure, runs):
    figure.set_size_inches(10, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    parameters = {}
    for teacher in TEACHERS:
        found = [r["teacher"]["parameters"] for r in runs.get(f"capacity_gap/{teacher}/skd", {}).values()]
        parameters[teacher] = f"{teacher}\n{found[0] / 1e6:.2f} M" if found else teacher
    for axes, measure in zip(panels, (TEST, HELD_OUT), strict=True):
        curves = {
            method: (
                method,
                "-",
                _means(runs, "capacity_gap", measure, dict(enumerate(f"{method} from {t}" for t in TEACHERS))),
            )
            for method in ("KD", "SKD")
        }
        lines(axes, curves, list(parameters.values()), "teacher, its parameters", f"{measure} images")
    panels[0].set_ylabel("student's accuracy, %")


def _temperature(figure, runs):
    figure.set_size_inches(11, 4.2)
    panels = figure.subplots(1, 3)
    temperatures = definitions.TEMPERATURES
    for axes, methods in ((panels[0], ("KD", "SKD")), (panels[1], ("SKD", "SKD, R = 22"))):
        curves = {}
        for method in methods:
            places = dict(enumerate(f"{method}, T = {t}" for t in temperatures))
            name = "SKD, R = 6.3" if method == "SKD" else method
            curves[name] = method, "-", _means(runs, "temperature", TEST, places)
        lines(axes, curves, list(map(str, temperatures)), "temperature", "CIFAR-10, rate 0.2")
    columns = [f"T = {t}" for t in temperatures]
    curves = {
        f"{method}, rate {rate}": (
            method,
            line,
            _single(runs, "cifar100_temperature", f"{method} at rate {rate}", columns),
        )
        for method in ("KD", "SKD")
        for rate, line in ((0.2, "-"), (0.4, ":"))
    }
    lines(panels[2], curves, list(map(str, temperatures)), "temperature", "CIFAR-100, one seed")
    panels[0].set_ylabel("test accuracy, %")


def _schedule(figure, runs):
    figure.set_size_inches(9, 4)
    for axes, name, title, methods in zip(
        figure.subplots(1, 2),
        ("rates", "cifar100_rates"),
        ("CIFAR-10, one seed", "CIFAR-100, one seed"),
        (("alone", "KD", "SKD"), ("alone", "KD", "SKD", "DIST, authors' weights")),
        strict=True,
    ):
        columns = [f"rate {rate:g}" for rate in definitions.RATES]
        curves = {method: (method, "-", _single(runs, name, method, columns)) for method in methods}
        lines(axes, curves, [f"{rate:g}" for rate in definitions.RATES], "peak learning rate", title)
        axes.set_ylabel("test accuracy, %")


def _calibration(figure, runs):
    spec = SPECS["calibration"]
    figure.set_size_inches(10, 1.2 + 0.26 * len(spec.entries))
    kinds = {
        "as it ships": ("", BLUE, "o"),
        "raw logits": (", raw logits", GREY, "s"),
        "fitted": (", fitted", ORANGE, "D"),
    }
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, ticks in zip(panels, ("ECE", "NLL"), ((0.01, 0.03, 0.1, 0.3), (0.5, 1, 2, 4)), strict=True):
        _styled(axes)
        for kind, (end, colour, marker) in kinds.items():
            axes.plot([], [], marker, color=colour, label=kind)
            for place, (label, values) in enumerate(spec.columns(runs, f"{measure}{end}").items()):
                mean = contrast({label: values}, {label: 1}, None)
                if mean:
                    axes.plot([mean.mean], [place], marker, color=colour, markersize=5.5)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        axes.set_xlabel(f"{measure} on test images, mean over seeds (log scale)")
    panels[0].set_yticks(range(len(spec.entries)), list(spec.entries), fontsize=9)
    panels[0].set_ylim(len(spec.entries) - 0.4, -0.6)
    panels[1].legend(frameon=False, fontsize=8, loc="upper right")


FIGURES = {
    "forest": _forest,
    "capacity_gap": _capacity_gap,
    "temperature": _temperature,
    "sphere": lambda figure, runs: forest(figure, _differences(runs, "sphere"), "points, minus SKD's default"),
    "radius": lambda figure, runs: forest(figure, _differences(runs, "radius"), "points, minus the entry it changes"),
    "schedule": _schedule,
    "cifar100": lambda figure, runs: forest(figure, _differences(runs, "cifar100"), "points, minus SKD"),
    "longer": lambda figure, runs: forest(
        figure,
        _leads(runs, *[section for section in LEADS if "50 epochs" in section]),
        "points, right of 0: SKD is ahead",
    ),
    "calibration": _calibration,
}


def draw(name: str, runs: Runs, folder=figure_files.FOLDER):
    """Draws one figure and returns its path."""
    figure = Figure(dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot no display is looked for
    FIGURES[name](figure, runs)
    if name != "calibration":
        figure.supxlabel(_LEGEND, fontsize=8, color="0.4")
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
    runs = runs_of(records.read_all(flag_values.results_dir))
    for name in flag_values.figure or FIGURES:
        if name not in FIGURES:
            remedy = did_you_mean(name, FIGURES, "Name one of them")
            known = f"one of {', '.join(FIGURES)}"
            raise input_error("No such figure", expected=known, received=f"figure={name}", remedy=remedy)
        say(f"{name}: {draw(name, runs, flag_values.output_dir)}")
