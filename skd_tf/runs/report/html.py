"""The contents of a report: tables, charts and texts. report.html holds their markup, and the page needs no network."""

import collections
import importlib.resources
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import markupsafe

from skd_tf.config.flags import FIELDS
from skd_tf.errors import as_text
from skd_tf.runs.report import answers, charts, failures, run_data, seeds, several_runs, tables
from skd_tf.runs.report.run_data import Run
from skd_tf.runs.result_tables import epochs_of, measured_after

_COMMAND = r"(python -m [\w.]+(?: '--[^']*'| --[\w@%+=:,./-]*[\w/])*|--\w+(?:=[\w.:/]*\w)?)"
_CALIBRATION_NOTE = (
    "Accuracy of the images in each bin of confidence (top probability). On the dashed line a model is right as often "
    "as its confidence says; bars above it mean too little confidence, bars below it too much. "
    "Wide bars hold many images."
)
_SPHERE_NOTE = (
    "A student trained on the sphere gives every image logits of one norm, the radius R. Its raw norm has no meaning, "
    "and its raw softmax is not its probability."
)
_OTHER_CLASSES = "The runs have different classes, so accuracy is not drawn class by class."
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


COUNT = re.compile(r"This file contains (\d+) test image")  # in report.html


def page(runs: Sequence[Run]) -> str:
    """The HTML of a report on one run, or on several side by side."""
    series = run_data.chart_series(runs)
    one = runs[0] if len(runs) == 1 else None
    text = importlib.resources.files(__package__).joinpath("report.html").read_text()
    pictures = failures.pictures(runs)
    first_table, more_table = tables.tables(runs, series)
    methods = seeds.methods(runs) if several_runs.same_images(runs) else []
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["commands"] = _commands
    return environment.from_string(text).render(
        title=f"{one.title}: {one.name}" if one else f"{len(runs)} runs compared",
        heading=one.title if one else f"{len(runs)} runs compared",
        summary=_summary(one) if one else ", ".join(run.name for run in runs),
        headline=answers.headline(runs),
        answers=answers.answers(runs),
        after=f", {measured_after(one.result)}" if one else "",
        over_seeds=seeds.table(methods, several_runs.measure_of(runs)) if methods else None,
        first_table=first_table,
        more_table=more_table,
        exported=tables.exported(runs),
        exported_timed=any(file.get("latency_ms") for run in runs for file in run.exports),
        has_intervals=any("models" in run.details for run in runs),
        matrix=failures.matrix(one) if one else [],
        pairs=failures.pairs(one) if one else [],
        pictures=pictures,
        picture_count=sum(len(group["images"]) for group in pictures),
        sections=[
            Section("Training", [*_losses(series), *_curves(runs, series)]),
            Section("Calibration", list(_reliability_diagrams(series)), _CALIBRATION_NOTE, "narrow"),
            _confidence(runs, series),
            Section("Classes and time", _classes_and_time(runs, series), "" if _alike(runs) else _OTHER_CLASSES),
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


def _commands(text):
    """A text with its commands and flags set as code."""
    code, word = markupsafe.Markup("<code>{}</code>"), markupsafe.Markup("<span>{}</span>")
    pieces = re.split(_COMMAND, text)
    for i in range(1, len(pieces), 2):
        pieces[i] = code.format(markupsafe.Markup(" ").join(map(word.format, pieces[i].split(" "))))
    return markupsafe.Markup("").join(pieces)


def _summary(run):
    config = run.result["config"]
    teacher = run.details.get("teacher", {}).get("name", "a teacher")
    source = (
        f"Distilled from {teacher}, loss {config['loss']}" if "teacher" in run.result else "Trained without a teacher"
    )
    return f"{source}, {epochs_of(run.result)}, seed {config['seed']}. Run {run.name}."


def _losses(series):
    """A chart for each loss: two losses, or one with two temperatures or weights, have no common axis."""
    groups = collections.defaultdict(list)
    for member in series:
        groups[tuple(member.loss.items())].append(member)
    losses = [dict(key) for key in groups]
    varied = [name for name in losses[0] if name != "loss" and len({loss[name] for loss in losses if name in loss}) > 1]
    for loss, members in zip(losses, groups.values(), strict=True):
        title = ", ".join([f"Loss: {loss['loss']}", *(f"{name} {loss[name]}" for name in varied if name in loss)])
        yield charts.curve(members, "loss", title, label="nats"), "Training images; weighted sum of its terms."


def _curves(runs, series):
    curve = charts.curve
    accuracy = curve(series, "val_accuracy", "Accuracy", also="accuracy")
    agreement = curve(series, "val_agreement", "Agreement with the teacher", also="agreement")
    norm = curve(series, "student_logit_norm", "Raw logit norm of the student", log=True)
    return [
        (accuracy, "Validation images; thin: training images, augmented."),
        (agreement, "Validation images; thin: training images, augmented."),
        (curve(series, "val_kl_to_teacher", "Validation KL to the teacher", label="nats"), ""),
        (curve(series, "val_nll", "Validation NLL", label="nats"), ""),
        (curve(series, "learning_rate", "Learning rate", zero=True), ""),
        (curve(series, "kd_weight", "Weight of the distill term", zero=True), ""),
        (norm, f"Mean over training images{', before the sphere' * bool(_radius(runs))}."),
    ]


def _reliability_diagrams(series):
    for member in series:
        details = member.details
        yield charts.reliability(member, details.get("reliability"), member.label, member.record.get("ece", 0)), ""
        raw = details.get("raw")
        if details.get("raw_reliability") and member.colour == "student":
            name = f"{member.label}, raw softmax"
            caption = f"Not what ships: NLL {raw['nll']:.3f}, on the sphere {member.record['nll']:.3f}."
            yield charts.reliability(member, details["raw_reliability"], name, raw["ece"]), caption
        calibrated = member.record.get("calibrated")
        if (
            calibrated
            and details.get("calibrated_reliability")
            and member.colour not in ("teacher", "student_alone", "student_matched")
        ):
            diagram, name = details["calibrated_reliability"], f"{member.label}, calibrated"
            yield charts.reliability(member, diagram, name, calibrated["ece"]), "As it ships."


def _radius(runs):
    """The radius of each run whose loss is on the sphere."""
    return [run.result["radius"] for run in runs if run.result.get("radius")]


def _confidence(runs, series):
    radius = _radius(runs)
    title = "Logit norms before and after the sphere" if radius else "Logit norms"
    note = "Dashed: the radius, the norm of every image after the sphere." if radius else ""
    gap, gap_note = runs[0].result["student"].get("confidence_gap"), _GAP_NOTE
    if len(runs) == 1 and gap is not None:
        gap_note += f" The teacher's mean confidence is {gap:.3f} above the student's."
    gain = charts.curve(series, "radius_over_student_norm", "R over the student's raw norm", zero=True)
    figures = [
        (charts.norms(series, radius, title), note),
        (charts.confidence_gap(series), gap_note),
        (gain, "The factor by which the sphere scales the gradient."),
    ]
    return Section("Confidence and the sphere" if radius else "Confidence", figures, _SPHERE_NOTE if radius else "")


def _alike(runs):
    """Whether the runs have the same classes."""
    return all(run.result["class_names"] == runs[0].result["class_names"] for run in runs)


def _classes_and_time(runs, series):
    result = runs[0].result
    rate, waiting = result["examples_per_second"], result["input_wait_share"]
    rates = f"Median {rate:,.0f} images/s; {waiting:.1%} of the time it waited for input." if len(runs) == 1 else ""
    students = series if len(runs) > 1 else [member for member in series if member.record is result["student"]]
    return [
        (charts.per_class(series, result["class_names"]) if _alike(runs) else None, ""),
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
