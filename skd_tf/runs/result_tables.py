"""Text tables: the result of a run, the files of an export, and an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf.errors import counted
from skd_tf.runs.columns import columns, role_names, without_top_5
from skd_tf.runs.verdict import comparison_lines

_RESULT = columns("accuracy", "nll", "ece", "confidence", "agreement", "parameters")
_WITHOUT_LABELS = columns("agreement", "agreement_at_5", "kl_to_teacher", "confidence", "parameters")
_QUALITY = columns("accuracy", "top5_accuracy", "nll", "brier", "ece", "ece_debiased", "confidence", "overconfidence")
_OVER_CLASSES = columns("balanced_accuracy", "macro_f1", "worst_class_recall")
_BESIDE_TEACHER = columns("agreement", "agreement_at_5", "kl_to_teacher", "confidence_gap")
_WORST_CLASSES = 5


def epochs_of(result: Mapping[str, Any]) -> str:
    """How long a run trained and which epoch it ships, in words."""
    planned = result["config"]["epochs"]
    trained = result.get("epochs_trained", planned)  # earlier versions trained all and shipped the last
    shipped = result.get("shipped_epoch", trained)
    text = (
        f"{trained} of {counted(planned, 'epoch')}, stopped early" if trained < planned else counted(trained, "epoch")
    )
    return text + (f"; epoch {shipped} ships, the best on validation" if shipped < trained else "")


def measured_after(result: Mapping[str, Any]) -> str:
    """The epoch whose weights were measured and ship, in words."""
    trained = result.get("epochs_trained", result["config"]["epochs"])
    shipped = result.get("shipped_epoch", trained)
    return f"after epoch {shipped}, the best on validation" if shipped < trained else "after the last epoch"


_EXPORT = {  # heading: cell of a file
    "file": lambda file: file["file"],
    "kB": lambda file: f"{file['bytes'] / 1e3:,.0f}",
    "numbers": lambda file: f"{file['stored_values']:,}",
    "logits differ by": lambda file: f"{file['largest_difference']:.2g}",
    "probabilities by": lambda file: f"{file['largest_probability_difference']:.2g}",
    "same class": lambda file: f"{file['agreement']:.2%}",
}
_AFTER_EXPORT = {  # heading: cell of a file
    "top-1": lambda file: _between(file, "accuracy"),
    "change": lambda file: f"{file['accuracy_change']:+.4f}",
    "NLL": lambda file: _between(file, "nll"),
    "ECE": lambda file: f"{file['ece']:.4f}",
    "ECE debiased": lambda file: _between(file, "ece_debiased"),
    "ms on one thread": lambda file: _spread(file.get("latency_ms"), "{:.3f}"),
}
_COST = {  # heading: cell of a model
    "logit norm": lambda entry: f"{entry.get('raw', entry)['logit_norm']:.3f}",
    "on the sphere": lambda entry: f"{entry['logit_norm']:.3f}" if "raw" in entry else "-",
    "parameters": lambda entry: "-" if entry["parameters"] is None else f"{entry['parameters']:,}",
    "MFLOPs": lambda entry: f"{entry['flops'] / 1e6:,.3f}" if entry["flops"] else "-",
    "kB": lambda entry: "-" if entry["file_bytes"] is None else f"{entry['file_bytes'] / 1e3:,.0f}",
    "ms at batch 1": lambda entry: _spread(entry.get("latency_ms"), "{:.2f}"),
    "images/s at batch 128": lambda entry: _spread(entry.get("images_per_second"), "{:,.0f}"),
}


def result_table(result: Mapping[str, Any]) -> str:
    """The table of a result.json: one line per model, measured on the test split; of the student, the epoch that ships."""
    shown = _RESULT if "accuracy" in result["student"] else _WITHOUT_LABELS
    shown = without_top_5(shown, len(result["class_names"]))
    lines = [["test split", *(column.heading for column in shown)]]
    for key, name in role_names(result).items():
        lines.append([name, *(column.text(result[key]) for column in shown)])
        lines += _calibrated(result[key], shown)
        if key == "teacher":
            lines += [[f"  {name}", *(column.text(one) for column in shown)] for name, one in each_teacher(result)]
    text = aligned(lines)
    if result.get("shipped_epoch", trained := result.get("epochs_trained", 0)) < trained:
        text += f"\nThe student was measured {measured_after(result)}."
    text += "".join(f"\n{sentence}" for sentence in agreements(result))
    if result.get("radius"):
        config = result["config"]
        radius = f"radius {result['radius']:.4g} ({config['radius']})"
        text += f"\non the sphere of {radius}, temperature {config['temperature']:g}"
    return text


def each_teacher(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(name with its weight, measurements) of each of several teachers; [] of one or none."""
    return [
        (f"teacher {i}, {one['name']}, weight {one['weight']:.3g}", one)
        for i, one in enumerate(result.get("teachers", []), 1)
    ]


