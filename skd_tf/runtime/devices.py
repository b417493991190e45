"""Devices, replicas and the choice of XLA, as far as they are known without importing TensorFlow."""

import os
import pathlib
from collections.abc import Iterable, Mapping

from skd_tf.errors import as_text, input_error
from skd_tf.runtime.cluster import Member

_AUTO_XLA = {
    "CPU": (False, "auto: on a CPU, oneDNN's convolutions were measured faster than XLA's"),
    "GPU": (True, "auto: on an accelerator, XLA fuses the operations between the convolutions"),
}
_NVIDIA = pathlib.Path("/proc/driver/nvidia/gpus")
_HALF_ARITHMETIC = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}  # flags of a CPU


def jit_compile_choice(
    setting: bool | str, device_type: str, *, collective: bool = False, unsupported: str = ""
) -> tuple[bool, str]:
    """Whether XLA compiles the training step.

    Args:
      setting: "auto", or true or false as a bool or text.
      device_type: "CPU" or "GPU".
      collective: whether the forward pass sums over replicas (`skd_tf.models.sync_batch_norm`), which XLA cannot compile.
      unsupported: a layer that XLA cannot compile, and where it is; "" if there is none.

    Returns:
      (whether it does, the reason in words).

    Raises:
      InputError: another setting, or true with a collective or an unsupported layer.

    Examples:
      >>> jit_compile_choice("auto", "GPU")
      (True, 'auto: on an accelerator, XLA fuses the operations between the convolutions')
    """
    text = as_text(setting)
    if collective and text in ("auto", "false"):
        return False, "synchronized BatchNorm sums over replicas, which XLA cannot compile"
    if collective and text == "true":
        raise input_error(
            "XLA cannot compile a synchronized BatchNorm",
            expected="jit_compile=auto or false with it",
            received="jit_compile=true",
            remedy="Drop one of the two",
        )
    if unsupported and text == "true":
        raise input_error(
            "XLA cannot compile this layer",
            expected="layers with supports_jit=True",
            received=f"jit_compile=true with {unsupported}",
            remedy="Use jit_compile=auto, or replace the layer",
        )
    if unsupported and text == "auto" and _AUTO_XLA[device_type][0]:
        return False, f"auto: XLA cannot compile {unsupported}"
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


def cpu_count() -> int:
    """CPU cores that this process may use. It respects taskset and a container's set of cores, not a CPU time quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count(folder: pathlib.Path = _NVIDIA, environment: Mapping[str, str] | None = None) -> int:
    """NVIDIA GPUs that the driver lists and CUDA_VISIBLE_DEVICES leaves visible.

    TensorFlow uses them only if its CUDA libraries are installed too (the extra `gpu`).

    Args:
      folder: in which the driver lists them.
      environment: holds CUDA_VISIBLE_DEVICES; `os.environ` by default.
    """
    present = len(list(folder.iterdir())) if folder.is_dir() else 0
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    count = 0
    for device in visible.split(","):
        device = device.strip()
        # CUDA reads the list up to the first entry that is not a device.
        if not (device.startswith(("GPU-", "MIG-")) or (device.isdecimal() and int(device) < present)):
            break
        count += 1
    return min(count, present)


def replicas(
    strategy: str, *, virtual_devices: int = 0, gpus: int = 0, member: Member | None = None
) -> tuple[str, int]:
    """The strategy and the number of replicas that `--strategy` and `--virtual_devices` mean on this machine.

    Virtual devices replace the first GPU, or the CPU if there is no GPU.

    Args:
      strategy, virtual_devices: as in `Config`.
      gpus: of this machine; every worker of a cluster is assumed to have as many.
      member: this process's place in a cluster, or None.

    Returns:
      ("multi_worker", "mirrored" or "one_device", replicas).

    Raises:
      InputError: virtual devices in a cluster.

    Examples:
      >>> replicas("auto", gpus=4)
      ('mirrored', 4)
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


def per_replica_batch(batch_size: int, replicas: int, micro_batches: int = 1) -> int:
    """Examples of a global batch that each replica gets, and cuts into micro-batches.

    Raises:
      InputError: the replicas do not divide the batch, or each gets fewer examples than micro-batches.
    """
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
    share = batch_size // replicas
    if share < micro_batches:
        raise input_error(
            "There are more micro-batches than examples on each replica",
            expected=f"at most {share}, of --batch_size={batch_size} on {replicas} replicas",
            received=f"--micro_batches={micro_batches}",
            remedy="Lower it",
        )
    return share


def half_precision_warning(precisions: Iterable[str], cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str:
    """A warning if a CPU without half-precision arithmetic has to emulate it, else "".

    Without avx512_bf16 or amx, TensorFlow falls back from oneDNN to Eigen's emulation: a resnet20 step took over 20 times
    as long as in float32 (2 cores of an AMD EPYC with AVX2).

    Args:
      precisions: of all networks in the run.
      cpuinfo: the file in which Linux describes the CPU.
    """
    halves = sorted({*precisions} & _HALF_ARITHMETIC.keys())
    if not halves or gpu_count() or not cpuinfo.is_file():
        return ""
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), None)
    if flags is None:  # not an x86 CPU: what it can compute is not known
        return ""
    missing = [half for half in halves if not _HALF_ARITHMETIC[half] & {*flags}]
    if not missing:
        return ""
    return f"this CPU has no {' or '.join(missing)} arithmetic and emulates it, many times slower than float32."
