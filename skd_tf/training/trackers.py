"""The user's functions that are given each epoch's record and the result, as an experiment tracker is."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from skd_tf.runtime import cluster
from skd_tf.runtime.console import warn

Tracker = Callable[[dict[str, Any]], Any]


class Trackers:
    """Calls functions with records. One that raises is reported once and stops nothing.

    Args:
      functions: each takes one dict.

    Attributes:
      warnings: a sentence for each function that raised; result.json repeats them.
    """

    def __init__(self, functions: Iterable[Tracker] = ()) -> None:
        self._functions = list(functions)
        self._failed: set[int] = set()
        self.warnings: list[str] = []

    @cluster.chief_only
    def __call__(self, record: dict[str, Any]) -> None:
        """Gives each function a copy of a line of metrics.jsonl, or of result.json."""
        for place, function in enumerate(self._functions):
            try:
                function(copy.deepcopy(record))
            except Exception as error:  # whatever a user's code raises
                if place not in self._failed:
                    self._failed.add(place)
                    name = getattr(function, "__qualname__", None)
                    name = f"{function.__module__}:{name}" if name else repr(function)
                    text = " ".join(str(error).split())
                    self.warnings.append(f"the callback {name} raised {type(error).__name__}: {text}")
                    warn(f"{self.warnings[-1]}. Training continues. Its later failures are not reported.")


NO_TRACKERS = Trackers()
