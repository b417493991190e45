"""Half precision: how a network computes, never how its weights are kept."""

import keras

# Raw pixels are normalised in float32: bfloat16 keeps 8 bits, which is what a pixel has before it is scaled.
_KEEPS_FLOAT32 = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Resizing)

_HALF = ("bfloat16", "float16")


def set_precision(model, precision):
    """Lets every layer of a model compute in float32, bfloat16 or float16; variables stay float32.

    That of the logits too: in bfloat16 those of size 8 to 16 are multiples of 1/16. The losses, and what is exported,
    compute in float32.
    """
    half = precision != "float32"
    policy = keras.DTypePolicy(f"mixed_{precision}" if half else precision)
    for layer in model._flatten_layers(include_self=False):
        if not isinstance(layer, (*_KEEPS_FLOAT32, keras.Model)) and (half or layer.compute_dtype in _HALF):
            layer.dtype_policy = policy
    return model


def computes_in_float16(model):
    return any(layer.compute_dtype == "float16" for layer in model._flatten_layers(include_self=False))
