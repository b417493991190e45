"""What a run works on, shown without training: augmented images, the student's layers."""

import pathlib

from skd_tf.config import Config
from skd_tf.errors import flag_error
from skd_tf.runtime import console, tf_logging
from skd_tf.training import preflight


def show(config: Config, data_dir: str | None) -> None:
    """What --show_augmentation and --list_layers show."""
    preflight.check_dataset(config, data_dir)
    folder = pathlib.Path(config.show_augmentation).parent
    if not folder.is_dir():
        remedy = "Create it, or choose another one"
        raise flag_error("show_augmentation", config.show_augmentation, "is in no folder", "an existing folder", remedy)
    tf_logging.import_tensorflow()
    from skd_tf import data
    from skd_tf.data import augmentation_grid
    from skd_tf.models import frozen_layers, student

    dataset = data.load(config.pick(data.DataSettings), data_dir, test=False)
    if config.list_layers:
        model = student.make_student(config.pick(student.StudentSettings), dataset)
        for name, layer in frozen_layers.layer_names(model).items():
            console.say(f"{name:40} {type(layer).__name__:24} {layer.count_params():>12,} weights")
    if not config.show_augmentation:
        return
    rows = augmentation_grid.write_grid(dataset, config.data_seed, config.show_augmentation)
    console.say(
        f"{config.show_augmentation}: {rows} training images of {config.dataset}; the first column shows them as they are, "
        f"the others augmented by {config.augmentation!r} in epochs 1, 2, ..."
    )
