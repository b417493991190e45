"""Config to absl flags and back.

Each flag is derived from a field of Config, which alone checks values: absl only splits the command line. Each entry
point has its own FlagValues, so that one can be imported from another, or run with `python -m`, without defining a flag
twice.
"""

import json
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

from absl import flags

from skd_tf.config import flagfile, versions
from skd_tf.config.config import FIELDS, Config
from skd_tf.config.fields import kinds_of, rules_of
from skd_tf.errors import InputError, as_text, did_you_mean, input_error
from skd_tf.runtime.console import warn
from skd_tf.runtime.local_paths import TFDS_SCHEMES, require_local

PLACES = {
    "workdir": "the folder that the run writes to and resumes from",
    "data_dir": "the TFDS data folder; TFDS' own by default",
}
LOOKS = ("show_augmentation", "list_layers")  # they show something instead of training
_COMMAND_ONLY = (
    "dry_run",
    "overwrite",
    *LOOKS,
)  # they belong to one start of a run; a file that repeats the run lacks them
_ELSEWHERE = {  # what other projects call a flag -> its names here; the first that the command has counts
    "lr": ("learning_rate",),
    "alpha": ("kd_weight",),
    **dict.fromkeys(("T", "tau", "temp"), ("temperature",)),
    **dict.fromkeys(("batch", "bs"), ("batch_size",)),
    "wd": ("weight_decay",),
    "data": ("dataset",),
    "model": ("student", "workdir"),
    **dict.fromkeys(("out", "out_dir", "output_dir"), ("output", "workdir")),
}
_RECORD_BESIDE = {"flags.txt": "config.json", "best.flags": "search.json"}  # where a flagfile's version is recorded


class SettingFlag(flags.Flag):
    """The flag of a field of Config. A flag of the same name that an entry point defines itself is none."""


def define_flags(flag_values: flags.FlagValues, names: Iterable[str] = (*PLACES, *FIELDS)) -> None:
    """Defines flags for fields of Config and for the places.

    absl holds their texts, and None for each that was not given; `config_from` turns them into a Config.

    Args:
      flag_values: of one entry point, which defines its own flags on it as well.
      names: which fields and places; all by default.
    """
    for name in names:
        if name in PLACES:
            flags.DEFINE_string(name, None, PLACES[name], flag_values)
            continue
        parser: flags.ArgumentParser[str] = flags.ArgumentParser()
        serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
        help, boolean = rules_of(FIELDS[name]).help, bool in kinds_of(FIELDS[name])
        flags.DEFINE_flag(SettingFlag(parser, serializer, name, None, help, boolean=boolean), flag_values)


def is_setting(name: str, flag_values: flags.FlagValues) -> bool:
    """Whether there is a flag of this name and it sets a field of Config."""
    return name in flag_values and isinstance(flag_values[name], SettingFlag)


def explicit_names(flag_values: flags.FlagValues) -> set[str]:
    """The Config fields that were given on the command line or in a flagfile."""
    return {name for name in FIELDS if is_setting(name, flag_values) and flag_values[name].present}


def config_from(flag_values: flags.FlagValues, base: Config | None = None) -> Config:
    """The Config that parsed flags describe.

    Args:
      flag_values: parsed.
      base: gives the values of what was not given; the defaults unless given.

    Raises:
      InputError: a bad value.
    """
    return (base or Config()).replace(**{name: flag_values[name].value for name in explicit_names(flag_values)})


