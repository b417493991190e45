"""python -m experiments.studies.fine_tuning FOLDER --data_dir=DATA: EfficientNet-Lite0 from a fine-tuned Lite1 on 600 pictures.

DATA holds CIFAR-100 as TFDS prepares it, FOLDER lite0.keras and lite1.keras, which `tools.convert_torch --input_size=96` writes
(docs/fine_tuning.md). Trains the teacher and nine students in FOLDER by the recipe fine_tuning, exports each student, and prints
the table of docs/fine_tuning.md. What is finished is not repeated. The record is experiments/results/fine_tuning/students.json.
"""

import argparse
import json
import os
import pathlib
import statistics

import skd_tf
from experiments.studies.fine_tuning import animals
from skd_tf.config import recipes
from skd_tf.config.flags import read_flagfile
from skd_tf.runs import run_files
from skd_tf.serving.export_student import export_student

SEEDS = (0, 1, 2)
ROWS = {"fine-tuned alone": "cross_entropy", "KD": "kd", "SKD": "spherical"}
FILES = {"float32": "student_float32.tflite", "int8": "student_int8.tflite"}
MEASURES = {"top-1, %": ("accuracy", 100, 1), "NLL": ("nll", 1, 3), "ECE": ("ece", 1, 3)}
QUIET = {"report": False, "strategy": "one_device", "teacher_flagfile": ""}


def settings(name: str, **changes) -> skd_tf.Config:
    """Those of a recipe in skd_tf/recipes/fine_tuning."""
    return read_flagfile(recipes.FOLDER / "fine_tuning" / f"{name}.flags")[0].replace(**QUIET | changes)


def student(row: str, seed: int) -> list[dict]:
    """Trains and exports one student; what was measured of each of its files."""
    folder = pathlib.Path(f"{ROWS[row]}-{seed}")
    cached = {"teacher_checkpoint": "teacher", "teacher_cache_dir": "logits"} if row != "fine-tuned alone" else {}
    skd_tf.run(settings("skd", loss=ROWS[row], seed=seed, **cached), folder)
    if not (folder / run_files.EXPORTS).is_file():
        export_student(folder, folder / "exported", formats=["litert"])
    return json.loads((folder / run_files.EXPORTS).read_text())["files"]


def table(record: dict) -> str:
    """Mean and standard deviation of each measure over the seeds, for the float and the int8 file."""
    lines = ["| student | file | seeds | " + " | ".join(MEASURES) + " |", "|---|---|---|" + "---|" * len(MEASURES)]
    for row, files in record["students"].items():
        for file, found in files.items():
            cells = []
            for measure, factor, digits in MEASURES.values():
                values = [factor * value for value in found[measure]]
                spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
            lines.append(f"| {row} | {file} | {len(values)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(folder: str, data_dir: str) -> None:
    os.chdir(folder)
    animals.write(data_dir, pathlib.Path("animals"))
    teacher = skd_tf.run(settings("teacher"), "teacher")["student"]
    record = {"teacher": {name: teacher[name] for name, _, _ in MEASURES.values()}, "students": {}}
    for seed in SEEDS:  # all rows of a seed first: stopped early, the table is still fair
        for row in ROWS:
            files = {file["file"]: file for file in student(row, seed)}
            for name, file in FILES.items():
                found = record["students"].setdefault(row, {}).setdefault(name, {})
                for measure, _, _ in MEASURES.values():
                    found.setdefault(measure, []).append(files[file][measure])
        pathlib.Path("students.json").write_text(json.dumps(record, indent=1) + "\n")
        print(table(record), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.studies.fine_tuning")
    parser.add_argument("folder", help="holds lite0.keras and lite1.keras, gets everything else")
    parser.add_argument("--data_dir", required=True, help="holds CIFAR-100 as TFDS prepares it")
    arguments = parser.parse_args()
    main(arguments.folder, os.path.abspath(arguments.data_dir))
