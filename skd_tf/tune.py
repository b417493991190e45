"""python -m skd_tf.tune: searches temperature and other settings on the validation split, with keras-tuner."""

import pathlib
import sys

from absl import flags

from skd_tf.config import Config, app
from skd_tf.config.flags import FIELDS, LOOKS, PLACES, config_from, define_flags, explicit_names
from skd_tf.errors import EnvironmentFailure
from skd_tf.runs.run_record import with_recorded_rules
from skd_tf.runtime import console
from skd_tf.search import trial_records
from skd_tf.search.plan import OBJECTIVE_GRAMMAR, TUNERS, Plan
from skd_tf.search.run_search import describe, run_search
from skd_tf.search.space import GRAMMAR


def __getattr__(name):
    if name != "DistillationHyperModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from skd_tf.search.hypermodel import DistillationHyperModel  # imports TensorFlow, which takes seconds

    return DistillationHyperModel


def define(flag_values):
    define_flags(flag_values, [name for name in (*PLACES, *FIELDS) if name not in LOOKS])
    own = {"flag_values": flag_values}
    flags.DEFINE_multi_string("search", None, f"setting to search: {GRAMMAR}", **own)
    flags.DEFINE_string("tuner", "random", f"how values are chosen: {', '.join(TUNERS)}", **own)
    flags.DEFINE_string("objective", "val_accuracy", f"what to optimise: {OBJECTIVE_GRAMMAR}", **own)
    flags.DEFINE_integer(
        "max_trials",
        None,
        "maximum number of trials; by default 10, or the whole grid; never more than there are combinations",
        **own,
    )
    flags.DEFINE_integer("executions_per_trial", 1, "students per trial, with consecutive seeds", **own)
    flags.DEFINE_integer("search_seed", 0, "seed of the values drawn", lower_bound=0, **own)
    flags.DEFINE_bool("final_run", False, "train the best on all of train, in <workdir>/final, and test it once", **own)


def main(flag_values):
    live = flag_values.feature_pairs or any(text.startswith("feature_pairs:") for text in flag_values.search)
    cache = "" if live else str(pathlib.Path(flag_values.workdir) / "teacher_cache")
    config = config_from(flag_values, base=Config(teacher_cache_dir=cache))  # the teacher runs once for all trials
    explicit = explicit_names(flag_values)
    config = with_recorded_rules(config, lambda: trial_records.recorded_config(flag_values.workdir), explicit)
    names = ("tuner", "objective", "max_trials", "search_seed", "executions_per_trial")
    plan = Plan(config, tuple(flag_values.search), **{name: flag_values[name].value for name in names})
    console.set_verbosity(config.verbosity)
    if config.dry_run:
        console.say(describe(plan, flag_values.workdir, flag_values.data_dir, final_run=flag_values.final_run))
        return 0
    try:
        run_search(plan, flag_values.workdir, flag_values.data_dir, final_run=flag_values.final_run)
    except EnvironmentFailure as error:
        console.write(f"error: {' '.join(str(error).split())}", sys.stderr)
        console.write(f"The trials are kept. Fix the cause, then continue with:\n  {app.command_line()}", sys.stderr)
        return 1
    return 0


def cli_main():
    text = "Searches settings on the validation split. Ends with a table, a picture and best.flags."
    app.run(main, description=text, define=define, required=("workdir", "search"))


if __name__ == "__main__":
    cli_main()