def parse(
    arguments: Sequence[str], flag_values: flags.FlagValues, positional: str | Sequence[str] | None = None
) -> None:
    """Parses a command line into flag_values.

    Args:
      arguments: without the program's name.
      flag_values: with the flags defined.
      positional: the multi flag that takes the arguments that are not flags, or a sequence of flags that take one each;
        None refuses them.

    Raises:
      InputError: an unknown flag, a flag without its value, or an argument that is not a flag.
    """
    pairs = [(_with_home(argument), where) for argument, where in flagfile.expand(arguments)]
    undecoded = [argument for argument, _ in pairs if any("\ud800" <= letter <= "\udfff" for letter in argument)]
    if undecoded:  # bytes of a file's name that are not UTF-8; TensorFlow takes no such name
        received = repr(undecoded[0])
        raise input_error(
            "An argument is not UTF-8", expected="text", received=received, remedy="Rename the file or folder"
        )
    try:
        leftovers = flag_values([sys.argv[0] or "skd_tf", *(argument for argument, _ in pairs)])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [*flag_values, *(f"no{known}" for known in flag_values if flag_values[known].boolean)]
        places = {argument.lstrip("-").partition("=")[0]: where for argument, where in pairs}
        where = f" in {places[error.flagname]}" if places.get(error.flagname) else ""
        raise input_error(
            f"Unknown flag{where}",
            expected="a flag of this command",
            received=f"--{error.flagname}",
            remedy=_nearest(error.flagname, names),
        ) from error
    except (flags.Error, ValueError) as error:
        raise InputError(f"{error}. Expected --flag=value. See --help.") from error
    if isinstance(positional, str):
        flag_values[positional].value = [*(flag_values[positional].value or []), *leftovers] or None
        leftovers = []
    else:
        for name in positional or ():
            if leftovers and not flag_values[name].present:
                flag_values[name].value = leftovers.pop(0)
    if leftovers:
        raise input_error(
            "An argument is not a flag",
            expected="--flag=value",
            received=leftovers[0],
            remedy="Join it to its flag with =, and quote it if it has spaces",
        )
    _warn_of_earlier_flags(dict.fromkeys(where.rpartition(" line ")[0] for _, where in pairs if where), flag_values)
    for name in flag_values:
        values = flag_values[name].value
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str):
                require_local(value, name, schemes=TFDS_SCHEMES if name == "data_dir" else ())


def _nearest(name, names):
    """A remedy for an unknown flag: the flag of this command that other projects call so, or one of a similar name."""
    ours = next((known for known in _ELSEWHERE.get(name, ()) if known in names), None)
    if ours:
        return f"Did you mean --{ours}?"
    return did_you_mean(f"--{name}", [f"--{known}" for known in names], "See --help for all")


def _warn_of_earlier_flags(files, flag_values):
    """Says which settings a run does not share with an earlier version's run or search whose flagfile it takes.

    A run that goes on in its own workdir keeps its settings.
    """
    workdir = flag_values["workdir"].value if "workdir" in flag_values else None
    for file in map(pathlib.Path, files):
        own = workdir and file.parent.resolve() == pathlib.Path(workdir).resolve()
        if file.name not in _RECORD_BESIDE or not workdir or (own and file.name == "flags.txt"):
            continue
        try:
            record = json.loads(file.with_name(_RECORD_BESIDE[file.name]).read_text(encoding="utf-8"))
            version = record.get("config", record).get("version", 1)
            earlier = {name: value for name, (introduced, value) in versions.BEFORE.items() if introduced > version}
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        names = [name for name in earlier if is_setting(name, flag_values) and not flag_values[name].present]
        names = [name for name in names if earlier[name] != FIELDS[name].default]
        if names:
            now = ", ".join(f"--{name}={as_text(FIELDS[name].default)}" for name in names)
            then = " ".join(f"--{name}={as_text(earlier[name])}" for name in names)
            warn(f"{file} is of an earlier version, and a new run has {now}. To repeat the earlier one, add {then}.")


def _with_home(argument):
    """Expands --flag=~/PATH. A shell expands ~ only at the start of a word, and in a flagfile there is no shell."""
    name, _, value = argument.partition("=")
    parts = value.split(",") if name.endswith("teacher_checkpoint") else [value]
    expanded = [os.path.expanduser(part) if part.startswith("~/") else part for part in parts]
    return f"{name}={','.join(expanded)}" if expanded != parts else argument


def read_flagfile(path: str | os.PathLike, base: Config | None = None) -> tuple[Config, set[str]]:
    """The settings in a flagfile and the flagfiles that it includes.

    It may give --workdir and --data_dir; they are ignored.

    Args:
      path: of the flagfile.
      base: gives the values of what the file does not give; the defaults unless given.

    Returns:
      (Config, the names of the fields that the file gives).

    Raises:
      InputError: an unreadable file, an unknown flag or a bad value.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse([f"--flagfile={path}"], flag_values)
    return config_from(flag_values, base), explicit_names(flag_values)


def write_flags(config: Config) -> str:
    """The text of a flagfile that repeats a run: a line per setting that is not at its default.

    It leaves out --dry_run and --overwrite.
    """
    lines = []
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if value != field.default and name not in _COMMAND_ONLY:
            boolean = bool in kinds_of(field)
            lines.append(f"--{'' if value else 'no'}{name}\n" if boolean else f"--{name}={as_text(value)}\n")
    return "".join(lines)
