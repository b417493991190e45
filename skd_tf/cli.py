"""Config <-> absl flags, and the one wrapper around every entry point.

Every flag is derived from a field of Config, and Config alone checks values: absl only takes the line apart.
Each entry point has a FlagValues of its own, so importing one from another, or running it with `python -m`,
defines nothing twice.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
import textwrap

from absl import flags

from skd_tf import devices, flagfiles, interrupts
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.knobs import as_text, did_you_mean, expectation, kinds_of, rules_of

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
PLACES = {
    "workdir": "the folder that the run writes to, and resumes from",
    "data_dir": "the TFDS data folder; TFDS' own default unless given",
}
_OF_ONE_START = (
    "dry_run",
    "overwrite",
)  # what a command does, not what a run is: no file that repeats a run holds them
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def define_flags(flag_values, names=(*PLACES, *FIELDS)):
    """Defines flags for fields of Config and for the places.

    absl holds the texts and None for what was not given; `config_from` makes a Config of them.

    Args:
      flag_values: the entry point's own absl FlagValues; its own flags are defined on it beside these.
      names: which fields and places; all by default.
    """
    for name in names:
        help = PLACES[name] if name in PLACES else rules_of(FIELDS[name]).help
        boolean = name in FIELDS and bool in kinds_of(FIELDS[name])
        parser, serializer = flags.ArgumentParser(), flags.ArgumentSerializer()
        flags.DEFINE(parser, name, None, help, flag_values, serializer, boolean=boolean)


def explicit_names(flag_values):
    """The Config fields that were given on the command line or in a flagfile."""
    return {name for name in FIELDS if _is_setting(name, flag_values) and flag_values[name].present}


def _is_setting(name, flag_values):
    """Whether a flag is that field of Config, and not a flag of the entry point's own that shares its name."""
    return name in flag_values and name in FIELDS and flag_values[name].help == rules_of(FIELDS[name]).help


def config_from(flag_values, base=None):
    """The Config that the parsed flags describe.

    Args:
      flag_values: parsed flags.
      base: a Config with the values of what was not given; the defaults unless given.

    Raises:
      InputError: a value that is not what its knob expects.
    """
    changes = {name: flag_values[name].value for name in FIELDS if name in explicit_names(flag_values)}
    return Config(**changes) if base is None else base.replace(**changes)


def parse(arguments, flag_values, positional=None):
    """Parses a command line, without the program's name, into flag_values; InputError for what is amiss.

    `positional` names the multi flag that takes the arguments which are no flags.
    """
    pairs = [(_at_home(argument), where) for argument, where in flagfiles.expand(arguments)]
    strange = [argument for argument, _ in pairs if any("\ud800" <= letter <= "\udfff" for letter in argument)]
    if strange:  # bytes of a file's name that are no UTF-8: TensorFlow takes no such name
        raise InputError(f"An argument is no UTF-8. Expected text. Received {strange[0]!r}. Rename the file or folder.")
    try:
        leftovers = flag_values([sys.argv[0] or "skd_tf", *(argument for argument, _ in pairs)])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [*flag_values, *(f"no{known}" for known in flag_values if flag_values[known].boolean)]
        places = {argument.lstrip("-").partition("=")[0]: where for argument, where in pairs}
        where = f" in {places[error.flagname]}" if places.get(error.flagname) else ""
        remedy = did_you_mean(f"--{error.flagname}", [f"--{known}" for known in names], "See --help for all.")
        raise InputError(
            f"Unknown flag{where}. Expected a flag of this command. Received --{error.flagname}. {remedy}"
        ) from error
    except (flags.Error, ValueError) as error:
        raise InputError(f"{error}. Expected --flag=value. See --help.") from error
    if leftovers and positional:
        flag_values[positional].value = [*(flag_values[positional].value or []), *leftovers]
    elif leftovers:
        raise InputError(
            f"An argument is no flag. Expected --flag=value only. Received {leftovers[0]}. "
            "Join it to its flag with =, and quote what holds spaces."
        )


def _at_home(argument):
    """--flag=~/PATH with the user's folder, which a shell puts in only where a word begins with ~, and no flagfile does."""
    name, _, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if value.startswith("~/") else argument


def read_flagfile(path, base=None):
    """The settings in a flagfile.

    --workdir and --data_dir in it, which say where and not what, are left to the run that reads it.

    Args:
      path: the flagfile; what it includes is read too.
      base: a Config with the values of what the file does not give; the defaults unless given.

    Returns:
      (Config, the set of names that the file gives).

    Raises:
      InputError: an unreadable file, an unknown flag, a bad value.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse([f"--flagfile={path}"], flag_values)
    return config_from(flag_values, base), explicit_names(flag_values)


def write_flags(config):
    """The text of a flagfile that repeats a run: a line for each knob not at its default, but for --dry_run, --overwrite."""
    lines = []
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if value != field.default and name not in _OF_ONE_START:
            lines.append(
                f"--{'' if value else 'no'}{name}" if bool in kinds_of(field) else f"--{name}={as_text(value)}"
            )
    return "".join(f"{line}\n" for line in lines)


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
                raise InputError(f"--{name} is missing. Expected {expected}. Received nothing. Add --{name}=...")
        with interrupts.raised():
            code = main(flag_values)
        sys.exit(code)
    except interrupts.Interrupted as error:
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
        if any(argument.lstrip("-").partition("=")[0] == "overwrite" for argument, _ in flagfiles.expand(arguments)):
            arguments.append("--nooverwrite")  # over the flagfile that has it
    return f"{_program_name()} {shlex.join(arguments)}"


def help_text(flag_values, description, required=()):
    """The text of --help: sections, defaults, units and what each flag accepts."""
    needed = "".join(f" --{name}=..." for name in required)
    lines = [f"usage: {_program_name()}{needed} [--flagfile=FILE] [--flag=value ...]", "", description, ""]
    lines += ["  --flagfile=FILE", "      flags read from a file, at this place: a later flag rules"]
    places = [name for name in PLACES if name in flag_values]
    own = [name for name in flag_values if not _is_setting(name, flag_values) and name not in PLACES]
    for name in places + own:
        flag = flag_values[name]
        default = "" if flag.default is None else f"={as_text(flag.default)}"
        lines += _help_lines(f"--{name}{default}", " ".join(flag.help.split()))
    heading = ""
    for name, field in FIELDS.items():
        heading = rules_of(field).heading or heading
        if _is_setting(name, flag_values):
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
