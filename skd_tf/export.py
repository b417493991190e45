"""python -m skd_tf.export: the student of a finished run, as files for serving, each checked and described."""

import pathlib
import shutil
import sys

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import config_from, define_flags
from skd_tf.errors import input_error
from skd_tf.runs.run_record import as_named, read_result
from skd_tf.runtime import tf_logging
from skd_tf.runtime.files import read_json, write_text


def define(flag_values):
    flags.DEFINE_string("output", None, "new folder for the files and their README.md", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "format",
        ["saved_model", "keras"],
        "what to write: saved_model, keras, litert (float32, float16 and int8) or onnx; repeat it for several",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "check_images", 1000, "test images to compare each file on, at most", 1, flag_values=flag_values
    )
    flags.DEFINE_bool(
        "calibrated", True, "apply the temperature of evaluate --calibrate, if any", flag_values=flag_values
    )
    named = "the run's dataset, where it is MODULE:FUNCTION: a record alone gets no code run"
    flags.DEFINE_string("dataset", None, named, flag_values=flag_values)
    define_flags(flag_values, ("workdir", "data_dir", "download"))


def main(flag_values):
    tf_logging.import_tensorflow()
    from skd_tf.serving.parity_check import ExportFailed

    try:
        export(
            flag_values.workdir,
            flag_values.output,
            formats=flag_values.format,
            data_dir=flag_values.data_dir,
            check_images=flag_values.check_images,
            calibrated=flag_values.calibrated,
            dataset_name=flag_values.dataset,
            download=config_from(flag_values).download,
        )
    except ExportFailed as error:
        print("error:", error, "Nothing was written.", file=sys.stderr)
        return 1
    return None


def export(
    workdir,
    output,
    *,
    formats=("saved_model", "keras"),
    data_dir=None,
    check_images=1000,
    calibrated=True,
    dataset_name=None,
    download=False,
):
    """Writes the student of a finished run, runs every file in a fresh process without skd_tf, and describes them.

    Args:
      workdir: folder of a finished run.
      output: folder to write: new or empty. It appears whole or not at all.
      formats: names in `skd_tf.serving.formats.FORMATS`.
      data_dir: TFDS data directory of the run's dataset, whose test images the files are compared on.
      check_images: how many of them, at most; evenly spaced.
      calibrated: whether a temperature that evaluate --calibrate left in the workdir is applied.
      dataset_name: the run's, needed where it is MODULE:FUNCTION: what a record alone names is not called.
      download: whether TFDS may fetch a set that is not there.

    Returns:
      What `skd_tf.serving.parity_check.check` found, a row a file.

    Raises:
      InputError: no finished run there, an output that is taken, an unknown format, another dataset than the run's.
      ExportFailed: a file does not do what the live student does.
    """
    from skd_tf import data
    from skd_tf.config import Config
    from skd_tf.evaluation import final_measurements, predictor, temperature_scaling
    from skd_tf.models import deployable, loading
    from skd_tf.runs import text_tables
    from skd_tf.runtime.console import say
    from skd_tf.serving import formats as known
    from skd_tf.serving import model_card, parity_check

    files = known.files_of(formats)
    workdir, output = pathlib.Path(workdir), pathlib.Path(output)
    result, details = _result_of(workdir), workdir / final_measurements.FILE
    remedy = "Remove it and result.json: the run's command then measures again."
    measured = read_json(details, "A file of measurements", remedy) if details.is_file() else {}
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise input_error(
            "The output is taken", expected="a new folder", received=f"output={output}", remedy="Choose another"
        )
    config = as_named(Config.from_json(result["config"]), workdir, dataset=dataset_name, download=download)
    if dataset_name not in (None, config.dataset):
        raise input_error(
            "An export is compared on the run's own data",
            expected=f"--dataset={config.dataset}",
            received=f"--dataset={dataset_name} with {workdir}",
            remedy="Leave it out",
        )
    dataset = data.load(config.pick(data.DataSettings), data_dir)
    student, temperature = loading.load(workdir), None
    loading.check_fits(student, dataset, workdir)
    record = temperature_scaling.stored(workdir) if calibrated else None
    if record:
        temperature = record["temperature"]
        student = deployable.calibrated(student, temperature)
        say(f"Temperature {temperature:.4f}, from {workdir / temperature_scaling.FILE}.")
    compared = dataset.test.take(data.evenly_spaced(len(dataset.test), check_images))
    images, labels = compared.images[:], compared.labels
    live = predictor.Predictor(student)(images)
    values = student.count_params()

    staging = output.with_name(output.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        context = known.Context(tuple(result["class_names"]), dataset.train.images)
        known.write(student, files, staging, context, say)
        say(f"Running each in a fresh process, on {len(images):,} test images")
        rows = parity_check.check(files, staging, images, labels, live, values)
        text = model_card.model_card(
            result=result,
            measurements=measured,
            files=files,
            rows=rows,
            image_shape=dataset.image_shape,
            student_values=values,
            check_images=len(images),
            temperature=temperature,
        )
        write_text(staging / "README.md", text)
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            output.rmdir()
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say(f"\n{text_tables.export_table(rows, values)}\n\nWritten: {output}")
    return rows


def _result_of(workdir):
    result = read_result(workdir)
    if result is None:
        raise input_error(
            "The run is not finished",
            expected="result.json in it",
            received=f"workdir={workdir}",
            remedy="Train it to the end first",
        )
    return result


def cli_main():
    app.run(
        main,
        description="Writes the student of a finished run for serving, stock layers only; runs every file in a fresh "
        "process without skd_tf and compares it with the student; adds a model card.",
        define=define,
        required=("workdir", "output"),
    )


if __name__ == "__main__":
    cli_main()
