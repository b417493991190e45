"""What to try after a run, and the commands for it. A record names the run's workdir as RUN; `typed` gives its path.

A run's settings cannot change in its own workdir, so each command that trains has a new one, and takes the other settings
from the run's flags.txt.
"""

import math
import os
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from skd_tf.data.catalog import source_kind
from skd_tf.losses.names import facts_of
from skd_tf.runs import run_files

# Of the recipes that train from scratch, skd_tf/recipes/cifar10/tune_short.flags has the fewest: 702.
FEWEST_STEPS = 700
_PLACE = re.compile(r"(--(?:flagfile|teacher_checkpoint|workdir|model|output)=)RUN(\S*)")


def typed(tip: str, path: str | os.PathLike) -> str:
    """A tip with the path of the run in place of RUN, quoted for a shell."""
    return _PLACE.sub(lambda found: shlex.quote(f"{found[1]}{os.fspath(path)}{found[2]}"), tip)


def command(program: str, flags: str, config: Mapping[str, Any], data_dir: str = "") -> str:
    """A command that reads a finished run. A function that makes the data is called only if the user names it.

    Args:
      program: "export" or "evaluate".
      flags: its own flags.
      config: the run's settings.
      data_dir: where the run read its data; "" for the default folder.
    """
    dataset = config.get("dataset", "")
    own = f" --dataset={dataset}" if source_kind(dataset) == "function" else ""
    return f"python -m skd_tf.{program} {flags}{own}{custom_layers(config)}{_data_dir(data_dir)}"


def custom_layers(config: Mapping[str, Any]) -> str:
    """The flag with which a command reads a model that has layers of the user's own."""
    modules = config.get("custom_layers")
    return f" --custom_layers={modules}" if modules else ""


def again(
    name: str, flags: str, config: Mapping[str, Any], *, has_teacher: bool, data_dir: str = "", program: str = "train"
) -> str:
    """A command that trains with the run's settings in a new workdir, RUN_name. A teacher that the run trained is kept."""
    kept = (
        f" --teacher_checkpoint=RUN/{run_files.TEACHER}" if has_teacher and not config.get("teacher_checkpoint") else ""
    )
    start = f"python -m skd_tf.{program} --flagfile=RUN/{run_files.FLAGS}{kept}{_data_dir(data_dir)}"
    return f"{start} --workdir=RUN_{name}" + (f" {flags}" if flags else "")


def own_alone(config: Mapping[str, Any]) -> str:
    """The flag that trains the student alone again, if it is another run's: that one has this run's seed and epochs."""
    return "" if config.get("student_alone", "none") in run_files.TRAINED else "--student_alone=train"


def _data_dir(path):
    return f" {shlex.quote(f'--data_dir={path}')}" if path else ""


def steps(
    word: str,
    models: Collection[str],
    config: Mapping[str, Any],
    few_steps: int,
    *,
    weak_teacher: bool,
    useless: bool,
    data_dir: str = "",
) -> list[str]:
    """What to try, the most promising first.

    Args:
      word: of the verdict.
      models: those that the run measured.
      config: its settings.
      few_steps: the number of its optimizer steps if they are too few, else 0.
      weak_teacher, useless: what the verdict warns of.
      data_dir: where the run read its data; "" for the default folder.
    """
    tips, has_teacher = [], "teacher" in models

    def search(*texts):
        held_out = [] if config.get("validation_fraction", 0.1) else ["--validation_fraction=0.1"]
        flags = " ".join([*held_out, *(f"--search={text}" for text in texts)])
        return again("tune", flags, config, has_teacher=has_teacher, data_dir=data_dir, program="tune")

    if few_steps:
        epochs = math.ceil(config["epochs"] * FEWEST_STEPS / few_steps)
        tips.append(f"train longer, --epochs={epochs} or more")
    if useless:
        tips.append(f"search for a rate: {search('learning_rate:log:0.001:0.3')}")
        tips.append("check whether the labels are right, and add pictures of each class")
    if weak_teacher:
        loaded = config.get("teacher_checkpoint")
        how = "--teacher_checkpoint=FILE" if loaded else "--teacher_flagfile trains one by its own settings"
        tips.append(f"a better teacher ({how})")
    if has_teacher and word in ("behind", "level"):
        if config["loss"] == "spherical":
            tips.append("--loss=kd")
        # KD at T = 4 with AdamW lost 3.5 and 9.7 points in short runs, and T = 1 none (docs/studies/first_day.md).
        if config["loss"] == "kd" and config.get("optimizer") == "adamw" and config["temperature"] > 1:
            tips.append("--temperature=1, with --optimizer=adamw")
        heat = ["temperature:log:1:16"] if "temperature" in facts_of(config["loss"]).arguments else []
        tips.append(f"search: {search(*heat, 'kd_weight:linear:0.1:0.9')}")
    tips = tips[:3]
    if any("--" in tip and "python -m" not in tip for tip in tips):
        keeps = has_teacher and not (weak_teacher and any("--teacher_flagfile" in tip for tip in tips))
        alone = own_alone(config) if few_steps else ""
        start = again("next", alone, config, has_teacher=keeps, data_dir=data_dir)
        tips.append(f"other settings need a new workdir, so add such flags to: {start}")
    return tips
