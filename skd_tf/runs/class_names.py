"""The names of a model's classes: as its run recorded them, or as an exported SavedModel holds them."""

import os
import pathlib
from collections.abc import Sequence

from skd_tf.errors import input_error
from skd_tf.models.paths import STUDENT_FILE, is_saved_model
from skd_tf.runs import run_files
from skd_tf.runs.run_record import read_result, run_behind, workdir_of
from skd_tf.runtime.console import say, warn


def recorded(path: str | os.PathLike) -> list[str]:
    """The class names that a model's run recorded; [] of a model without a finished run. Needs no TensorFlow."""
    result = read_result(workdir_of(path)) if str(path) and run_behind(path) else None
    return [str(name) for name in (result or {}).get("class_names", ())]


def known(path: str | os.PathLike, count: int) -> list[str]:
    """The names of a model's `count` classes, of its run, of the SavedModel itself or beside it; [] if none has them."""
    names = recorded(path)
    if not names and is_saved_model(path):
        names = _in_saved_model(pathlib.Path(path), count)
    elif not names and pathlib.Path(path).name == STUDENT_FILE:  # of an export, which may hold both
        names = _in_saved_model(pathlib.Path(path).with_name(run_files.SAVED_MODEL), count)
    return names if len(names) == count else []


def of_model(path: str | os.PathLike, count: int | None = None, *, download: bool = False) -> list[str]:
    """The names of a model's classes: of its run, of the SavedModel itself or beside it; else numbers from 0.

    Args:
      path: of the model, as `loading.load` takes it.
      count: its number of classes; None: the model is loaded to find it, unless its run recorded the names.
      download: whether Keras may download weights of keras.applications.
    """
    if count is None:
        names = recorded(path)
        if names:
            return names
        from skd_tf.models import loading  # imports TensorFlow

        count = loading.load(path, download=download).output_shape[-1]
    names = known(path, count)
    if names:
        return names
    say(f"{path} does not name its classes: they are numbered from 0.")
    return [str(number) for number in range(count)]


def require_same_order(path: str | os.PathLike, expected: Sequence[str], dataset: str) -> None:
    """Refuses a model whose class numbers mean other classes than a dataset's; warns if it names its classes otherwise.

    Args:
      path: of the model; nothing happens if it does not name its classes.
      expected: the dataset's class names, in the order of its class numbers.
      dataset: its name.

    Raises:
      InputError: the model has the same names in another order.
    """
    names = known(path, len(expected))
    if not names or names == list(expected):
        return
    number = next(i for i, pair in enumerate(zip(names, expected, strict=False)) if pair[0] != pair[1])
    if sorted(names) == sorted(expected):
        raise input_error(
            "The model numbers its classes in another order than the dataset",
            expected=f"class {number} to be {expected[number]}, as in {dataset}",
            received=f"class {number} is {names[number]} in {path}",
            remedy="Use a model of this dataset, or name the folders so that they sort in the model's order",
        )
    warn(
        f"{path} and {dataset} name class {number} differently ({names[number]}, {expected[number]}). Classes are compared by "
        "their numbers."
    )


def _in_saved_model(folder: pathlib.Path, count: int) -> list[str]:
    """The class names that `skd_tf.serving.saved_model` writes into the graph of a SavedModel, or []."""
    if not is_saved_model(folder):
        return []
    import tensorflow as tf  # takes seconds
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    for graph in message.meta_graphs:
        for function in graph.graph_def.library.function:
            if "_traced_save" in function.signature.name or "_traced_restore" in function.signature.name:
                continue  # they hold the names of variables
            for node in function.node_def:
                value = node.attr["value"].tensor
                if node.op == "Const" and value.dtype == tf.string.as_datatype_enum:
                    names = tf.make_ndarray(value)
                    if names.shape == (count,):
                        return [name.decode() for name in names]
    return []
