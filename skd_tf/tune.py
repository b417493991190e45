"""python -m skd_tf.tune: searches temperature and other settings on the validation split, with keras-tuner."""

import os
import pathlib
import sys

from absl import flags

from skd_tf.config import Config, app
from skd_tf.config.flags import config_from, define_flags
from skd_tf.errors import EnvironmentFailure, InputError, input_error
from skd_tf.runs.run_record import recorded_config
from skd_tf.runs.workdir import locked
from skd_tf.runtime import cluster, tf_logging
from skd_tf.runtime.console import say
from skd_tf.search.plan import OBJECTIVES, TUNERS, Plan
from skd_tf.search.space import GRAMMAR
from skd_tf.search.trial_records import RUNNING, TrialRecords, is_disk_full
from skd_tf.training import preflight

_TOGETHER = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def __getattr__(name):
    if name == "DistillationHyperModel":  # TensorFlow takes seconds to import
        from skd_tf.search.hypermodel import DistillationHyperModel

        return DistillationHyperModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def define(flag_values):
    define_flags(flag_values)
    flags.DEFINE_multi_string("search", None, f"setting to search: {GRAMMAR}; repeatable", flag_values=flag_values)
    flags.DEFINE_string("tuner", "random", f"how values are chosen: {', '.join(TUNERS)}", flag_values=flag_values)
    objective = f"what is best: NAME, NAME:min or NAME:max of the last epoch's {', '.join(OBJECTIVES)}"
    flags.DEFINE_string("objective", "val_accuracy", objective, flag_values=flag_values)
    flags.DEFINE_integer(
        "max_trials", None, "trials at most; 10, or the whole grid, unless given", flag_values=flag_values
    )
    flags.DEFINE_integer("executions_per_trial", 1, "students a trial, with seeds in a row", flag_values=flag_values)
    flags.DEFINE_integer("search_seed", 0, "seed of the settings drawn", lower_bound=0, flag_values=flag_values)
    final = "train the best on all of train, in <workdir>/final, and measure it once on the test split"
    flags.DEFINE_boolean("final_run", False, final, flag_values=flag_values)


def main(flag_values):
    # The teacher runs once for all trials.
    cached = Config(teacher_cache_dir=str(pathlib.Path(flag_values.workdir) / "teacher_cache"))
    config = config_from(flag_values, base=cached)
    plan = Plan(
        config,
        tuple(flag_values.search),
        tuner=flag_values.tuner,
        objective=flag_values.objective,
        max_trials=flag_values.max_trials,
        search_seed=flag_values.search_seed,
        executions_per_trial=flag_values.executions_per_trial,
    )
    _role()
    preflight.check(plan.shared)
    if config.dry_run:
        from skd_tf.training import dry_run

        searched = [f"Search: {plan.trials} trials, {plan.tuner}, {plan.goal.name} {plan.goal.direction}"]
        print(
            "\n".join(
                [
                    dry_run.describe(config, flag_values.workdir, flag_values.data_dir),
                    *searched,
                    *(f"  {dimension.text}" for dimension in plan.space),
                ]
            )
        )
        return 0
    tf_logging.import_tensorflow()
    try:
        search(plan, flag_values.workdir, flag_values.data_dir, final_run=flag_values.final_run)
    except Exception as error:
        if not (isinstance(error, EnvironmentFailure) or is_disk_full(error)):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        print(f"The trials are kept; once that is put right, go on with:\n  {app.command_line()}", file=sys.stderr)
        return 1
    return 0


