"""The settings of a run: Config, the flags derived from it, and the wrapper around every command.

config     Config: every setting once, with its type, default, unit, help and check
versions   settings that an earlier version recorded
checks     what each setting accepts by itself
conflicts  settings that contradict each other
groups     which settings a run's teacher and its student alone have
fields     the rules of a setting, and the one check that every value passes
augmentations  the list of augmentations
grammar    the grammars of text settings: weights, schedules, intervals, loss settings
flags      Config to absl flags and back
flagfile   expands flagfiles into flags and their places
recipes    the flagfiles in the package, and where a flagfile is
app        run(): parses the command line, calls the command, and turns errors into one line and an exit code

No module here imports TensorFlow.
"""

from skd_tf.config.config import Config

__all__ = ["Config"]
