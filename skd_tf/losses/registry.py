"""LOSSES: the table that names every loss."""

from collections.abc import Callable
from typing import NamedTuple

from skd_tf.losses.baselines import cross_entropy, dist, dkd, kd, logit_standardization
from skd_tf.losses.names import LOSS_FACTS
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


def _entry(name: str, function: Callable, **defaults: object) -> Loss:
    facts = LOSS_FACTS[name]
    return Loss(function, facts.probabilities, facts.needs_teacher, defaults)


LOSSES = {
    name: _entry(name, function, **defaults)
    for name, function, defaults in (
        ("spherical", spherical_kd, {"temperature": 4.0, "kd_weight": 0.9, "radius": "auto", "center": True}),
        ("kd", kd, {"temperature": 4.0, "kd_weight": 0.9}),
        ("cross_entropy", cross_entropy, {}),
        ("logit_standardization", logit_standardization, {"temperature": 2.0, "kd_weight": 9.0, "label_weight": 0.1}),
        ("dkd", dkd, {"temperature": 4.0, "kd_weight": 1.0, "label_weight": 1.0}),
        ("dist", dist, {"temperature": 4.0, "kd_weight": 2.0, "label_weight": 1.0}),
    )
}
