"""Models: load, adapt, fold, build, and prepare for shipping.

paths               which file of a path or workdir holds the model, and its fingerprint; needs no TensorFlow
loading             load, load_teacher, load_measured: a model from a workdir, a .keras file, a SavedModel or a name
opened_saved_model  a SavedModel that is called as a model
opened_runtime_file a LiteRT or ONNX file that is called as a model
opaque_model        what the models of these two have in common
student             the student of a run with its initial weights: built from a name or function, or loaded
interface           which tensor is the image and which the logits, in dicts, lists and [batch, 1, 1, classes]
heads               find the last activation, remove a softmax at the end, or replace the last layer with one of another size
preprocessing       layers in front of a model that take raw pixels
frozen_layers       names of layers, and layers that are not trained
precision           the dtype that a model computes in
adapter             a model that takes other images than the dataset's, or returns probabilities
keras_applications  the networks of keras.applications
keras_hub_models    the image classifiers of KerasHub
published           either, by LIBRARY:NAME
graph               replace layers in a Functional or Sequential model
fold_batch_norm     fold BatchNorm into the convolution before it
sync_batch_norm     BatchNorm over the global batch
deployable          the student in stock Keras layers, with the sphere and temperature of its probabilities
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.models.loading import load, load_measured, load_teacher

__all__ = ["load", "load_measured", "load_teacher"]
__getattr__, __dir__ = lazy(__name__, {"loading": ["load", "load_measured", "load_teacher"]})
