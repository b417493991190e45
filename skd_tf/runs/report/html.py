"""The contents of a report: tables, charts and texts. report.html holds their markup, and the page needs no network."""

import importlib.resources
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jinja2

from skd_tf.config.flags import FIELDS
from skd_tf.errors import as_text
from skd_tf.runs.columns import columns
from skd_tf.runs.report import charts, run_data
from skd_tf.runs.report.run_data import ChartSeries, Run

_COLUMNS = columns(
    *("accuracy", "balanced_accuracy", "macro_f1", "worst_class_recall", "nll", "brier", "ece", "confidence"),
    *("agreement", "kl_to_teacher", "logit_norm"),
)
_CALIBRATION_NOTE = (
    "Accuracy of the images in each bin of confidence (top probability). On the dashed line a model is right as often "
    "as its confidence says; bars above it mean too little confidence, bars below it too much. "
    "Wide bars hold many images."
)
_SPHERE_NOTE = (
    "A student trained on the sphere gives every image logits of one norm, the radius R. Its raw norm has no meaning, "
    "and its raw softmax is not its probability."
)
_GAP_NOTE = "● accuracy, ◇ mean confidence; the line between them is confidence minus accuracy."


class Section(NamedTuple):
    """A section of charts: (SVG or None, caption) each."""

    title: str
    figures: Sequence[tuple[str | None, str]]
    note: str = ""
    style: str = ""  # a CSS class

    @property
    def drawn(self) -> list[tuple[str, str]]:
        return [(svg, caption) for svg, caption in self.figures if svg]


def page(runs: Sequence[Run]) -> str:
    """The HTML of a report on one run, or on several side by side."""
    series = run_data.chart_series(runs)
    compared = f"{len(runs)} runs compared"
    text = importlib.resources.files(__package__).joinpath("report.html").read_text()
    return jinja2.Template(text, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).render(
        title=compared if len(runs) > 1 else f"{runs[0].title}: {runs[0].name}",
        heading=compared if len(runs) > 1 else runs[0].title,
        summary=", ".join(run.name for run in runs) if len(runs) > 1 else _summary(runs[0]),
        tiles=_tiles(runs[0].result) if len(runs) == 1 else [],
        columns=[column for column in _COLUMNS if any(column.key in run.result["student"] for run in runs)],
        models=list(_models(runs, series)),
        has_intervals=any("models" in run.details for run in runs),
        sections=[
            Section("Training", _curves(series)),
            Section("Calibration", list(_reliability_diagrams(series)), _CALIBRATION_NOTE, "narrow"),
            Section("Confidence and the sphere", _sphere(runs, series), _SPHERE_NOTE),
            Section("Classes and time", _classes_and_time(runs, series)),
        ],
        run_names=[run.name for run in runs],
        settings=[
            [flag, *map(as_text, values), as_text(default)]
            for flag, default, values in run_data.settings(
                runs, {name: field.default for name, field in FIELDS.items()}
            )
        ],
        footer=list(_footer(runs)),
    )


def _summary(run):
    config = run.result["config"]
    teacher = run.details.get("teacher", {}).get("name", "a teacher")
    source = f"distilled from {teacher}, " if "teacher" in run.result else ""
    return f"{source}loss {config['loss']}, {config['epochs']} epochs, seed {config['seed']}. Run {run.name}."


def _tiles(result):
    """[(number, what it is)] of one run."""
    student, teacher, alone = (result.get(name) for name in ("student", "teacher", "student_alone"))
    tiles = [(f"{student['accuracy']:.4f}", "top-1 on the test split")]
    if alone:
        tiles.append((f"{100 * (student['accuracy'] - alone['accuracy']):+.2f}", "points over the student alone"))
    if teacher:
        tiles.append((f"{100 * (student['accuracy'] - teacher['accuracy']):+.2f}", "points from the teacher"))
        tiles.append((f"{teacher['parameters'] / student['parameters']:,.1f}x", "fewer parameters than the teacher"))
    tiles.append((f"{student['parameters']:,}", "parameters"))
    return [*tiles, (f"{result['examples_per_second']:,.0f}", "training images/s")]


