"""Models from files and names: loaded, given a head and preprocessing, folded, and made ready to ship.

paths               which file of a workdir or path holds the model, and its fingerprint; without TensorFlow
loading             load, load_teacher, load_measured: a model from a workdir, .keras file, SavedModel or name
student             the student of a run, built or loaded, with its start weights
heads               a last layer of another size; softmax heads turned into logits
preprocessing       the layers in front of a model that take raw pixels
precision           the dtype that a model computes in
adapter             a teacher that takes other images or returns probabilities
keras_applications  keras.applications:NAME
graph               layers exchanged in a functional model
fold_batch_norm     BatchNorm folded into the convolution before it
sync_batch_norm     BatchNorm whose statistics are those of the global batch
deployable          the student in stock Keras layers, with what its probabilities need
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.models.loading import load, load_measured, load_teacher

__all__ = ["load", "load_measured", "load_teacher"]
__getattr__, __dir__ = lazy(__name__, {"loading": ["load", "load_measured", "load_teacher"]})
