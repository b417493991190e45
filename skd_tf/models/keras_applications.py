"""The networks of keras.applications, from raw pixels to raw logits, each with its own preprocessing."""

import contextlib
import http.client
import inspect
import io
import urllib.request
from types import ModuleType

import keras

from skd_tf.errors import InputError, did_you_mean, input_error
from skd_tf.models import preprocessing
from skd_tf.runtime import compat, user_code

IMAGENET_CLASSES = 1000


def names() -> dict[str, ModuleType]:
    """{network: its module in keras.applications}."""
    found: dict[str, ModuleType] = {}
    for module in vars(keras.applications).values():
        if inspect.ismodule(module) and hasattr(module, "preprocess_input"):
            for name, member in vars(module).items():
                if inspect.isfunction(member) and "classifier_activation" in inspect.signature(member).parameters:
                    found[name] = module
    return found


def require(name: str) -> dict[str, ModuleType]:
    """`names()`, with an `InputError` if a network is not among them."""
    known = names()
    if name not in known:
        raise input_error(
            "keras.applications has no such network",
            expected=f"one of {', '.join(sorted(known))}",
            received=f"{user_code.APPLICATIONS}:{name}",
            remedy=did_you_mean(name, known, "Choose a listed name"),
        )
    return known


def build(
    name: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int = IMAGENET_CLASSES,
    pretrained: bool = False,
    download: bool = False,
) -> keras.Model:
    """Builds one network of keras.applications.

    Args:
      name: for example "ResNet152".
      input_shape: (height, width, channels); None uses the network's default.
      num_classes: width of the logits.
      pretrained: whether to load ImageNet's weights, which have 1000 classes.
      download: whether Keras may download weights that it has not cached.

    Returns:
      keras.Model from pixels `[batch, h, w, c]` in [0, 255] to logits `[batch, num_classes]`.

    Raises:
      InputError: an unknown name, images that the network cannot take, or missing weights.
    """
    known = require(name)
    weights, shape = "imagenet" if pretrained else None, {} if input_shape is None else {"input_shape": input_shape}
    try:
        with _downloads(name, download):
            network = getattr(known[name], name)(
                weights=weights, classes=num_classes, classifier_activation=None, **shape
            )
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise input_error(
            f"keras.applications:{name} cannot be built: {reason}",
            expected="images of a size that it takes",
            received=f"input_shape={input_shape}",
            remedy="Set --image_size, or choose another network",
        ) from error
    kind = preprocessing.preprocessing_kind(known[name].preprocess_input)
    if network.input_shape[-1] != 3 and kind != "raw":
        raise input_error(
            f"keras.applications:{name} preprocesses RGB images",
            expected="3 channels",
            received=f"input_shape={input_shape}",
            remedy="Choose another network",
        )
    network = preprocessing.with_preprocessing(network, kind, mean=None, std=None)
    return keras.Model(network.input, network.output, name=name.lower())


@contextlib.contextmanager
def _downloads(name, allowed):
    """Inside this context, Keras downloads the weights that it has not cached if that is allowed and possible."""

    def fetch(url, path, *options):
        what = f"The weights of keras.applications:{name}"
        if not allowed:
            raise input_error(
                f"{what} are not on this machine",
                expected=path,
                received="no such file",
                remedy=f"Add --download to let Keras fetch it, or put {url} there",
            )
        try:
            return urllib.request.urlretrieve(url, path, *options)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise input_error(
                f"{what} cannot be downloaded ({reason})",
                expected=f"a network, or the file {path}",
                received=url,
                remedy="Download it on another machine, and put it there",
            ) from error

    # Keras prints that it downloads before it tries.
    with (
        compat.replaced_download(fetch),
        contextlib.nullcontext() if allowed else contextlib.redirect_stdout(io.StringIO()),
    ):
        yield
