"""The names in `skd_tf.losses.LOSSES` and what their functions take, readable without importing TensorFlow."""

_OF_THE_RUN = ("temperature", "radius", "center")
LOSS_ARGUMENTS = {
    "spherical": ("temperature", "radius", "center"),
    "kd": ("temperature",),
    "cross_entropy": (),
    "logit_standardization": ("temperature",),
    "dkd": ("temperature", "alpha", "beta"),
    "dist": ("temperature",),
}
LOSS_NAMES = tuple(LOSS_ARGUMENTS)
# The numbers of --loss_settings.
LOSS_SETTINGS = {
    loss: tuple(name for name in names if name not in _OF_THE_RUN) for loss, names in LOSS_ARGUMENTS.items()
}
