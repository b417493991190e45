"""python -m skd_tf.predict MODEL FOLDER --output=answers.csv: what a finished model says about each image of a folder."""

from absl import flags

from skd_tf.config import app
from skd_tf.config.config import PREPROCESSINGS
from skd_tf.config.flags import config_from, define_flags
from skd_tf.models import paths
from skd_tf.runs.workdir import require_output
from skd_tf.runtime import tf_logging, user_code

_MODEL = (
    "a finished workdir, a .keras, .tflite or .onnx file, a SavedModel folder, keras.applications:NAME or keras_hub:PRESET; "
    "--model= may be left out"
)
_IMAGES = "folder of images, at any depth, or one image; the prefix --images= may be left out"
_OUTPUT = "CSV file to write: a line per image file, with its class and the probability of every class"
_CALIBRATED = "apply the temperature of evaluate --calibrate, or else the one inside the model"
_IMAGE_SIZE = "side of the images, in pixels, for a model that takes any size and is not in a workdir"
_PREPROCESSING = "what goes in front of a model that is not a run's student, if it does not contain it; as in training"
_KINDS = ("auto", *(kind for kind in PREPROCESSINGS if kind != "standard"))  # that takes a dataset's mean and std
_RESIZE = "shorter side before the centre crop, in pixels; 0: as in the model's run, or the model's own size"


def define(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, _MODEL, flag_values=flag_values)
    flags.DEFINE_string("images", None, _IMAGES, flag_values=flag_values)
    flags.DEFINE_string("output", None, _OUTPUT, flag_values=flag_values)
    flags.DEFINE_bool("calibrated", True, _CALIBRATED, flag_values=flag_values)
    flags.DEFINE_enum("preprocessing", "auto", _KINDS, _PREPROCESSING, flag_values=flag_values)
    flags.DEFINE_integer("image_size", 0, _IMAGE_SIZE, 0, flag_values=flag_values)
    flags.DEFINE_integer("resize", 0, _RESIZE, 0, flag_values=flag_values)
    define_flags(flag_values, ("download", "custom_layers"))


def main(flag_values: flags.FlagValues) -> None:
    output = require_output(flag_values.output)
    paths.require(flag_values.model, to_measure=True)  # before TensorFlow is loaded
    tf_logging.import_tensorflow()
    user_code.import_modules(config_from(flag_values).custom_layers)
    from skd_tf.evaluation.predict_images import predict_images

    predict_images(
        flag_values.model,
        flag_values.images,
        output,
        calibrated=flag_values.calibrated,
        preprocessing=flag_values.preprocessing,
        image_size=flag_values.image_size,
        resize=flag_values.resize,
        download=config_from(flag_values).download,
    )


def cli_main() -> None:
    app.run(
        main,
        description="Classifies the images of a folder with a finished model: MODEL FOLDER --output=answers.csv.",
        define=define,
        required=("model", "images", "output"),
        positional=("model", "images"),
    )


if __name__ == "__main__":
    cli_main()
