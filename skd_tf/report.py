"""python -m skd_tf.report RUN [RUN ...]: finished runs as one HTML page, alone or side by side."""

import pathlib

from absl import flags

from skd_tf.config import app
from skd_tf.runs import report, run_files
from skd_tf.runs.report import run_data
from skd_tf.runtime.console import say

_OUTPUT = f"HTML file to write; by default {run_files.REPORT} in the run's workdir, or in this folder for several runs"
_RUN = "workdir of a finished run; the prefix --run= may be left out"
_MOST = 48
_IMAGES = "number of test images to show, of those that the run recorded; 0: none"


def define(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string("run", None, _RUN, flag_values=flag_values)
    flags.DEFINE_string("output", None, _OUTPUT, flag_values=flag_values)
    flags.DEFINE_integer("report_images", _MOST, _IMAGES, lower_bound=0, upper_bound=_MOST, flag_values=flag_values)


def main(flag_values: flags.FlagValues) -> None:
    paths = [pathlib.Path(path) for path in flag_values.run]
    if not flag_values.output:
        run_data.read(paths[0])  # a folder that is no run is named as such, not as a place for the file
    default = pathlib.Path(paths[0] if len(paths) == 1 else ".", run_files.REPORT)
    say(f"Written: {report.write(paths, flag_values.output or default, images=flag_values.report_images)}")


def cli_main() -> None:
    app.run(
        main,
        description="Writes a report on finished runs, one HTML file that needs no network: RUN [RUN ...].",
        define=define,
        required=("run",),
        positional="run",
    )


if __name__ == "__main__":
    cli_main()
