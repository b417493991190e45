"""What a run works on, shown without training: augmented images, the layers of its networks."""

import pathlib

from skd_tf.config import Config
from skd_tf.data.catalog import has_labels
from skd_tf.errors import flag_error
from skd_tf.runs import class_names
from skd_tf.runtime import console, tf_logging, user_code
from skd_tf.training import preflight


def show(config: Config, data_dir: str | None) -> None:
    """What --show_augmentation and --list_layers show."""
    preflight.check_dataset(config, data_dir)
    folder = pathlib.Path(config.show_augmentation).parent
    if not folder.is_dir():
        remedy = "Create it, or choose another one"
        raise flag_error("show_augmentation", config.show_augmentation, "is in no folder", "an existing folder", remedy)
    tf_logging.import_tensorflow()
    user_code.import_modules(config.custom_layers)
    from skd_tf import data
    from skd_tf.data import augmentation_grid
    from skd_tf.training import layers

    names: list[str] = []
    if config.teachers and not has_labels(config.dataset):
        names, _ = class_names.of_models(config.teachers, download=config.download)
    dataset = data.load(config.pick(data.DataSettings), data_dir, test=False, class_names=names)
    if config.list_layers and not dataset.num_classes:
        problem = "needs the number of classes, which the teacher of a dataset without labels tells"
        raise flag_error("list_layers", True, problem, "--teacher_checkpoint with it", "Add it")
    if config.list_layers:
        console.say(layers.tables(config, dataset))
    if not config.show_augmentation:
        return
    rows = augmentation_grid.write_grid(dataset, config.data_seed, config.show_augmentation)
    console.say(
        f"{config.show_augmentation}: {rows} training images of {config.dataset}; the first column shows them as they are, "
        f"the others augmented by {config.augmentation!r} in epochs 1, 2, ..."
    )
