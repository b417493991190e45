"""The names in `skd_tf.losses.LOSSES`, readable without importing TensorFlow."""

LOSS_NAMES = ("spherical", "kd", "cross_entropy", "logit_standardization", "dkd", "dist")
# What a loss's function takes beside temperature, radius and center: the numbers of --loss_settings.
LOSS_SETTINGS = {"dkd": ("alpha", "beta")}
