"""Pictures of a report for the documentation, taken by headless Chromium.

    python -m tools.screenshots runs/fashion docs/figures

The upper part of the run's report becomes report.png, 1120 pixels wide, and report_phone.png, 400 pixels wide.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

from skd_tf.errors import EnvironmentFailure, message
from skd_tf.runs import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"report": (1120, 1290), "report_phone": (400, 1130)}


def browser() -> str:
    """The path of a Chromium; `EnvironmentFailure` without one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        remedy = "Run apt-get install chromium"
        raise EnvironmentFailure(message("No browser", expected=", ".join(BROWSERS), received="none", remedy=remedy))
    return found


def take(page: pathlib.Path, picture: pathlib.Path, width: int, height: int) -> None:
    """Writes the upper part of an HTML file as a PNG."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        options += [f"--window-size={width},{height}", f"--screenshot={picture.resolve()}", page.resolve().as_uri()]
        subprocess.run([browser(), *options], check=True, capture_output=True, timeout=180)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a finished run")
    parser.add_argument("folder", type=pathlib.Path, help="where the pictures go")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = report.write([arguments.run], pathlib.Path(folder) / "report.html")
        for name, size in SIZES.items():
            take(page, arguments.folder / f"{name}.png", *size)
            print(arguments.folder / f"{name}.png")


if __name__ == "__main__":
    main()
