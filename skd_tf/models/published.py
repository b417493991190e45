"""Networks that a library names: keras.applications:NAME and keras_hub:PRESET."""

from typing import Any

import keras

from skd_tf.models import keras_applications, keras_hub_models
from skd_tf.runtime import user_code

_LIBRARIES: dict[str, Any] = {user_code.APPLICATIONS: keras_applications, user_code.HUB: keras_hub_models}


def require(text: str) -> None:
    """Raises `InputError` if the library has no such network, or is not installed."""
    library, name = _parts(text)
    library.require(name)


def build(text: str, **options: Any) -> keras.Model:
    """Builds the network of LIBRARY:NAME; options and errors as of `build` in the library's module."""
    library, name = _parts(text)
    return library.build(name, **options)


def _parts(text):
    found = user_code.published(text)
    assert found, text
    return _LIBRARIES[found[0]], found[1]
