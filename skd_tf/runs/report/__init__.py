"""The HTML report of one run, or of several side by side. It needs no TensorFlow.

run_data      the records of the runs, and the models that the charts show
answers       of one run: the verdict, and the answers to "is it good", "where does it fail" and "what next"
several_runs  which of several runs, or of several methods over seeds, is best
seeds         runs that differ only in their seed as one method: means and paired intervals
sentences     what the sentences of these three are made of
tables        the tables of measurements
failures      confused classes, and the test images that are shown
charts        the charts
svg           a matplotlib chart as inline SVG, in the colours of the page
html          the contents of the page
report.html   its markup, style and colours
"""

import os
import pathlib
from collections.abc import Sequence

from skd_tf.runs import run_files
from skd_tf.runs.report import html, run_data
from skd_tf.runs.workdir import require_output
from skd_tf.runtime.files import write_text


def write(paths: Sequence[str | os.PathLike], output: str | os.PathLike, *, images: int | None = None) -> pathlib.Path:
    """Writes the report on the runs in some workdirs.

    Args:
      paths: workdirs of finished runs.
      output: HTML file to write.
      images: how many test images it shows at most; None: all that the run recorded.

    Returns:
      The path of the file.

    Raises:
      InputError: no finished run is at a path, or the output has no folder or is another file of a run.
    """
    output = require_output(output, replaceable=run_files.REPORT)
    write_text(output, html.page(run_data.read_all(paths, images)))
    return output


def rewrite(workdir: pathlib.Path) -> None:
    """Writes a run's report again, with as many test images as it has shown; nothing without a report."""
    path = workdir / run_files.REPORT
    if path.is_file():
        shown = html.COUNT.search(path.read_text(encoding="utf-8"))
        write([workdir], path, images=int(shown[1]) if shown else 0)
