"""What follows the gradient in a training step. It has no branch, so no step waits for the host.

A step that must change nothing computes an update like any other, and keeps the old values.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from skd_tf.distillation import optimizers
from skd_tf.runtime import compat, replicas

Finite: TypeAlias = "tf.Tensor | bool"  # True, or bool `[]`


@contextlib.contextmanager
def undone_unless(finite: Finite, variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Undoes what the code inside this context assigns to the variables, unless `finite`."""
    before = [tf.identity(variable.value) for variable in variables if finite is not True]
    yield
    for variable, value in zip(variables, before, strict=False):
        variable.assign(tf.where(finite, variable.value, value))


def apply(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    weights: Sequence[keras.Variable],
    finite: Finite,
    *,
    flat: bool,
    largest: int | None = None,
    factors: Sequence[float] = (),
) -> None:
    """Updates weights and optimizer if `finite`.

    Args:
      optimizer: any Keras optimizer.
      gradients: from `replicas.pack`, summed over all replicas.
      weights: what they are the gradients of.
      finite: whether anything may change. False still lowers the scale of a LossScaleOptimizer.
      flat: whether to update many weights as one vector where the optimizer allows it. Outside XLA this is faster, since
        it launches a few operations in place of several per variable. Inside, XLA fuses those.
      largest: as for `replicas.pack`.
      factors: of the learning rate, one per weight (`layer_rates.factors_of`); none are 1 each. With some, variables are
        updated one by one.
    """
    scaled, optimizer = optimizer, optimizers.updating(optimizer)
    if optimizers.may_skip(scaled):
        gradients = [gradient / tf.cast(scaled.dynamic_scale.value, gradient.dtype) for gradient in gradients]
        _adjust_scale(scaled, finite)
    if flat and not factors and _has_flat_rule(optimizer, weights):
        _apply_flat(optimizer, gradients, weights, finite, largest)
        return
    with undone_unless(finite, [*weights, *optimizer.variables]), compat.scaled_rates(optimizer, weights, factors):
        optimizer.apply(replicas.unpack(gradients, weights, largest), weights)


def _adjust_scale(optimizer, finite):
    """Doubles the scale after `dynamic_growth_steps` finite steps in a row, and halves it after one that is not.

    It stays at 1 or more: an image that overflows in each epoch would otherwise lower it until no gradient is left.
    """
    counter, scale = optimizer.step_counter, optimizer.dynamic_scale
    grows = tf.equal(counter.value, optimizer.dynamic_growth_steps - 1)
    counts = tf.logical_and(finite, tf.logical_not(grows))
    factor = tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5)
    scale.assign(tf.maximum(scale.value * factor, tf.minimum(scale.value, 1.0)))
    counter.assign(tf.where(counts, counter.value + 1, 0))


def _has_flat_rule(optimizer, weights):
    """Whether the optimizer is one of ours, built for these weights, without a setting that treats them differently."""
    special = (
        optimizer.gradient_accumulation_steps,
        optimizer.ema_overwrite_frequency,
        optimizer.loss_scale_factor,
        getattr(optimizer, "amsgrad", False),
        compat.excludes_from_weight_decay(optimizer),
        _clips(optimizer) and not getattr(optimizer, "nesterov", True),  # rounds as in 0.1.0 only if updated one by one
        any(weight.constraint is not None or weight.overwrite_with_gradient for weight in weights),
    )
    if type(optimizer) not in _RULES or any(special):
        return False
    return all(len(kept) == len(weights) for kept in _kept(optimizer))  # it keeps more once layers are frozen


def _kept(optimizer):
    """Lists of what the optimizer keeps, one variable per weight: its slots, and then the moving averages."""
    slots_of, _ = _RULES[type(optimizer)]
    return [*slots_of(optimizer), *([compat.moving_averages(optimizer)] if optimizer.use_ema else [])]


def _clips(optimizer):
    return bool(optimizer.global_clipnorm or optimizer.clipnorm or optimizer.clipvalue)


def _apply_flat(optimizer, gradients, weights, finite, largest):
    """`optimizer.apply` on few vectors that hold all weights, bit for bit equal to Keras' update of each variable."""
    if _clips(optimizer):
        clipped = compat.clipped(optimizer, replicas.unpack(gradients, weights, largest))
        gradients = replicas.pack(clipped, largest)
    _, rule = _RULES[type(optimizer)]
    groups = [weights, *_kept(optimizer)]
    vectors = [replicas.pack(group, largest) for group in groups]
    updated = [_updated(optimizer, rule, finite, *parts) for parts in zip(gradients, *vectors, strict=True)]
    for variables, new in zip(groups, zip(*updated, strict=True), strict=True):
        for variable, value in zip(variables, replicas.unpack(new, variables, largest), strict=True):
            variable.assign(value)
    optimizer.iterations.assign_add(1 if finite is True else tf.cast(finite, optimizer.iterations.dtype))


def _updated(optimizer, rule, finite, gradient, *before):
    """A vector of weights, then those of its slots and of its moving average, after the step if it is `finite`."""
    rate = tf.cast(optimizer.learning_rate, gradient.dtype)
    weight, *slots = before[:-1] if optimizer.use_ema else before
    if optimizer.weight_decay:
        weight = weight - weight * tf.cast(optimizer.weight_decay, weight.dtype) * rate
    after = rule(optimizer, gradient, rate, weight, *slots)
    if optimizer.use_ema:
        momentum = tf.cast(tf.not_equal(optimizer.iterations.value, 0), gradient.dtype) * optimizer.ema_momentum
        after.append(momentum * before[-1] + (1 - momentum) * after[0])
    return after if finite is True else [tf.where(finite, new, old) for new, old in zip(after, before, strict=True)]


def _sgd(optimizer, gradient, rate, weight, velocity=None):
    """`optimizers.SGD.update_step`: [weight, velocity] after the step.

    Without Nesterov momentum, the velocity is a sum of three. Version 0.1.0 ran `update_step` in a graph, whose optimizer
    put the gradient last. So does this, and runs of 0.1.0 resume bit for bit. The graph optimizer leaves a difference alone.
    """
    l2, momentum = keras.ops.cast(optimizer.l2, gradient.dtype), optimizer.momentum
    if momentum and not optimizer.nesterov:
        velocity = momentum * velocity - -l2 * weight if optimizer.l2 else momentum * velocity
        velocity = velocity + gradient
        return [weight - rate * velocity, velocity]
    step = gradient + l2 * weight if optimizer.l2 else gradient
    if not momentum:
        return [weight - rate * step]
    velocity = momentum * velocity + step
    return [weight - rate * (step + momentum * velocity), velocity]


def _adam(optimizer, gradient, rate, weight, first, second):
    """`keras.optimizers.AdamW.update_step`: [weight, first moment, second moment] after the step."""
    step = tf.cast(optimizer.iterations.value + 1, gradient.dtype)
    powers = [tf.pow(keras.ops.cast(b, gradient.dtype), step) for b in (optimizer.beta_1, optimizer.beta_2)]
    alpha = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0])
    first = first + (gradient - first) * (1 - optimizer.beta_1)
    second = second + (tf.square(gradient) - second) * (1 - optimizer.beta_2)
    return [weight - first * alpha / (tf.sqrt(second) + optimizer.epsilon), first, second]


_RULES = {  # by type: (what the optimizer keeps per weight, the update of a vector of weights)
    optimizers.SGD: (lambda optimizer: [optimizer.momentums] if optimizer.momentum else [], _sgd),
    keras.optimizers.AdamW: (compat.adam_moments, _adam),
}
