"""The names of a model's classes: as its run recorded them, or as an exported SavedModel holds them."""

import os
import pathlib

from skd_tf.models.paths import STUDENT_FILE, is_saved_model
from skd_tf.runs import run_files
from skd_tf.runs.run_record import read_result, run_behind, workdir_of
from skd_tf.runtime.console import say


def recorded(path: str | os.PathLike) -> list[str]:
    """The class names that a model's run recorded; [] of a model without a finished run. Needs no TensorFlow."""
    result = read_result(workdir_of(path)) if str(path) and run_behind(path) else None
    return [str(name) for name in (result or {}).get("class_names", ())]


def of_model(path: str | os.PathLike, count: int | None = None, *, download: bool = False) -> list[str]:
    """The names of a model's classes: of its run, of the SavedModel itself or beside it; else numbers from 0.

    Args:
      path: of the model, as `loading.load` takes it.
      count: its number of classes; None: the model is loaded to find it, unless its run recorded the names.
      download: whether Keras may download weights of keras.applications.
    """
    names = recorded(path)
    if count is None:
        if names:
            return names
        from skd_tf.models import loading  # imports TensorFlow

        count = loading.load(path, download=download).output_shape[-1]
    if not names and is_saved_model(path):
        names = _in_saved_model(pathlib.Path(path), count)
    elif not names and pathlib.Path(path).name == STUDENT_FILE:  # of an export, which may hold both
        names = _in_saved_model(pathlib.Path(path).with_name(run_files.SAVED_MODEL), count)
    if len(names) == count:
        return names
    say(f"{path} does not name its classes: they are numbered from 0.")
    return [str(number) for number in range(count)]


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
