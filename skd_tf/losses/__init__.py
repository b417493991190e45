"""Losses: pure functions of logits and labels, per example, in log space; the table LOSSES names them.

    terms.py      what every loss is made of: targets, the label term, the distill term
    sphere.py     the sphere: project, logit_norm, resolve_radius, readout, spherical_kd
    baselines.py  what a user compares with: cross_entropy, kd, logit_standardization, dkd, dist

Each is called as `function(student_logits, teacher_logits, labels, **settings)` and returns
{"label": [batch], "distill": [batch]} (`cross_entropy`: "label" alone). The caller reduces and weighs them:

    loss = label_weight * label + kd_weight * distill        label_weight: 1 - kd_weight unless given

`settings` are those keyword arguments that the function's own signature names. A loss is added by writing
such a function and its row below. What a function takes beside temperature, radius and center comes from
`Distiller(loss_settings=...)` and `--loss_settings`.
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.losses.baselines import cross_entropy, dist, dkd, kd, logit_standardization
    from skd_tf.losses.registry import LOSSES, Loss
    from skd_tf.losses.spherical import (
        READOUTS,
        logit_norm,
        on_one_sphere,
        project,
        readout,
        resolve_radius,
        spherical_kd,
    )
    from skd_tf.losses.terms import target_probabilities

__all__ = [
    "LOSSES",
    "READOUTS",
    "Loss",
    "cross_entropy",
    "dist",
    "dkd",
    "kd",
    "logit_norm",
    "logit_standardization",
    "on_one_sphere",
    "project",
    "readout",
    "resolve_radius",
    "spherical_kd",
    "target_probabilities",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "registry": ["LOSSES", "Loss"],
        "baselines": ["cross_entropy", "dist", "dkd", "kd", "logit_standardization"],
        "spherical": [
            "READOUTS",
            "logit_norm",
            "on_one_sphere",
            "project",
            "readout",
            "resolve_radius",
            "spherical_kd",
        ],
        "terms": ["target_probabilities"],
    },
)
