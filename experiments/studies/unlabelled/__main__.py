"""python -m experiments.studies.unlabelled FOLDER: what pictures without labels bring on Fashion-MNIST.

Trains a teacher and 15 students in FOLDER, 10 minutes on two cores, and prints the table of docs/unlabelled.md. A finished run is
not repeated. The committed record is experiments/results/unlabelled/students.json.
"""

import json
import pathlib
import statistics
import sys

import tensorflow as tf

import skd_tf
from skd_tf import data
from skd_tf.evaluation.evaluate_models import evaluate_models

SEEDS = (0, 1, 2)
STUDENT = {
    "student": "cnn_8_16_32",
    "loss": "spherical",
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "weight_decay": 0.01,
    "batch_size": 64,
}
QUIET = {"report": False, "strategy": "one_device", "checkpoint_every": "1000", "min_warmup_steps": 0}
SHARE = {"unlabelled_share": 0.75}


def write_pictures(root):
    """few/ and labelled/ with 10 and 40 training pictures of each class, and unlabelled/ with the others."""
    fashion = data.load(data.DataSettings(dataset="fashion_mnist_10k", validation_fraction=0.0))
    folders = [f"{i} {name.replace('/', '-')}" for i, name in enumerate(fashion.class_names)]  # in the teacher's order
    seen = [0] * len(folders)
    for i, (image, label) in enumerate(zip(fashion.train.images, fashion.train.labels, strict=True)):
        seen[label] += 1
        kinds = [kind for kind, most in (("few", 10), ("labelled", 40)) if seen[label] <= most]
        for place in [f"{kind}/train/{folders[label]}" for kind in kinds] or ["unlabelled"]:
            _write(root / place / f"{i}.png", image)
    for i, (image, label) in enumerate(zip(fashion.test.images, fashion.test.labels, strict=True)):
        for kind in ("few", "labelled"):
            _write(root / kind / "test" / folders[label] / f"{i}.png", image)


def _write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(image).numpy())


def main(root):
    root = pathlib.Path(root).resolve()
    if not (root / "unlabelled").exists():
        write_pictures(root)
    teacher, more = root / "teacher", {"unlabelled": f"images:{root / 'unlabelled'}"} | SHARE
    own = {"student": "resnet8", "loss": "cross_entropy", "epochs": 12, "learning_rate": 0.1, "batch_size": 64}
    skd_tf.run(skd_tf.Config(dataset="fashion_mnist_10k", **own, **QUIET), teacher)
    rows = {
        "100 labelled": {"dataset": f"folder:{root / 'few'}", "epochs": 700},
        "100 labelled, 7,600 without labels": {"dataset": f"folder:{root / 'few'}", "epochs": 140, **more},
        "400 labelled": {"dataset": f"folder:{root / 'labelled'}", "epochs": 140},
        "400 labelled, 7,600 without labels": {"dataset": f"folder:{root / 'labelled'}", "epochs": 32, **more},
        "7,600 without labels": {"dataset": f"images:{root / 'unlabelled'}", "epochs": 8, "kd_weight": 1},
    }
    tested = data.load(data.DataSettings(dataset=f"folder:{root / 'labelled'}"), train=False)
    record = {}
    for number, (name, settings) in enumerate(rows.items()):
        paths = [root / f"student-{number}-{seed}" for seed in SEEDS]
        for seed, path in zip(SEEDS, paths, strict=True):
            skd_tf.run(skd_tf.Config(teacher_checkpoint=str(teacher), seed=seed, **STUDENT, **QUIET, **settings), path)
        found = evaluate_models(paths, tested, teacher=teacher, timing=False, bootstrap_samples=0)["models"]
        record[name] = {measure: [model[measure] for model in found] for measure in ("accuracy", "agreement")}
        accuracies, agreements = (100 * statistics.fmean(record[name][m]) for m in ("accuracy", "agreement"))
        print(
            f"| {name} | {accuracies:.1f} ({100 * statistics.stdev(record[name]['accuracy']):.1f}) | {agreements:.1f} |"
        )
    (root / "students.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
