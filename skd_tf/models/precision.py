"""Half precision: the dtype that a network computes in; its weights stay float32."""

import keras

from skd_tf.runtime import compat

# Raw pixels are normalised in float32: bfloat16 keeps 8 bits, which an unscaled pixel needs in full.
_KEEPS_FLOAT32 = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Resizing)
_HALF = ("bfloat16", "float16")


def set_precision(model: keras.Model, precision: str) -> keras.Model:
    """Makes every layer of a model compute in float32, bfloat16 or float16; the variables stay float32.

    The logits have that dtype too: in bfloat16, logits between 8 and 16 are multiples of 1/16. Losses and exports
    compute in float32.

    Returns:
      The model.
    """
    half = precision != "float32"
    policy = keras.DTypePolicy(f"mixed_{precision}" if half else precision)
    for layer in compat.layers_of(model, include_self=False):
        if not isinstance(layer, (*_KEEPS_FLOAT32, keras.Model)) and (half or layer.compute_dtype in _HALF):
            layer.dtype_policy = policy
    return model


def computes_in_float16(model: keras.Model) -> bool:
    """Whether any layer computes in float16."""
    return any(layer.compute_dtype == "float16" for layer in compat.layers_of(model, include_self=False))
