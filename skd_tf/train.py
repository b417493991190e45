"""python -m skd_tf.train: one command from settings to a distilled student, exported and measured."""

from skd_tf import cli, quiet


def main(flags):
    config, workdir, data_dir = cli.config_from(flags), flags.workdir, flags.data_dir
    config.require_teacher()
    if config.dry_run:
        from skd_tf import dry_run

        print(dry_run.describe(config, workdir, data_dir))
        return
    quiet.import_tensorflow()
    from skd_tf import experiment

    experiment.run(config, workdir, data_dir)


def cli_main():
    cli.run(main, description="Trains a student from a teacher, exports it and measures it.")


if __name__ == "__main__":
    cli_main()
