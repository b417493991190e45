"""python -m skd_tf.train: one command from settings to a distilled student, exported and measured."""

import sys

from skd_tf.config import app
from skd_tf.config.flags import config_from
from skd_tf.runtime import cluster, tf_logging


def main(flags):
    config, workdir, data_dir = config_from(flags), flags.workdir, flags.data_dir
    config.require_teacher()
    cluster.member(config.strategy)  # a bad TF_CONFIG is told before TensorFlow is loaded
    if config.dry_run:
        from skd_tf.training import dry_run

        print(dry_run.describe(config, workdir, data_dir))
        return None
    tf_logging.import_tensorflow()
    from skd_tf.training import experiment

    try:
        experiment.run(config, workdir, data_dir)
    except cluster.WorkerLost as error:
        print("error:", error, file=sys.stderr)
        return 1
    return None


def cli_main():
    app.run(main, description="Trains a student from a teacher, exports it and measures it.")


if __name__ == "__main__":
    cli_main()
