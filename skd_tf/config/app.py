"""run(): the one wrapper around every command. It parses the command line, calls the command and exits."""

import contextlib
import os
import pathlib
import shlex
import sys
import textwrap

from absl import flags

from skd_tf.config import flagfile
from skd_tf.config.fields import expectation, kinds_of, rules_of
from skd_tf.config.flags import FIELDS, PLACES, define_flags, is_setting, parse
from skd_tf.errors import InputError, as_text, input_error
from skd_tf.runtime import devices, signals

_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def run(main, *, description, define=define_flags, required=("workdir",), positional=None):
    """Runs an entry point: parses sys.argv, calls main, exits.

    Bad input, wherever it is found, is one line "error: ..." on stderr and exit code 2, without a traceback.

    Args:
      main: called with the parsed FlagValues; returns the exit code, None for 0.
      description: what the command does, for --help.
      define: called with the FlagValues to define its flags on; `define_flags` and more.
      required: names of flags that must be given.
      positional: the flag that takes the arguments which are no flags, None where there are none.
    """
    # TensorFlow's notes at start-up are not about the user's job; without a GPU even its "errors" say just that.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if devices.gpu_count() else "3")
    # TensorFlow turns oneDNN off by itself on CPUs without AVX512-VNNI: a resnet20 step then takes three times as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    flag_values = flags.FlagValues()
    define(flag_values)
    try:
        if _HELP & set(sys.argv[1:]):
            print(help_text(flag_values, description, required))
            sys.exit(0)
        parse(sys.argv[1:], flag_values, positional)
        for name in required:
            if not flag_values[name].value:
                expected = flag_values[name].help
                raise input_error(
                    f"--{name} is missing", expected=f"{expected}", received="nothing", remedy=f"Add --{name}=.."
                )
        with signals.raised():
            code = main(flag_values)
        sys.exit(code)
    except signals.Interrupted as error:
        what = f"stopped by {error.signal.name}. {error.what}".strip()
        print(f"\n{what}\nTo go on, start the same command again:\n  {command_line()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a read-only folder: the machine's state, not a fault of the program
        where = f" Received {error.filename}." if error.filename else ""
        print(f"error: {error.strerror or error}.{where}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if not _is_of_the_machine(error):
            raise
        print(f"error: {reason(error.message)[:500]}", file=sys.stderr)
        sys.exit(1)


def _is_of_the_machine(error):
    """Whether TensorFlow tells of a file that is gone, damaged or refused, or of a full disk or memory."""
    tensorflow = sys.modules.get("tensorflow")
    names = "NotFoundError", "DataLossError", "PermissionDeniedError", "ResourceExhaustedError"
    return tensorflow is not None and isinstance(error, tuple(getattr(tensorflow.errors, name) for name in names))


def reason(message):
    """What TensorFlow says of an error, without where in a graph it came up."""
    lines = [line.strip() for line in message.splitlines()]
    noise = "Graph execution error", "Detected at node", "<stack traces", 'File "', "[[", "Hint:", "[Op:"
    said = [line for line in lines if line and not line.startswith(noise)]
    return " ".join(said or lines)


def command_line():
    """The command of this process, as a user would type it to go on: without --overwrite, which would begin anew."""
    arguments = [argument for argument in sys.argv[1:] if argument.lstrip("-").partition("=")[0] != "overwrite"]
    with contextlib.suppress(InputError):  # a flagfile that is gone by now
        if any(argument.lstrip("-").partition("=")[0] == "overwrite" for argument, _ in flagfile.expand(arguments)):
            arguments.append("--nooverwrite")  # over the flagfile that has it
    return f"{_program_name()} {shlex.join(arguments)}"


def help_text(flag_values, description, required=()):
    """The text of --help: sections, defaults, units and what each flag accepts."""
    needed = "".join(f" --{name}=..." for name in required)
    lines = [f"usage: {_program_name()}{needed} [--flagfile=FILE] [--flag=value ...]", "", description, ""]
    lines += ["  --flagfile=FILE", "      flags read from a file, at this place: a later flag rules"]
    places = [name for name in PLACES if name in flag_values]
    own = [name for name in flag_values if not is_setting(name, flag_values) and name not in PLACES]
    for name in places + own:
        flag = flag_values[name]
        default = "" if flag.default is None else f"={as_text(flag.default)}"
        lines += _help_lines(f"--{name}{default}", " ".join(flag.help.split()))
    heading = ""
    for name, field in FIELDS.items():
        heading = rules_of(field).heading or heading
        if is_setting(name, flag_values):
            if heading:
                lines, heading = [*lines, "", f"{heading}:"], ""
            default = as_text(field.default)
            boolean = bool in kinds_of(field)
            label = f"--[no]{name} (default: {default})" if boolean else f"--{name}={default}"
            accepts = "" if boolean or expectation(field) == "text" else f" ({expectation(field)})"
            lines += _help_lines(label, rules_of(field).help + accepts)
    return "\n".join(lines)


def _help_lines(label, text):
    return [f"  {label}", *textwrap.wrap(text, 108, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _program_name():
    path = pathlib.Path(sys.argv[0])
    if path.suffix != ".py":
        return path.name
    return f"python -m skd_tf.{path.stem}" if path.parent.name == "skd_tf" else f"python {path}"
