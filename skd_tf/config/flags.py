"""Config <-> absl flags, and the one wrapper around every entry point.

Every flag is derived from a field of Config, and Config alone checks values: absl only takes the line apart.
Each entry point has a FlagValues of its own, so importing one from another, or running it with `python -m`,
defines nothing twice.
"""

import dataclasses
import os
import sys

from absl import flags

from skd_tf.config import Config, flagfile
from skd_tf.config.fields import kinds_of, rules_of
from skd_tf.errors import InputError, as_text, did_you_mean, input_error

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
    return {name for name in FIELDS if is_setting(name, flag_values) and flag_values[name].present}


def is_setting(name, flag_values):
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
    pairs = [(_at_home(argument), where) for argument, where in flagfile.expand(arguments)]
    strange = [argument for argument, _ in pairs if any("\ud800" <= letter <= "\udfff" for letter in argument)]
    if strange:  # bytes of a file's name that are no UTF-8: TensorFlow takes no such name
        raise input_error(
            "An argument is no UTF-8", expected="text", received=f"{strange[0]!r}", remedy="Rename the file or folder"
        )
    try:
        leftovers = flag_values([sys.argv[0] or "skd_tf", *(argument for argument, _ in pairs)])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [*flag_values, *(f"no{known}" for known in flag_values if flag_values[known].boolean)]
        places = {argument.lstrip("-").partition("=")[0]: where for argument, where in pairs}
        where = f" in {places[error.flagname]}" if places.get(error.flagname) else ""
        remedy = did_you_mean(f"--{error.flagname}", [f"--{known}" for known in names], "See --help for all.")
        raise input_error(
            f"Unknown flag{where}",
            expected="a flag of this command",
            received=f"--{error.flagname}",
            remedy=f"{remedy}",
        ) from error
    except (flags.Error, ValueError) as error:
        raise InputError(f"{error}. Expected --flag=value. See --help.") from error
    if leftovers and positional:
        flag_values[positional].value = [*(flag_values[positional].value or []), *leftovers]
    elif leftovers:
        raise input_error(
            "An argument is no flag",
            expected="--flag=value only",
            received=f"{leftovers[0]}",
            remedy="Join it to its flag with =, and quote what holds spaces",
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
