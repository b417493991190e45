"""The HTML report of one run, or of several side by side; no TensorFlow.

runs       what the workdirs hold, and who stands in the charts
svg        matplotlib to inline SVG whose colours follow the page
charts     the charts
page       tables, sections and the page
"""

import pathlib

from skd_tf.errors import input_error

FILE = "report.html"


def write(paths, output):
    """Writes the report on the runs in some workdirs; returns where.

    Args:
      paths: workdirs of finished runs.
      output: HTML file.

    Raises:
      InputError: a path without a finished run, or an output without a folder.
    """
    from skd_tf.runs.report import html, run_data
    from skd_tf.runs.workdir import refuse_own_file
    from skd_tf.runtime.files import write_text

    output = pathlib.Path(output)
    if output.name != FILE:
        refuse_own_file(output)
    found = [run_data.read(path) for path in paths]
    if not output.absolute().parent.is_dir():
        raise input_error(
            "The output has no folder",
            expected="an existing folder",
            received=f"--output={output}",
            remedy=f"Make {output.parent} first",
        )
    write_text(output, html.page(found))
    return output
