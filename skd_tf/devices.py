"""Devices, replicas and the compilation rule, as far as they are known without importing TensorFlow."""

import os
import pathlib

from skd_tf.errors import InputError
from skd_tf.knobs import as_text

_AUTO_XLA = {
    "CPU": (False, "auto: on a CPU, oneDNN's convolutions were measured faster than XLA's"),
    "GPU": (True, "auto: on an accelerator, XLA fuses what lies between the convolutions"),
    "TPU": (True, "auto: a TPU runs XLA programs only"),
}
_NVIDIA = pathlib.Path("/proc/driver/nvidia/gpus")


def jit_compile_choice(setting, device_type):
    """Whether to compile the inner training function with XLA.

    Args:
      setting: "auto", or true or false as bool or text.
      device_type: "CPU", "GPU" or "TPU".

    Returns:
      (bool, the reason in words).
    """
    text = as_text(setting)
    if text == "auto":
        return _AUTO_XLA[device_type]
    if text not in ("true", "false"):
        raise InputError(
            f"Unknown compilation setting. Expected auto, true or false. Received jit_compile={setting}. "
            "Choose auto."
        )
    return text == "true", f"jit_compile={text} was asked for"


def gpu_count(folder=_NVIDIA, environment=None):
    """NVIDIA GPUs that the driver lists and CUDA_VISIBLE_DEVICES leaves visible.

    TensorFlow uses them only where its CUDA libraries are installed as well (the extra `gpu`).
    """
    present = len(list(folder.iterdir())) if folder.is_dir() else 0
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    count = 0
    for device in visible.split(","):
        device = device.strip()
        # CUDA reads the list up to the first entry that names no device.
        if not (device.startswith(("GPU-", "MIG-")) or (device.isdecimal() and int(device) < present)):
            break
        count += 1
    return min(count, present)


def replicas(strategy, *, virtual_devices=0, gpus=0):
    """(strategy, replicas) that `--strategy` and `--virtual_devices` come to on a machine with so many GPUs.

    Virtual devices stand in for the first GPU, or for the CPU where there is no GPU.
    """
    devices = max(gpus, 1) + max(virtual_devices, 1) - 1
    mirrored = strategy == "mirrored" or (strategy == "auto" and devices > 1)
    return ("mirrored", devices) if mirrored else ("one_device", 1)


def per_replica_batch(batch_size, replicas):
    """The share of a global batch that one replica takes; InputError where the replicas do not divide it."""
    if batch_size % replicas:
        raise InputError(
            f"The global batch does not divide over the replicas. Expected a multiple of {replicas}. "
            f"Received --batch_size={batch_size}. Change --batch_size or --virtual_devices."
        )
    return batch_size // replicas
