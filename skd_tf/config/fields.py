"""The rules of a setting beside its type and default, and the one check that every value passes."""

import dataclasses
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from skd_tf.errors import InputError, as_text, did_you_mean, flag_error
from skd_tf.runtime.local_paths import require_local

_BOOLEANS = {"true": True, "false": False}
# A line of a flagfile is stripped, and to a reader " #" or " //" on it starts a comment.
_LOST_IN_A_FLAGFILE = re.compile(r"^\s|\s$|\s(#|//)")


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """The rules of one setting. The dataclass field holds its type and default.

    Attributes:
      help: what the setting does, for `--help`.
      choices: the texts that are allowed; with a numeric type, beside numbers.
      low, above, high, below: limits of a number: >= low, > above, <= high, < below.
      grammar: the form of a text that `check` parses, in words.
      check: (name, value) -> value in canonical form; raises InputError.
      unit: of the number, for `--help`.
      heading: of the section of `--help` that starts with this setting.
      affects_result: whether another value could change a number that a run reports. Or a function: two values with the
        same result of it lead to the same numbers.
    """

    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    grammar: str = ""
    check: Callable[[str, Any], Any] | None = None
    unit: str = ""
    heading: str = ""
    affects_result: bool | Callable[[Any], Any] = True


def setting(default: Any, help: str, **rules: Any) -> Any:
    """A dataclass field with the rules of a `FieldSpec`."""
    return dataclasses.field(default=default, metadata={"rules": FieldSpec(help, **rules)})


def rules_of(field: dataclasses.Field) -> FieldSpec:
    """The rules of a field made by `setting`."""
    return field.metadata["rules"]


def effect_of(field: dataclasses.Field, value: Any) -> Any:
    """What of a setting's value can change a number that a run reports; None if nothing can. See `FieldSpec`."""
    rule = rules_of(field).affects_result
    return rule(value) if callable(rule) else value if rule else None


def kinds_of(field: dataclasses.Field) -> set[Any]:
    """The types that a field's annotation allows: `float | None` gives {float, NoneType}."""
    return set(typing.get_args(field.type)) or {field.type}


def expectation(field: dataclasses.Field) -> str:
    """What a field accepts, in words."""
    rules, kinds = rules_of(field), kinds_of(field)
    if rules.grammar:
        words = [rules.grammar]
    else:
        words = [word for kind, word in _KIND_WORDS.items() if kind in kinds]
        if float in kinds or int in kinds:
            limits = " and ".join(f"{sign} {limit}" for sign, _, limit in _limits(rules))
            words[0] += f" {limits}" * bool(limits) + f" in {rules.unit}" * bool(rules.unit)
        if rules.choices:
            words = [word for word in words if word != _KIND_WORDS[str]]
            words.append("one of " + ", ".join(rules.choices))
    return ", or ".join(words + ["none"] * (types.NoneType in kinds))


def validate(field: dataclasses.Field, value: Any) -> Any:
    """A value of a field in canonical type and form.

    Args:
      field: made by `setting`.
      value: of the field's type, or its text in a flag; a whole float passes as an integer.

    Raises:
      InputError: anything else, including NaN and infinities.
    """
    try:
        return _validated(field, value)
    except InputError:
        rules, kinds = rules_of(field), kinds_of(field)
        is_single = kinds - {str, types.NoneType} or rules.choices or field.name == "loss"  # others may hold commas
        if is_single and isinstance(value, str) and all(_is_valid(field, part) for part in value.split(",")):
            raise flag_error(
                field.name,
                value,
                "has several values, and a run has one",
                expectation(field),
                "Start a run for each, with its own --workdir, or compare them with python -m skd_tf.tune",
            ) from None
        raise


def _is_valid(field, value):
    try:
        _validated(field, value)
    except InputError:
        return False
    return True


def _validated(field, value):
    rules, kinds = rules_of(field), kinds_of(field)
    remedy = f"Leave it out for the default, {as_text(field.default) or 'empty'}"

    def refuse(problem):
        return flag_error(field.name, value, problem, expectation(field), remedy)

    if getattr(value, "shape", None) == ():  # a numpy scalar
        value = value.item()
    if isinstance(value, os.PathLike) and str in kinds and not rules.choices:
        require_local(value, field.name)
        value = os.fspath(value)
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
        if not all(compare(number, limit) for _, compare, limit in _limits(rules)):
            raise refuse("is out of range")
        value = int(number) if int in kinds else float(number) + 0.0  # never -0.0
    elif not (str in kinds and isinstance(value, str)):
        raise refuse("has a value of the wrong kind")
    elif rules.choices and value not in (*rules.choices, field.default):
        remedy = did_you_mean(value, rules.choices, remedy)
        raise refuse("has an unknown value")
    elif not rules.choices and not rules.grammar:
        require_local(value, field.name)  # no setting takes a URL
    value = rules.check(field.name, value) if rules.check else value
    if isinstance(value, str) and (not value.isprintable() or _LOST_IN_A_FLAGFILE.search(value)):
        raise flag_error(
            field.name,
            repr(value),
            "does not fit on a line of a flagfile",
            "printable text that neither starts nor ends with a space and has no # or // after one",
            "Rename the file or name that it refers to",
        )
    return value


_KIND_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _number(value):
    """A finite number as int or float, also from text; None for anything else."""
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


def _limits(rules):
    """(sign, comparison, limit) of each limit of a number."""
    signs = {">=": (operator.ge, rules.low), ">": (operator.gt, rules.above)}
    signs |= {"<=": (operator.le, rules.high), "<": (operator.lt, rules.below)}
    return [(sign, compare, limit) for sign, (compare, limit) in signs.items() if limit is not None]
