"""The charts of a report, each an SVG element; None where the runs hold nothing to draw."""

import numpy as np

from skd_tf.runs.report.svg import chart, colour, dashes

_FEW_CLASSES = 30


def curve(members, key, title, *, label="", log=False, zero=False, also=None):
    """A value by epoch, a line a member; `also` names a second value of the same members, drawn thin."""
    drawn = [
        member for member in members if any(row.get(key) for row in member.epochs)
    ]  # a weight of 0 throughout is none
    if not drawn:
        return None

    def draw(axes):
        for member in drawn:
            for name, style in ((also, {"linewidth": 0.9, "alpha": 0.55}), (key, {"label": member.label})):
                points = [(row["epoch"] + 1, row[name]) for row in member.epochs if row.get(name) is not None]
                if points:
                    marker = "o" if len(points) < 3 else None
                    axes.plot(
                        *zip(*points, strict=True),
                        color=colour(member.colour),
                        linestyle=dashes(member.colour),
                        marker=marker,
                        **style,
                    )
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


def reliability(member, diagram, title, ece):
    """Accuracy in each bin of confidence, against the diagonal; wide bars where many images lie."""
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
                axes.bar(middle, bin["accuracy"], share * 0.9 * size, color=colour(member.colour), alpha=0.85)
                axes.plot(bin["confidence"], bin["accuracy"], "o", markersize=3, color=colour("ink"))
        axes.set(title=f"{title}: ECE {ece:.3f}", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.set_aspect("equal")

    return chart(draw, f"Reliability diagram of {title}, expected calibration error {ece:.3f}", width=3.4, height=3.4)


def norms(members, radius, title):
    """Histograms of the logit norms before the sphere, and the sphere's radius, where all of them lie after it."""
    drawn = [member for member in members if "norms" in member.details]
    if not drawn:
        return None

    def draw(axes):
        for member in drawn:
            edges, counts = (np.array(member.details["norms"][name], float) for name in ("edges", "counts"))
            line = {"color": colour(member.colour), "linestyle": dashes(member.colour)}
            axes.stairs(counts / counts.sum(), edges, fill=True, alpha=0.25, color=colour(member.colour))
            axes.stairs(counts / counts.sum(), edges, label=member.label, linewidth=1.4, **line)
        for value in sorted(set(radius)):
            axes.axvline(value, color=colour("ink"), linewidth=1.2, linestyle="--")
            axes.annotate(
                f"R = {value:.3g}",
                (value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=8.5,
            )
        axes.set(title=title, xlabel="norm of an image's logits", ylabel="share of images", xscale="log")
        _plain_numbers(axes.xaxis)
        axes.margins(y=0.22)
        if len(drawn) > 1:
            axes.legend(loc="upper left")

    return chart(draw, title)


def confidence_gap(members):
    """Mean confidence beside accuracy: the confidence gap of each model, and between them."""

    def draw(axes):
        for place, member in enumerate(members):
            accuracy, confidence, tint = member.row["accuracy"], member.row["confidence"], colour(member.colour)
            axes.plot([accuracy, confidence], [place, place], color=tint, linewidth=2.5, alpha=0.45, zorder=1)
            axes.plot(accuracy, place, "o", color=tint, markersize=8)
            axes.plot(
                confidence, place, "D", markersize=7, markerfacecolor="none", markeredgecolor=tint, markeredgewidth=1.6
            )
            axes.annotate(
                f"{confidence - accuracy:+.3f}",
                ((accuracy + confidence) / 2, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(len(members)), [member.label for member in members])
        axes.set(title="Confidence gap", ylim=(len(members) - 0.4, -0.7))
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")

    height = max(2.9, 0.9 + 0.55 * len(members))
    return chart(draw, "Mean confidence minus accuracy of each model", height=height, names=True)


def per_class(members, names):
    """Accuracy by class: a row a class for few classes; for many, each model's classes in the order of its accuracy."""
    drawn = [member for member in members if "per_class_accuracy" in member.details]
    if not drawn:
        return None
    values = [np.array([np.nan if v is None else v for v in member.details["per_class_accuracy"]]) for member in drawn]
    few = len(names) <= _FEW_CLASSES
    order = np.argsort(values[-1])

    def draw(axes):
        for member, accuracy in zip(drawn, values, strict=True):
            tint, style = colour(member.colour), dashes(member.colour)
            if few:
                axes.plot(
                    accuracy[order], range(len(names)), "o", color=tint, markersize=6, alpha=0.9, label=member.label
                )
            else:
                axes.plot(np.sort(accuracy), range(len(names)), color=tint, linestyle=style, label=member.label)
        if few:
            axes.set_yticks(range(len(names)), [names[i] for i in order])
        else:
            axes.set_ylabel("classes, least accurate first")
        axes.set(title="Accuracy by class", xlabel="accuracy")
        axes.legend(loc="best")

    height = min(8.0, max(2.9, 1.0 + 0.26 * len(names))) if few else 3.4
    return chart(draw, "Accuracy by class", height=height, names=few)


def time_split(members, seconds):
    """Where the time of each run went: a row a part, a bar a run; `seconds` is {part: seconds} of each member's run."""
    parts = list(dict.fromkeys(part for split in seconds for part, value in split.items() if value > 0))
    if not parts:
        return None
    thickness = 0.75 / len(seconds)

    def draw(axes):
        for number, (member, split) in enumerate(zip(members, seconds, strict=True)):
            places = [place + (number - (len(seconds) - 1) / 2) * thickness for place in range(len(parts))]
            values = [split.get(part, 0.0) for part in parts]
            tint = colour(member.colour)
            bars = axes.barh(places, values, height=0.85 * thickness, color=tint, alpha=0.9, label=member.label)
            if len(seconds) < 4:
                axes.bar_label(bars, [f"{value:,.1f} s" for value in values], padding=3, fontsize=8.5)
        axes.set_yticks(range(len(parts)), parts)
        axes.set(title="Where the time went", xlabel="seconds", ylim=(len(parts) - 0.5, -0.5))
        axes.margins(x=0.2)
        axes.grid(visible=False, axis="y")
        if len(members) > 1:
            axes.legend(loc="lower right")

    height = max(2.9, 0.9 + 0.16 * len(parts) * (1 + len(seconds)))
    return chart(draw, "Seconds of each part of the run", height=height, names=True)


def _plain_numbers(axis):
    """Ticks of a log axis as 0.5, 1, 2, 5: mathematical text is off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
