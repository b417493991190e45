"""The names in `skd_tf.losses.LOSSES`, readable without importing TensorFlow."""

LOSS_NAMES = ("spherical", "kd", "cross_entropy", "logit_standardization", "dkd", "dist")
