"""search.png: the objective over the temperature, a curve per combination of other values, best and default marked."""

import itertools
import math
import pathlib
from typing import Any

from skd_tf.errors import as_text
from skd_tf.search.results import default_trial, short, standard_error
from skd_tf.search.space import is_number
from skd_tf.search.trial_records import FAILED, TrialRecord, TrialRecords

# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP"
_MARGIN = 0.03  # of the axis, beside each end of the range
_LABELS = {"val_accuracy": "validation top-1", "val_nll": "validation NLL (nats)"}


def write(records: TrialRecords, ranked: list[TrialRecord]) -> pathlib.Path:
    """Draws the finished trials into search.png; returns its path."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # a value of layer_rates may hold two $
        return _draw(records, ranked)


def _draw(records: TrialRecords, ranked: list[TrialRecord]) -> pathlib.Path:
    # pyplot would look for a display and keep the figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = records.plan
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    across = _x_dimension(plan)
    position = _prepare_x_axis(axes, across, ranked)

    def x_of(record):
        return position(record["values"][across.name])

    connected = all(d.values for d in plan.space if d is not across)  # else neighbours differ in more than x
    for style, (name, group) in zip(_styles(), _curves(ranked, plan, across).items(), strict=False):
        group = sorted(group, key=x_of)
        bars = [_bar(record, plan) for record in group]
        axes.errorbar(
            [x_of(record) for record in group],
            [record["objective"] for record in group],
            yerr=None if None in bars else bars,
            linestyle="-" if connected else "none",
            label=name,
            capsize=2,
            elinewidth=0.8,
            linewidth=1.6,
            markersize=5.5,
            **style,
        )
    marked: dict[str, tuple[TrialRecord, dict[str, Any]]]
    marked = {"best": (ranked[0], {"marker": "*", "markersize": 17, "color": "#F0E442"})}
    default = default_trial(plan, ranked)
    if default and default is not ranked[0]:
        marked["default"] = default, {"marker": "o", "markersize": 13, "markerfacecolor": "none"}
    for name, (record, style) in marked.items():
        place, label = ([x_of(record)], [record["objective"]]), f"{name}: {record['objective']:.4f}"
        axes.plot(*place, label=label, linestyle="none", markeredgecolor="black", zorder=5, **style)
    failed = [x_of(record) for record in records.all() if record["status"] == FAILED]
    if failed:
        bottom = axes.get_xaxis_transform()  # x in data, y from 0 to 1 of the axes
        label = f"failed: {len(failed)}"
        axes.plot(failed, [0.02] * len(failed), "x", color="#B00020", transform=bottom, linestyle="none", label=label)
    config = plan.config
    student = "" if "student" in plan.names else f"{config.student} on "
    axes.set_title(f"{student}{config.dataset}, {config.epochs} epochs", loc="left", fontsize=11)
    axes.set_ylabel(f"{_LABELS.get(plan.goal.name, plan.goal.name)}, {plan.config.ship} epoch")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(_caption(ranked, plan), fontsize=8, color="0.4")
    # Curves before marks: matplotlib lists curves with error bars last.
    marks = ("best:", "default:", "failed:")
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1].startswith(marks))
    handles, labels = zip(*entries, strict=True)
    axes.legend(handles, labels, frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path = records.folder / "search.png"
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
    return path


def _x_dimension(plan):
    """The temperature if it is searched, else the first numeric setting, else the first."""
    numeric = [d for d in plan.space if all(map(is_number, d.values or d.ends))]
    return next((d for d in plan.space if d.name == "temperature"), (numeric or plan.space)[0])


def _prepare_x_axis(axes, across, ranked):
    """Sets label, scale and ticks; returns a function from a value to its position."""
    label = across.name.replace("_", " ")
    values = across.values or tuple(record["values"][across.name] for record in ranked)
    if not all(map(is_number, values)):
        positions = {value: position for position, value in enumerate(across.values)}
        axes.set_xticks(list(positions.values()), [as_text(value) for value in positions])
        axes.set_xlabel(label)
        return positions.__getitem__
    low, high = (min(values), max(values)) if across.values else across.ends
    logarithmic = low > 0 and (across.kind == "log" or across.name == "temperature" or high / low >= 8)
    axes.set_xlabel(f"{label}, log scale" if logarithmic else label)
    few = across.values and len(values) <= 12
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        powers = [low * 2**i for i in range(int(math.log2(high / low)) + 1)]
        ticks = values if few else powers[:: math.ceil(len(powers) / 12)]
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    elif few:
        axes.set_xticks(values, [f"{value:.4g}" for value in values])
    # The range that was searched, not that of the values that were tried.
    if logarithmic:
        axes.set_xlim(low * (low / high) ** _MARGIN, high * (high / low) ** _MARGIN)
    else:
        axes.set_xlim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    return float


def _curves(ranked, plan, across):
    """{name: trials that share all other listed values}, in the order of the space."""
    listed = [d for d in plan.space if d is not across and d.values]
    groups: dict[tuple, list] = {}
    for record in ranked:  # of the trials, not of all combinations, which may be millions
        groups.setdefault(tuple(d.values.index(record["values"][d.name]) for d in listed), []).append(record)

    def name(places):
        shown = [f"{d.name} {short(d.values[place])}" for d, place in zip(listed, places, strict=True)]
        return ", ".join(shown) or plan.config.loss

    return {name(places): groups[places] for places in sorted(groups)}


def _styles():
    for marker in itertools.cycle(_MARKERS):
        for colour in _COLOURS:
            yield {"color": colour, "marker": marker}


def _bar(record, plan):
    """Half the length of a trial's error bar; None if it is unknown."""
    if record["spread"] is not None:
        return record["spread"]
    return standard_error(record) if plan.goal.name == "val_accuracy" else None


def _caption(ranked, plan):
    runs = plan.executions_per_trial
    if runs > 1:
        return f"points: means of {runs} seeds; bars: their standard deviation"
    if plan.goal.name == "val_accuracy":
        return f"one seed a point; bars: standard error from {ranked[0]['validation_examples']:,} validation images"
    return "one seed a point"
