"""The name of every file and folder in a run's workdir."""

from skd_tf.models.paths import STUDENT_FILE

SEARCH = "search.json"  # the plan of a search; this file marks the folder as a search's
CONFIG = "config.json"  # the settings; this file marks the folder as a run's
FLAGS = "flags.txt"  # the settings as a flagfile that repeats the run
METRICS = "metrics.jsonl"  # one line per epoch
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
STUDENT = STUDENT_FILE
SAVED_MODEL = "saved_model"
RESULT = "result.json"  # of a finished run
MEASUREMENTS = "measurements.json"  # the details of the result that the report draws
REPORT = "report.html"
REPORT_IMAGES = "report_images.json"  # the test images that the report shows
EXPORTS = "exports.json"  # what skd_tf.export measured of each file it wrote last
CALIBRATION = "calibration.json"  # the temperature fitted by skd_tf.evaluate --calibrate
POST_MORTEM = "post_mortem"  # state and batch before a step that was not finite
LOCK = ".lock"

# Inner runs, each with a workdir of its own.
TEACHER = "teacher"
STUDENT_ALONE = "student_alone"
STUDENT_MATCHED = "student_matched"  # the student alone, for the computation that distilling took
TRAINED = ("none", "train", "matched")  # values of --student_alone that name no workdir

# Training and shipping write these. --overwrite removes ALL, but neither the inner runs nor a user's own files.
OUTPUTS = (
    *(METRICS, CHECKPOINTS, TENSORBOARD, STUDENT, SAVED_MODEL),
    *(RESULT, MEASUREMENTS, REPORT, REPORT_IMAGES, EXPORTS, CALIBRATION, POST_MORTEM),
)
ALL = (CONFIG, FLAGS, *OUTPUTS)
