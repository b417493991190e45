"""Packages that import their modules at first use, so that some of their modules work without TensorFlow."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package's `__init__` (PEP 562).

    Args:
      package: the package's `__name__`.
      names: {module of the package: its public names}; a module without names is public itself.

    Examples:
      `__getattr__, __dir__ = lazy(__name__, {"registry": ["NETWORKS", "build"], "layers": []})`
    """
    homes = {name: module for module, defined in names.items() for name in defined or [module]}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{homes[name]}")
        except Exception:
            from skd_tf.runtime import keras_state  # imports the console, which most imports do without

            keras_state.require_backend()  # the reason, if Keras has another backend
            raise
        return module if homes[name] == name else getattr(module, name)

    def __dir__() -> list[str]:
        return sorted(homes)

    return __getattr__, __dir__
