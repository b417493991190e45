"""Reads settings that an earlier version recorded as that version meant them.

Each record (config.json, result.json, search.json) holds its version. A setting that is newer than the record gets the
value that reproduces what was done before it existed, which may differ from its default.
"""

from collections.abc import Mapping
from typing import Any

from skd_tf.errors import input_error

VERSION = 4  # increment it with every entry of BEFORE

# {setting: (version that introduced it or changed its default, value that reproduces what earlier versions did)}.
# Records of skd_tf 0.1.0 hold no version. They are version 1.
BEFORE: dict[str, tuple[int, Any]] = {
    "data_rules": (2, 1),
    "validation_split": (2, "uniform"),
    "group": (2, ""),
    "calibrate": (2, "none"),
    "report_images": (2, 0),
    "teacher_cache_top": (2, 0),
    "verbosity": (2, "normal"),
    "callback": (2, ""),
    "early_stopping_patience": (2, 0),
    "ship": (2, "last"),
    "freeze": (2, ""),
    "layer_rates": (2, ""),
    "list_layers": (2, False),
    "show_augmentation": (2, ""),
    "gradient_scale": (2, "none"),
    "deterministic": (2, "auto"),
    "micro_batches": (2, 1),
    "unlabelled": (2, ""),
    "unlabelled_share": (2, 0.5),
    "teacher_weights": (2, ""),
    "feature_pairs": (2, ""),
    "feature_weight": (2, 1.0),
    "feature_loss": (2, "mse"),
    "loss": (3, "spherical"),
    "min_warmup_steps": (3, 0),
    "custom_layers": (4, ""),
}


def upgrade(record: Mapping[str, Any], before: Mapping[str, tuple[int, Any]] = BEFORE) -> dict[str, Any]:
    """The settings in a record of this version or an earlier one, without its "version".

    Args:
      record: from `Config.to_json`.
      before: as `BEFORE`.

    Raises:
      InputError: a later version wrote the record.

    Examples:
      >>> upgrade({"epochs": 30}, before={"nesterov": (2, False)})
      {'nesterov': False, 'epochs': 30}
    """
    settings = dict(record)
    version = settings.pop("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise input_error(
            "A later version of skd_tf recorded the settings",
            expected=f"version {VERSION} or earlier",
            received=f"version={version}",
            remedy="Update skd_tf, or choose another folder",
        )
    added = {name: value for name, (introduced, value) in before.items() if introduced > version}
    return added | settings
