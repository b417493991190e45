"""A report as one HTML page: no script, no network, every picture inside."""

import html
import importlib.resources
import string

from skd_tf.config.flags import FIELDS
from skd_tf.errors import as_text
from skd_tf.runs.report import charts, run_data

_COLUMNS = (  # heading, key, format
    ("top-1", "accuracy", "{:.4f}"),
    ("NLL", "nll", "{:.4f}"),
    ("Brier", "brier", "{:.4f}"),
    ("ECE", "ece", "{:.4f}"),
    ("confidence", "confidence", "{:.4f}"),
    ("agreement", "agreement", "{:.4f}"),
    ("KL to teacher", "kl_to_teacher", "{:.4f}"),
    ("logit norm", "logit_norm", "{:.2f}"),
)


def page(found):
    """The HTML of a report on one run, or on several side by side.

    Args:
      found: `runs.Run`s.
    """
    members = run_data.members(found)
    one = found[0] if len(found) == 1 else None
    title = f"{one.title}: {one.name}" if one else f"{len(found)} runs compared"
    sections = [
        _head(one, found),
        _section("Result", _result_table(found, members), _result_note(found)),
        _section("Training", _figures(_curves(members))),
        _section("Calibration", _figures(_diagrams(members), "narrow"), _CALIBRATION_NOTE),
        _section("Confidence and the sphere", _figures(_sphere(found, members)), _SPHERE_NOTE),
        _section("Classes and time", _figures(_classes_and_time(found, members))),
        _section("Settings that differ" if not one else "Settings that are not the default", _settings_table(found)),
        _footer(found),
    ]
    template = string.Template(importlib.resources.files(__package__).joinpath("report.html").read_text())
    return template.substitute(title=html.escape(title), body="\n".join(filter(None, sections)))


_CALIBRATION_NOTE = (
    "Accuracy of the images in each bin of confidence (top probability). On the dashed line a model is as often right as it "
    "says; bars above it are too modest, below it too sure. Wide bars hold many images."
)
_SPHERE_NOTE = (
    "A student trained on the sphere gives every image logits of one norm, the radius R; its raw norm carries no meaning "
    "and its raw softmax is not its probability."
)


def _head(one, found):
    if one is None:
        names = ", ".join(html.escape(run.name) for run in found)
        return f"<h1>{len(found)} runs compared</h1><p class='muted'>{names}</p>"
    config, result = one.result["config"], one.result
    student, teacher, alone = (result.get(name) for name in ("student", "teacher", "student_alone"))
    source = f"distilled from {one.details.get('teacher', {}).get('name', 'a teacher')}, " if teacher else ""
    line = f"{source}loss {config['loss']}, {config['epochs']} epochs, seed {config['seed']}. Run {one.name}."
    tiles = [(f"{student['accuracy']:.4f}", "top-1 on the test split")]
    if alone:
        tiles.append((f"{100 * (student['accuracy'] - alone['accuracy']):+.2f}", "points over the student alone"))
    if teacher:
        tiles.append((f"{100 * (student['accuracy'] - teacher['accuracy']):+.2f}", "points from the teacher"))
        tiles.append((f"{teacher['parameters'] / student['parameters']:,.1f}x", "fewer parameters than the teacher"))
    tiles.append((f"{student['parameters']:,}", "parameters"))
    tiles.append((f"{result['examples_per_second']:,.0f}", "training images/s"))
    cells = "".join(f"<div class='tile'><b>{value}</b><span>{text}</span></div>" for value, text in tiles)
    return f"<h1>{html.escape(one.title)}</h1><p class='muted'>{html.escape(line)}</p><div class='tiles'>{cells}</div>"


def _result_table(found, members):
    """All models of all runs; those of the charts carry their colour."""
    columns = [column for column in _COLUMNS if any(column[1] in run.result["student"] for run in found)]
    lines = ["<tr><th>" + "</th><th>".join(["", *(heading for heading, _, _ in columns)]) + "</th></tr>"]
    keys = {id(member.row): member for member in members}
    for run in found:
        for role, label in run_data.ROLES.items():
            if role not in run.result:
                continue
            row, member = run.result[role], keys.get(id(run.result[role]))
            name = label if len(found) == 1 and "teacher" in run.result else f"{run.name}, {label}"
            name = member.label if member and len(members) == 1 else name
            key = (
                f"<span class='key' style='background:var(--{member.colour.replace('_', '-')})'></span>"
                if member
                else ""
            )
            ends = run.details.get("models", {}).get(role, {}).get("intervals", {})
            size = f"<small>{row['parameters']:,} parameters</small>"
            cells = [f"<td>{key}{html.escape(name)}{size}</td>", *(_cell(row, column, ends) for column in columns)]
            lines.append(f"<tr{' class=main' if role == 'student' else ''}>{''.join(cells)}</tr>")
    return _table(lines)


