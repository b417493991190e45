"""Puts the student of a finished run into experiments/released/NAME: its file, model card and record.

    python -m tools.release_student --workdir=runs/released/cifar100_resnet8 --name=cifar100_resnet8 \
        --flagfile_of_run=experiments/released/cifar100.flags --data_dir=DATA

The record's numbers are measured from the file. A line for experiments/released/README.md is printed.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import define_flags
from skd_tf.errors import input_error
from skd_tf.runs.run_record import read_result, recorded_config
from skd_tf.runtime import tf_logging
from skd_tf.runtime.files import write_json

RELEASED = pathlib.Path("experiments/released")
_CALIBRATION = ("temperature", "nll", "ece")


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("name", None, "folder below experiments/released", flag_values=flag_values)
    flags.DEFINE_string("flagfile_of_run", None, "flagfile that the run was started with", flag_values=flag_values)
    define_flags(flag_values, ("workdir", "data_dir"))


def main(flag_values: flags.FlagValues) -> None:
    """Exports the student, measures the file, and writes the folder."""
    workdir, name = pathlib.Path(flag_values.workdir), flag_values.name
    result = read_result(workdir)
    if result is None:
        expected, remedy = "a finished run", "Let the run finish first"
        raise input_error("Nothing to release", expected=expected, received=f"--workdir={workdir}", remedy=remedy)
    if "calibrated" not in result["student"]:
        raise input_error(
            "The student has no temperature",
            expected="a run with --calibrate=auto and enough validation images",
            received=f"--workdir={workdir}",
            remedy="Train it with them",
        )
    folder = RELEASED / name
    _export(workdir, folder, name, flag_values.data_dir)
    record = _record(folder / "student.keras", recorded_config(workdir), flag_values.data_dir)
    record |= {"flagfile": flag_values.flagfile_of_run, "versions": result["versions"], "device": result["device"]}
    write_json(folder / "record.json", record)
    accuracy, nll = record["right"] / record["test_images"], record["calibrated"]["nll"]
    data = f"`{record['dataset']}`, {record['test_images']:,} test images"
    network = f"`{record['student']}`, {record['parameters']:,} parameters"
    print(f"| [{name}]({name}/README.md) | {data} | {network} | {accuracy:.4f} | {nll:.4f} |")


def _export(workdir, folder, name, data_dir):
    with tempfile.TemporaryDirectory() as scratch:
        exported = pathlib.Path(scratch) / "exported"
        command = [sys.executable, "-m", "skd_tf.export", f"--workdir={workdir}", f"--output={exported}"]
        subprocess.run([*command, "--format=keras", *([f"--data_dir={data_dir}"] if data_dir else [])], check=True)
        card = (exported / "README.md").read_text(encoding="utf-8")
        here = f'"{folder / "student.keras"}")  # stock layers only; or --student_checkpoint=released:{name}'
        before = '"student.keras")      # stock layers only'
        if before not in card:
            raise RuntimeError("The model card has another line that loads the file")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card.replace(before, here), encoding="utf-8")
        shutil.copy(exported / "student.keras", folder)


def _record(file, config, data_dir):
    tf_logging.import_tensorflow()
    from skd_tf import data
    from skd_tf.evaluation.evaluate_models import evaluate_models

    dataset = data.load(config.pick(data.DataSettings), data_dir, train=False)
    found = evaluate_models([file], dataset, timing=False, bootstrap_samples=0)["models"][0]
    images = len(dataset.test)
    calibrated = found["calibrated"]
    return {
        "dataset": config.dataset,
        "student": config.student,
        "seed": config.seed,
        "test_images": images,
        "right": round(found["accuracy"] * images),
        "nll": found["nll"],
        "ece": found["ece"],
        "parameters": found["parameters"],
        "calibrated": {"right": round(calibrated["accuracy"] * images)} | {k: calibrated[k] for k in _CALIBRATION},
    }


if __name__ == "__main__":
    app.run(
        main,
        description="Puts the student of a finished run into experiments/released.",
        define=define,
        required=("workdir", "name", "flagfile_of_run"),
    )
