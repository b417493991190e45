"""python -m skd_tf.train: one command from settings to a distilled student, exported and measured."""

import sys

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import config_from, explicit_names
from skd_tf.runs.run_record import read_result, recorded_config, with_recorded_rules
from skd_tf.runtime import cluster, console, tf_logging
from skd_tf.training import nested_runs


def main(flag_values: flags.FlagValues) -> int:
    config, workdir, data_dir = config_from(flag_values), flag_values.workdir, flag_values.data_dir
    looks = config.show_augmentation or config.list_layers
    if not looks:
        config.require_teacher()
    worker = cluster.member(config.strategy)  # reports a bad TF_CONFIG before TensorFlow is loaded
    if workdir and not looks:
        config = with_recorded_rules(config, lambda: recorded_config(workdir), explicit_names(flag_values))
    if config.dry_run:
        from skd_tf.training import dry_run

        console.say(dry_run.describe(config, workdir, data_dir))
    if looks:
        from skd_tf.training import look

        look.show(config, data_dir)
    if config.dry_run or looks:
        return 0
    from skd_tf.training import preflight

    if config.overwrite or read_result(workdir) is None:
        preflight.check_paths(config, data_dir)
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


def cli_main() -> None:
    app.run(main, description="Trains a student from a teacher, exports it and measures it.")


if __name__ == "__main__":
    cli_main()