def _models(runs: Sequence[Run], series: Sequence[ChartSeries]) -> Iterable[dict[str, Any]]:
    """The rows of the result table: all models of all runs, those in the charts with their colour."""
    shown = {id(member.record): member for member in series}
    for run in runs:
        for role, label in run_data.ROLES.items():
            if role not in run.result:
                continue
            record = run.result[role]
            member = shown.get(id(record))
            name = label if len(runs) == 1 and "teacher" in run.result else f"{run.name}, {label}"
            yield {
                "name": member.label if member and len(series) == 1 else name,
                "colour": member.colour.replace("_", "-") if member else "",
                "record": record,
                "intervals": run.details.get("models", {}).get(role, {}).get("intervals", {}),
                "is_student": role == "student",
            }


def _curves(series):
    curve = charts.curve
    accuracy = curve(series, "val_accuracy", "Accuracy", also="accuracy")
    norm = curve(series, "student_logit_norm", "Raw logit norm of the student", log=True)
    return [
        (curve(series, "loss", "Loss", label="nats"), "Weighted sum of both terms, training images."),
        (accuracy, "Validation images; thin: training images, augmented."),
        (curve(series, "val_nll", "Validation NLL", label="nats"), ""),
        (curve(series, "learning_rate", "Learning rate", zero=True), ""),
        (curve(series, "kd_weight", "Weight of the distill term", zero=True), ""),
        (norm, "Mean over training images, before the sphere."),
    ]


def _reliability_diagrams(series):
    for member in series:
        details = member.details
        yield charts.reliability(member, details.get("reliability"), member.label, member.record["ece"]), ""
        raw = details.get("raw")
        if raw and member.colour == "student":
            name = f"{member.label}, raw softmax"
            caption = f"Not what ships: NLL {raw['nll']:.3f}, on the sphere {member.record['nll']:.3f}."
            yield charts.reliability(member, details["raw_reliability"], name, raw["ece"]), caption


def _sphere(runs, series):
    radius = [run.result["radius"] for run in runs if run.result.get("radius")]
    title = "Logit norms before and after the sphere" if radius else "Logit norms"
    note = "Dashed: the radius, the norm of every image after the sphere." if radius else ""
    gap, gap_note = runs[0].result["student"].get("confidence_gap"), _GAP_NOTE
    if len(runs) == 1 and gap is not None:
        gap_note += f" The teacher's mean confidence is {gap:.3f} above the student's."
    gain = charts.curve(series, "radius_over_student_norm", "R over the student's raw norm", zero=True)
    return [
        (charts.norms(series, radius, title), note),
        (charts.confidence_gap(series), gap_note),
        (gain, "The factor by which the sphere scales the gradient."),
    ]


def _classes_and_time(runs, series):
    result = runs[0].result
    rate, waiting = result["examples_per_second"], result["input_wait_share"]
    rates = f"Median {rate:,.0f} images/s; {waiting:.1%} of the time it waited for input." if len(runs) == 1 else ""
    students = series if len(runs) > 1 else [member for member in series if member.record is result["student"]]
    return [
        (charts.per_class(series, result["class_names"]), ""),
        (charts.time_split(students, [_seconds(run) for run in runs]), ""),
        (charts.curve(series, "examples_per_second", "Throughput", label="images/s", zero=True), rates),
    ]


def _seconds(run):
    """Seconds by part of the run; training is split into computing and waiting for input."""
    split = dict(run.details.get("seconds", {"training": run.result["seconds"]}))
    training, share = split.pop("training", 0.0), run.result.get("input_wait_share", 0.0)
    return split | {"training": training * (1 - share), "waiting for input": training * share}


def _footer(runs):
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        commit = run.result.get("git_commit") or "unknown"
        yield f"{run.name}: {run.result['device']}; {versions}; commit {commit}."
    missing = [run.name for run in runs if not run.details]
    if missing:
        yield f"Without measurements.json, and so without diagrams: {', '.join(missing)}."
