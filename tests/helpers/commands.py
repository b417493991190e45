"""Commands and scripts, in the process of the test or in a new one."""

import importlib.util
import subprocess
import sys

import pytest


def exit_code(main, *arguments):
    """Calls an entry point with a command line; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [f"{main.__module__.replace('.', '/')}.py", *map(str, arguments)])
        main()
    return ended.value.code or 0


def python(*arguments):
    """Runs Python with a command line in a new process, which must succeed; returns what it printed."""
    program = [sys.executable, *map(str, arguments)]
    return subprocess.run(program, stdout=subprocess.PIPE, text=True, timeout=1800, check=True).stdout


def load_source(path):
    """The module in a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
