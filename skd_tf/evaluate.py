"""python -m skd_tf.evaluate: measures finished models on a dataset's test split, side by side."""

import dataclasses

from absl import flags

from skd_tf.config import app
from skd_tf.config.config import PREPROCESSINGS
from skd_tf.config.flags import config_from, define_flags, explicit_names
from skd_tf.data.catalog import known_of, size_and_resize
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error, input_error
from skd_tf.models import paths
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runs.run_record import run_behind
from skd_tf.runs.workdir import require_output
from skd_tf.runtime import tf_logging, user_code

_MODEL = "a workdir, a .keras, .tflite or .onnx file, a SavedModel folder, keras.applications:NAME or keras_hub:PRESET"
_TEACHER = "a model to compare with (agreement, KL, confidence gap); takes what --model takes"
_PREDICTIONS = "CSV file to write: a line per model, teacher included, and test image: file, label, answer, probability"
_CALIBRATE = "fit one temperature to each model, which must be a workdir, on the images that its run held out; export and predict use it"
_PREPROCESSING = (
    "what goes in front of each --model that is not a run's student, if it does not contain it; as in training"
)
_FEWEST_DRAWS = 100


def define(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string("model", None, _MODEL, flag_values=flag_values)
    flags.DEFINE_enum("preprocessing", "auto", ("auto", *PREPROCESSINGS), _PREPROCESSING, flag_values=flag_values)
    flags.DEFINE_string("teacher", None, _TEACHER, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON file to write", flag_values=flag_values)
    flags.DEFINE_string("predictions", None, _PREDICTIONS, flag_values=flag_values)
    flags.DEFINE_bool("calibrate", False, _CALIBRATE, flag_values=flag_values)
    flags.DEFINE_bool("timing", True, "measure latency and throughput on this machine", flag_values=flag_values)
    flags.DEFINE_integer(
        "bootstrap", 1000, "resampled test splits for intervals, at least 100; 0: none", 0, flag_values=flag_values
    )
    flags.DEFINE_integer("bootstrap_seed", 0, "seed of the resampling", 0, flag_values=flag_values)
    unread = ("validation_fraction", "validation_split")
    names = [field.name for field in dataclasses.fields(DataSettings) if field.name not in unread]
    define_flags(flag_values, ("data_dir", *names, "teacher_preprocessing", "custom_layers"))


def main(flag_values: flags.FlagValues) -> None:
    output = require_output(flag_values.output) if flag_values.output else None
    predictions = require_output(flag_values.predictions, flag="predictions") if flag_values.predictions else None
    if output and output == predictions:
        problem, remedy = "is also the file of --output", "Name another file"
        raise flag_error("predictions", predictions, problem, "a file of its own", remedy)
    if 0 < flag_values.bootstrap < _FEWEST_DRAWS:
        problem, expected = "gives no 95% interval", f"0 or at least {_FEWEST_DRAWS}"
        raise flag_error("bootstrap", flag_values.bootstrap, problem, expected, "Leave it out")
    config = config_from(flag_values)
    if config.teacher_preprocessing != "auto" and not flag_values.teacher:
        problem, expected = "has no effect without --teacher", "--teacher with it"
        remedy = "For the models of --model, use --preprocessing"
        raise flag_error("teacher_preprocessing", config.teacher_preprocessing, problem, expected, remedy)
    for path in (*flag_values.model, *filter(None, [flag_values.teacher])):
        paths.require(path, to_measure=True)  # before TensorFlow is loaded
    _require_one_size(flag_values.model)
    tf_logging.import_tensorflow()
    user_code.import_modules(config.custom_layers)
    from skd_tf.evaluation.evaluate_models import evaluate_and_print

    evaluate_and_print(
        flag_values.model,
        {name: getattr(config, name) for name in explicit_names(flag_values)},
        data_dir=flag_values.data_dir,
        preprocessing=flag_values.preprocessing,
        teacher=flag_values.teacher,
        output=output,
        predictions_file=predictions,
        calibrated=flag_values.calibrate,
        timing=flag_values.timing,
        bootstrap_samples=flag_values.bootstrap,
        bootstrap_seed=flag_values.bootstrap_seed,
    )


def _require_one_size(models):
    """Refuses runs whose students take images of different sizes, as far as their records give the sizes."""
    sizes = {}
    for path in models:
        run = run_behind(path)
        if run and run.student in NETWORK_NAMES:  # a network of your own may take any size
            known = known_of(run.dataset)
            size = size_and_resize(run.pick(DataSettings))[0] or (known.image_shape[0] if known else 0)
            sizes.setdefault(size, path)
    sizes.pop(0, None)  # the images' own, which are not known yet
    if len(sizes) > 1:
        raise input_error(
            "The models take images of different sizes",
            expected="models that can be measured on the same images",
            received=", ".join(f"--model={path} for {size}x{size} pixels" for size, path in sizes.items()),
            remedy="Evaluate each with its own command",
        )


def cli_main() -> None:
    app.run(
        main,
        description="Measures models on a test split: accuracy, calibration, agreement with a teacher, size and speed.",
        define=define,
        required=("model",),
    )


if __name__ == "__main__":
    cli_main()
