"""The charts of a report, each an SVG element, or None if the runs hold nothing to draw."""

from collections.abc import Mapping, Sequence

import numpy as np

from skd_tf.runs.report.run_data import ChartSeries
from skd_tf.runs.report.svg import chart, colour, dashes

_FEW_CLASSES = 30


def curve(
    series: Sequence[ChartSeries],
    key: str,
    title: str,
    *,
    label: str = "",
    log: bool = False,
    zero: bool = False,
    also: str | None = None,
) -> str | None:
    """A value by epoch, one line per model.

    Args:
      series: the models.
      key: the value in metrics.jsonl.
      title: title of the chart.
      label: label of the y axis.
      log: whether the y axis is logarithmic.
      zero: whether the y axis starts at 0.
      also: a second value of the same models, drawn as a thin line, or None.
    """
    drawn = [model for model in series if any(row.get(key) for row in model.epochs)]  # not if it is 0 throughout
    if not drawn:
        return None

    def draw(axes):
        for model in drawn:
            line = {"color": colour(model.colour), "linestyle": dashes(model.colour)}
            for name, style in ((also, {"linewidth": 0.9, "alpha": 0.55}), (key, {"label": model.label})):
                points = [(row["epoch"] + 1, row[name]) for row in model.epochs if row.get(name) is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 3 else None, **line, **style)
        axes.set(title=title, xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        if zero:
            axes.set_ylim(bottom=0)
        if len(drawn) > 1:
            axes.legend()

    return chart(draw, f"{title} by epoch")


def reliability(model: ChartSeries, diagram: Sequence[Mapping] | None, title: str, ece: float) -> str | None:
    """The accuracy in each bin of confidence, against the diagonal; bins with many images have wide bars."""
    if not diagram:
        return None
    most = max(bin["count"] for bin in diagram)

    def draw(axes):
        size = 1 / len(diagram)
        axes.plot([0, 1], [0, 1], color=colour("muted"), linewidth=1, linestyle="--")
        for number, bin in enumerate(diagram):
            if bin["count"]:
                share = max(0.15, (bin["count"] / most) ** 0.5)
                middle = (number + 0.5) * size
                axes.bar(middle, bin["accuracy"], share * 0.9 * size, color=colour(model.colour), alpha=0.85)
                axes.plot(bin["confidence"], bin["accuracy"], "o", markersize=3, color=colour("ink"))
        axes.set(title=f"{title}: ECE {ece:.3f}", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.set_aspect("equal")

    return chart(draw, f"Reliability diagram of {title}, expected calibration error {ece:.3f}", width=3.4, height=3.4)


def norms(series: Sequence[ChartSeries], radius: Sequence[float], title: str) -> str | None:
    """Histograms of the logit norms before the sphere, with the radius of each sphere as a dashed line."""
    drawn = [model for model in series if "norms" in model.details]
    if not drawn:
        return None

    def draw(axes):
        for model in drawn:
            edges, counts = (np.array(model.details["norms"][name], float) for name in ("edges", "counts"))
            line = {"color": colour(model.colour), "linestyle": dashes(model.colour)}
            axes.stairs(counts / counts.sum(), edges, fill=True, alpha=0.25, color=colour(model.colour))
            axes.stairs(counts / counts.sum(), edges, label=model.label, linewidth=1.4, **line)
        for value in sorted(set(radius)):
            axes.axvline(value, color=colour("ink"), linewidth=1.2, linestyle="--")
            place = {"xycoords": ("data", "axes fraction"), "xytext": (4, -9), "textcoords": "offset points"}
            axes.annotate(f"R = {value:.3g}", (value, 1), fontsize=8.5, **place)
        axes.set(title=title, xlabel="norm of an image's logits", ylabel="share of images", xscale="log")
        _plain_numbers(axes.xaxis)
        axes.margins(y=0.22)
        if len(drawn) > 1:
            axes.legend(loc="upper left")

    return chart(draw, title)


def confidence_gap(series: Sequence[ChartSeries]) -> str | None:
    """The accuracy and the mean confidence of each model, joined by a line: the confidence gap."""
    series = [model for model in series if "accuracy" in model.record]
    if not series:
        return None

    def draw(axes):
        for y, model in enumerate(series):
            accuracy, confidence, tint = model.record["accuracy"], model.record["confidence"], colour(model.colour)
            diamond = {"markersize": 7, "markerfacecolor": "none", "markeredgecolor": tint, "markeredgewidth": 1.6}
            axes.plot([accuracy, confidence], [y, y], color=tint, linewidth=2.5, alpha=0.45, zorder=1)
            axes.plot(accuracy, y, "o", color=tint, markersize=8)
            axes.plot(confidence, y, "D", **diamond)
            text, middle = f"{confidence - accuracy:+.3f}", ((accuracy + confidence) / 2, y)
            axes.annotate(text, middle, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_yticks(range(len(series)), [model.label for model in series])
        axes.set(title="Confidence gap", ylim=(len(series) - 0.4, -0.7))
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")

    height = max(2.9, 0.9 + 0.55 * len(series))
    return chart(draw, "Mean confidence minus accuracy of each model", height=height, names=True)


def per_class(series: Sequence[ChartSeries], names: Sequence[str]) -> str | None:
    """The accuracy of each class: few classes get a row each; many are sorted by accuracy, separately by model."""
    drawn = [model for model in series if "per_class_accuracy" in model.details]
    if not drawn:
        return None
    values = [np.array(model.details["per_class_accuracy"], float) for model in drawn]  # None becomes NaN
    few = len(names) <= _FEW_CLASSES
    order = np.argsort(values[-1])

    def draw(axes):
        rows = range(len(names))
        for model, accuracy in zip(drawn, values, strict=True):
            tint = colour(model.colour)
            if few:
                axes.plot(accuracy[order], rows, "o", color=tint, markersize=6, alpha=0.9, label=model.label)
            else:
                axes.plot(np.sort(accuracy), rows, color=tint, linestyle=dashes(model.colour), label=model.label)
        if few:
            axes.set_yticks(rows, [names[i] for i in order])
        else:
            axes.set_ylabel("classes, least accurate first")
        axes.set(title="Accuracy by class", xlabel="accuracy")
        axes.legend(loc="best")

    height = min(8.0, max(2.9, 1.0 + 0.26 * len(names))) if few else 3.4
    return chart(draw, "Accuracy by class", height=height, names=few)


def time_split(series: Sequence[ChartSeries], seconds: Sequence[Mapping[str, float]]) -> str | None:
    """Where the time of each run went: one row per part, with one bar per run.

    Args:
      series: the student of each run.
      seconds: {part: seconds} of each run.
    """
    parts = list(dict.fromkeys(part for split in seconds for part, value in split.items() if value > 0))
    if not parts:
        return None
    thickness = 0.75 / len(seconds)

    def draw(axes):
        for number, (model, split) in enumerate(zip(series, seconds, strict=True)):
            places = [row + (number - (len(seconds) - 1) / 2) * thickness for row in range(len(parts))]
            values = [split.get(part, 0.0) for part in parts]
            style = {"color": colour(model.colour), "alpha": 0.9, "label": model.label}
            bars = axes.barh(places, values, height=0.85 * thickness, **style)
            if len(seconds) < 4:
                axes.bar_label(bars, [f"{value:,.1f} s" for value in values], padding=3, fontsize=8.5)
        axes.set_yticks(range(len(parts)), parts)
        axes.set(title="Where the time went", xlabel="seconds", ylim=(len(parts) - 0.5, -0.5))
        axes.margins(x=0.2)
        axes.grid(visible=False, axis="y")
        if len(series) > 1:
            axes.legend(loc="lower right")

    height = max(2.9, 0.9 + 0.16 * len(parts) * (1 + len(seconds)))
    return chart(draw, "Seconds of each part of the run", height=height, names=True)


def _plain_numbers(axis):
    """Labels a log axis 0.5, 1, 2, 5: its default labels are mathematical text, which is off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
