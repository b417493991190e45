"""run_search(plan, workdir): trains the students of a `Plan`, ranks them, and can train the best on all of train.

TensorFlow and keras-tuner take seconds to import, so they are imported after all checks that do not need them.
"""

import dataclasses
import importlib.util
import os
import shlex
from typing import TYPE_CHECKING

from skd_tf.errors import EnvironmentFailure, InputError, counted, flag_error, input_error, message
from skd_tf.runs import run_files
from skd_tf.runs.run_record import recorded_config, with_recorded_rules
from skd_tf.runs.workdir import locked
from skd_tf.runtime import cluster, tf_logging
from skd_tf.runtime.console import say
from skd_tf.runtime.local_paths import require_folder
from skd_tf.search import plot, results, trial_records
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import RUNNING, TrialRecord, TrialRecords, is_disk_full
from skd_tf.training import dry_run, preflight, unlabelled, workdir_place

if TYPE_CHECKING:
    from skd_tf.training.train_student import SharedResources

_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def run_search(
    plan: Plan,
    workdir: str | os.PathLike,
    data_dir: str | None = None,
    *,
    final_run: bool = False,
    resources: "SharedResources | None" = None,
) -> list[TrialRecord] | None:
    """Trains the students of a search, or those that are still missing, and writes the results.

    The search never reads the test split; only the final run does.

    Args:
      plan: what is searched, and how.
      workdir: folder of the search. The same plan with the same folder continues the search.
      data_dir: TFDS data directory; None is TFDS' default.
      final_run: whether to train the best trial's settings on all of train, in `workdir/final`, and measure the
        student on the test split.
      resources: data without a test split, strategy and teacher, if they are loaded already.

    Returns:
      The records of the finished trials, best first (see `skd_tf.search.trial_records`). None in a keras-tuner worker,
      whose chief writes the results.

    Raises:
      InputError: invalid settings, a folder of another search, or no trial has finished.
      EnvironmentFailure: a full disk or too little memory. The trials are kept, and the same call continues.
    """
    role = _check(plan, workdir, data_dir, final_run)
    tf_logging.import_tensorflow()
    from skd_tf.search.oracles import make_oracle
    from skd_tf.search.trial_runner import TrialRunner
    from skd_tf.search.tuner import Tuner

    for config in _each_network_and_loss(plan):
        preflight.check_code(config)
    records = TrialRecords(workdir, _continued(plan, workdir))
    runner, oracle = TrialRunner(records, data_dir, resources), make_oracle(records.plan)
    try:
        if role == "worker":
            name, address, port = (os.environ[variable] for variable in _VARIABLES)
            say(f"Worker {name} takes trials from the chief at {address}:{port}, and waits for it if it is not there.")
            Tuner(oracle, records, runner).search()
            say("This worker is done. The chief writes the results.")
            return None
        with locked(workdir):
            ranked = _search(records, runner, oracle)
            _print_results(records, ranked, data_dir)
            if final_run:
                _final_run(records, ranked[0], data_dir)
        return ranked
    except Exception as error:
        if not is_disk_full(error) or isinstance(error, EnvironmentFailure):
            raise
        raise EnvironmentFailure(
            message("The disk is full", expected="room for the search", received=error, remedy="Free some space")
        ) from error


def _check(plan, workdir, data_dir, final_run):
    """Checks what needs neither TensorFlow nor keras-tuner; returns the role of this process."""
    role = process_role()
    require_folder(workdir, "workdir")
    workdir_place.check(plan.config, workdir)
    for config in _each_network_and_loss(plan):
        unlabelled.check(config)
        preflight.check_files(config)
    preflight.check_dataset(plan.shared, data_dir)
    preflight.check_sizes(plan.config, data_dir, searched=plan.names)
    preflight.require_search_validation(plan.config, data_dir)
    if final_run:
        _require_final_run(plan.config, data_dir)
    if plan.tuner == "bayesian" and importlib.util.find_spec("sklearn") is None:
        raise input_error(
            "A Bayesian search needs scikit-learn",
            expected="scikit-learn to be installed",
            received="--tuner=bayesian without it",
            remedy="Run pip install 'skd_tf[bayesian]'",
        )
    return role


def _each_network_and_loss(plan):
    """The shared settings, also with each searched student and loss: a wrong name must not wait for its trial."""
    named = [dimension for dimension in plan.space if dimension.name in ("student", "loss")]
    return [plan.shared, *(plan.shared.replace(**{one.name: value}) for one in named for value in one.values)]


def _require_final_run(config, data_dir):
    """Refuses a final run that needs validation images, since it trains on all of them, or a student of other settings."""
    if config.student_alone not in run_files.TRAINED:
        problem = "names a run whose settings may not be those of the best trial"
        raise flag_error("student_alone", config.student_alone, problem, "train", "Use --student_alone=train")
    waits = {"early_stopping_patience": config.early_stopping_patience, "ship": config.ship == "best"}
    needs = [name for name, needed in waits.items() if needed]
    if not needs:
        return
    sizes = preflight.dataset_sizes(config, data_dir)
    if not (sizes and sizes.validation):
        raise input_error(
            "The final run has no validation images",
            expected="a dataset with a validation split of its own, or neither --early_stopping_patience nor --ship=best",
            received=f"--final_run with --{needs[0]}={getattr(config, needs[0])}",
            remedy="Leave out --final_run, and train with best.flags",
        )


