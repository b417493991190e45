"""The files of the studies' figures. A PNG's text holds a digest of the runs it shows, so that a stale one is found."""

import hashlib
import json
import pathlib

from experiments.lab import definitions
from experiments.lab.summaries import Runs

FOLDER = definitions.ROOT / "docs/studies/figures"
VERSION = 4  # add 1 when the drawing changes, so that every figure is drawn again
KEY = "Records"
SOURCES = {  # figure: the studies whose runs it shows
    "forest": (
        *("capacity_gap", "temperature", "rates", "pilot_schedule", "cifar100", "cifar100_rates"),
        *("cifar100_temperature", "gpu_students", "gpu_students_seeds"),
        *("adamw", "head_to_head", "training", "top_logits", "budget"),
    ),
    "capacity_gap": ("capacity_gap",),
    "temperature": ("temperature", "cifar100_temperature"),
    "sphere": ("sphere", "capacity_gap"),
    "radius": ("radius",),
    "schedule": ("rates", "cifar100_rates"),
    "adamw": ("adamw", "head_to_head", "training"),
    "budget": ("budget", "head_to_head", "training"),
    "cifar100": ("cifar100",),
    "longer": ("gpu_students", "gpu_students_seeds"),
    "calibration": ("capacity_gap", "temperature", "cifar100"),
}


def path_of(name: str, folder=FOLDER) -> pathlib.Path:
    """The PNG of a figure."""
    return pathlib.Path(folder, f"{name}.png")


def digest(name: str, runs: Runs) -> str:
    """SHA-256 of the runs that a figure shows, and of VERSION."""
    shown = {key: runs[key] for key in sorted(runs) if key.split("/")[0] in SOURCES[name]}
    return hashlib.sha256(json.dumps([VERSION, shown], sort_keys=True).encode()).hexdigest()


def problems(runs: Runs, folder=FOLDER) -> list[str]:
    """One line for every figure that is missing, stale or unknown."""
    from PIL import Image

    lines, draw = [], "Run python -m experiments.lab figures"
    for path in sorted(pathlib.Path(folder).glob("*")):
        if path.suffix != ".png" or path.stem not in SOURCES:
            lines.append(f"{path}: no such figure is drawn. Remove the file.")
    for name in SOURCES:
        path = path_of(name, folder)
        if not path.is_file():
            lines.append(f"{path}: missing. {draw} {name}.")
            continue
        try:
            with Image.open(path) as image:
                image.load()
                drawn_from = image.info.get(KEY)
        except OSError as error:
            lines.append(f"{path}: damaged ({error}). {draw} {name}.")
            continue
        if drawn_from != digest(name, runs):
            lines.append(f"{path}: stale, its records or its drawing have changed. {draw} {name}.")
    return lines
