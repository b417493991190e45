"""What a run has written of itself, read back: its settings and its result, and whether they are a run's at all."""

import pathlib

from skd_tf.config import Config
from skd_tf.data import folder_index
from skd_tf.data.catalog import is_code
from skd_tf.errors import InputError, input_error
from skd_tf.runtime.files import read_json

_SETTINGS = {
    "dataset",
    "student",
    "loss",
    "temperature",
    "kd_weight",
    "data_seed",
}  # of every version, and of nobody else


def settings_record(path):
    """The dict in a workdir's config.json, of whatever version; None without one.

    Raises:
      InputError: it is damaged, or another program's.
    """
    file = pathlib.Path(path) / "config.json"
    if not file.is_file():
        return None
    record = read_json(file, "The record of settings", "Choose another folder, or remove this one to begin anew.")
    if not isinstance(record, dict) or not record.keys() >= _SETTINGS:
        raise input_error(
            "The folder is not a run's",
            expected="its settings in config.json",
            received=f"another program's file {file}",
            remedy="Choose another folder",
        )
    return record


def holds_run(path):
    """Whether a folder is a run's, of whatever version, by its config.json."""
    try:
        return settings_record(path) is not None
    except InputError:
        return False


def recorded_config(path):
    """The Config in a workdir's config.json, None without one; InputError where it is no run's of this version."""
    record = settings_record(path)
    return record and Config.from_json({name: value for name, value in record.items() if name != "resolved"})


def workdir_of(model):
    """The folder of the run that a model would be of, by its path: a workdir, or the file or the SavedModel in one."""
    place = pathlib.Path(model)
    return place.parent if place.name in ("student.keras", "saved_model") else place


def run_behind(model):
    """The Config of the run that a model is of; None for a model of no run, or of one that this version does not know."""
    try:
        return recorded_config(workdir_of(model))
    except InputError:  # a config.json of another program's, or damaged
        return None


def read_result(path):
    """The result.json of the run in a workdir, None without one; InputError where it is damaged or not of a run."""
    file = pathlib.Path(path) / "result.json"
    if not file.is_file():
        return None
    remedy = "Remove it: the run's command then measures again."
    result = read_json(file, "The result", remedy)
    if not isinstance(result, dict) or not all(isinstance(result.get(name), dict) for name in ("config", "student")):
        raise input_error(
            "The result is not a run's",
            expected="what it has measured, with its settings",
            received=f"another file {file}",
            remedy=f"{remedy}",
        )
    return result


def as_named(recorded, place, *, dataset=None, download=False):
    """A recorded Config to read its data by: what it says of code and downloads counts only where the user says it too.

    Args:
      recorded: a `Config` that somebody else may have written.
      place: where it was read, for the message.
      dataset: the dataset that the user named, or None.
      download: whether the user allows it.

    Raises:
      InputError: the record names code, and the user does not.
    """
    if is_code(recorded.dataset) and dataset != recorded.dataset:
        raise input_error(
            "A run's data comes from code, which its record alone does not get run",
            expected=f"--dataset={recorded.dataset} from you",
            received=f"{f'--dataset={dataset}' if dataset else 'no --dataset'} with {place}",
            remedy="Add it if you trust that code",
        )
    return recorded.replace(download=download)


def other_test_images(path, config):
    """The data_seed of the run behind a model where it is another's than `config`'s and its test images so are too.

    Of these it then has trained on most. None for every other model: of another set, of one with a test part, of no run.
    """
    if not folder_index.test_is_drawn(config.dataset):
        return None
    run = run_behind(path)
    if run is None or run.dataset != config.dataset or run.data_seed == config.data_seed:
        return None
    return run.data_seed
