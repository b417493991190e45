"""A user's own function, given on the command line as MODULE:FUNCTION."""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from skd_tf.errors import input_error

_REFERENCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
APPLICATIONS = "keras.applications"


def is_reference(text: str) -> bool:
    """Whether a text reads MODULE:FUNCTION."""
    return bool(_REFERENCE.fullmatch(text))


def application(text: str) -> str | None:
    """NAME in a text that reads keras.applications:NAME, else None."""
    module, _, name = text.partition(":")
    return name if module == APPLICATIONS and name else None


def require_module(text: str, flag: str) -> None:
    """Checks that the module in MODULE:FUNCTION exists. Does not run it, only the packages that contain it.

    Raises:
      InputError: it does not.
    """
    module, _, _ = text.partition(":")
    if not {"", os.getcwd()} & set(sys.path):  # python -m looks there, a console script does not
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None:
        raise input_error(
            f"There is no module {module}",
            expected="MODULE:FUNCTION with a module in the current folder or installed",
            received=f"--{flag}={text}",
            remedy="Check the name and the folder, or set PYTHONPATH",
        )


def resolve(text: str, flag: str) -> Callable[..., Any]:
    """Imports the function that MODULE:FUNCTION names. This runs the module's code, which is trusted.

    Raises:
      InputError: there is no such module or function.
    """
    require_module(text, flag)
    module, _, name = text.partition(":")
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise input_error(
            "The module has no such function",
            expected=f"a function of {module}",
            received=f"--{flag}={text}",
            remedy="Check the name",
        )
    return function
