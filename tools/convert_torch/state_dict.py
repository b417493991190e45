"""PyTorch state dicts as numpy arrays; no file can run code."""

import pickle
import re
import warnings
import zipfile

import numpy as np

from skd_tf.errors import InputError

_WRAPPERS = ("state_dict", "model", "net")  # akamaster and torchvision's references; RepDistiller, mdistiller; kuangliu


def read(path):
    """Reads a checkpoint.

    Args:
      path: what torch.save wrote, or a `.npz` of arrays under the tensors' names, for which PyTorch is not needed.

    Returns:
      {name: array, float32 where it was floating}: the state dict without its wrappers and DataParallel's "module.".

    Raises:
      InputError: no such file, or one that holds anything but tensors where the tensors should be.
    """
    if not path.is_file():
        raise InputError(f"No checkpoint there. Expected a file. Received --in={path}. Check the path.")
    tensors = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {
        name: tensor.astype("float32") if np.issubdtype(tensor.dtype, np.floating) else tensor
        for name, tensor in tensors.items()
    }


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: a .npy is no archive
        raise InputError(
            f"The file is no .npz of plain arrays. Expected what numpy.savez wrote, without objects. Received --in={path}. "
            "Save the tensors again."
        ) from error


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"PyTorch is not installed. Expected it for a file that is not .npz. Received --in={path}. Install "
            "skd_tf[convert], or save the tensors with numpy.savez where PyTorch is."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch.load warns about ends in an error or in tensors
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?([\w.]+)", str(error))
        raise InputError(
            f"The file is damaged or holds more than tensors{f', {found[1]}' if found else ''}: loading objects runs code. "
            f"Expected a state dict. Received --in={path}. Where it is trusted, save torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # torch.load raises a dozen kinds for a damaged or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip(" .")
        raise InputError(
            f"The file does not load: {reason}. Expected what torch.save wrote. Received --in={path}. Save it again."
        ) from error
    tensors = _unwrapped(content)
    others = [] if isinstance(tensors, dict) else [type(tensors).__name__]
    if not others:
        others = [
            f"{name} ({type(value).__name__})" for name, value in tensors.items() if not isinstance(value, torch.Tensor)
        ]
    if others:
        raise InputError(
            f"No state dict in the file. Expected names and tensors, at the top or under {', '.join(_WRAPPERS)}. "
            f"Received {', '.join(others)} in --in={path}. Save torch.save(model.state_dict(), path)."
        )
    return {str(name): _array(tensor) for name, tensor in tensors.items()}


def _unwrapped(content):
    while isinstance(content, dict):
        inner = [content[wrapper] for wrapper in _WRAPPERS if isinstance(content.get(wrapper), dict)]
        if not inner:
            break
        content = inner[0]
    return content


def _array(tensor):
    # numpy has no bfloat16
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
