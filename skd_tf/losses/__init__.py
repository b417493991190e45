"""Losses: pure functions of logits and labels, one value per example, computed in log space.

    names.py            LOSS_FACTS, LOSS_NAMES: what is known about each loss without TensorFlow
    registry.py         LOSSES: name -> function, where its student's probabilities are taken, the authors' settings
    terms.py            the parts of every loss: target probabilities, the KL divergence, the label and the distill term
    teacher_shares.py   the weights of several teachers, without TensorFlow
    spherical.py        the sphere: project, logit_norm, resolve_radius, readout, spherical_kd
    sphere_geometry.py  numbers that follow from classes, radius and temperature, without TensorFlow
    baselines.py        the losses to compare with: cross_entropy, kd, logit_standardization, dkd, dist
    label_guided.py     two more of them: rld, wttm

Every loss is called as `function(student_logits, teacher_logits, labels, **settings)` and returns
{"label": [batch], "distill": [batch]} (`cross_entropy`: only "label"). The caller weighs and reduces them:

    loss = label_weight * label + kd_weight * distill        label_weight is 1 - kd_weight unless given

`settings` are the keyword arguments in the function's signature. Temperature, radius, center and teacher_weights are
settings of the run; all others come from `Distiller(loss_settings=...)` and `--loss_settings`. To add a loss, write such a function and
give it an entry in names.py and one in registry.py.
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.losses.baselines import cross_entropy, dist, dkd, kd, logit_standardization
    from skd_tf.losses.label_guided import rld, wttm
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
    "rld",
    "spherical_kd",
    "target_probabilities",
    "wttm",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "registry": ["LOSSES", "Loss"],
        "baselines": ["cross_entropy", "dist", "dkd", "kd", "logit_standardization"],
        "label_guided": ["rld", "wttm"],
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
