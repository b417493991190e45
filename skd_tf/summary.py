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
    return aligned(lines)


def aligned(lines):
    """Rows of texts as one block: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
