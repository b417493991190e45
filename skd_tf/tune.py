"""python -m skd_tf.tune: random search of temperature and other settings on the validation split, with keras-tuner."""

from absl import flags

from skd_tf import cli, quiet
from skd_tf.errors import InputError
from skd_tf.knobs import as_text

# Data, teacher and machine are shared by all trials, and so cannot be searched.
_SEARCHABLE = (
    "student", "loss", "temperature", "kd_weight", "label_weight", "radius", "center", "epochs", "batch_size",
    "learning_rate", "lr_schedule", "warmup_epochs", "optimizer", "momentum", "nesterov", "weight_decay", "clip_norm",
    "label_smoothing", "seed", "precision",
)  # fmt: skip
_GRAMMAR = "NAME:log:LOW:HIGH, NAME:linear:LOW:HIGH, NAME:int:LOW:HIGH or NAME:choice:A,B,..."


def define(flag_values):
    cli.define_flags(flag_values, [*cli.PLACES, *(name for name in cli.FIELDS if name != "dry_run")])
    flags.DEFINE_multi_string("search", None, f"setting to search: {_GRAMMAR}; repeatable", flag_values=flag_values)
    flags.DEFINE_integer("max_trials", 10, "students to train", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("search_seed", 0, "seed of the settings drawn", flag_values=flag_values)


def main(flag_values):
    config = cli.config_from(flag_values)
    config.require_teacher()
    space = [parse_search(text, config) for text in flag_values.search]
    if not config.validation_fraction:
        raise InputError(
            "A search needs validation images: it never sees the test split. Expected --validation_fraction > 0. "
            "Received --validation_fraction=0. Set it to 0.1 for example."
        )
    quiet.import_tensorflow()
    search(config, space, flag_values.workdir, flag_values.data_dir, flag_values.max_trials, flag_values.search_seed)


def parse_search(text, config):
    """Reads one --search into (name, kind, values), its ends checked as values of that setting.

    Raises:
      InputError: text outside the grammar, an unknown setting, or a value that the setting does not take.
    """
    name, _, rest = text.partition(":")
    kind, _, values = rest.partition(":")
    if name not in _SEARCHABLE:
        raise InputError(
            f"--search names no setting that can be searched. Expected {_GRAMMAR}, NAME one of {', '.join(_SEARCHABLE)}. "
            f"Received --search={text}. Correct the name."
        )
    numbers = values.split("," if kind == "choice" else ":")
    try:
        if kind == "choice":
            # Texts: keras-tuner's choices are of one type, and Config reads them back.
            values = [as_text(getattr(config.replace(**{name: value}), name)) for value in numbers]
        else:
            low, high = (_NUMBER_KINDS[kind](value) for value in numbers)
            if not low < high or (kind == "log" and low <= 0):
                raise ValueError
            values = [getattr(config.replace(**{name: value}), name) for value in (low, high)]
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--search is not in its grammar. Expected {_GRAMMAR} with LOW < HIGH. Received --search={text}. "
            "Write for example --search=temperature:log:1:16."
        ) from error
    return name, kind, values


def search(config, space, workdir, data_dir, max_trials, seed):
    """Trains `max_trials` students and writes best.flags and trials.json; the test split is never read.

    Args:
      config: the settings that are not searched.
      space: rows of `parse_search`.
      workdir: folder of the search.
      data_dir: TFDS data directory.
      max_trials: students to train.
      seed: of the settings drawn.

    Returns:
      [{"val_accuracy", "settings"}], best first.
    """
    import pathlib

    import keras_tuner

    from skd_tf import experiment, summary, training
    from skd_tf.progress import say
    from skd_tf.workdir import Workdir, write_json, write_text

    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    setup = experiment.prepare(config, folder, data_dir, test=False)
    rows = []

    class Tuner(keras_tuner.Tuner):
        """keras-tuner draws, ours train: a returned dict makes it keep no checkpoint and no teacher."""

        def run_trial(self, trial, verbose=0):
            values = {name: trial.hyperparameters.get(name) for name, _, _ in space}
            say(f"Trial {len(rows) + 1} of {max_trials}: " + ", ".join(f"{k} {v}" for k, v in values.items()))
            trial_config = config.replace(**values)
            # Begun anew whatever an earlier search left there: its trials have the same numbers and other settings.
            trial_folder = Workdir(folder / "trials" / trial.trial_id, trial_config.replace(overwrite=True))
            _, history = training.train_student(trial_config, setup, trial_folder)
            settings = {name: getattr(trial_config, name) for name in values}
            rows.append({"val_accuracy": history["val_accuracy"], "settings": settings})
            return {"val_accuracy": history["val_accuracy"]}

    parameters = keras_tuner.HyperParameters()
    for name, kind, values in space:
        _DECLARE[kind](parameters, name, values)
    oracle = keras_tuner.oracles.RandomSearchOracle(
        objective=keras_tuner.Objective("val_accuracy", "max"), max_trials=max_trials, hyperparameters=parameters, seed=seed
    )
    tuner = Tuner(oracle=oracle, hypermodel=None, directory=str(folder), project_name="oracle", overwrite=True)
    tuner.search(verbose=0)
    rows.sort(key=lambda row: -row["val_accuracy"])
    best = config.replace(**rows[0]["settings"])
    if not best.teacher_checkpoint:  # the one that was searched with
        best = best.replace(teacher_checkpoint=str(folder / "teacher"), teacher_flagfile="", teacher="")
    write_text(folder / "best.flags", cli.write_flags(best.replace(dry_run=False, overwrite=False)))
    write_json(folder / "trials.json", rows)
    names = [name for name, _, _ in space]
    lines = [["validation top-1", *names]]
    lines += [[f"{row['val_accuracy']:.4f}", *(_short(row["settings"][name]) for name in names)] for row in rows]
    say(f"\n{summary.aligned(lines)}\n\nBest: {folder / 'best.flags'}")
    return rows


_NUMBER_KINDS = {"log": float, "linear": float, "int": int}
_DECLARE = {
    "log": lambda hp, name, ends: hp.Float(name, *ends, sampling="log"),
    "linear": lambda hp, name, ends: hp.Float(name, *ends),
    "int": lambda hp, name, ends: hp.Int(name, *ends),
    "choice": lambda hp, name, values: hp.Choice(name, values),
}


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cli_main():
    cli.run(
        main,
        description="Searches settings on the validation split; ends with a table and best.flags.",
        define=define,
        required=("workdir", "search"),
    )


if __name__ == "__main__":
    cli_main()