def agreements(result: Mapping[str, Any]) -> list[str]:
    """A sentence on how often the student gives the answer of each of several teachers, in a list; [] without them."""
    if "teachers" not in result:
        return []
    each = [f"{one['student_agreement']:.1%} with teacher {i}" for i, one in enumerate(result["teachers"], 1)]
    mean = f"{result['student']['agreement']:.1%} with the mean of their softmaxes"
    return [f"Agreement of the student: {mean}, {', '.join(each)}."]


def export_table(files: Sequence[Mapping[str, Any]], student_values: int) -> str:
    """The table of what `skd_tf.serving.parity_check` found about each exported file.

    Args:
      files: one record per file.
      student_values: how many numbers the student consists of.
    """
    lines = [list(_EXPORT), *([cell(file) for cell in _EXPORT.values()] for file in files)]
    has_labels = all("accuracy" in file for file in files)
    timed = any(file.get("latency_ms") for file in files)
    cells = {
        heading: cell for heading, cell in _AFTER_EXPORT.items() if (timed if heading.startswith("ms") else has_labels)
    }
    measured = [["measured from the file", *cells]]
    measured += [[file["file"], *(cell(file) for cell in cells.values())] for file in files]
    return f"{aligned(lines)}\nThe student consists of {student_values:,} numbers.\n\n{aligned(measured)}"


def evaluation_tables(result: Mapping[str, Any]) -> str:
    """What `evaluate_models` returned: quality, models compared, closeness to the teacher, cost, worst classes."""
    models = [(entry["path"], entry) for entry in result["models"]]
    teacher = [("teacher", result["teacher"])] if result["teacher"] else []
    everyone = models + teacher
    classes = len(result["class_names"])
    quality, beside_teacher = (without_top_5(shown, classes) for shown in (_QUALITY, _BESIDE_TEACHER))
    parts = [_with_intervals(counted(result["dataset"]["test_examples"], "image"), everyone, quality, of_quality=True)]
    compared = [result["comparisons"], result.get("teacher_comparisons", [])]
    parts += ["\n".join(comparison_lines(each)) for each in compared if each]
    has_labels = all("accuracy" in entry for _, entry in everyone)
    if has_labels:
        parts.append(_with_intervals("every class counts the same", everyone, _OVER_CLASSES))
    if teacher:
        parts.append(_with_intervals("compared with the teacher", models, beside_teacher))
    columns_of_cost = [(heading, [cell(entry) for _, entry in everyone]) for heading, cell in _COST.items()]
    known = [(heading, cells) for heading, cells in columns_of_cost if {*cells} != {"-"}]
    costs = zip([name for name, _ in everyone], *(cells for _, cells in known), strict=True)
    parts.append(aligned([["cost", *(heading for heading, _ in known)], *([*line] for line in costs)]))
    if has_labels:
        parts.append("\n".join(_worst_classes(name, entry, result["class_names"]) for name, entry in everyone))
    return "\n\n".join(parts)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a block of text: the first column aligned left, the others right.

    >>> print(aligned([["model", "top-1"], ["a", "0.5"]]))
    model  top-1
    a        0.5
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _with_intervals(heading, named, shown, *, of_quality=False):
    """A table of metrics. Each model is followed by its intervals and, for quality, its raw and calibrated softmax."""
    shown = [column for column in shown if any(column.number(entry) is not None for _, entry in named)]
    lines = [[heading, *(column.heading for column in shown)]]
    for name, entry in named:
        lines.append([name, *(column.text(entry) for column in shown)])
        if "intervals" in entry:
            ends = [entry["intervals"].get(column.key) for column in shown]
            lines.append(["  95%", *("{:.3f} to {:.3f}".format(*pair) if pair else "" for pair in ends)])
        if of_quality:
            if "raw" in entry:
                lines.append(["  raw softmax", *(column.text(_with_gap(entry["raw"])) for column in shown)])
            lines += _calibrated(entry, shown)
    return aligned(lines)


def _calibrated(entry, shown):
    """The line of a model whose logits are divided by a fitted temperature, in a list; [] without one."""
    found = entry.get("calibrated")
    if not found:
        return []
    return [[f"  calibrated T={found['temperature']:.3f}", *(column.text(_with_gap(found)) for column in shown)]]


def _with_gap(quality):
    return quality | ({"overconfidence": quality["confidence"] - quality["accuracy"]} if "accuracy" in quality else {})


def _between(file, name):
    """A number with its 95% interval in brackets."""
    low, high = file["intervals"][name]
    return f"{file[name]:.4f} ({low:.3f} to {high:.3f})"


def _spread(timed, form):
    """A median with its quartiles in brackets."""
    if timed is None:
        return "-"
    return f"{form.format(timed['median'])} ({' to '.join(form.format(end) for end in timed['quartiles'])})"


def _worst_classes(name, entry, class_names):
    by_class = zip(entry["per_class_accuracy"], class_names, strict=True)
    known = sorted((accuracy, label) for accuracy, label in by_class if accuracy is not None)
    worst = ", ".join(f"{label} {accuracy:.3f}" for accuracy, label in known[:_WORST_CLASSES])
    return f"{name}: lowest accuracy by class: {worst}"
