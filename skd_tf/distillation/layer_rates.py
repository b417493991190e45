"""Learning rates of layers: factors of the optimizer's rate, by the layers' names."""

import re
from collections.abc import Mapping, Sequence

import keras

from skd_tf.config import grammar
from skd_tf.errors import as_text, flag_error, input_error
from skd_tf.models.frozen_layers import layer_names, layers_meant


def as_rates(rates: str | Mapping[str, float]) -> dict[str, float]:
    """{regular expression: factor}, also from the text of --layer_rates.

    Raises:
      InputError: the text does not follow the grammar, an expression does not parse, or a factor is not a number >= 0.
    """
    rates = "" if rates is None else rates
    if not isinstance(rates, (str, Mapping)):
        raise input_error(
            "layer_rates is not a dict",
            expected='{regular expression: factor >= 0}, or text as in "^logits: 10"',
            received=f"layer_rates={rates!r:.60}",
            remedy="Name the layers of each factor",
        )
    if not isinstance(rates, str):
        rates = ", ".join(f"{pattern}: {as_text(factor)}" for pattern, factor in rates.items())
    return grammar.parse_layer_rates(rates)


def layers_of(student: keras.Model, rates: Mapping[str, float]) -> list[tuple[keras.layers.Layer, float]]:
    """(layer, factor) of the layers of a student that an expression names.

    The first expression that occurs in a layer's name (`skd_tf.models.frozen_layers.layers_meant`) says its factor.

    Args:
      student: a built model.
      rates: {regular expression: factor}, from `as_rates`.

    Raises:
      InputError: an expression gives no trained weight its factor, or is ambiguous.
    """
    chosen: dict[int, tuple[keras.layers.Layer, float]] = {}
    for pattern, factor in rates.items():
        meant = layers_meant(student, re.compile(pattern).search, f"layer_rates with {pattern!r}")
        new = {id(layer): (layer, factor) for layer in meant if id(layer) not in chosen}
        if not any(layer.trainable and layer._trainable_variables for layer, _ in new.values()):
            problem = "has an expression that matches no trained layer of the student, or only those of an earlier one"
            expected = f"some of {', '.join([*layer_names(student)][:8])}, ..."
            remedy = "See model.summary(), or --list_layers, for all names"
            raise flag_error("layer_rates", f"{pattern}: {as_text(factor)}", problem, expected, remedy)
        chosen |= new
    return list(chosen.values())


def factors_of(student: keras.Model, layers: Sequence[tuple[keras.layers.Layer, float]]) -> tuple[float, ...]:
    """The factor of each trainable weight of a student, in the order of `trainable_variables`; () if all are 1.

    Args:
      student: a built model.
      layers: from `layers_of`. Weights of other layers have the factor 1.
    """
    chosen = {id(variable): factor for layer, factor in layers for variable in layer._trainable_variables}
    factors = tuple(chosen.get(id(variable), 1.0) for variable in student.trainable_variables)
    return factors if any(factor != 1.0 for factor in factors) else ()
