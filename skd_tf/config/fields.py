"""Knobs: what a setting has besides type and default, and the one check that every value passes through."""

import dataclasses
import re
import sys
import types
import typing

from skd_tf.errors import as_text, did_you_mean, flag_error

_BOOLEANS = {"true": True, "false": False}
# A flagfile line is stripped, and what follows " #" or " //" on it would be a comment to a reader.
_LOST_IN_A_FLAGFILE = re.compile(r"^\s|\s$|\s(#|//)")


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """The rules of one setting; its type and default are the dataclass field's own.

    Attributes:
      help: what the setting does, for `--help`.
      choices: the texts that are allowed; with a numeric type, beside numbers.
      low, above, high, below: numeric limits: >= low, > above, <= high, < below.
      grammar: what the text may look like, where `check` parses it.
      check: `(name, value) -> value in canonical form`, raises InputError.
      unit: of the number, for `--help`.
      heading: opens a section of `--help` with this setting.
      affects_result: whether another value could change a number that a run reports; or a function of the value that
        keeps what of it could.
    """

    help: str
    choices: tuple = ()
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    grammar: str = ""
    check: typing.Callable | None = None
    unit: str = ""
    heading: str = ""
    affects_result: bool | typing.Callable = True


def setting(default, help, **rules):
    """A dataclass field with the rules of a `FieldSpec`."""
    return dataclasses.field(default=default, metadata={"knob": FieldSpec(help, **rules)})


def rules_of(field):
    return field.metadata["knob"]


def kinds_of(field):
    """The types that a field's annotation allows: `float | None` gives {float, NoneType}."""
    return set(typing.get_args(field.type)) or {field.type}


def expectation(field):
    """What a field accepts, in words, from its type and its rules."""
    rules, kinds = rules_of(field), kinds_of(field)
    if rules.grammar:
        words = [rules.grammar]
    else:
        words = [word for kind, word in _KIND_WORDS.items() if kind in kinds]
        if float in kinds or int in kinds:
            words = [words[0] + _limits(rules), *words[1:]]
        if rules.choices:
            words = [word for word in words if word != _KIND_WORDS[str]]
            words.append("one of " + ", ".join(rules.choices))
    return ", or ".join(words + ["none"] * (types.NoneType in kinds))


def validate(field, value):
    """A value of a field in canonical type and form.

    Args:
      field: a dataclass field made by `setting`.
      value: of the field's type, or the flag's text of it; a whole float passes as an integer.

    Raises:
      InputError: anything else, NaN and infinities among it.
    """
    rules, kinds = rules_of(field), kinds_of(field)
    remedy = f"Leave it out for the default, {as_text(field.default) or 'empty'}"

    def refuse(problem):
        return flag_error(field.name, value, problem, expectation(field), remedy)

    if getattr(value, "shape", None) == ():
        value = value.item()
    if types.NoneType in kinds and value in (None, "none"):
        return None
    if bool in kinds:
        value = _BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise refuse("is neither true nor false")
        return value
    if isinstance(value, bool) and as_text(value) in rules.choices:
        value = as_text(value)
    number = _number(value) if kinds & {int, float} else None
    if number is not None:
        if int in kinds and number != int(number):
            raise refuse("is not a whole number")
        if not _within(rules, number):
            raise refuse("is out of range")
        value = int(number) if int in kinds else float(number) + 0.0  # never -0.0
    elif not (str in kinds and isinstance(value, str)):
        raise refuse("has a value of the wrong kind")
    elif rules.choices and value not in (*rules.choices, field.default):
        remedy = did_you_mean(value, rules.choices, remedy)
        raise refuse("has an unknown value")
    elif not rules.grammar and (not value.isprintable() or _LOST_IN_A_FLAGFILE.search(value)):
        raise flag_error(
            field.name,
            repr(value),
            "cannot stand on a line of a flagfile",
            "printable text without outer spaces, and without # or // after a space",
            "Rename what it refers to",
        )
    return rules.check(field.name, value) if rules.check else value


_KIND_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _number(value):
    """A finite int or float, also read from text; None for anything else."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return _number(kind(value))
            except ValueError:
                pass
        return None
    largest = sys.float_info.max
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and -largest <= value <= largest else None


def _within(rules, number):
    return (
        (rules.low is None or number >= rules.low)
        and (rules.above is None or number > rules.above)
        and (rules.high is None or number <= rules.high)
        and (rules.below is None or number < rules.below)
    )


def _limits(rules):
    limits = {">=": rules.low, ">": rules.above, "<=": rules.high, "<": rules.below}
    words = " and ".join(f"{sign} {limit}" for sign, limit in limits.items() if limit is not None)
    return f" {words}" * bool(words) + f" in {rules.unit}" * bool(rules.unit)
