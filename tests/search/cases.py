"""Shared by the tests of the search."""

import contextlib

import pytest

from skd_tf.errors import InputError
from tests.helpers import runs

SMALL = runs.SMALL | {"epochs": 2}


@contextlib.contextmanager
def counting(owner, name):
    """Records the arguments of every call of a function, which still runs."""
    calls, function = [], getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *a, **options: (calls.append(a), function(*a, **options))[1])
        yield calls


@contextlib.contextmanager
def one_line_with(*words):
    """Expects an InputError whose message is one line with these words."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


def folder_of(path):
    path.mkdir()
    return path


def numbers(record):
    """The part of a trial's record that is the same in every run of the search."""
    timed = ("seconds", "examples_per_second", "input_wait_share")
    rows = [{k: v for k, v in run["metrics"].items() if k not in timed} for run in record["executions"]]
    return [record["trial"], record["status"], record["values"], record["objective"], rows]
