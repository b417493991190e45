"""python -m skd_tf.export: the student of a finished run, as files for serving."""

import pathlib

from absl import flags

from skd_tf import cli, quiet
from skd_tf.errors import InputError


def define(flag_values):
    flags.DEFINE_string("output", None, "new folder for saved_model/ and student.keras", flag_values=flag_values)
    cli.define_flags(flag_values, ("workdir",))


def main(flag_values):
    quiet.import_tensorflow()
    from skd_tf.progress import say

    for name, path in export(flag_values.workdir, flag_values.output).items():
        say(f"{name}: {path}")


def export(workdir, output):
    """Writes the student of a finished run again, stock layers only, after checking that it loads.

    Args:
      workdir: folder of a finished run.
      output: folder to write; it must not hold an export already.

    Returns:
      {"SavedModel": path, "Keras": path}.

    Raises:
      InputError: no finished run there, or an output that is taken.
    """
    import json

    from skd_tf import deploy, models

    output, result = pathlib.Path(output), pathlib.Path(workdir) / "result.json"
    if not result.is_file():
        raise InputError(
            f"The run is not finished. Expected {result.name} in it. Received workdir={workdir}. Train it to the end first."
        )
    paths = {"SavedModel": output / "saved_model", "Keras": output / "student.keras"}
    for path in paths.values():
        if path.exists():
            raise InputError(f"The output is taken. Expected a new folder. Received output={output}. Choose another.")
    student = models.load(workdir)
    output.mkdir(parents=True, exist_ok=True)
    student.save(paths["Keras"])
    deploy.save_saved_model(student, paths["SavedModel"], json.loads(result.read_text())["class_names"])
    return paths


def cli_main():
    cli.run(
        main,
        description="Writes the student of a finished run for serving: SavedModel and .keras, stock layers only.",
        define=define,
        required=("workdir", "output"),
    )


if __name__ == "__main__":
    cli_main()
