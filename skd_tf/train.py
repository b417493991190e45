"""python -m skd_tf.train: one command from settings to a distilled student, exported and measured."""

import pathlib
import sys

from absl import flags

from skd_tf.config import Config, app
from skd_tf.config.flags import config_from
from skd_tf.errors import flag_error
from skd_tf.runtime import cluster, console, tf_logging
from skd_tf.training import nested_runs, preflight


def main(flag_values: flags.FlagValues) -> int:
    config, workdir, data_dir = config_from(flag_values), flag_values.workdir, flag_values.data_dir
    looks = config.show_augmentation or config.list_layers
    if not looks:
        config.require_teacher()
    worker = cluster.member(config.strategy)  # reports a bad TF_CONFIG before TensorFlow is loaded
    if config.dry_run:
        from skd_tf.training import dry_run

        console.say(dry_run.describe(config, workdir, data_dir))
    if looks:
        _look(config, data_dir)
    if config.dry_run or looks:
        return 0
    if worker is None or worker.index == 0:  # the cluster is joined later
        console.say(nested_runs.first_line(config, workdir))
    tf_logging.import_tensorflow()
    from skd_tf.training import experiment

    try:
        experiment.run(config, workdir, data_dir)
    except cluster.WorkerLost as error:
        console.write(f"error: {error}", sys.stderr)
        return 1
    return 0


def _look(config: Config, data_dir: str | None) -> None:
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


def cli_main() -> None:
    app.run(main, description="Trains a student from a teacher, exports it and measures it.")


if __name__ == "__main__":
    cli_main()