def _cell(row, column, ends):
    _, key, form = column
    if row.get(key) is None:
        return "<td></td>"
    interval = f"<small>{form.format(ends[key][0])}–{form.format(ends[key][1])}</small>" if key in ends else ""  # noqa: RUF001
    return f"<td>{form.format(row[key])}{interval}</td>"


def _result_note(found):
    known = any("models" in run.details for run in found)
    intervals = " Small print: 95% intervals over resampled test images." if known else ""
    return f"On the test split, after the last epoch.{intervals}"


def _curves(members):
    return [
        (charts.curve(members, "loss", "Loss", label="nats"), "Weighted sum of both terms, training images."),
        (
            charts.curve(members, "val_accuracy", "Accuracy", also="accuracy"),
            "Validation images; thin: training images, augmented.",
        ),
        (charts.curve(members, "val_nll", "Validation NLL", label="nats"), ""),
        (charts.curve(members, "learning_rate", "Learning rate", zero=True), ""),
        (charts.curve(members, "kd_weight", "Weight of the distill term", zero=True), ""),
        (
            charts.curve(members, "student_logit_norm", "Raw logit norm of the student", log=True),
            "Mean over training images, before the sphere.",
        ),
    ]


def _diagrams(members):
    figures = []
    for member in members:
        diagram = charts.reliability(member, member.details.get("reliability"), member.label, member.row["ece"])
        figures.append((diagram, ""))
        raw = member.details.get("raw")
        if raw and member.colour == "student":
            bins, name = member.details["raw_reliability"], f"{member.label}, raw softmax"
            diagram = charts.reliability(member, bins, name, raw["ece"])
            figures.append((diagram, f"Not what ships: NLL {raw['nll']:.3f}, on the sphere {member.row['nll']:.3f}."))
    return figures


def _sphere(found, members):
    radius = [run.result["radius"] for run in found if run.result.get("radius")]
    title = "Logit norms before and after the sphere" if radius else "Logit norms"
    note = "Dashed: the radius, where every image lies after the sphere." if radius else ""
    gain = charts.curve(members, "radius_over_student_norm", "R over the student's raw norm", zero=True)
    return [
        (charts.norms(members, radius, title), note),
        (charts.confidence_gap(members), _gap_note(found)),
        (gain, "The factor by which the sphere scales the gradient."),
    ]


def _gap_note(found):
    gaps = [run.result["student"].get("confidence_gap") for run in found]
    if len(found) > 1 or gaps[0] is None:
        return "● accuracy, ◇ mean confidence; between them confidence minus accuracy."
    return (
        "● accuracy, ◇ mean confidence; between them confidence minus accuracy. "
        f"The teacher's mean confidence is {gaps[0]:.3f} above the student's."
    )


def _classes_and_time(found, members):
    splits = [_seconds(run) for run in found]
    result = found[0].result
    rate, waiting = result["examples_per_second"], result["input_wait_share"]
    rates = f"Median {rate:,.0f} images/s; {waiting:.1%} of the time it waited for input." if len(found) == 1 else ""
    students = members if len(found) > 1 else [member for member in members if member.row is result["student"]]
    return [
        (charts.per_class(members, result["class_names"]), ""),
        (charts.time_split(students, splits), ""),
        (charts.curve(members, "examples_per_second", "Throughput", label="images/s", zero=True), rates),
    ]


def _seconds(run):
    """Seconds by part; training in two."""
    split = dict(run.details.get("seconds", {"training": run.result["seconds"]}))
    training, share = split.pop("training", 0.0), run.result.get("input_wait_share", 0.0)
    return split | {"training": training * (1 - share), "waiting for input": training * share}


def _settings_table(found):
    defaults = {name: field.default for name, field in FIELDS.items()}
    rows = run_data.settings(found, defaults)
    if not rows:
        return "<p>None.</p>"
    heads = [run.name for run in found] if len(found) > 1 else ["this run"]
    lines = ["<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in ["", *heads, "default"]) + "</tr>"]
    for flag, default, values in rows:
        cells = [f"<code>{html.escape(text)}</code>" for text in (flag, *map(as_text, values), as_text(default))]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return _table(lines, "left")


def _footer(found):
    lines = []
    for run in found:
        versions = ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        lines.append(
            f"{run.name}: {run.result['device']}; {versions}; commit {run.result.get('git_commit') or 'unknown'}."
        )
    missing = [run.name for run in found if not run.details]
    if missing:
        lines.append(f"Without measurements.json, and so without diagrams: {', '.join(missing)}.")
    return "<footer>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines) + "</footer>"


def _section(title, body, note=""):
    note = f"<p class='muted'>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>" if body else ""


def _figures(figures, style=""):
    cells = ""
    for svg, caption in figures:
        if svg:
            caption = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
            cells += f"<figure>{svg}{caption}</figure>"
    return f"<div class='charts {style}'>{cells}</div>" if cells else ""


def _table(lines, style=""):
    head, *body = lines
    name = f" class='{style}'" if style else ""
    return f"<div class='scroll' tabindex='0'><table{name}><thead>{head}</thead><tbody>{''.join(body)}</tbody></table></div>"
