"""MODULE:FUNCTION texts: a user's own code, named on the command line."""

import importlib
import importlib.util
import os
import re
import sys

from skd_tf.errors import input_error

_REFERENCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
APPLICATIONS = "keras.applications"


def is_reference(text):
    return bool(_REFERENCE.fullmatch(text))


def application(text):
    """The network's name behind keras.applications:NAME, else None."""
    module, _, name = text.partition(":")
    return name if module == APPLICATIONS and name else None


def require_module(text, flag):
    """InputError where the module of MODULE:FUNCTION is not found; runs none of its code (but of packages it lies in)."""
    module = _REFERENCE.fullmatch(text)[1]
    _look_in_current_folder()
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


def resolve(text, flag):
    """The function that MODULE:FUNCTION names; InputError where it is not there. Runs the module: it is trusted code."""
    require_module(text, flag)
    module, name = _REFERENCE.fullmatch(text).groups()
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise input_error(
            "The module has no such function",
            expected=f"a function of {module}",
            received=f"--{flag}={text}",
            remedy="Check the name",
        )
    return function


def _look_in_current_folder():
    """As python -m does; a console script would not."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
