"""Settings that ended below no distillation in short runs: accepted, and said in a line before training."""

import dataclasses

from skd_tf.config import Config
from skd_tf.runs import verdict

_STEPS = 800  # the measured runs had 270 to 780


def warnings(config: Config, steps: int) -> list[str]:
    """A line if runs like this one lost accuracy by distilling; none for a student that starts from trained weights.

    Source: docs/studies/first_day.md and its second page.

    Args:
      config: of the run.
      steps: of the whole run.

    Example:
      >>> warnings(Config(loss="spherical"), steps=5000)
      []
      >>> warnings(Config(loss="spherical"), steps=500)[0][:67]
      '--loss=spherical with --optimizer=sgd ended up to 6 points of top-1'
    """
    if steps >= _STEPS or verdict.fine_tunes(dataclasses.asdict(config)):
        return []
    remedy = "Add --student_alone=train to compare (docs/choosing.md)."
    below = "below no distillation in measured runs of under 800 steps"
    if config.loss == "spherical" and config.optimizer == "sgd":
        return [
            f"--loss=spherical with --optimizer=sgd ended up to 6 points of top-1 {below}. Take --loss=kd, or --optimizer=adamw. {remedy}"
        ]
    if config.loss == "kd" and config.optimizer == "adamw" and config.temperature >= 4:
        return [
            f"--loss=kd with --optimizer=adamw at --temperature=4 ended up to 10 points of top-1 {below}. "
            f"Take --temperature=1, or --optimizer=sgd. {remedy}"
        ]
    return []
