"""keras-tuner's oracles over records of ours: rebuilt from them after any stop, grid included.

Four things of keras-tuner 1.4.8 that matter here: a seed of 0 is taken for none; three failures in a row stop the search;
its own state is two kinds of files written separately, and reading a grid's back fails; numbers sent between its processes
are float32.
"""

import keras_tuner

from skd_tf.errors import input_error
from skd_tf.search.trial_records import FINISHED, RUNNING

_COMPLETED, _FAILED, _STOPPED = "COMPLETED", "FAILED", "STOPPED"


class _Recorded:
    """An oracle whose trials are the records, before a `keras_tuner.Oracle` in the order of bases.

    `begin(records)` goes before anything else. A trial's record is written when its values are drawn, and the trial's own
    process fills it in; values and scores come from there.
    """

    def begin(self, records):
        """Takes up the search where its records stand: the same draws, in the same order, with the same results."""
        self._records, self._plan = records, records.plan
        known = records.all()
        self._known, self._events = {record["trial"]: record for record in known}, 0
        self.problem = None
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
        for record in known:  # ends that nobody saw get their place now, before all that is still to come
            if record["status"] != RUNNING and record["ended"] is None:
                records.write(record | {"ended": self._next_event()})
        # What was interrupted is handed out first, the oldest before the others.
        self._retry_queue = [trial.trial_id for trial in self.ongoing_trials.values()][::-1]
        self.ongoing_trials, self.tuner_ids = {}, set()

    def _replay_start(self, record):
        trial = self.create_trial(f"before-{record['trial']}")
        if trial.status == _STOPPED or int(trial.trial_id) != record["trial"]:
            raise input_error(
                "The records are of another search",
                expected=f"trial {trial.trial_id}",
                received=f"{record['trial']} in {self._records.folder}",
                remedy="Add --overwrite to begin anew",
            )

    def _replay_end(self, record):
        trial = next(trial for name, trial in self.trials.items() if int(name) == record["trial"])
        trial.status = _FAILED
        if record["status"] == FINISHED:
            self.update_trial(trial.trial_id, {self._plan.goal.name: record["objective"]})
            trial.status = _COMPLETED
        self.end_trial(trial)

    def populate_space(self, trial_id):
        """The oracle's own draw, so that its state goes on; over it the recorded values, or the default's for trial 0."""
        response = super().populate_space(trial_id)
        number, default = int(trial_id), self._plan.default
        values = self._known[number]["values"] if number in self._known else None
        if values is None and number == 0 and default and self._plan.tuner != "grid":
            values = default
        if values is None:
            return response
        drawn = {dimension.name: dimension.drawn(values[dimension.name]) for dimension in self._plan.space}
        return {"status": RUNNING.upper(), "values": drawn}

    def create_trial(self, tuner_id):
        trial = super().create_trial(tuner_id)
        if trial.status != RUNNING.upper() or int(trial.trial_id) in self._known:
            return trial
        try:
            if self._records.read(int(trial.trial_id)) is None:
                self._write_start(trial)
        except OSError as error:  # inside keras-tuner's server nobody would see it: the search ends, and says it then
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
                "values": {dimension.name: dimension.value(drawn[dimension.name]) for dimension in self._plan.space},
                "started": self._next_event(),
                "ended": None,
                "executions": [],
                "objective": None,
                "spread": None,
                "reason": "",
            }
        )

    def end_trial(self, trial):
        number = int(trial.trial_id)
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters  # as drawn, not as sent
        super().end_trial(trial)
        if number not in self._known:
            try:
                self._records.write(self._records.read(number) | {"ended": self._next_event()})
            except OSError as error:
                self.problem = error

    def score_trial(self, trial):
        trial.score, trial.best_step = self._records.read(int(trial.trial_id))["objective"], 0

    def _next_event(self):
        self._events += 1
        return self._events - 1

    def save(self, *_):
        """Nothing: the records are the state."""

    reload = _save_trial = save


class _Random(_Recorded, keras_tuner.oracles.RandomSearchOracle):
    """Values drawn independently."""


class _Bayesian(_Recorded, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process of the results expects most; needs scikit-learn."""


class _Grid(_Recorded, keras_tuner.oracles.GridSearchOracle):
    """All combinations."""


ORACLES = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}


def make_oracle(plan):
    """The oracle of a `Plan`, which `begin` takes to where its records stand."""
    parameters = keras_tuner.HyperParameters()
    for dimension in plan.space:
        dimension.declare(parameters)
    try:
        oracle = ORACLES[plan.tuner](
            objective=keras_tuner.Objective(plan.goal.name, plan.goal.direction),
            max_trials=plan.trials,
            seed=plan.search_seed + 1,
            hyperparameters=parameters,
            allow_new_entries=False,
            max_consecutive_failed_trials=None,
        )
    except ImportError as error:
        raise input_error(
            "The Bayesian search needs scikit-learn",
            expected="it to be installed",
            received="--tuner=bayesian without it",
            remedy="Install it with pip install 'skd_tf[bayesian]'",
        ) from error
    oracle.verbose = 0
    return oracle
