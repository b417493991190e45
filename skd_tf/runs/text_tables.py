"""Text tables: the result of a run, the files of an export, and an evaluation."""

from skd_tf.runs.columns import columns

_RESULT = columns("accuracy", "nll", "ece", "confidence", "agreement", "parameters")
_ROWS = (("teacher", "teacher"), ("student_alone", "student alone"), ("student", "student distilled"))


def table(result):
    """Text table of a result.json: a row a model, on the test split, last epoch."""
    lines = [["test split", *(column.heading for column in _RESULT)]]
    for key, name in _ROWS:
        if key in result:
            name = "student" if key == "student" and "teacher" not in result else name
            row = result[key]
            lines.append([name, *(column.text(row) for column in _RESULT)])
    text = aligned(lines)
    if result.get("radius"):
        config = result["config"]
        radius = f"radius {result['radius']:.4g} ({config['radius']})"
        text += f"\non the sphere of {radius}, temperature {config['temperature']:g}"
    return text


def export_table(rows, student_values):
    """Text table of what `skd_tf.serving.parity_check` found."""
    lines = [["file", "kB", "numbers", "logits differ by", "probabilities by", "same class", "top-1", "change"]]
    for row in rows:
        lines.append(
            [
                row["file"],
                f"{row['bytes'] / 1e3:,.0f}",
                f"{row['stored_values']:,}",
                f"{row['largest_difference']:.2g}",
                f"{row['largest_probability_difference']:.2g}",
                f"{row['agreement']:.2%}",
                f"{row['accuracy']:.4f}",
                f"{row['accuracy_change']:+.4f}",
            ]
        )
    return f"{aligned(lines)}\nThe student consists of {student_values:,} numbers."


_QUALITY = columns("accuracy", "top5_accuracy", "nll", "brier", "ece", "confidence", "overconfidence")
_BESIDE_TEACHER = columns("agreement", "agreement_at_5", "kl_to_teacher", "confidence_gap")
_WORST_CLASSES = 5


def evaluation_tables(result):
    """Text tables of what `skd_tf.evaluate` measured: quality, closeness to the teacher, cost, worst classes."""
    rows = [*result["models"], *([result["teacher"]] if result["teacher"] else [])]
    names = [row["path"] for row in result["models"]] + ["teacher"] * bool(result["teacher"])
    parts = [_with_intervals(f"{result['dataset']['test_examples']:,} images", names, rows, _QUALITY)]
    if result["teacher"]:
        parts.append(_with_intervals("beside the teacher", names[:-1], rows[:-1], _BESIDE_TEACHER))
    named = list(zip(names, rows, strict=True))
    parts.append(aligned([["cost", *_COST], *([name, *(cell(row) for cell in _COST.values())] for name, row in named)]))
    parts.append("\n".join(_worst_classes(name, row, result["class_names"]) for name, row in named))
    return "\n\n".join(parts)


def _with_intervals(heading, names, rows, shown):
    lines = [[heading, *(column.heading for column in shown)]]
    for name, row in zip(names, rows, strict=True):
        lines.append([name, *(column.text(row) for column in shown)])
        if "intervals" in row:
            ends = [row["intervals"].get(column.key) for column in shown]
            lines.append(["  95%", *("{:.3f} to {:.3f}".format(*pair) if pair else "" for pair in ends)])
        for label, other in (("  raw softmax", row.get("raw")), ("  calibrated", row.get("calibrated"))):
            if other and shown is _QUALITY:
                other = other | {"overconfidence": other["confidence"] - other["accuracy"]}
                label += f", T = {other['temperature']:.3f}" if "temperature" in other else ""
                lines.append([label, *(column.text(other) for column in shown)])
    return aligned(lines)


def _spread(timed, form):
    if timed is None:
        return "-"
    return f"{form.format(timed['median'])} ({' to '.join(form.format(end) for end in timed['quartiles'])})"


def _worst_classes(name, row, class_names):
    by_class = zip(row["per_class_accuracy"], class_names, strict=True)
    known = sorted((accuracy, label) for accuracy, label in by_class if accuracy is not None)
    worst = ", ".join(f"{label} {accuracy:.3f}" for accuracy, label in known[:_WORST_CLASSES])
    return f"{name}: lowest accuracy by class: {worst}"


_COST = {  # heading -> the cell of a row
    "logit norm": lambda row: f"{row.get('raw', row)['logit_norm']:.3f}",
    "on the sphere": lambda row: f"{row['logit_norm']:.3f}" if "raw" in row else "-",
    "parameters": lambda row: f"{row['parameters']:,}",
    "MFLOPs": lambda row: f"{row['flops'] / 1e6:,.3f}" if row["flops"] else "-",
    "kB": lambda row: f"{row['file_bytes'] / 1e3:,.0f}",
    "ms at batch 1": lambda row: _spread(row.get("latency_ms"), "{:.2f}"),
    "images/s at batch 128": lambda row: _spread(row.get("images_per_second"), "{:,.0f}"),
}


def aligned(lines):
    """Rows of texts as one block: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ([cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)] for line in lines)
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *row]).rstrip() for line, row in zip(lines, rows, strict=True)
    )