def describe(plan: Plan, workdir: str | os.PathLike, data_dir: str | None = None, *, final_run: bool = False) -> str:
    """What a search would do, as text of several lines; raises `InputError` for what `run_search` would refuse."""
    _check(plan, workdir, data_dir, final_run)
    TrialRecords(workdir, _continued(plan, workdir)).require_own()
    search = f"Search: {counted(plan.trials, 'trial')}, {plan.tuner}, {plan.goal.name} {plan.goal.direction}"
    try:
        run = dry_run.describe(plan.config, workdir, data_dir)
    except InputError:  # a default that no trial uses
        run = dry_run.describe(plan.first, workdir, data_dir)
    return "\n".join([run, search, *(f"  {dimension.text}" for dimension in plan.space), *_left_out(plan)])


def _left_out(plan):
    """Sentences about the settings that trials leave out, and the points that a grid leaves out; [] without any."""
    said = []
    if names := [f"--{name}" for name in plan.of_whole_runs]:
        these = "it" if len(names) == 1 else "them"
        said.append(f"Trials train without {' and '.join(names)}: only best.flags and the final run use {these}.")
    if plan.tuner == "grid" and plan.trials < plan.size:
        said.append(
            f"--max_trials={plan.max_trials} tries only the first {plan.trials} of the grid's {plan.size} points."
        )
    return said


def _continued(plan, workdir):
    """The plan with which the search in a folder goes on: rules of earlier versions stay."""
    return dataclasses.replace(
        plan, config=with_recorded_rules(plan.config, lambda: trial_records.recorded_config(workdir))
    )


def process_role() -> str:
    """The role of this process, "alone", "chief" or "worker", from keras-tuner's three environment variables.

    Raises:
      InputError: some of the three are missing, or TF_CONFIG names several workers.
    """
    given = [name for name in _VARIABLES if os.environ.get(name)]
    if cluster.member("auto"):
        raise input_error(
            "A search does not run on TF_CONFIG's workers",
            expected="no cluster",
            received="TF_CONFIG with several workers",
            remedy=f"Unset it, and share the trials among processes with {', '.join(_VARIABLES)}",
        )
    if 0 < len(given) < len(_VARIABLES):
        raise input_error(
            "Processes share a search through three variables",
            expected=", ".join(_VARIABLES),
            received=f"only {', '.join(given)}",
            remedy="Set all of them, or none",
        )
    if not given:
        return "alone"
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def _search(records, runner, oracle):
    """Runs the missing trials, in a single process or as chief; returns the finished ones, best first."""
    from skd_tf.search import tensorboard
    from skd_tf.search.tuner import Tuner

    plan = records.plan
    records.claim()
    known = records.all()
    for record in known:
        if record["status"] != RUNNING:  # the process may have been killed before it removed this trial's weights
            runner.remove_weights(record["trial"])
    if len(known) < plan.trials or any(record["status"] == RUNNING for record in known):
        space = ", ".join(dimension.text for dimension in plan.space)
        say(f"{counted(plan.trials, 'trial')} over {space} ({plan.tuner}), {len(known)} of them started earlier.")
        for line in _left_out(plan):
            say(line)
        tensorboard.write_space(records.folder, plan)
        oracle.begin(records)
        try:
            Tuner(oracle, records, runner).search()
        finally:
            results.write(records)
    ranked = results.write(records)
    if not ranked:
        raise input_error(
            "No trial has finished",
            expected="at least one",
            received=f"the failure {records.all()[0]['reason']}",
            remedy="Search other values",
        )
    return ranked


def _print_results(records, ranked, data_dir):
    plan, best = records.plan, ranked[0]
    picture = plot.write(records, ranked)
    flags = [f"--flagfile={records.folder / 'best.flags'}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    command = shlex.join(["python", "-m", "skd_tf.train", *flags, f"--workdir={records.folder / 'best'}"])
    first_seed = f"  (its first seed: {plan.goal.name} {best['executions'][0]['metrics'][plan.goal.name]:.4f})"
    say(
        f"\n{results.summary(records, ranked)}\n\nPicture: {picture}\nTo train the best again:\n"
        f"  {command}{first_seed * (plan.executions_per_trial > 1)}"
    )


def _final_run(records, best, data_dir):
    """Trains the best trial's settings on all of train and measures the student on the test split."""
    from skd_tf.training import experiment

    folder, config = records.folder / "final", results.best_config(records, best).replace(validation_fraction=0.0)
    earlier = recorded_config(folder)
    differences = earlier.differences(config) if earlier else []
    if differences:  # further trials have found better settings
        raise input_error(
            "The final run in this workdir has other settings",
            expected="those of the best trial",
            received=f"{'; '.join(differences)} in {folder}",
            remedy="Remove that folder, then start the same command again",
        )
    say(f"\nFinal run: the best settings on all of train, in {folder}")
    experiment.run(config, folder, data_dir)
