"""The table a run ends with."""

_COLUMNS = (  # heading, key, format
    ("top-1", "accuracy", "{:.4f}"),
    ("NLL", "nll", "{:.4f}"),
    ("ECE", "ece", "{:.4f}"),
    ("confidence", "confidence", "{:.4f}"),
    ("agreement", "agreement", "{:.4f}"),
    ("parameters", "parameters", "{:,}"),
)
_ROWS = (("teacher", "teacher"), ("student_alone", "student alone"), ("student", "student distilled"))


def table(result):
    """Text table of a result.json: a row a model, on the test split, last epoch."""
    lines = [["test split", *(heading for heading, _, _ in _COLUMNS)]]
    for key, name in _ROWS:
        if key in result:
            name = "student" if key == "student" and "teacher" not in result else name
            row = result[key]
            lines.append([name, *(form.format(row[c]) if row.get(c) is not None else "-" for _, c, form in _COLUMNS)])
    text = aligned(lines)
    if result.get("radius"):
        config = result["config"]
        radius = f"radius {result['radius']:.4g} ({config['radius']})"
        text += f"\non the sphere of {radius}, temperature {config['temperature']:g}"
    return text


def models_table(rows):
    """Text table of the models that `skd_tf.evaluate` measured."""
    columns = [column for column in _COLUMNS if column[1] in rows[0]]
    lines = [["model", *(heading for heading, _, _ in columns)]]
    lines += [[row["path"], *(form.format(row[key]) for _, key, form in columns)] for row in rows]
    return aligned(lines)


def aligned(lines):
    """Rows of texts as one block: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in rows)
