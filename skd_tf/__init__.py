"""skd_tf: distils a large image classifier into a small one with Spherical Knowledge Distillation (arXiv:2010.07485).

    flagfile -> cli -> Config -> experiment.run -+- data      -> batches -----+
                                                 +- networks  -> two models --+-> Distiller -> loop -> student, records
                                                 +- losses    -> objective ---+
                                                 +- schedules -> rates -------+

    python -m skd_tf.train      trains a student from a teacher, exports and measures it
    python -m skd_tf.evaluate   measures finished models on a test split
    python -m skd_tf.export     writes the student of a run for serving
    python -m skd_tf.report     shows finished runs on one page
    python -m skd_tf.tune       searches temperature and other settings

Importing the package costs nothing: each name below is imported when it is first used.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {"Config": "config", "Distiller": "distiller", "InputError": "errors", "LOSSES": "losses", "run": "experiment"}

__all__ = ["LOSSES", "Config", "Distiller", "InputError", "keras_losses", "losses", "networks", "run", "schedules"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"skd_tf.{_HOMES[name]}"), name)
    if name in ("keras_losses", "losses", "networks", "schedules"):
        return importlib.import_module(f"skd_tf.{name}")
    raise AttributeError(f"module 'skd_tf' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
