"""The names of a model's classes: as its run recorded them, or as an export holds them."""

import os
import pathlib
from collections.abc import Sequence

from skd_tf.errors import input_error
from skd_tf.models.paths import STUDENT_FILE, is_runtime_file, is_saved_model
from skd_tf.runs import run_files
from skd_tf.runs.run_record import read_result, run_behind, workdir_of
from skd_tf.runtime.console import say, warn

LABELS = "labels.txt"  # in an export: a class name per line, in the order of the classes' numbers


def recorded(path: str | os.PathLike) -> list[str]:
    """The class names that a model's run recorded; [] of a model without a finished run. Needs no TensorFlow."""
    result = read_result(workdir_of(path)) if str(path) and run_behind(path) else None
    return [str(name) for name in (result or {}).get("class_names", ())]


def known(path: str | os.PathLike, count: int) -> list[str]:
    """The names of a model's `count` classes, of its run, of the export itself or beside it; [] if none has them."""
    names = recorded(path)
    if not names and is_saved_model(path):
        names = _in_saved_model(pathlib.Path(path), count)
    elif not names and is_runtime_file(path):
        beside = pathlib.Path(path).with_name(LABELS)
        names = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.is_file() else []
    elif not names:
        folder = pathlib.Path(path).parent if pathlib.Path(path).name == STUDENT_FILE else pathlib.Path(path)
        if (folder / STUDENT_FILE).is_file():  # an export, which may hold both
            names = _in_saved_model(folder / run_files.SAVED_MODEL, count)
    return names if len(names) == count else []


def of_models(
    models: Sequence[str | os.PathLike], count: int | None = None, *, download: bool = False
) -> tuple[list[str], str]:
    """The names of the classes of models that share them, and the model that names them; else numbers from 0, and "".

    Args:
      models: paths, as `loading.load` takes them. The first that names its classes counts: in its run, in the SavedModel
        itself or beside it.
      count: the number of classes; None: the first model is loaded to find it, unless a run recorded the names.
      download: whether Keras may download weights of keras.applications.
    """
    if count is None:
        found = next(((recorded(path), str(path)) for path in models if recorded(path)), None)
        if found:
            return found
        from skd_tf.models import loading  # imports TensorFlow

        count = loading.load(models[0], download=download).output_shape[-1]
    for path in models:
        if names := known(path, count):
            return names, str(path)
    say(f"{models[0]} does not name its classes: they are numbered from 0.")
    return [str(number) for number in range(count)], ""


def require_same_order(path: str | os.PathLike, expected: Sequence[str], other: str) -> None:
    """Refuses a model whose class numbers mean other classes than those of data or of another model; warns of other names.

    Args:
      path: of the model; nothing happens if it does not name its classes.
      expected: the class names of the other, in the order of their numbers.
      other: the dataset's name, or the path of another model.

    Raises:
      InputError: the model has the same names in another order.
    """
    names = known(path, len(expected))
    if not names or names == list(expected):
        return
    number = next(i for i, pair in enumerate(zip(names, expected, strict=False)) if pair[0] != pair[1])
    if sorted(names) == sorted(expected):
        raise input_error(
            f"A model numbers its classes in another order than {other}",
            expected=f"class {number} to be {expected[number]}, as in {other}",
            received=f"class {number} is {names[number]} in {path}",
            remedy="Use models and data that number the classes alike; folders are sorted by name",
        )
    warn(
        f"{path} and {other} name class {number} differently ({names[number]}, {expected[number]}). Classes are compared by "
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
