"""search.png: the objective against the temperature, one curve per other value, the best and the default marked."""

import itertools
import math

from skd_tf.errors import as_text
from skd_tf.search.results import default_trial, short
from skd_tf.search.trial_records import FAILED

# Okabe and Ito's colours, which the colour-blind tell apart too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP"
_LABELS = {"val_accuracy": "validation top-1, last epoch", "val_nll": "validation NLL (nats), last epoch"}


def write(records, ranked):
    """Draws the finished trials, best first, into search.png; returns its path."""
    # An Agg figure without pyplot: no display is looked for, and no figure is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = records.plan
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    across = _across(plan)
    place = _scale(axes, across, ranked, plan)
    for style, (name, group) in zip(_styles(), _curves(ranked, plan, across).items(), strict=False):
        group = sorted(group, key=lambda record: place(record["values"][across.name]))
        xs, ys = [place(r["values"][across.name]) for r in group], [r["objective"] for r in group]
        bars = [_bar(record, plan) for record in group]
        joined = all(d.values for d in plan.space if d is not across)  # else neighbours differ in more than the x
        axes.errorbar(
            xs,
            ys,
            yerr=bars if None not in bars else None,
            linestyle="-" if joined else "none",
            label=name,
            capsize=2,
            elinewidth=0.8,
            linewidth=1.6,
            markersize=5.5,
            **style,
        )
    _mark(axes, ranked, plan, place, across)
    _note_failed(axes, records, place, across)
    config = plan.config
    what = "" if "student" in plan.names else f"{config.student} on "
    axes.set_title(f"{what}{config.dataset}, {config.epochs} epochs", loc="left", fontsize=11)
    axes.set_ylabel(_LABELS.get(plan.goal.name, f"{plan.goal.name}, last epoch"))
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(_bar_text(ranked, plan), fontsize=8, color="0.4")
    handles, labels = axes.get_legend_handles_labels()
    marks = [label.startswith(("best:", "default:", "failed:")) for label in labels]  # after the curves
    order = sorted(range(len(labels)), key=marks.__getitem__)
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    path = records.folder / "search.png"
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
    return path


def _across(plan):
    """The dimension of the x axis: the temperature, else the first of numbers, else the first."""
    numbers = [d for d in plan.space if all(_is_number(value) for value in d.values or d.ends)]
    return next((d for d in plan.space if d.name == "temperature"), (numbers or plan.space)[0])


def _scale(axes, across, ranked, plan):
    """Prepares the x axis; returns value -> place."""
    label = across.name.replace("_", " ")
    seen = list(dict.fromkeys(record["values"][across.name] for record in ranked))
    values = across.values or tuple(seen)
    if not all(_is_number(value) for value in values):
        places = {value: place for place, value in enumerate(across.values)}
        axes.set_xticks(list(places.values()), [as_text(value) for value in places])
        axes.set_xlabel(label)
        return places.__getitem__
    low, high = (min(values), max(values)) if across.values else across.ends
    logarithmic = low > 0 and (across.kind == "log" or across.name == "temperature" or high / low >= 8)
    axes.set_xlabel(f"{label}, log scale" if logarithmic else label)
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        doubled = [low * 2**i for i in range(int(math.log2(high / low)) + 1)]
        ticks = values if across.values and len(values) <= 12 else doubled[:: math.ceil(len(doubled) / 12)]
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    elif across.values and len(values) <= 12:
        axes.set_xticks(values, [f"{value:.4g}" for value in values])
    return float


def _curves(ranked, plan, across):
    """Name -> trials that share every listed other value, in the order of the space."""
    named = [d for d in plan.space if d is not across and d.values]
    groups = {}
    for combination in itertools.product(*(d.values for d in named)):
        pairs = list(zip(named, combination, strict=True))
        members = [r for r in ranked if all(r["values"][d.name] == value for d, value in pairs)]
        if members:
            groups[", ".join(f"{d.name} {short(value)}" for d, value in pairs) or plan.config.loss] = members
    return groups


def _styles():
    for marker in itertools.cycle(_MARKERS):
        for colour in _COLOURS:
            yield {"color": colour, "marker": marker}


def _bar(record, plan):
    if record["spread"] is not None:
        return record["spread"]
    if plan.goal.name != "val_accuracy":
        return None
    p = record["objective"]
    return math.sqrt(p * (1 - p) / record["validation_examples"])


def _bar_text(ranked, plan):
    runs = plan.executions_per_trial
    if runs > 1:
        return f"points: means of {runs} seeds; bars: their standard deviation"
    if plan.goal.name == "val_accuracy":
        return f"one seed a point; bars: standard error from {ranked[0]['validation_examples']:,} validation images"
    return "one seed a point"


def _mark(axes, ranked, plan, place, across):
    best, default = ranked[0], default_trial(plan, ranked)
    x, y = place(best["values"][across.name]), best["objective"]
    axes.plot(
        [x],
        [y],
        marker="*",
        markersize=17,
        color="#F0E442",
        markeredgecolor="black",
        linestyle="none",
        zorder=5,
        label=f"best: {y:.4f}",
    )
    if default and default is not best:
        x, y = place(default["values"][across.name]), default["objective"]
        axes.plot(
            [x],
            [y],
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor="black",
            linestyle="none",
            zorder=5,
            label=f"default: {y:.4f}",
        )


def _note_failed(axes, records, place, across):
    failed = [record for record in records.all() if record["status"] == FAILED]
    if failed:
        bottom = axes.get_xaxis_transform()  # x in data, y from 0 to 1 of the axes
        xs = [place(record["values"][across.name]) for record in failed]
        axes.plot(
            xs, [0.02] * len(xs), "x", color="#B00020", transform=bottom, linestyle="none", label=f"failed: {len(xs)}"
        )


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
