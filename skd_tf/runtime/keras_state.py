"""Keras' global settings: commands set what the package needs before Keras is imported; Python code gets one error.

Keras takes them from $KERAS_HOME/keras.json and the environment. Layers read them when they are built, so that other values
make another network under the same name, in another precision, without a word.
"""

import json
import os
import pathlib
import sys
from typing import Any

from skd_tf.errors import input_error
from skd_tf.runtime import tf_logging
from skd_tf.runtime.console import warn

_NEEDED: dict[str, Any] = {
    "backend": "tensorflow",
    "floatx": "float32",
    "image_data_format": "channels_last",
    "epsilon": 1e-7,
}
_BACKEND, _LEGACY = "KERAS_BACKEND", "TF_USE_LEGACY_KERAS"
_LIMITS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")  # Keras stops there, without a word


def home() -> pathlib.Path:
    """Keras' folder, in which it keeps keras.json and what it downloads."""
    if "KERAS_HOME" in os.environ:
        return pathlib.Path(os.environ["KERAS_HOME"]).expanduser()
    user = os.path.expanduser("~")
    return pathlib.Path(user if os.access(user, os.W_OK) else "/tmp", ".keras")


def pin() -> None:
    """Gives this process, before it imports Keras, the settings that the package needs, and says which ones it changed.

    Raises:
      InputError: keras.json holds a value that Keras refuses.
    """
    file, changed = _file(), []
    for name in (_LEGACY, *_LIMITS):
        if os.environ.get(name) and (name != _LEGACY or _legacy()):
            changed.append(f"no {name} (was {os.environ.pop(name)})")
    before, source = _backend()
    if before != _NEEDED["backend"]:
        os.environ[_BACKEND] = _NEEDED["backend"]
        changed.append(f"backend {_NEEDED['backend']} ({before} in {source})")
    kept = {name: value for name, value in _settings_in_file().items() if name in _NEEDED and name != "backend"}
    others = {name: value for name, value in kept.items() if value != _NEEDED[name]}
    if others:
        try:
            with tf_logging.without_notes():
                import keras
        except ValueError as error:
            raise input_error(
                "Keras refuses its own settings",
                expected=f"values that Keras knows in {file}",
                received=str(error).split("Received: ")[-1],
                remedy="Correct the file, or remove it",
            ) from error
        for name, value in others.items():
            getattr(keras.config, f"set_{name}")(_NEEDED[name])
            changed.append(f"{name} {_NEEDED[name]} ({value} in {file})")
    if changed:
        warn(f"Keras is set for this command: {', '.join(changed)}.")


def accept_backend(name: str) -> None:
    """Lets this process use networks and losses on another backend, as experiments/lab/jax does; nothing else works there."""
    _NEEDED["backend"] = name


def require_backend() -> None:
    """Raises `InputError` if Keras has another backend than TensorFlow, or would have it once it is imported."""
    if _legacy():
        raise _error(_LEGACY, "0", os.environ[_LEGACY], f"Unset {_LEGACY} before TensorFlow is imported")
    backend, source = _backend()
    if "keras" in sys.modules:
        backend, source = sys.modules["keras"].config.backend(), "the imported keras"
    needed = _NEEDED["backend"]
    if backend != needed:
        raise _error("backend", needed, f"{backend} in {source}", f"Set {_BACKEND}={needed} before Keras is imported")


def require(*, dtype_policy: bool = False) -> None:
    """Checks that Keras has the settings that the package needs.

    Args:
      dtype_policy: whether the global dtype policy must be float32 too.

    Raises:
      InputError: it has not.
    """
    require_backend()
    import keras

    for name, needed in _NEEDED.items():
        value = getattr(keras.config, name)()
        if value != needed:
            remedy = f"Call keras.config.set_{name}({needed!r}) before any network is built, or correct {_file()}"
            raise _error(name, needed, value, remedy)
    policy = keras.config.dtype_policy().name
    if dtype_policy and policy != "float32":
        remedy = "Call keras.config.set_dtype_policy('float32'); the run's setting is `precision`"
        raise _error("dtype policy", "float32", policy, remedy)


def _error(name, needed, value, remedy):
    problem = f"Keras' global setting {name} is not what skd_tf needs"
    return input_error(problem, expected=f"{name}={needed}", received=value, remedy=remedy)


def _legacy():
    """Whether tf.keras is to be Keras 2, by the spellings that TensorFlow knows."""
    return os.environ.get(_LEGACY) in ("true", "True", "1")


def _backend():
    """(the backend that Keras would take, where that is set)."""
    if os.environ.get(_BACKEND):
        return os.environ[_BACKEND], _BACKEND
    return _settings_in_file().get("backend", _NEEDED["backend"]), _file()


def _file():
    return home() / "keras.json"


def _settings_in_file() -> dict[str, Any]:
    """The content of keras.json; Keras ignores a file that is not JSON."""
    try:
        settings = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
