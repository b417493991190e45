"""The usual networks for CIFAR and ImageNet in Keras layers: raw pixels in, raw logits out.

    names.py        NETWORK_NAMES: names and published parameter counts, without TensorFlow
    registry.py     NETWORKS: name -> builder and its arguments; build(name, ...) -> keras.Model
    layers.py       what all networks use: seeded initial weights, PyTorch's padding, one BatchNorm class
    batch_norm.py   FusedBatchNormalization: Keras' BatchNormalization on TensorFlow's fused kernel
    resnet.py       residual networks for CIFAR (He et al. 2016), for ImageNet, and ImageNet's with a CIFAR stem
    wide_resnet.py  pre-activation wide residual networks for CIFAR
    vgg.py          VGG with BatchNorm for CIFAR
    mobilenet.py    MobileNetV2 for CIFAR
    efficientnet_lite.py  EfficientNet-Lite0 and -Lite1 for ImageNet
    shufflenet.py   ShuffleNet V1 and V2 for CIFAR
    small_cnn.py    students with a few hundred to a few thousand parameters

Importing this package does not import TensorFlow; the first use of NETWORKS or build does.
"""

from typing import TYPE_CHECKING

from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.networks.registry import NETWORKS, build

__all__ = ["NETWORKS", "NETWORK_NAMES", "build"]
__getattr__, __dir__ = lazy(__name__, {"registry": ["NETWORKS", "build"], "names": ["NETWORK_NAMES"]})
