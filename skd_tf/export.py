"""python -m skd_tf.export: writes the student of a finished run for serving, checked, with a model card."""

import sys

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import config_from, define_flags
from skd_tf.runs.run_record import finished_result
from skd_tf.runtime import console, tf_logging, user_code

_FORMAT = "what to write: saved_model, keras, litert (float32, float16 and int8) or onnx"
_CHECK_IMAGES = "number of test images to compare each file on, at most"
_CALIBRATED = "apply the temperature of evaluate --calibrate, or else the one that training fitted"
_DATASET = (
    "the run's dataset; required if it is MODULE:FUNCTION, because a record alone does not make code run; or folder:PATH, "
    "where the run's folder is now"
)


def define(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "the workdir of the finished run", flag_values=flag_values)
    flags.DEFINE_string("output", None, "new folder for the files and their README.md", flag_values=flag_values)
    flags.DEFINE_multi_string("format", ["saved_model", "keras"], _FORMAT, flag_values=flag_values)
    flags.DEFINE_integer("check_images", 1000, _CHECK_IMAGES, 1, flag_values=flag_values)
    flags.DEFINE_bool("calibrated", True, _CALIBRATED, flag_values=flag_values)
    flags.DEFINE_string("dataset", None, _DATASET, flag_values=flag_values)
    define_flags(flag_values, ("data_dir", "download", "custom_layers"))


def main(flag_values: flags.FlagValues) -> int | None:
    config = config_from(flag_values)
    finished_result(flag_values.workdir)  # reports another folder before TensorFlow is loaded
    tf_logging.import_tensorflow()
    user_code.import_modules(config.custom_layers)
    from skd_tf.serving.export_student import export_student
    from skd_tf.serving.parity_check import ExportError

    try:
        export_student(
            flag_values.workdir,
            flag_values.output,
            formats=flag_values.format,
            data_dir=flag_values.data_dir,
            check_images=flag_values.check_images,
            calibrated=flag_values.calibrated,
            dataset=flag_values.dataset,
            download=config.download,
            custom_layers=config.custom_layers,
        )
    except ExportError as error:
        console.write(f"error: {error} Nothing was written.", sys.stderr)
        return 1
    return None


def cli_main() -> None:
    app.run(
        main,
        description="Writes the student of a finished run for serving, in stock layers only; runs every file in a "
        "fresh process without skd_tf and compares it with the student; adds a model card.",
        define=define,
        required=("workdir", "output"),
    )


if __name__ == "__main__":
    cli_main()
