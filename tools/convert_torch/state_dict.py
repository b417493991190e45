"""Reads PyTorch state dicts as numpy arrays. No file can run code."""

import pathlib
import pickle
import re
import warnings
import zipfile

import numpy as np

from skd_tf.errors import input_error

_WRAPPERS = ("state_dict", "model", "net")  # akamaster and torchvision's references; RepDistiller, mdistiller; kuangliu


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint.

    Args:
      path: a file of torch.save, or a `.npz` or `.safetensors` file of named arrays, which need no PyTorch.

    Returns:
      {name: array}, without the wrappers around the state dict and without DataParallel's "module."; floating-point
      arrays become float32.

    Raises:
      InputError: no such file, or it holds something other than tensors.
    """
    if not path.is_file():
        raise _error(path, "No checkpoint there", "a file", "Check the path")
    tensors = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix, _read_torch)(path)
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    texts = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype.kind in "SU"]
    if texts:
        raise _error(
            path, "The file holds more than tensors", "numbers", "Leave the texts out", f"{', '.join(texts)} in "
        )
    return {
        name: tensor if tensor.dtype.kind in "biu" else tensor.astype("float32") for name, tensor in tensors.items()
    }


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: a .npy is no archive
        problem = "The file is not an .npz of plain arrays"
        raise _error(path, problem, "a file of numpy.savez, without objects", "Save the tensors again") from error


def _read_safetensors(path):
    try:
        import ml_dtypes  # noqa: F401 (registers bfloat16 with numpy)
        import safetensors.numpy
    except ImportError as error:
        raise _error(path, "safetensors is not installed", "it for this file", "Install safetensors") from error
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise _error(path, f"The file does not load: {error}", "a .safetensors file", "Save it again") from error


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        remedy = "Install skd_tf[convert], or save the tensors with numpy.savez where PyTorch is installed"
        expected = "it for a file that is neither .npz nor .safetensors"
        raise _error(path, "PyTorch is not installed", expected, remedy) from error
    remedy = "Save torch.save(model.state_dict(), path)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file that torch.load warns about either loads or raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?([\w.]+)", str(error))
        what = f"holds more than tensors, {found[1]}" if found else "holds more than tensors"
        problem = f"The file is damaged or {what}: loading objects runs code"
        raise _error(path, problem, "a state dict", f"{remedy} where you trust the file") from error
    except Exception as error:  # torch.load raises a dozen kinds for a damaged or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip(" .")
        raise _error(path, f"The file does not load: {reason}", "a file of torch.save", "Save it again") from error
    while isinstance(content, dict):
        inner = [content[wrapper] for wrapper in _WRAPPERS if isinstance(content.get(wrapper), dict)]
        if not inner:
            break
        content = inner[0]
    items = content if isinstance(content, dict) else {}
    others = [
        f"{name} ({type(value).__name__})" for name, value in items.items() if not isinstance(value, torch.Tensor)
    ]
    if others or not isinstance(content, dict):
        expected = f"names and tensors, at the top or under {', '.join(_WRAPPERS)}"
        found = ", ".join(others) or type(content).__name__
        raise _error(path, "No state dict in the file", expected, remedy, f"{found} in ")
    # numpy has no bfloat16
    return {
        str(name): (value.float() if value.is_floating_point() else value).detach().numpy()
        for name, value in items.items()
    }


def _error(path, problem, expected, remedy, found=""):
    return input_error(problem, expected=expected, received=f"{found}--in={path}", remedy=remedy)
