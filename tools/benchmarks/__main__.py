"""Measures this machine and other implementations, and prints a Markdown table.

    python -m tools.benchmarks COMMAND [--help] [--flag=value ...]

--output=FILE writes the record of the measurements as JSON; docs/performance.md and docs/scale.md quote such records.
"""

import functools
import importlib
import os
import sys
from typing import NamedTuple

from absl import flags

from skd_tf.config import app
from skd_tf.runs.workdir import require_output
from skd_tf.runtime import tf_logging

_text, _texts, _list = flags.DEFINE_string, flags.DEFINE_multi_string, flags.DEFINE_list
_integer, _integers, _float = flags.DEFINE_integer, flags.DEFINE_multi_integer, flags.DEFINE_float
_GPU_LINES = (
    "resnet56:resnet20:32:64,cached:resnet20:32:64,resnet32x4:resnet8x4:32:64,cached:resnet8x4:32:64,"
    "resnet34:resnet18:224:256,cached:resnet18:224:256,resnet152:resnet18:224:256"
)
_OUTPUT = {"output": (_text, None, "JSON record to write")}
_PAIR = {
    "student": (_text, "resnet20", "CIFAR network to train"),
    "teacher": (_text, "resnet56", "CIFAR network that teaches"),
    "batch_size": (_integer, 64, "examples per step", 1),
}


class Command(NamedTuple):
    """What a command measures; its flags: name -> (function that defines it, default, help[, lower bound])."""

    description: str
    flags: dict[str, tuple]


COMMANDS = {
    "step": Command(
        "Times a training step: skd_tf beside keras.distillation and PyTorch.",
        _PAIR
        | {
            "rounds": (_integer, 7, "rounds of 30 steps; the contenders take turns", 3),
            "contender": (_texts, [], "run only this contender; default: all"),
            "growth": (_texts, [], "also race skd_tf with this teacher"),
        },
    ),
    "imagenet": Command(
        "Times input, training steps and teacher passes at ImageNet's size.",
        {
            "student": (_texts, ["resnet18"], "ImageNet network to train"),
            "teacher": (_texts, ["resnet34", "resnet50", "resnet152"], "ImageNet network that teaches"),
            "batch_size": (_integer, 64, "examples per step", 1),
            "precision": (_text, "bfloat16", "precision of students and teachers"),
            "rounds": (_integer, 3, "rounds of 4 steps; the parts take turns", 3),
        },
    ),
    "augmentation": Command(
        "Times the input pipeline with each augmentation.",
        {
            "sizes": (_integers, [32, 96], "sides of the images"),
            "rounds": (_integer, 3, "rounds; the lists take turns", 3),
        },
    ),
    "memory": Command(
        "Measures the memory that the teacher's logits take while they are computed, checked and trained from.",
        {
            "records": (_integers, [64_000, 256_000, 1_024_000], "numbers of images"),
            "classes": (_integer, 1000, "logits per image", 2),
            "top": (_integer, 0, "logits that are kept per image; 0: all", 0),
            "step_ms": (_integer, 30, "length of a made-up training step", 1),
        },
    ),
    "top_logits": Command(
        "Measures how far targets rebuilt from the largest logits are from the full ones.",
        {
            "kept": (_integers, [4, 8, 16, 21, 32], "numbers of logits that are kept"),
            "model": (_text, "", "a teacher whose logits are measured too"),
            "dataset": (_text, "cifar100", "the training images that it sees, augmented"),
            "data_dir": (_text, "", "TFDS data directory"),
        },
    ),
    "gpu": Command(
        "Times steps of teacher and student with JAX on a GPU, without TensorFlow.",
        {
            "lines": (_list, _GPU_LINES, 'teacher:student:size:batch; the teacher "cached" means given logits'),
            "steps": (_integer, 100, "steps per repeat", 1),
        },
    ),
    "tune": Command(
        "Times a search beside as many plain trainings of the student.",
        _PAIR
        | {
            "student": (_text, "resnet8", "CIFAR network to train"),
            "teacher": (_text, "resnet20", "CIFAR network that teaches"),
            "trials": (_integer, 6, "students per search", 2),
            "epochs": (_integer, 2, "epochs of 12,800 images per student", 1),
            "rounds": (_integer, 3, "rounds: half of the plain trainings, the search, the other half", 1),
        },
    ),
    "scaling": Command(
        "Measures speed and memory by number of replicas and steps per call.",
        _PAIR
        | {
            "teacher": (_text, "resnet56", "CIFAR network that teaches; none trains on labels alone"),
            "replicas": (_integers, [1, 2, 4], "number of replicas"),
            "steps_per_call": (_integers, [1, 8], "steps per host call"),
            "jit_compile": (_text, "auto", "XLA: auto, true or false"),
            "rounds": (_integer, 5, "rounds of 24 steps; the settings take turns", 3),
        },
    ),
    "soak": Command(
        "Trains a tiny network for a given time and looks for leaks.", {"minutes": (_float, 10.0, "duration", 0.5)}
    ),
    "compare_keras_distillation": Command(
        "Compares the accuracy of keras.distillation, keras.io's example and skd_tf.",
        {
            "seeds": (_integer, 3, "number of seeds, from 0", 2),
            "epochs": (_integer, 20, "epochs per training", 1),
            "page": (_text, None, "Markdown page whose table is replaced"),
        },
    ),
}


def define(name: str, flag_values: flags.FlagValues) -> None:
    """Defines the flags of a command."""
    for flag, (define_flag, default, text, *bound) in (COMMANDS[name].flags | _OUTPUT).items():
        define_flag(flag, default, text, flag_values=flag_values, **({"lower_bound": bound[0]} if bound else {}))


def run(name: str, flag_values: flags.FlagValues) -> None:
    """Calls `main` of the command's module with the values of its flags, once it is known where the record goes."""
    if flag_values.output:
        require_output(flag_values.output)
    if name == "gpu":  # runs where TensorFlow is not installed
        os.environ["KERAS_BACKEND"] = "jax"
    else:
        tf_logging.import_tensorflow()
    values = {flag: flag_values[flag].value for flag in COMMANDS[name].flags | _OUTPUT}
    importlib.import_module(f"tools.benchmarks.{name}").main(**values)


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        print("usage: python -m tools.benchmarks COMMAND [--help] [--flag=value ...]\n")
        print("\n".join(f"  {command:{width}}  {COMMANDS[command].description}" for command in COMMANDS))
        sys.exit(0 if name in ("-h", "--help") else 2)
    sys.argv[:2] = [f"python -m tools.benchmarks {name}"]  # the name that --help shows
    parts = {"description": COMMANDS[name].description, "define": functools.partial(define, name), "required": ()}
    app.run(functools.partial(run, name), **parts)


if __name__ == "__main__":
    main()
