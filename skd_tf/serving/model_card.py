"""The model card beside exported files: what a stranger needs to use the student, and to trust it."""

import importlib.resources
import string

from skd_tf.config import Config, flags

_NAMES = {"teacher": "teacher", "student_alone": "the same student alone", "student": "this student"}
_QUALITY = (
    ("top-1", "accuracy", "{:.4f}"),
    ("NLL (nats)", "nll", "{:.4f}"),
    ("ECE", "ece", "{:.4f}"),
    ("mean confidence", "confidence", "{:.4f}"),
    ("agreement", "agreement", "{:.4f}"),
    ("parameters", "parameters", "{:,}"),
)
_USAGE = {  # by kind of file
    "saved_model": (
        'model = tf.saved_model.load("{name}").signatures["serving_default"]\n'
        'probabilities = model(images=tf.constant(images))["probabilities"]'
    ),
    "keras": 'model = keras.models.load_model("{name}")      # stock layers only\nlogits = model(images)',
    "litert": (
        'model = ai_edge_litert.interpreter.Interpreter("{name}").get_signature_runner()\n'
        'probabilities = model(images=images)["probabilities"]'
    ),
    "onnx": (
        'model = onnxruntime.InferenceSession("{name}")\n'
        'probabilities, = model.run(["probabilities"], {{"images": images}})'
    ),
}
_SERVING = """Served by TensorFlow Serving (`--model_base_path` is the folder that holds the SavedModel as version `1`):

    POST /v1/models/student:predict
    {"instances": [IMAGE, ...]}                      an IMAGE is rows of pixels of channels, numbers 0 to 255
    -> {"predictions": [{"label": ..., "class_id": ..., "probabilities": [...], "logits": [...]}, ...]}"""


def model_card(*, result, measurements, files, rows, image_shape, student_values, check_images, temperature):
    """The text of README.md.

    Args:
      result: the run's result.json.
      measurements: the run's measurements.json, or {} of a run without one.
      files: the `formats.File`s that were written.
      rows: what `check.check` found of them.
      image_shape: (h, w, c).
      student_values: numbers that the student consists of.
      check_images: images that the files were compared on.
      temperature: of the calibration inside, or None.
    """
    config = Config.from_json(result["config"])
    height, width, channels = image_shape
    template = string.Template(importlib.resources.files(__package__).joinpath("model_card.md").read_text())
    return template.substitute(
        title=f"{config.student} for {config.dataset}",
        parameters=f"{result['student']['parameters']:,}",
        classes=len(result["class_names"]),
        dataset=config.dataset,
        origin=_origin(config, result, measurements),
        height=height,
        width=width,
        channels=channels,
        readout=_readout(config, result, temperature),
        usage=_usage(files),
        data=_data(config, result, measurements),
        recipe=_recipe(config, result, measurements),
        settings="".join(f"    {line}\n" for line in flags.write_flags(config).splitlines()).rstrip() or "    none",
        quality_note=_quality_note(temperature),
        quality=_quality(result, measurements),
        check_images=f"{check_images:,}",
        student_values=f"{student_values:,}",
        files=_files(files, rows),
        versions=_versions(result),
    )


def table(lines):
    """A Markdown table of rows of texts, the first one its heading."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], f"|{'---|' * len(lines[0])}", *rows[1:]])


def _origin(config, result, measurements):
    if "teacher" not in result:
        return "trained without a teacher"
    name = measurements.get("teacher", {}).get("name", "a larger network")
    teacher = result["teacher"]
    return f"distilled from {name} ({teacher['parameters']:,} parameters, top-1 {teacher['accuracy']:.4f})"


def _readout(config, result, temperature):
    lines = ["`probabilities` are the softmax of `logits`."]
    if result.get("radius"):
        lines.append(
            f"The student was trained on a sphere: the last layers of the file scale its logits to the norm "
            f"{result['radius']:.4f}, and only then is their softmax a probability."
        )
    if temperature is not None:
        lines.append(f"They are divided by the temperature {temperature:.4f}, fitted on held-out training images.")
    return "\n".join(lines)


def _usage(files):
    first = {file.kind: file for file in reversed(files)}  # of each kind
    texts = [_USAGE[file.kind].format(name=file.name) for file in files if file is first[file.kind]]
    blocks = ["\n".join(f"    {line}" for line in text.splitlines()) for text in texts]
    served = [_SERVING] * ("saved_model" in first)
    return "\n\n".join([*blocks, *served])


def _data(config, result, measurements):
    facts = measurements.get("dataset", {})
    counts = ""
    if facts:
        counts = f", version {facts['version']}: {facts['train']:,} training images and {facts['test']:,} test images"
    names = result["class_names"]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (
        f"{config.dataset}{counts}; {config.validation_fraction:.0%} of the training split was held out for validation.\n"
        f"Classes: {shown}."
    )


def _recipe(config, result, measurements):
    where = f"{result['device']}, {result['seconds']:,.0f} seconds of training"
    if "teacher" not in result:
        return f"Loss `{config.loss}`, {config.epochs} epochs. {where}."
    sphere = ""
    if result.get("radius"):
        sphere = f", on the sphere of radius {result['radius']:.4f} (Guo et al. 2021, arXiv:2010.07485)"
    return f"Loss `{config.loss}` at temperature {config.temperature:g}{sphere}, {config.epochs} epochs.\n{where}."


def _quality_note(temperature):
    before = (
        f", before the temperature {temperature:.4f}: it changes NLL, ECE and confidence alone" if temperature else ""
    )
    return f"On the test split, after the last epoch{before}."


def _quality(result, measurements):
    lines = [["", *(heading for heading, _, _ in _QUALITY)]]
    for key, name in _NAMES.items():
        if key in result:
            row = result[key]
            cells = [form.format(row[column]) if row.get(column) is not None else "" for _, column, form in _QUALITY]
            ends = measurements.get("models", {}).get(key, {}).get("intervals", {}).get("accuracy")
            cells[0] += f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
            lines.append([name, *cells])
    note = "\n\nIn brackets: 95% intervals over resampled test images." if "models" in measurements else ""
    return table(lines) + note


def _files(files, rows):
    heading = "file, precision, kB, numbers, logit difference, probability difference, same class, top-1 (change)"
    lines = [heading.split(", ")]
    for file, row in zip(files, rows, strict=True):
        lines.append(
            [
                f"`{file.name}`",
                file.precision,
                f"{row['bytes'] / 1e3:,.0f}",
                f"{row['stored_values']:,}",
                f"{row['largest_difference']:.2g}",
                f"{row['largest_probability_difference']:.2g}",
                f"{row['agreement']:.2%}",
                f"{row['accuracy']:.4f} ({row['accuracy_change']:+.4f})",
            ]
        )
    return table(lines)


def _versions(result):
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{packages}; commit {result.get('git_commit') or 'unknown'}."
