"""Expands --flagfile and --recipe into the flags that the file and its includes hold."""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator

from skd_tf.config import recipes
from skd_tf.errors import input_error
from skd_tf.runtime.local_paths import require_local

_DIRECTIVE = re.compile(r"--?(flagfile|recipe)(?:=(.*))?", re.DOTALL)
_NAMES_A_FILE = re.compile(r"--?teacher_flagfile=(.+)")
_TRAILING_COMMENT = re.compile(r"\s(#|//)")


def expand(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Replaces every --flagfile and --recipe by the flags in it, in place: a later flag overrides an earlier one.

    The format is absl's: one flag per line, and comments after # or // on lines of their own. A file that a flagfile names,
    included or as --teacher_flagfile, is looked for beside the flagfile, then in the current folder, so a run can start
    anywhere.

    Args:
      arguments: the command line without the program's name.

    Yields:
      (argument, its place as "FILE line NUMBER", "" on the command line).

    Raises:
      InputError: a file cannot be read or includes itself, or a line is not a flag.
    """
    arguments = iter(arguments)
    for argument in arguments:
        directive = _DIRECTIVE.fullmatch(argument)
        if directive is None:
            yield argument, ""
            continue
        path = _path(directive[1], directive[2], arguments)
        if path:  # an empty one changes nothing, as in absl
            yield from _read(path, None, ())


def _read(path, folder, including):
    require_local(path, "flagfile")
    found = recipes.locate(path, folder)
    if found.resolve() in including:
        raise input_error(
            "A flagfile includes itself",
            expected="no circular include",
            received=f"--flagfile={path} in {including[-1].name}",
            remedy="Remove that line",
        )
    try:
        lines = found.read_text(encoding="utf-8-sig").split("\n")  # some editors start a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise input_error(
            f"A flagfile cannot be read ({reason})",
            expected="a text file",
            received=f"--flagfile={path}",
            remedy="Check the path",
        ) from error
    for number, line in enumerate(lines, start=1):
        line, where = line.strip(), f"{found} line {number}"
        if not line or line.startswith(("#", "//")):
            continue
        directive = _DIRECTIVE.fullmatch(line)
        if directive:
            yield from _read(_path(directive[1], directive[2]), found.parent, (*including, found.resolve()))
            continue
        problem = _problem(line)
        if problem:
            raise input_error(f"{problem[0]} in {where}", expected="--flag=value", received=line, remedy=problem[1])
        yield _with_path(line, found.parent), where


def _path(kind, value, following=None):
    """The path that a directive names; on a command line its value may be the next argument."""
    value = next(following or iter(()), "") if value is None else value
    return f"{recipes.PREFIX}{value}" if kind == "recipe" and value else value


def _with_path(line, folder):
    """A flag that names a file beside its flagfile, with a path that holds in any folder."""
    match = _NAMES_A_FILE.fullmatch(line)
    beside = pathlib.Path(os.path.abspath(folder / match[1] if match else folder))
    return f"--teacher_flagfile={recipes.stable_name(str(beside))}" if match and beside.exists() else line


def _problem(line):
    if _TRAILING_COMMENT.search(line):
        return "A comment follows a flag", "Put the comment on a line of its own"
    if not line.startswith("-"):
        return "A line is not a flag", "Start it with --, or with # if it is a comment"
    if "=" not in line and len(line.split()) > 1:
        return "A flag lacks its =", f"Write {'='.join(line.split(maxsplit=1))}"
    return None
