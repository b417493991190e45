"""Packages whose names are imported when they are first used, so that parts of them need no TensorFlow."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the `__init__` of a package (PEP 562).

    Args:
      package: the package's `__name__`.
      names: {module of the package: public names that it defines}; a module without names is itself public.

    Example:
      `__getattr__, __dir__ = lazy(__name__, {"registry": ["NETWORKS", "build"], "layers": []})`
    """
    homes = {name: module for module, defined in names.items() for name in defined or [module]}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        return module if homes[name] == name else getattr(module, name)

    def __dir__() -> list[str]:
        return sorted(homes)

    return __getattr__, __dir__
