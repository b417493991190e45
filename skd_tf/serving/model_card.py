"""The model card beside exported files: what a stranger must know to use the student and to trust it."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from skd_tf.runs.columns import columns, role_names
from skd_tf.runs.lineage import Lineage
from skd_tf.runs.result_tables import agreements, each_teacher, epochs_of, measured_after
from skd_tf.serving import parity_check
from skd_tf.serving.formats import ExportFile
from skd_tf.serving.input_pixels import input_pixels

_WITHOUT_LABELS = columns("agreement", "kl_to_teacher", "confidence", "parameters")
_COLUMNS = columns("accuracy", "nll", "ece", "confidence", "agreement", "parameters")


def model_card(
    *,
    settings: Mapping[str, Any],
    flagfile: str,
    result: Mapping[str, Any],
    measurements: Mapping[str, Any],
    files: Sequence[ExportFile],
    rows: Sequence[Mapping[str, Any]],
    image_shape: tuple[int, int, int],
    student_values: int,
    check_images: int,
    temperature: float | None,
    lineage: Lineage,
    device: str,
    held_out: str,
    png_bits: int | None = None,
    custom_layers: str = "",
) -> str:
    """The text of README.md.

    Args:
      settings: the run's settings by name.
      flagfile: the flags that repeat the run, one per line.
      result: the run's result.json.
      measurements: the run's measurements.json; {} for a run without one.
      files: the files that were written.
      rows: what `parity_check.check` found for each of them.
      image_shape: (height, width, channels).
      student_values: how many numbers the student has.
      check_images: how many images the files were compared on.
      temperature: the temperature inside the files, or None.
      held_out: a sentence about the validation images.
      png_bits: bits that hold the brightest value of the data's 16-bit PNGs; None without such files.
      lineage: what the student's weights have seen.
      device: what ran the files.
      custom_layers: modules of the student's own layers, with commas between.
    """
    template = importlib.resources.files(__package__).joinpath("model_card.md").read_text()
    details = measurements.get("models", {})
    has_labels = "accuracy" in result["student"]
    shown = _COLUMNS if has_labels else _WITHOUT_LABELS
    intervals = {key: model["intervals"].get(shown[0].key) for key, model in details.items() if "intervals" in model}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template + "\n").render(
        settings=settings,
        custom_layers=custom_layers.replace(",", ", "),
        flagfile=flagfile,
        result=result,
        measurements=measurements,
        class_names=result["class_names"],
        epochs=epochs_of(result),
        after=measured_after(result),
        agreements=agreements(result),
        teacher_name=measurements.get("teacher", {}).get("name", "a larger network"),
        radius=f"{result['radius']:.4f}" if result.get("radius") else "",
        temperature=f"{temperature:.4f}" if temperature else "",
        models=_models(result, intervals),
        columns=shown,
        file_by_kind={file.kind: file.name for file in reversed(files)},
        files=list(zip(files, rows, strict=True)),
        costly=parity_check.costly(rows),
        image_shape=image_shape,
        student_values=student_values,
        check_images=check_images,
        lineage=lineage,
        device=device,
        held_out=held_out,
        pixels=input_pixels(settings, image_shape, png_bits),
    )


def _models(result, intervals):
    """(name, measurements, interval of top-1) of each model; the mean of several teachers is followed by each."""
    each = [(name, one, intervals.get(f"teacher_{i}")) for i, (name, one) in enumerate(each_teacher(result), 1)]
    names = role_names(result) | {"student": "this student"}
    found = [(name, result[key], intervals.get(key)) for key, name in names.items()]
    return [*found[:1], *each, *found[1:]] if each else found
