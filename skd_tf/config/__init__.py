"""The settings of a run: Config, the flags that are derived from it, and the wrapper around every command.

config     Config: every setting once, with type, default, unit, help and check
fields     what a setting is made of, and the one check that every value passes through
grammar    the small languages of text settings: schedules, intervals, loss settings
flags      Config to absl flags and back
flagfile   flagfiles, expanded with the line that each flag stands on
app        run(): parses the command line, calls the command, turns errors into one line and an exit code

No module here imports TensorFlow.
"""

from skd_tf.config.config import Config

__all__ = ["Config"]
