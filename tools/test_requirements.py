"""Prints what tests need besides TensorFlow and Keras, one requirement a line; for tools/test_versions.sh."""

import re
import runpy
import sys
import unittest.mock

_CHOSEN = ("tensorflow", "keras", "tensorboard", "numpy")  # tensorboard goes with TensorFlow


def main() -> None:
    with unittest.mock.patch("setuptools.setup") as setup:
        runpy.run_path("setup.py")
    options = setup.call_args.kwargs
    needed = [*options["install_requires"], *options["extras_require"]["test"]]
    names = [re.split(r"[<>=\[ ;]", requirement)[0] for requirement in needed]
    sys.stdout.write("\n".join([*(name for name in names if name not in _CHOSEN), "tensorboard"]) + "\n")


if __name__ == "__main__":
    main()
