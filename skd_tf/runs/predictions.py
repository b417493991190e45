"""The predicted class of every test image in a JSON record, so that any paired test or subset can be computed later.

import base64, json, zlib, numpy
record = json.load(open("measurements.json"))["models"]["student"]["predictions"]
classes = numpy.frombuffer(zlib.decompress(base64.b64decode(record["zlib_base64"])), record["dtype"])
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_KINDS = ("int8", "<i2", "<i4")  # the smallest that holds all classes


def encode(classes: np.ndarray | Sequence[int]) -> dict[str, Any]:
    """A record of class numbers.

    Args:
      classes: integer `[n]`; -1 is no class.

    Returns:
      {"count", "dtype", "zlib_base64"}: about 0.7 bytes an image for ten classes, 1.1 for a hundred.

    Examples:
      >>> decode(encode(np.array([3, 0, -1, 700])))
      array([  3,   0,  -1, 700])
    """
    classes = np.asarray(classes)
    kind = next(kind for kind in _KINDS if classes.max(initial=0) <= np.iinfo(kind).max)
    packed = zlib.compress(classes.astype(kind).tobytes(), level=9)
    return {"count": len(classes), "dtype": kind, "zlib_base64": base64.b64encode(packed).decode()}


def decode(record: Mapping[str, Any]) -> np.ndarray:
    """The class numbers in a record of `encode`, int64 `[n]`; ValueError if it is damaged."""
    try:
        packed = zlib.decompress(base64.b64decode(record["zlib_base64"]))
        classes = np.frombuffer(packed, record["dtype"]).astype(np.int64)
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"damaged predictions: {error!r}") from error
    if len(classes) != record.get("count"):
        raise ValueError(f"{len(classes)} predictions, not {record.get('count')}")
    return classes


def of_record(details: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The predictions in a measurements.json: ({model: classes}, labels); ({}, None) of an earlier version.

    The labels of a dataset without labels are None.
    """
    if "labels" not in details:
        return {}, None
    models = details.get("models", {})
    found = {name: decode(model["predictions"]) for name, model in models.items() if "predictions" in model}
    labels = decode(details["labels"])
    return found, labels if (labels >= 0).any() or not len(labels) else None
