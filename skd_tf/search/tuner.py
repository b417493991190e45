"""The keras-tuner Tuner of a search: gets trials from the oracle, runs them and prints the progress."""

import statistics
import time

import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.src import config as keras_tuner_config

from skd_tf.runtime.console import duration, say
from skd_tf.search.results import short
from skd_tf.search.trial_records import FINISHED, TrialRecords
from skd_tf.search.trial_runner import TrialRunner


class Tuner(base_tuner.BaseTuner):
    """A keras-tuner Tuner that runs its trials with a `TrialRunner`.

    It works alone unless KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT are set. They make it the
    chief, which holds the oracle, or a worker, which runs trials.

    Args:
      oracle: from `skd_tf.search.oracles.make_oracle`.
      records: the records of the search.
      runner: runs the trials of this process.
    """

    def __init__(self, oracle: keras_tuner.Oracle, records: TrialRecords, runner: TrialRunner) -> None:
        self._records, self._runner = records, runner
        self._seconds: list[float] = []  # of each trial that ran here
        super().__init__(oracle, directory=str(records.folder), project_name="trials")

    def search(self) -> None:
        """Runs trials until the oracle has no more. Raises whatever stops the search; a failed trial does not."""
        problem, shows = None, keras_tuner_config.DEBUG
        keras_tuner_config.DEBUG = False  # else it prints the traceback of each failed trial
        try:
            super().search()
        except keras_tuner.errors.FatalError as error:
            problem = error.__cause__ or error
        finally:
            keras_tuner_config.DEBUG = shows
        problem = problem or getattr(self.oracle, "problem", None)
        if problem:
            raise problem

    def run_trial(self, trial: keras_tuner.engine.trial.Trial) -> dict[str, float]:
        """Runs a trial; returns its objective."""
        number, start = int(trial.trial_id), time.monotonic()
        try:
            self._print_start(number)
            record = self._runner.run(number)
        except Exception as error:  # keras-tuner would count it as a failure of the trial and continue
            raise keras_tuner.errors.FatalError(str(error)) from error
        self._seconds.append(time.monotonic() - start)
        if record["status"] != FINISHED:
            say(f"Trial {number + 1} failed: {record['reason']}\n")
            raise keras_tuner.errors.FailedTrialError(record["reason"])
        self._print_end(record)
        return {self._records.plan.goal.name: record["objective"]}

    def _print_start(self, number):
        plan = self._records.plan
        values = ", ".join(f"{name} {short(value)}" for name, value in self._records.read(number)["values"].items())
        resumed = ", resumed" if (self._records.trial_folder(number) / f"seed-{plan.config.seed}").exists() else ""
        say(f"Trial {number + 1} of {plan.trials}{resumed}: {values}")

    def _print_end(self, record):
        plan, best = self._records.plan, self._records.ranked()[0]
        spread = "" if record["spread"] is None else f" +- {record['spread']:.4f}"
        left = plan.trials - record["trial"] - 1
        say(
            f"Trial {record['trial'] + 1}: {plan.goal.name} {record['objective']:.4f}{spread}; best so far "
            f"{best['objective']:.4f} (trial {best['trial'] + 1}); "
            f"{duration(left * statistics.median(self._seconds))} left\n"
        )

    def save(self) -> None:
        """Does nothing: the records are the state."""

    reload = save
