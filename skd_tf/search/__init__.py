"""Searches of temperature and other settings. Each trial trains a student; all trials share one teacher cache.

run_search     run_search(plan, workdir): the whole search, from settings to results
plan           Plan: what a search varies, how it chooses values, and what it optimises
space          which settings can be searched, and the grammar of --search
trial_records  one atomic file per trial: the whole state of a search
oracles        keras-tuner's oracles, which choose values; rebuilt from the records
tuner          the keras-tuner Tuner: runs trials and prints the progress
trial_runner   one trial: its executions, and its failures
results        trials.csv, trials.jsonl, best.flags, the closing table, and the comparison with the default
plot           search.png
tensorboard    TensorBoard's HParams page
hypermodel     DistillationHyperModel: the same students for any other Tuner of keras-tuner
"""
