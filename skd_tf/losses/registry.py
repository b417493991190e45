"""LOSSES: the table that names every loss."""

from collections.abc import Callable
from typing import NamedTuple

from skd_tf.losses.baselines import cross_entropy, dist, dkd, kd, logit_standardization
from skd_tf.losses.spherical import spherical_kd


class Loss(NamedTuple):
    """A row of LOSSES.

    Attributes:
      function: `(student_logits, teacher_logits, labels, **settings)` -> dict of `[batch]` terms.
      readout: a key of READOUTS: where the softmax of a student trained with this loss is taken, in
        evaluation and export alike.
      needs_teacher: whether `teacher_logits` may not be None.
      defaults: the authors' settings, by the names of Config's fields. A row without "label_weight" leaves
        it at 1 - kd_weight.
    """

    function: Callable
    readout: str
    needs_teacher: bool
    defaults: dict


_SPHERE = {"temperature": 4.0, "kd_weight": 0.9, "radius": "auto", "center": True}
_STANDARDIZED = {"temperature": 2.0, "kd_weight": 9.0, "label_weight": 0.1}
_DECOUPLED = {"temperature": 4.0, "kd_weight": 1.0, "label_weight": 1.0}
_CORRELATION = {"temperature": 4.0, "kd_weight": 2.0, "label_weight": 1.0}

LOSSES = {
    "spherical": Loss(spherical_kd, "sphere", True, _SPHERE),
    "kd": Loss(kd, "raw", True, {"temperature": 4.0, "kd_weight": 0.9}),
    "cross_entropy": Loss(cross_entropy, "raw", False, {}),
    "logit_standardization": Loss(logit_standardization, "raw", True, _STANDARDIZED),
    "dkd": Loss(dkd, "raw", True, _DECOUPLED),
    "dist": Loss(dist, "raw", True, _CORRELATION),
}
