"""The keras-tuner Tuner of a search: asks the oracle for a trial, runs it, says how it stands."""

import statistics
import time

import keras_tuner
from keras_tuner.engine import base_tuner

from skd_tf.runtime.console import duration, say
from skd_tf.search.results import short
from skd_tf.search.trial_records import FINISHED


class Tuner(base_tuner.BaseTuner):
    """A keras-tuner Tuner whose trials are `Trials`, over an oracle of `skd_tf.search.oracles`.

    It alone, or one of several: keras-tuner's own KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT make
    it the chief, which holds the oracle, or a worker, which runs trials.

    Args:
      oracle: of `make_oracle`.
      records: the `Records` it was made from.
      trials: the `Trials` that run here.
    """

    def __init__(self, oracle, records, trials):
        self._records, self._trials, self._begun = records, trials, time.monotonic()
        self._seconds = []
        super().__init__(oracle, directory=str(records.folder), project_name="trials")

    def search(self):
        """Runs trials until the oracle has no more.

        Raises:
          Exception: what stopped the search; of a single trial's failures none does.
        """
        problem = None
        try:
            super().search()
        except keras_tuner.errors.FatalError as error:
            problem = error.__cause__ or error
        problem = problem or getattr(self.oracle, "problem", None)
        if problem:
            raise problem

    def run_trial(self, trial):
        number, plan = int(trial.trial_id), self._records.plan
        self._say_start(number)
        start = time.monotonic()
        try:
            record = self._trials.run(number)
        except Exception as error:  # keras-tuner would take it for a failure of the trial, and go on
            raise keras_tuner.errors.FatalError(str(error)) from error
        self._seconds.append(time.monotonic() - start)
        if record["status"] != FINISHED:
            say(f"Trial {number + 1} failed: {record['reason']}\n")
            raise keras_tuner.errors.FailedTrialError(record["reason"])
        self._say_end(record)
        return {plan.goal.name: record["objective"]}

    def _say_start(self, number):
        record, plan = self._records.read(number), self._records.plan
        if record:
            values = ", ".join(f"{name} {short(value)}" for name, value in record["values"].items())
            again = ", resumed" if (self._records.trial_folder(number) / f"seed-{plan.config.seed}").exists() else ""
            say(f"Trial {number + 1} of {plan.trials}{again}: {values}")

    def _say_end(self, record):
        goal, best = self._records.plan.goal, self._records.ranked()[0]
        spread = "" if record["spread"] is None else f" +- {record['spread']:.4f}"
        left = self._records.plan.trials - record["trial"] - 1
        say(
            f"Trial {record['trial'] + 1}: {goal.name} {record['objective']:.4f}{spread}; best so far "
            f"{best['objective']:.4f} (trial {best['trial'] + 1}); "
            f"{duration(left * statistics.median(self._seconds))} left\n"
        )

    def save(self):
        """Nothing: the records are the state."""

    reload = save