def search(plan, workdir, data_dir=None, *, final_run=False, setup=None):
    """Trains the students of a `Plan`, or those that are still missing, and writes down what they came to.

    The test split is never read, but for the one `final_run`.

    Args:
      plan: `skd_tf.search.plan.Plan`.
      workdir: folder of the search; the same plan again continues it.
      data_dir: TFDS data directory.
      final_run: whether the best is then trained on all of train, in workdir/final, and measured on the test split.
      setup: a `training.Setup`, where data and teacher are at hand already.

    Returns:
      The records of the finished trials, best first (see `skd_tf.search.trial_records`); None in a worker of a chief.

    Raises:
      InputError: wrong settings, another search's folder, or not one trial that finished.
    """
    from skd_tf.search.oracles import make_oracle
    from skd_tf.search.trial_runner import TrialRunner
    from skd_tf.search.tuner import Tuner

    records = TrialRecords(pathlib.Path(workdir), plan)
    trials, oracle = TrialRunner(records, data_dir, setup), make_oracle(plan)
    if _role() == "worker":
        Tuner(oracle, records, trials).search()
        say("This worker is done; the chief writes the results.")
        return None
    with locked(workdir):
        ranked = _search(records, trials, oracle, data_dir)
        if final_run:
            _final_run(records, ranked[0], data_dir)
    return ranked


def _search(records, trials, oracle, data_dir):
    """The search of one process by itself, or of a chief."""
    from skd_tf.search import plot, results, tensorboard
    from skd_tf.search.tuner import Tuner

    plan = records.plan
    records.claim()
    known = records.all()
    for record in known:  # of a search stopped between a trial's record and this
        if record["status"] != RUNNING:
            trials.remove_weights(record["trial"])
    if len(known) < plan.trials or any(record["status"] == RUNNING for record in known):
        say(
            f"{plan.trials} trials over {', '.join(d.text for d in plan.space)} ({plan.tuner}), {len(known)} begun before."
        )
        tensorboard.write_space(records.folder, plan)
        oracle.begin(records)
        try:
            Tuner(oracle, records, trials).search()
        finally:
            results.write(records)
    ranked = results.write(records)
    if not ranked:
        raise InputError(
            f"No trial has finished. Expected one at least. Received failures: {records.all()[0]['reason']}"
        )
    drawn = plot.write(records, ranked)
    places = f"--data_dir={data_dir} " * bool(data_dir) + f"--workdir={records.folder / 'best'}"
    seed = f"  (its first seed: {plan.goal.name} {ranked[0]['executions'][0]['metrics'][plan.goal.name]:.4f})"
    say(
        f"\n{results.closing(records, ranked)}\n\nPicture: {drawn}\nThe best again:\n  python -m skd_tf.train "
        f"--flagfile={records.folder / 'best.flags'} {places}{seed * (plan.executions_per_trial > 1)}"
    )
    return ranked


def _final_run(records, best, data_dir):
    from skd_tf.search import results
    from skd_tf.training import experiment

    folder, config = records.folder / "final", results.best_config(records, best).replace(validation_fraction=0.0)
    before = recorded_config(folder)
    differences = before.differences(config) if before else []
    if differences:  # more trials have found a better one
        raise input_error(
            "The final run there is of other settings",
            expected="those of the best trial",
            received=f"{'; '.join(differences)} in {folder}",
            remedy="Remove that folder, and start the same command again",
        )
    say(f"\nFinal run: the best settings on all of train, in {folder}")
    experiment.run(config, folder, data_dir)


def _role():
    """ "alone", "chief" or "worker": what keras-tuner's three variables say. InputError where some are missing."""
    given = [name for name in _TOGETHER if os.environ.get(name)]
    if cluster.member("auto"):
        raise input_error(
            "A search does not span TF_CONFIG's workers",
            expected="no cluster",
            received="TF_CONFIG with several workers",
            remedy=f"Unset it, and share the trials among processes with {', '.join(_TOGETHER)}",
        )
    if 0 < len(given) < len(_TOGETHER):
        raise input_error(
            "Several processes share a search with three variables",
            expected=f"{', '.join(_TOGETHER)}",
            received=f"{', '.join(given)} alone",
            remedy="Set all of them, or none",
        )
    if not given:
        return "alone"
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def cli_main():
    app.run(
        main,
        description="Searches settings on the validation split; ends with a table, a picture and best.flags.",
        define=define,
        required=("workdir", "search"),
    )


if __name__ == "__main__":
    cli_main()
