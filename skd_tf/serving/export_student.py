"""Writes the student of a finished run for serving, checks every file and adds a model card, for skd_tf.export."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from skd_tf import data
from skd_tf.config import Config
from skd_tf.config.flags import write_flags
from skd_tf.data import redraw
from skd_tf.data.catalog import is_folder, source_kind
from skd_tf.errors import InputError, counted, input_error
from skd_tf.evaluation import predictor, temperature_scaling
from skd_tf.models import deployable, loading, paths
from skd_tf.runs import class_names, lineage, provenance, report, result_tables, run_files
from skd_tf.runs.run_record import finished_result, trusted_config
from skd_tf.runtime import atomic_files, replicas, user_code
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import read_json, write_json
from skd_tf.runtime.local_paths import require_local
from skd_tf.serving import formats as known_formats
from skd_tf.serving import model_card, parity_check


def export_student(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = ("saved_model", "keras"),
    data_dir: str | None = None,
    check_images: int = 1000,
    calibrated: bool = True,
    dataset: str | None = None,
    download: bool = False,
    custom_layers: str = "",
) -> list[dict[str, Any]]:
    """Writes the student of a finished run, runs every file in a fresh process without skd_tf, and adds a model card.

    Args:
      workdir: folder of a finished run.
      output: folder to write, new or empty. It appears complete or not at all.
      formats: names in `skd_tf.serving.formats.FORMATS`, or a single one.
      data_dir: TFDS data directory of the run's dataset; the files are compared on its test images.
      check_images: number of test images to compare on, at most; they are evenly spaced.
      calibrated: whether to apply the temperature that evaluate --calibrate left in the workdir, or else the run's own.
      dataset: the run's dataset; required if it is MODULE:FUNCTION, because a record alone does not make code run. A run's
        folder of images may have another path now.
      download: whether TFDS may download a dataset that is missing.
      custom_layers: modules of the student's own layers, with commas between; those that the layers name are added.

    Returns:
      What `skd_tf.serving.parity_check.check` found, one dict per file.

    Raises:
      InputError: the run is not finished, the output is not empty, a format is unknown, it is another run's dataset, or the
        dataset has changed, so that test images are among those that the student was trained on.
      ExportError: a file differs from the live student.
    """
    files = known_formats.files_of(formats)
    require_local(output, "output")
    workdir, output = pathlib.Path(workdir), pathlib.Path(output)
    result, details = finished_result(workdir), workdir / run_files.MEASUREMENTS
    remedy = "Remove it and result.json: the run's command then measures again."
    measurements = read_json(details, "The file of measurements", remedy) if details.is_file() else {}
    _require_empty(output)
    paths.require(workdir)
    config = trusted_config(Config.from_json(result["config"]), workdir, dataset=dataset, download=download)
    other = input_error(
        "An export is compared on the run's own data",
        expected=f"--dataset={config.dataset}",
        received=f"--dataset={dataset} with {workdir}",
        remedy="Leave it out, or name that folder's path" if is_folder(config.dataset) else "Leave it out",
    )
    settings = dataclasses.replace(config.pick(data.DataSettings), dataset=dataset or config.dataset)
    moved = settings.dataset != config.dataset
    if moved and not (is_folder(config.dataset) and source_kind(settings.dataset) == source_kind(config.dataset)):
        raise other
    loaded = data.load(settings, data_dir, class_names=result["class_names"])
    if moved and measurements.get("dataset", {}).get("version") != str(loaded.version):
        raise other
    _require_unchanged(workdir, measurements, loaded, settings)
    student, temperature = deployable.without_temperature(loading.load(workdir))
    student = deployable.at_inference(student)
    own_modules = user_code.joined_modules(custom_layers, deployable.own_modules(student))
    loading.check_fits(student, loaded, workdir)
    record = temperature_scaling.stored(workdir) if calibrated else None
    temperature = (record["temperature"] if record else temperature) if calibrated else None
    if temperature:
        student = deployable.with_temperature(student, temperature)
        say(f"Temperature {temperature:.4f}, from {workdir / (run_files.CALIBRATION if record else run_files.RESULT)}.")
    assert loaded.test is not None  # for mypy: data.load reads it
    compared = loaded.test.take(data.evenly_spaced(len(loaded.test), check_images))
    images, values = compared.images[:], student.count_params()
    with replicas.without_tensor_float_32():  # the files are run on a CPU
        live_logits = predictor.Predictor(student)(images)

    ancestry = lineage.read(workdir)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.replacing(output) as folder:
        folder.mkdir()
        context = known_formats.WriteContext(result["class_names"], loaded.train.images)
        known_formats.write(student, files, folder, context)
        for file in files:
            if file.kind in ("keras", "saved_model"):
                lineage.write(folder / file.name, ancestry)
        lineage.write_beside([folder / file.name for file in files], folder / paths.LINEAGE, ancestry)
        say(f"Running each in a fresh process, on {counted(len(images), 'test image')}")
        rows = parity_check.check(files, folder, images, compared.labels, live_logits, values, own_modules)
        card = model_card.model_card(
            settings=dataclasses.asdict(config),
            flagfile=write_flags(config),
            result=result,
            measurements=measurements,
            files=files,
            rows=rows,
            image_shape=loaded.image_shape,
            student_values=values,
            check_images=len(images),
            temperature=temperature,
            held_out=_held_out(loaded),
            png_bits=loaded.png_bits,
            lineage=ancestry,
            device=provenance.device(),
            custom_layers=own_modules,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / class_names.LABELS).write_text(
            "".join(f"{name}\n" for name in result["class_names"]), encoding="utf-8"
        )
        _require_empty(output)
    _keep_for_report(workdir, output, rows)
    say(f"\n{result_tables.export_table(rows, values)}\n")
    for sentence in parity_check.costly(rows):
        warn(f"{sentence} Its rounded numbers cost that much. If it is too much, use a more precise file.")
    say(f"Written: {output}")
    return rows


def _held_out(dataset):
    """A sentence about the validation images."""
    if dataset.validation is None:
        return "No images were held out for validation."
    images = counted(len(dataset.validation), "image")
    if dataset.drawn_from is None:
        return f"The validation split, {images}, is the dataset's own."
    return (
        f"{images} of the training split {'was' if len(dataset.validation) == 1 else 'were'} held out for validation."
    )


def _require_unchanged(workdir, measurements, loaded, settings):
    """Refuses data whose test images have been drawn again since the run; warns of any other change."""
    before, now = measurements.get("dataset", {}).get("version"), str(loaded.version)
    if before in (None, now):
        return
    if redraw.is_drawn("test", loaded, settings):
        raise input_error(
            "The data has changed since the run, so other test images may be drawn, most of which the student was trained on",
            expected=f"{settings.dataset} in version {before}",
            received=f"version {now} with {workdir}",
            remedy="Restore the folder, or train again; a folder with train/ and test/ keeps its test images",
        )
    warn(
        f"{settings.dataset} has changed since the run (version {before}, now {now}). The files are measured on today's "
        "test images. The table of the run's models keeps the numbers from then."
    )


def _keep_for_report(workdir, output, rows):
    """Writes exports.json into the workdir, if it can be written, and the report again, if there is one."""
    with contextlib.suppress(OSError, InputError):
        write_json(workdir / run_files.EXPORTS, {"output": str(output), "files": rows})
        report.rewrite(workdir)


def _require_empty(output):
    is_file = output.exists() and not output.is_dir()
    if not output.name or is_file or (output.exists() and any(output.iterdir())):
        problem = "is a file" if is_file else "is not empty" if output.name else "has no name"
        raise input_error(
            f"The output {problem}",
            expected="a new or empty folder, by its name",
            received=f"--output={output}",
            remedy="Choose another",
        )
    if output.is_mount():
        raise input_error(
            "The output is a mounted folder, which cannot be replaced by a complete one",
            expected="a folder that is not there yet",
            received=f"--output={output}",
            remedy=f"Name a folder inside it, for example --output={output / 'student'}",
        )
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    for folder in (output, parent):
        if folder.is_dir() and not os.access(
            folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            raise input_error(
                "The output cannot be written",
                expected="a folder that you may write to",
                received=f"--output={output}, and {folder} is read-only",
                remedy="Choose another, or change its permissions",
            )
