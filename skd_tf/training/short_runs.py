"""Runs that are too short, for any training or for their settings: accepted, and said in a line before training."""

import dataclasses

from skd_tf.config import Config
from skd_tf.runs import next_steps, verdict
from skd_tf.runtime.console import counted

_STEPS = 800  # the measured runs had 270 to 780


def few_steps(config: Config, steps: int) -> list[str]:
    """A line if a run has fewer steps than any recipe; no line for a student that starts from trained weights.

    The run itself says so at its end (`runs.verdict`), so this is for the dry run.

    Example:
      >>> few_steps(Config(), steps=500), few_steps(Config(), steps=700)
      (['500 optimizer steps are few: each skd_tf recipe that trains from scratch has 700 or more. Raise --epochs.'], [])
    """
    least = next_steps.FEWEST_STEPS
    if steps >= least or verdict.fine_tunes(dataclasses.asdict(config)):
        return []
    count = f"{counted(steps, 'optimizer step')} {'is' if steps == 1 else 'are'} few"
    return [f"{count}: each skd_tf recipe that trains from scratch has {least} or more. Raise --epochs."]


def warnings(config: Config, steps: int) -> list[str]:
    """A line if measured runs with these settings lost accuracy by distilling. None for a student that starts from trained weights.

    Source: docs/studies/first_day.md and its second page.

    Args:
      config: of the run.
      steps: of the whole run.

    Example:
      >>> warnings(Config(loss="spherical"), steps=5000)
      []
      >>> warnings(Config(loss="spherical"), steps=500)[0].partition(", ")[2][:66]
      '--loss=spherical with --optimizer=sgd was up to 6 points of top-1 '
    """
    if steps >= _STEPS or verdict.fine_tunes(dataclasses.asdict(config)):
        return []
    where, below = "In measured runs of under 800 steps,", "points of top-1 worse than no teacher"
    compare = f"{'Add --student_alone=train to compare. ' * (config.student_alone == 'none')}See docs/choosing.md."
    if config.loss == "spherical" and config.optimizer == "sgd":
        what = "--loss=spherical with --optimizer=sgd"
        return [f"{where} {what} was up to 6 {below}. Take --loss=kd, or --optimizer=adamw. {compare}"]
    if config.loss == "kd" and config.optimizer == "adamw" and config.temperature >= 4:
        what = "--loss=kd at --temperature=4 with --optimizer=adamw"
        return [f"{where} {what} was up to 10 {below}. Take --temperature=1, or --optimizer=sgd. {compare}"]
    return []
