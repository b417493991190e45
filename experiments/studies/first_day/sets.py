"""The sets of protocol.json as the package's settings, and where this machine keeps them."""

import pathlib

from skd_tf.config import Config

_SHORT = {"batch_size": 32, "validation_fraction": 0.0, "epochs": 30}
_MEASURED = {"batch_size": 64, "validation_fraction": 0.0}
_THREE_LAYERS = "experiments.studies.first_day.networks:three_layers"
_CIFAR = {"student": "resnet8", "batch_size": 128, "validation_split": "uniform"}
_SETTINGS = {
    "shapes": {"image_size": 32, "student": _THREE_LAYERS, **_SHORT},
    "digits": {"dataset": "digits", "student": "cnn_4", **_SHORT, "epochs": 10},
    "cifar10_5000": {"dataset": "cifar10", "epochs": 12, **_CIFAR},
    "cifar10_45000": {"dataset": "cifar10", "epochs": 12, **_CIFAR},
    "cifar100_45000": {"dataset": "cifar100", "epochs": 12, **_CIFAR},
    "fashion_mnist_2000": {"student": "cnn_16", "epochs": 15, **_MEASURED},
    "fashion_mnist_10000": {"student": "cnn_16", "epochs": 5, **_MEASURED},
    "drawings": {"image_size": 32, "student": _THREE_LAYERS, "epochs": 15, **_MEASURED},
}
for _name in ("fashion_mnist_2000", "fashion_mnist_10000"):
    _SETTINGS[_name]["dataset"] = f"experiments.studies.first_day.measurement:{_name}"
SETS = tuple(_SETTINGS)
FIRST = {"cifar10_5000": 5000}  # this many training images, evenly spaced; the others are not used
WARMUP = dict.fromkeys((name for name in SETS if name not in ("shapes", "digits")), 100)  # the least steps of all arms
_SCHEDULE = {"lr_schedule": "cosine", "min_warmup_steps": 0, "momentum": 0.9}  # WARMUP and the arms say how many
_RUN = {"teacher_cache_dtype": "float16", "strategy": "one_device"}


def config_of(name: str, folder: pathlib.Path) -> Config:
    """The settings that all runs of a set share. folder/SET holds its teacher and drawn images, folder/logits the logits.

    Args:
      name: one of SETS.
      folder: where the study keeps its runs.
    """
    settings = dict(_SETTINGS[name])
    settings.setdefault("dataset", f"folder:{folder / name / 'images'}")
    teacher = next((path for path in (folder / name / "teacher", folder / f"{name}.keras") if path.exists()), None)
    return Config(
        **settings,
        **_SCHEDULE,
        **_RUN,
        teacher_checkpoint=str(teacher or folder / name / "teacher"),
        teacher_cache_dir=str(folder / "logits"),
    )


def held_out(name: str) -> str:
    """The split that a set is measured on."""
    return "validation" if name.startswith("cifar") else "test"
