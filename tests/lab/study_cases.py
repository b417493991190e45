"""Made-up studies, records and training commands for the tests of the studies' machinery."""

import json
import pathlib

import numpy as np

from experiments.lab import definitions
from experiments.lab.records import file_of, settings
from skd_tf.runs import predictions

# Runs instead of `python -m skd_tf.train`; the second argument says what goes wrong.
COMMAND = """
import json, pathlib, signal, sys, time
workdir, job = pathlib.Path(sys.argv[1]), sys.argv[2]
workdir.mkdir(parents=True, exist_ok=True)
with open(workdir / "starts", "a") as file:
    file.write("x")
if job == "fails":
    print("error: Training has diverged. Expected finite values.")
    sys.exit(2)
if job == "sleeps":
    time.sleep(2)
if job == "waits" and len((workdir / "starts").read_text()) == 1:
    signal.signal(signal.SIGTERM, lambda *_: ((workdir / "saved").touch(), sys.exit(143)))
    (workdir / "config.json").write_text("{}")
    time.sleep(60)
for name, text in json.loads(pathlib.Path(sys.argv[3]).read_text()).items():
    (workdir / name).write_text(text)
"""


def by_path(*names):
    """{path: cell} of the studies of those names; of all without a name."""
    chosen = [definitions.STUDIES[name] for name in names or definitions.STUDIES]
    return {cell.path: cell for cell in definitions.cells(*chosen)}


def small_study(folder, name="small", **changes):
    """A study with two rows, one more without a teacher, and two pairs; its flagfiles are in `folder`."""
    texts = {
        "base": "--dataset=digits\n--student=cnn_4\n--epochs=2\n--teacher_cache_dir=runs/studies/teacher_cache\n",
        "kd": "--loss=kd\n",
        "skd": "--loss=spherical\n",
        "none": "--loss=cross_entropy\n",
        "a": "--teacher_checkpoint=teachers/a.keras\n",
        "b": "--teacher_checkpoint=teachers/b.keras\n",
    }
    files = {key: str(pathlib.Path(folder, f"{key}.flags")) for key in texts}
    for key, text in texts.items():
        pathlib.Path(files[key]).write_text(text)
    groups = {"alone": ("none",), "rows": ("kd", "skd"), "pairs": ("a", "b")}
    parts = {part: {key: files[key] for key in keys} for part, keys in groups.items()}
    return definitions.Study(name, "Which?", **{"base": files["base"], "seeds": (0, 1)} | parts | changes)


def workdir_files(cell, accuracy=0.5):
    """{name: text} of the files that a finished run of a cell leaves."""
    config = definitions.config_of(cell)
    quality = {"nll": 1.0, "ece": 0.1, "confidence": 0.4, "logit_norm": 3.0, "parameters": 438}
    student = {"reliability": [{"count": 3, "confidence": 0.5, "accuracy": 0.4}]}
    student["predictions"] = predictions.encode(np.array([2, 0, 1]))
    result = {"student": quality | {"accuracy": accuracy, "agreement": 0.7, "val_accuracy": 0.6}, "radius": None}
    if config.loss == "spherical":
        student |= {"raw": {"accuracy": accuracy, "ece": 0.3}, "raw_reliability": student["reliability"]}
        result["radius"] = 6.0
    details = {
        "models": {"student": student},
        "seconds": {"training": 60.0},
        "dataset": {"name": "digits", "train": 100},
    }
    details["labels"] = predictions.encode(np.array([2, 1, 1]))
    if config.needs_teacher:
        result["teacher"] = quality | {"accuracy": 0.9, "parameters": 1000}
        details["teacher"] = {"name": "net", "path": "/somewhere/a.keras"}
    result |= {"config": config.replace(teacher_cache_dir="/somewhere/cache").to_json(), "seconds": 60.0, "xla": False}
    result |= {"examples_per_second": 10.0, "device": "a machine", "versions": {"tensorflow": "2"}, "git_commit": "abc"}
    if config.teacher_checkpoint:
        result["config"]["teacher_checkpoint"] = f"/somewhere/{pathlib.Path(config.teacher_checkpoint).name}"
    epochs = [{"epoch": n, "val_accuracy": v, "student_logit_norm": 2.0} for n, v in enumerate((0.5, 0.7, 0.7, 0.6))]
    return {
        "result.json": json.dumps(result),
        "measurements.json": json.dumps(details),
        "config.json": json.dumps({"resolved": {"teacher": "f00"}}),
        "metrics.jsonl": "".join(f"{json.dumps(row)}\n" for row in epochs),
    }


def record(cell, accuracy, held_out=None, **changes):
    """A record as the tables and figures read it."""
    config = definitions.config_of(cell)
    sphere, name = config.loss == "spherical", pathlib.Path(config.teacher_checkpoint).stem
    quality = {"accuracy": accuracy, "nll": 0.6, "ece": 0.16, "confidence": accuracy - 0.16, "logit_norm": 0.9}
    teacher = quality | {"name": name, "fingerprint": name, "accuracy": 0.9, "parameters": 1000}
    return {
        "flagfiles": list(cell.flagfiles),
        "config": settings(config),
        "teacher": teacher if config.needs_teacher else None,
        "student": quality,
        "raw_softmax": quality | {"ece": 0.45} if sphere else None,
        "calibrated": {"temperature": 1.5, "accuracy": accuracy, "confidence": accuracy, "nll": 0.5, "ece": 0.01},
        "by_epoch": {"val_accuracy": [0.1, accuracy - 0.01 if held_out is None else held_out]},
        "radius": 6.3246 if sphere else None,
        "seconds": 9999.0,
        "examples_per_second": config.epochs * 100 / 420,
        "dataset": {"train": 100},
    } | changes


def made_records(*names, share=1.0, seed=0):
    """Records of a random share of the cells of studies, with random accuracies."""
    random = np.random.default_rng(seed)
    cells = definitions.cells(*(definitions.STUDIES[name] for name in names or definitions.STUDIES))
    return {c: record(c, *map(float, random.uniform(0.8, 0.9, 2))) for c in cells if random.random() < share}


def write(records, results):
    """Writes {cell: record} as files."""
    for cell, made in records.items():
        path = file_of(cell, results)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made))
