"""Exceptions, and the form of every message about bad input: what is wrong, expected, received, what to do."""

import difflib
import re
from collections.abc import Iterable

# What TensorFlow adds to the message of an error in a graph.
_NOISE = ("Graph execution error", "Detected at node", "<stack traces", 'File "', "[[", "Hint:", "[Op:")


class InputError(ValueError):
    """Bad input from the user. Commands print its one line and exit with code 2, without a traceback.

    The message reads "<what is wrong>. Expected <...>. Received <name>=<value>. <what to do>."
    """


class EnvironmentFailure(InputError):
    """A full disk, too little memory or an unreadable file: the settings are fine, and the same command works later."""


class DivergedError(InputError):
    """The training loss is no longer finite. The settings caused it, so it is an input error too."""


def input_error(problem: str, *, expected: object, received: object, remedy: str) -> InputError:
    """An `InputError` in four parts on one line.

    Args:
      problem: what is wrong; a sentence.
      expected: what would have been right, as in "Expected a folder".
      received: what came instead, usually `name=value`.
      remedy: what to do; a sentence, or a question.

    Examples:
      >>> print(input_error("The batch is empty", expected="at least 1", received="batch_size=0", remedy="Raise it"))
      The batch is empty. Expected at least 1. Received batch_size=0. Raise it.
    """
    return InputError(message(problem, expected=expected, received=received, remedy=remedy))


def message(problem: str, *, expected: object, received: object, remedy: str) -> str:
    """The text of `input_error`, for its subclasses and for warnings."""
    parts = (problem, f"Expected {expected}", f"Received {received}", remedy)
    return " ".join(" ".join(part if part.endswith((".", "?", "!", ":")) else f"{part}." for part in parts).split())


def flag_error(name: str, value: object, problem: str, expected: object, remedy: str) -> InputError:
    """The `InputError` of one setting, `--name=value`."""
    return input_error(f"--{name} {problem}", expected=expected, received=f"--{name}={as_text(value)}", remedy=remedy)


def as_text(value: object) -> str:
    """A value as the text of a flag; `skd_tf.config.fields.validate` reads it back as the same value."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun, which is in the plural unless it is one.

    Example:
      >>> counted(1, "file"), counted(2_000, "image"), counted(0, "class")
      ('1 file', '2,000 images', '0 classes')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def did_you_mean(name: object, names: Iterable[str], otherwise: str) -> str:
    """A remedy: the nearest of `names`, or `otherwise` if none is near."""
    folded = {known.lower(): known for known in names}
    near = difflib.get_close_matches(str(name).lower(), folded, n=1)
    return f"Did you mean {folded[near[0]]}?" if near else otherwise


def reason(message: str) -> str:
    """TensorFlow's message of an error, without the place in the graph."""
    lines = [line.strip() for line in message.splitlines()]
    text = " ".join([line for line in lines if line and not line.startswith(_NOISE)] or lines)
    return re.sub(r"Error in user-defined function passed to \S+ transformation with iterator: \S+: ", "", text)  # 2.20
