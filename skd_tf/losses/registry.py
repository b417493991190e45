"""LOSSES: every loss by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from skd_tf.losses.baselines import cross_entropy, dist, dkd, kd, logit_standardization
from skd_tf.losses.label_guided import rld, wttm
from skd_tf.losses.names import LOSS_FACTS
from skd_tf.losses.spherical import spherical_kd


class Loss(NamedTuple):
    """An entry of LOSSES.

    Attributes:
      function: `(student_logits, teacher_logits, labels, **settings)` -> dict of terms, each `[batch]`.
      readout: where the probabilities of a student trained with this loss are taken, in evaluation and in export: "raw"
        (softmax of the raw logits) or "sphere" (softmax of the projected logits); a key of READOUTS.
      needs_teacher: whether the function needs `teacher_logits`.
      defaults: the authors' settings, by the names of Config's fields. Without "label_weight" that weight is
        1 - kd_weight.

    Examples:
      >>> from skd_tf import losses
      >>> losses.LOSSES["dist"].defaults
      {'temperature': 4.0, 'kd_weight': 2.0, 'label_weight': 1.0}
      >>> [name for name, loss in losses.LOSSES.items() if loss.readout == "sphere"]
      ['spherical']
    """

    function: Callable[..., dict]
    readout: str
    needs_teacher: bool
    defaults: dict[str, Any]


_FUNCTIONS_AND_DEFAULTS: dict[str, tuple[Callable[..., dict], dict[str, Any]]] = {
    "spherical": (spherical_kd, {"temperature": 4.0, "kd_weight": 0.9, "radius": "auto", "center": True}),
    "kd": (kd, {"temperature": 4.0, "kd_weight": 0.9}),
    "cross_entropy": (cross_entropy, {}),
    "logit_standardization": (logit_standardization, {"temperature": 2.0, "kd_weight": 9.0, "label_weight": 0.1}),
    "dkd": (dkd, {"temperature": 4.0, "kd_weight": 1.0, "label_weight": 1.0}),
    "dist": (dist, {"temperature": 4.0, "kd_weight": 2.0, "label_weight": 1.0}),
    "rld": (rld, {"temperature": 4.0, "kd_weight": 1.0, "label_weight": 1.0}),
    "wttm": (wttm, {"kd_weight": 4.0, "label_weight": 1.0}),
}

LOSSES = {
    name: Loss(function, LOSS_FACTS[name].probabilities, LOSS_FACTS[name].needs_teacher, defaults)
    for name, (function, defaults) in _FUNCTIONS_AND_DEFAULTS.items()
}
