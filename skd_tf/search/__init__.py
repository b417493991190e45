"""The search of temperature and other settings: each trial is a student, trained on one and the same teacher cache.

space        --search=temperature:log:1:16: what may be searched, and its grammar; without TensorFlow
plan         what is searched, how, and for which objective: all that a search is, and what makes two the same
records      one atomic file a trial: the whole state of a search
oracles      keras-tuner's oracles, rebuilt from the records
tuner        the keras-tuner Tuner: runs a trial, records it, goes on
trials       one trial: its executions, what it may fail from
distillers   Distillers that are kept, traced and compiled, from trial to trial
hypermodel   the same students for any other keras-tuner Tuner
hparams      what TensorBoard shows of a trial
report       trials.csv, trials.jsonl, best.flags, the closing table and whether the best beats the default
picture      search.png
"""
