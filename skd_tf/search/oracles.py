"""keras-tuner's oracles, rebuilt from the records of a search after any stop.

Four properties of keras-tuner 1.4.8 matter here: it treats a seed of 0 as no seed; three failures in a row stop a
search; it writes its state to two kinds of files separately, and fails to read that of a grid; its processes send each
other numbers as float32.
"""

from typing import Any

import keras_tuner

from skd_tf.errors import input_error
from skd_tf.search import spreading
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import FINISHED, RUNNING, TrialRecords

_COMPLETED, _FAILED, _STOPPED = "COMPLETED", "FAILED", "STOPPED"


class _Recorded(keras_tuner.Oracle):
    """An oracle that takes values and scores from the records. Call `begin` first.

    The oracle writes a trial's record when it draws the values. The process that runs the trial completes the record.
    """

    max_trials: int | None
    ongoing_trials: dict[str, keras_tuner.engine.trial.Trial]
    tuner_ids: set[str]

    def begin(self, records: TrialRecords) -> None:
        """Replays the recorded trials: the same draws, in the same order, with the same results."""
        self._records, self._plan = records, records.plan
        known = records.all()
        self._known, self._events = {record["trial"]: record for record in known}, 0
        self.problem: OSError | None = None
        wanted, self.max_trials = self.max_trials, None
        starts = [(record["started"], self._replay_start, record) for record in known]
        ends = [
            (float("inf") if record["ended"] is None else record["ended"], self._replay_end, record)
            for record in known
            if record["status"] != RUNNING
        ]
        for _, replay, record in sorted(starts + ends, key=lambda event: (event[0], event[2]["trial"])):
            replay(record)
        self._known, self.max_trials = {}, wanted
        numbers = [started for started, _, _ in starts] + [ended for ended, _, _ in ends if ended != float("inf")]
        self._events = max(numbers, default=-1) + 1
        for record in known:  # an end that the oracle missed gets its place before all later events
            if record["status"] != RUNNING and record["ended"] is None:
                records.write(record | {"ended": self._next_event()})
        # Interrupted trials are handed out first, the oldest before the others.
        self._retry_queue = [trial.trial_id for trial in self.ongoing_trials.values()][::-1]
        self.ongoing_trials, self.tuner_ids = {}, set()

    def _replay_start(self, record):
        trial = self.create_trial(f"before-{record['trial']}")
        if trial.status == _STOPPED or int(trial.trial_id) != record["trial"]:
            raise input_error(
                "The records belong to another search",
                expected=f"trial {trial.trial_id}",
                received=f"trial {record['trial']} in {self._records.folder}",
                remedy="Add --overwrite to restart from scratch",
            )

    def _replay_end(self, record):
        trial = next(trial for name, trial in self.trials.items() if int(name) == record["trial"])
        trial.status = _FAILED
        if record["status"] == FINISHED:
            self.update_trial(trial.trial_id, {self._plan.goal.name: record["objective"]})
            trial.status = _COMPLETED
        self.end_trial(trial)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The recorded values of a trial; else the default for trial 0; else the oracle's draw."""
        number, default = int(trial_id), self._plan.default
        self._drawing = number
        response = super().populate_space(trial_id)  # always, because a draw advances the oracle's state
        values = self._known[number]["values"] if number in self._known else None
        if values is None and number == 0 and default and self._plan.tuner != "grid":
            values = default
        if values is None:
            return response
        drawn = {dimension.name: dimension.to_keras_tuner(values[dimension.name]) for dimension in self._plan.space}
        return {"status": RUNNING.upper(), "values": drawn}

    def _random_values(self):
        """keras-tuner's values of the current trial, spread over the space; None if all have been tried."""
        for values in spreading.candidates(self._plan, self._drawing):
            drawn = {dimension.name: dimension.to_keras_tuner(values[dimension.name]) for dimension in self._plan.space}
            if not self._duplicate(drawn):
                return drawn
        return None

    def create_trial(self, tuner_id: str) -> keras_tuner.engine.trial.Trial:
        """keras-tuner's next trial, with its record written."""
        trial = super().create_trial(tuner_id)
        if trial.status != RUNNING.upper() or int(trial.trial_id) in self._known:
            return trial
        try:
            if not self._records.exists(int(trial.trial_id)):
                self._write_start(trial)
        except OSError as error:  # keras-tuner's server would hide it: end the search, and let the Tuner raise it
            self.problem = error
            self.ongoing_trials.pop(tuner_id, None)
            self.tuner_ids.discard(tuner_id)
            trial.status = _STOPPED
        return trial

    def _write_start(self, trial):
        drawn = trial.hyperparameters.values
        self._records.write(
            {
                "trial": int(trial.trial_id),
                "status": RUNNING,
                "values": {
                    dimension.name: dimension.to_config(drawn[dimension.name]) for dimension in self._plan.space
                },
                "started": self._next_event(),
                "ended": None,
                "executions": [],
                "objective": None,
                "spread": None,
                "reason": "",
            }
        )

    def end_trial(self, trial: keras_tuner.engine.trial.Trial) -> None:
        """Ends a trial, and records its place in the sequence of events."""
        number = int(trial.trial_id)
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters  # as drawn: those sent are float32
        super().end_trial(trial)
        if number not in self._known:
            try:
                self._records.write(self._records.read(number) | {"ended": self._next_event()})
            except OSError as error:
                self.problem = error

    def score_trial(self, trial: keras_tuner.engine.trial.Trial) -> None:
        """Takes the score from the record."""
        trial.score, trial.best_step = self._records.read(int(trial.trial_id))["objective"], 0

    def _next_event(self):
        self._events += 1
        return self._events - 1

    def save(self, *_: Any) -> None:
        """Does nothing: the records are the state."""

    reload = _save_trial = save


class _Random(_Recorded, keras_tuner.oracles.RandomSearchOracle):
    """Spreads the values over the space."""


class _Bayesian(_Recorded, keras_tuner.oracles.BayesianOptimizationOracle):
    """Spreads the first values, then takes those that a Gaussian process of the results predicts to be best."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """As in `_Recorded`, but untried values in place of those that keras-tuner takes again: same seed, same student."""
        response = super().populate_space(trial_id)
        fresh = response["status"] == RUNNING.upper() and int(trial_id) not in self._known
        if not fresh or not self._duplicate(response["values"]):
            return response
        values = self._random_values()
        return {"status": RUNNING.upper() if values else _STOPPED, "values": values}


class _Grid(_Recorded, keras_tuner.oracles.GridSearchOracle):
    """Tries all combinations."""


ORACLES = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}


def make_oracle(plan: Plan) -> _Recorded:
    """The oracle of a search; its `begin` replays the records."""
    parameters = keras_tuner.HyperParameters()
    for dimension in plan.space:
        dimension.declare(parameters)
    oracle = ORACLES[plan.tuner](
        objective=keras_tuner.Objective(plan.goal.name, plan.goal.direction),
        max_trials=plan.trials,
        seed=plan.search_seed + 1,
        hyperparameters=parameters,
        allow_new_entries=False,
        max_consecutive_failed_trials=None,
    )
    oracle.verbose = 0
    return oracle
