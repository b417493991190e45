"""What a finished run writes and prints: the exported student, result.json, measurements.json, the report, the verdict."""

import os
import shlex
from typing import Any

import keras
import numpy as np

from skd_tf.config import Config
from skd_tf.data.dataset import Dataset
from skd_tf.distillation.distiller import Distiller
from skd_tf.runs import lineage, next_steps, predictions, provenance, report, result_tables, run_files, verdict
from skd_tf.runs.workdir import Workdir
from skd_tf.runtime import atomic_files, replicas
from skd_tf.runtime.console import Stopwatch, say_of_part
from skd_tf.runtime.files import write_json
from skd_tf.serving import saved_model
from skd_tf.training import preflight
from skd_tf.training.resources import SharedResources


def export(student: keras.Model, folder: Workdir, class_names: tuple[str, ...], ancestry: lineage.Lineage) -> None:
    """Writes the `.keras` file and the SavedModel of a student, each with what its weights were trained on."""
    atomic_files.sweep(folder.path)
    with atomic_files.replacing(folder / run_files.STUDENT) as path:
        student.save(path)
        lineage.write(path, ancestry)
    with atomic_files.replacing(folder / run_files.SAVED_MODEL) as path:
        saved_model.save_saved_model(student, path, class_names)
        lineage.write(path, ancestry)


def facts_of(config: Config, resources: SharedResources, distiller: Distiller) -> dict[str, Any]:
    """What result.json says of the run beside the measurements."""
    on_sphere = distiller.objective.loss.readout == "sphere"
    return {
        "radius": float(distiller.radius.numpy()) if on_sphere else None,
        "class_names": list(resources.dataset.class_names),
        "config": config.to_json(),
        "versions": provenance.versions(),
        "device": provenance.device(resources.strategy.num_replicas_in_sync),
        "xla": distiller.xla,
        "deterministic": replicas.determinism(),
        "git_commit": provenance.git_commit(),
    }


def details_of(
    resources: SharedResources, measured: dict, watch: Stopwatch, data_dir: str | os.PathLike | None = None
) -> dict[str, Any]:
    """The content of measurements.json, which the report draws; the commands that it suggests need `data_dir`."""
    dataset: Dataset = resources.dataset
    sizes = {"train": len(dataset.train), "test": len(dataset.test or ())}
    if dataset.unlabelled:
        sizes["unlabelled"] = len(dataset.unlabelled.train)
    pixels: dict[str, Any] = {} if dataset.png_bits is None else {"png_bits": dataset.png_bits}
    if dataset.test and isinstance(dataset.test.images, np.ndarray):
        pixels["test_pixels"] = dataset.test.images_digest
    details = {
        "models": measured,
        "labels": predictions.encode(dataset.test.labels if dataset.test else []),
        "seconds": watch.seconds,
        "dataset": {"name": dataset.name, "version": dataset.version} | sizes | pixels,
    }
    if data_dir:
        details["dataset"]["data_dir"] = os.fspath(data_dir)
    if resources.teacher:
        details["teacher"] = {"name": resources.teacher.shown_name, "path": str(resources.teacher.path)}
    return details


def write_result(
    config: Config, folder: Workdir, measured: dict, facts: dict[str, Any], details: dict, custom_layers: str = ""
) -> dict[str, Any]:
    """Writes result.json and the report, then prints the closing table, the verdict and the next commands.

    These name `custom_layers`, the modules of the student's own layers.
    """
    for name in ("val_accuracy", "val_agreement"):
        if name in facts:
            measured["student"][name] = facts.pop(name)
    result = measured | facts
    steps = result["epochs_trained"] * preflight.steps_per_epoch(config, details["dataset"]["train"])
    result["verdict"] = verdict.of_run(result, details, steps)
    write_json(folder / run_files.RESULT, result)
    written = [f"Result: {folder / run_files.RESULT}"]
    if config.report:
        written.append(f"Report: {report.write([folder.path], folder / run_files.REPORT)}")
    path, shown = shlex.quote(str(folder.path)), config.to_json() | {"custom_layers": custom_layers}
    data_dir = details["dataset"].get("data_dir", "")
    shipped = next_steps.command("export", "--workdir=RUN --output=RUN_export", shown, data_dir)
    written.append(
        f"Next: python -m skd_tf.predict {path} PICTURES --output=answers.csv{next_steps.custom_layers(shown)}, or "
        f"{next_steps.typed(shipped, folder.path)}"
    )
    student = f"Student: {folder / run_files.SAVED_MODEL} and {folder / run_files.STUDENT}"
    say_of_part("\n\n".join(["", *closing(result, folder.path), "\n".join([student, *written])]).removeprefix("\n"))
    return result


def closing(result: dict[str, Any], path: str | os.PathLike) -> list[str]:
    """The table and the verdict of the finished run in the folder `path`; earlier versions recorded no verdict."""
    said = "\n".join(verdict.lines(result["verdict"], path)) if "verdict" in result else ""
    return [result_tables.result_table(result), *([said] if said else [])]
