"""The networks of the field in stock Keras layers: raw pixels in, raw logits out.

names         NETWORK_NAMES: names and published parameter counts, without TensorFlow
table         NETWORKS: name -> builder and its arguments; build(name, ...) -> keras.Model
layers        what all are made of: seeded initial weights, PyTorch's padding, one BatchNorm
resnet        residual networks: CIFAR's (He et al. 2016), ImageNet's, and ImageNet's with a CIFAR stem
wide_resnet   pre-activation wide residual networks for CIFAR
vgg           VGG with BatchNorm for CIFAR
mobilenet     MobileNetV2 for CIFAR
shufflenet    ShuffleNet V1 and V2 for CIFAR
small         students of some hundred parameters

Importing this package does not import TensorFlow; NETWORKS and build do, when they are first used.
"""

from typing import TYPE_CHECKING

from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.networks.registry import NETWORKS, build

__all__ = ["NETWORKS", "NETWORK_NAMES", "build"]
__getattr__, __dir__ = lazy(__name__, {"registry": ["NETWORKS", "build"], "names": ["NETWORK_NAMES"]})
