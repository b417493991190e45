"""run(): the one wrapper around every command. It parses the command line, calls the command and exits."""

import contextlib
import errno
import os
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from skd_tf.config import flagfile, recipes
from skd_tf.config.config import FIELDS
from skd_tf.config.fields import expectation, kinds_of, rules_of, validate
from skd_tf.config.flags import LOOKS, PLACES, define_flags, is_setting, parse
from skd_tf.errors import InputError, as_text, input_error, reason
from skd_tf.runtime import console, devices, keras_state, signals

_LIST = {"--list_recipes", "-list_recipes"}
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def run(
    main: Callable[[flags.FlagValues], int | None],
    *,
    description: str,
    define: Callable[[flags.FlagValues], object] = define_flags,
    required: Sequence[str] = ("workdir",),
    positional: str | Sequence[str] | None = None,
) -> NoReturn:
    """Runs an entry point: parses sys.argv, calls main and exits.

    Bad input becomes one line "error: ..." on stderr and exit code 2, without a traceback, wherever it is found.

    Args:
      main: called with the parsed FlagValues; returns the exit code, or None for 0.
      description: what the command does, for --help.
      define: defines the command's flags on a FlagValues; calls `define_flags` for those of Config.
      required: names of flags that must be given.
      positional: the multi flag that takes the arguments that are not flags, or a sequence of flags that take one each;
        None refuses them.
    """
    _open_standard_streams()
    # TensorFlow's start-up notes are not about the user's job. Without a GPU, even its "errors" only say so.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if devices.gpu_count() else "3")
    # On CPUs without AVX512-VNNI TensorFlow turns oneDNN off, which makes a resnet20 step take three times as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    flag_values = flags.FlagValues()
    define(flag_values)
    try:
        if _HELP & set(sys.argv[1:]):
            console.say(help_text(flag_values, description, required, positional))
            sys.exit(0)
        if _LIST & set(sys.argv[1:]):
            console.say(recipes.listing())
            sys.exit(0)
        parse(sys.argv[1:], flag_values, positional)
        looks = [name for name in LOOKS if is_setting(name, flag_values) and flag_values[name].value]
        alone = any(validate(FIELDS[name], flag_values[name].value) for name in looks)
        for name in () if alone else required:
            if not flag_values[name].value:
                expected, remedy = flag_values[name].help, f"Add --{name}=VALUE"
                raise input_error(f"--{name} is missing", expected=expected, received="nothing", remedy=remedy)
        keras_state.pin()
        with signals.raised():
            code = main(flag_values)
        sys.exit(code)
    except signals.Interrupted as error:
        what = f"stopped by {error.signal.name}. {error.what}".strip()
        console.write(f"\n{what}\nTo resume, start the same command again:\n  {command_line()}", sys.stderr)
        sys.exit(error.exit_code)
    except InputError as error:
        _exit(2, str(error))
    except OSError as error:  # a full disk, a read-only folder: the machine's state, not a fault of the program
        where = f" Received {error.filename}." if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = " Free some space, then start the same command again." if full else ""
        _exit(1, f"{error.strerror or error}.{where}{remedy}")
    except Exception as error:
        if not isinstance(error, _environment_errors()):
            raise
        _exit(1, reason(getattr(error, "message", "") or str(error))[:500] or "Too little memory.")


def _exit(code: int, message: str) -> NoReturn:
    console.write(f"error: {' '.join(message.split())}", sys.stderr)
    sys.exit(code)


def _environment_errors():
    """Exceptions about a missing, damaged or forbidden file, a full disk or too little memory."""
    tensorflow = sys.modules.get("tensorflow")
    names = "NotFoundError", "DataLossError", "PermissionDeniedError", "ResourceExhaustedError"
    return MemoryError, *(getattr(tensorflow.errors, name) for name in names if tensorflow)


def _open_standard_streams():
    """Opens closed file descriptors 0 to 2 on the null device. A file opened later would get TensorFlow's C++ notes."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


_overwritten = {"done": False}


def note_overwritten() -> None:
    """Notes that --overwrite has removed what was in the workdir: with it, the same command would restart from scratch."""
    _overwritten["done"] = True


def command_line() -> str:
    """This process's command as a user would type it to resume: without --overwrite, if that has done its work."""
    if not _overwritten["done"]:
        return f"{_program_name()} {shlex.join(sys.argv[1:])}"
    arguments = [argument for argument in sys.argv[1:] if argument.lstrip("-").partition("=")[0] != "overwrite"]
    with contextlib.suppress(InputError):  # a flagfile may be gone by now
        if any(argument.lstrip("-").partition("=")[0] == "overwrite" for argument, _ in flagfile.expand(arguments)):
            arguments.append("--nooverwrite")  # overrides the flagfile
    return f"{_program_name()} {shlex.join(arguments)}"


def help_text(
    flag_values: flags.FlagValues,
    description: str,
    required: Sequence[str] = (),
    positional: str | Sequence[str] | None = None,
) -> str:
    """The text of --help: sections, and of each flag its default, its unit and what it accepts."""
    bare = [positional] if isinstance(positional, str) else [*(positional or ())]
    needed = "".join(f" {name.upper()}" for name in bare)
    if isinstance(positional, str):  # takes one or more
        needed += f" [{positional.upper()} ...]"
    needed += "".join(f" --{name}=..." for name in required if name not in bare)
    lines = [f"usage: {_program_name()}{needed} [--flagfile=FILE] [--flag=value ...]", "", description, ""]
    lines += _help_lines(
        "--flagfile=FILE", "reads flags from a file, at this place: a later flag overrides an earlier one"
    )
    lines += _help_lines("--recipe=NAME", "reads flags from a flagfile in the package, as --flagfile does")
    lines += _help_lines("--list_recipes", "prints the recipes, each with a line on it, and stops")
    places = [name for name in PLACES if name in flag_values]
    own = [name for name in flag_values if not is_setting(name, flag_values) and name not in PLACES]
    for name in places + own:
        flag = flag_values[name]
        text, _, repeated = " ".join(flag.help.split()).partition("; repeat this option")  # absl's words
        label = _label(name, None if repeated else flag.default, boolean=flag.boolean)
        text += "; can be repeated" * bool(repeated)
        text += f"; by default {' and '.join(map(str, flag.default))}" if repeated and flag.default else ""
        lines += _help_lines(label, text)
    heading = ""
    for name, field in FIELDS.items():
        heading = rules_of(field).heading or heading
        if is_setting(name, flag_values):
            if heading:
                lines, heading = [*lines, "", f"{heading}:"], ""
            boolean = bool in kinds_of(field)
            accepts = "" if boolean or expectation(field) == "text" else f" ({expectation(field)})"
            label = _label(name, as_text(field.default), boolean=boolean)
            lines += _help_lines(label, rules_of(field).help + accepts)
    return "\n".join(lines)


def _label(name, default, *, boolean):
    if boolean:
        return f"--[no]{name} (default: {as_text(default)})"
    return f"--{name}" if default is None else f"--{name}={as_text(default)}"


def _help_lines(label, text):
    return [f"  {label}", *textwrap.wrap(text, 108, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _program_name():
    path = pathlib.Path(sys.argv[0])
    if path.suffix != ".py":
        return path.name
    return f"python -m skd_tf.{path.stem}" if path.parent.name == "skd_tf" else f"python {path}"
