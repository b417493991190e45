"""python -m skd_tf.report RUN [RUN ...]: finished runs as one HTML page, alone or side by side."""

import pathlib

from absl import flags

from skd_tf.config import app
from skd_tf.runs.report import FILE, write


def define(flag_values):
    flags.DEFINE_multi_string("run", None, "workdir of a finished run; --run= may be left out", flag_values=flag_values)
    where = f"HTML file to write; unless given {FILE} in the run's workdir, of several runs in this folder"
    flags.DEFINE_string("output", None, where, flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime.console import say

    paths = [pathlib.Path(path) for path in flag_values.run]
    default = paths[0] / FILE if len(paths) == 1 else pathlib.Path(FILE)
    say(f"Written: {write(paths, pathlib.Path(flag_values.output) if flag_values.output else default)}")


def cli_main():
    app.run(
        main,
        description="Writes a report on finished runs, one HTML file that needs no network: RUN [RUN ...].",
        define=define,
        required=("run",),
        positional="run",
    )


if __name__ == "__main__":
    cli_main()
