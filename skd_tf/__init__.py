"""skd_tf: distils a large image classifier into a small one, by Spherical KD (arXiv:2010.07485) or one of six other losses.

    flagfile -> cli -> Config -> experiment.run -+- data      -> batches -----+
                                                 +- networks  -> two models --+-> Distiller -> loop -> student, records
                                                 +- losses    -> objective ---+
                                                 +- schedules -> rates -------+

    python -m skd_tf.train      trains a student from a teacher, exports and measures it
    python -m skd_tf.evaluate   measures finished models on a test split
    python -m skd_tf.predict    classifies the images of a folder
    python -m skd_tf.export     writes the student of a run for serving
    python -m skd_tf.report     shows finished runs on one page
    python -m skd_tf.tune       searches temperature and other settings

Importing the package costs nothing: each name below is imported when it is first used.
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf import keras_losses, losses, networks, schedules
    from skd_tf.config import Config
    from skd_tf.distillation.distiller import Distiller
    from skd_tf.errors import InputError
    from skd_tf.losses import LOSSES
    from skd_tf.training.experiment import run

__version__ = "0.2.0"

__all__ = ["LOSSES", "Config", "Distiller", "InputError", "keras_losses", "losses", "networks", "run", "schedules"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "config": ["Config"],
        "distillation.distiller": ["Distiller"],
        "errors": ["InputError"],
        "losses": ["LOSSES", "losses"],
        "training.experiment": ["run"],
        "keras_losses": [],
        "networks": [],
        "schedules": [],
    },
)
