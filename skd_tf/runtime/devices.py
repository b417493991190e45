"""Devices, replicas and the compilation rule, as far as they are known without importing TensorFlow."""

import os
import pathlib

from skd_tf.errors import as_text, input_error

_AUTO_XLA = {
    "CPU": (False, "auto: on a CPU, oneDNN's convolutions were measured faster than XLA's"),
    "GPU": (True, "auto: on an accelerator, XLA fuses what lies between the convolutions"),
}
_NVIDIA = pathlib.Path("/proc/driver/nvidia/gpus")


def jit_compile_choice(setting, device_type, *, collective=False):
    """Whether to compile the inner training function with XLA.

    Args:
      setting: "auto", or true or false as bool or text.
      device_type: "CPU" or "GPU".
      collective: whether the forward pass sums over replicas (`skd_tf.models.sync_batch_norm`), which XLA cannot compile.

    Returns:
      (bool, the reason in words).
    """
    text = as_text(setting)
    if collective and text in ("auto", "false"):
        return False, "synchronized BatchNorm sums over replicas, which XLA cannot compile"
    if collective and text == "true":
        raise input_error(
            "XLA cannot compile a synchronized BatchNorm",
            expected="jit_compile=auto or false with it",
            received="jit_compile=true",
            remedy="Leave out one of the two",
        )
    if text == "auto":
        return _AUTO_XLA[device_type]
    if text not in ("true", "false"):
        raise input_error(
            "Unknown compilation setting",
            expected="auto, true or false",
            received=f"jit_compile={setting}",
            remedy="Choose auto",
        )
    return text == "true", f"jit_compile={text} was asked for"


def cpu_count():
    """CPU cores that this process may use, as of taskset or a container's set; not of a quota of CPU time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def replicas(strategy, *, virtual_devices=0, gpus=0, member=None):
    """(strategy, replicas) that `--strategy` and `--virtual_devices` come to on a machine with so many GPUs.

    Virtual devices stand in for the first GPU, or for the CPU where there is no GPU.

    Args:
      strategy, virtual_devices: as in `Config`.
      gpus: of this machine; each worker of a cluster is taken to have as many.
      member: this process's `cluster.Member`, or None.
    """
    if member:
        if virtual_devices:
            raise input_error(
                "Virtual devices are for one process",
                expected=f"--virtual_devices=0 with {member.workers} workers",
                received=f"--virtual_devices={virtual_devices}",
                remedy="Start more workers instead",
            )
        return "multi_worker", member.workers * max(gpus, 1)
    devices = max(gpus, 1) + max(virtual_devices, 1) - 1
    mirrored = strategy == "mirrored" or (strategy == "auto" and devices > 1)
    return ("mirrored", devices) if mirrored else ("one_device", 1)


def per_replica_batch(batch_size, replicas):
    """The share of a global batch that one replica takes; InputError where the replicas do not divide it."""
    if batch_size < replicas:
        raise input_error(
            "There are more replicas than examples in a batch",
            expected=f"at least {replicas} examples",
            received=f"--batch_size={batch_size}",
            remedy="Raise --batch_size",
        )
    if batch_size % replicas:
        raise input_error(
            "The global batch does not divide over the replicas",
            expected=f"a multiple of {replicas}",
            received=f"--batch_size={batch_size}",
            remedy="Change --batch_size, or the number of replicas",
        )
    return batch_size // replicas


def half_precision_warning(precisions, cpuinfo=pathlib.Path("/proc/cpuinfo")):
    """A line where a CPU without half precision arithmetic is asked for it, else "".

    Without avx512_bf16 or amx TensorFlow falls back from oneDNN to Eigen's emulation: a resnet20 step took over 20 times as
    long as in float32 (2 cores of an AMD EPYC with AVX2).
    """
    halves = sorted({precision for precision in precisions if precision != "float32"})
    if not halves or gpu_count() or not cpuinfo.is_file():
        return ""
    needed = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), [])
    missing = [half for half in halves if not set(needed[half]) & set(flags)]
    if not missing:
        return ""
    return f"this CPU has no {' or '.join(missing)} arithmetic and emulates it, many times slower than float32."
