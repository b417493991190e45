"""The recipes in the package: flagfiles that --recipe=NAME reads, wherever the command starts."""

import os
import pathlib
import re

from skd_tf.errors import did_you_mean, input_error

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "recipes"
PREFIX = "recipe:"
_BEFORE = re.compile(r"(?:\./)?experiments/(.+)\.flags")  # where skd_tf 0.1.0 had its recipes
_HEADINGS = {
    "skd_tf.train": "skd-train",
    "skd_tf.tune": "skd-tune",
    "methods/": "methods, given after a pair of networks",
}


def names() -> list[str]:
    """Names of the flagfiles in the package, without the `.flags`."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.flags"))


def short_name(name: str) -> str:
    """A recipe's name for people: the folder alone for SET/skd."""
    return name.removesuffix("/skd") if name.count("/") == 1 else name


def path_of(name: str) -> pathlib.Path:
    """The file of a recipe; a folder's name stands for the skd.flags in it.

    Raises:
      InputError: there is no such recipe.
    """
    known = names()
    found = next((candidate for candidate in (name, f"{name}/skd") if candidate in known), None)
    if found is None:
        raise input_error(
            "Unknown recipe",
            expected="one of those that --list_recipes prints",
            received=f"--recipe={name}",
            remedy=did_you_mean(name, map(short_name, known), "Run with --list_recipes"),
        )
    return FOLDER / f"{found}.flags"


def locate(path: str | os.PathLike, beside: pathlib.Path | None = None) -> pathlib.Path:
    """The file that a flagfile's path names; it need not exist.

    recipe:NAME is a recipe. Another path is looked for in the folder of the including file, then in the current folder. So
    that commands and runs of skd_tf 0.1.0 keep working, experiments/NAME.flags is a recipe if there is no such file.

    Args:
      path: as in --flagfile=PATH.
      beside: folder of the including file; None on the command line.
    """
    text = os.fspath(path).strip()
    if text.startswith(PREFIX):
        return path_of(text.removeprefix(PREFIX))
    found = pathlib.Path(text).expanduser()
    if beside is not None and (beside / found).exists():
        return beside / found
    before = _BEFORE.fullmatch(text)
    if before and not found.exists() and before[1] in names():
        return path_of(before[1])
    return found


def stable_name(path: str) -> str:
    """The same name for a recipe on every machine and in every version: recipe:NAME. Other paths stay as they are."""
    before = _BEFORE.fullmatch(path)
    if before and before[1] in names():
        return PREFIX + before[1]
    located = pathlib.Path(path)
    return PREFIX + located.relative_to(FOLDER).with_suffix("").as_posix() if FOLDER in located.parents else path


def same_name(path: str) -> str:
    """`stable_name`, and for other files the same path however it is spelled."""
    name = stable_name(path)
    return name if not name or name.startswith(PREFIX) else os.path.realpath(name)


def listing() -> str:
    """The text of --list_recipes: each name with what its flagfile says first."""
    groups: dict[str, list[str]] = {heading: [] for heading in _HEADINGS.values()}
    width = max(map(len, names()))
    for name in names():
        text = path_of(name).read_text(encoding="utf-8")
        heading = next((heading for mark, heading in _HEADINGS.items() if mark in f"{name}\n{text}"), None)
        if heading:
            words = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
            first = re.split(r"(?<=[^.\d])[.:;] ", words)[0].removesuffix(".")
            groups[heading].append(f"  {short_name(name):{width}}  {first}")
    return "\n\n".join("\n".join([f"{heading}:", *lines]) for heading, lines in groups.items() if lines)
