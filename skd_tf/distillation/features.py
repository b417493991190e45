"""Features: the term of the loss that compares outputs of layers inside the student with those inside the teacher."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.config import grammar
from skd_tf.distillation.hyperparameters import whole_number
from skd_tf.errors import InputError, did_you_mean, input_error
from skd_tf.losses.terms import Tensor
from skd_tf.models import frozen_layers, layer_outputs

LOSSES = ("mse", "cosine")


class Features(keras.layers.Layer):
    """How far features inside the student are from those inside the teacher, through a trained projector.

        feature = sum over pairs of the mean over positions of

            mean over channels of (P s - t)^2            "mse"
            || P s / ||P s|| - t / ||t|| ||^2            "cosine", norms over channels

    s and t are what two layers return: `[batch, height, width, channels]`, `[batch, positions, channels]` or `[batch,
    channels]`. The projector P, with a bias, maps the student's channels to the teacher's: a 1x1 convolution, or a dense
    layer without positions. Where sizes differ, the larger features are averaged down to the smaller size. If one side has
    no positions, the other is averaged over all of its own.

    It computes in float32 or float64, whatever the networks compute in. The teacher has no gradient.

    Args:
      pairs: (teacher's layer, student's layer), each by name (`skd_tf.models.frozen_layers.layers_meant`).
      loss: "mse" or "cosine".
      seed: of the projectors' initial weights, U(+-1 / sqrt(student's channels)).
      dtype: "float32" or "float64".

    Raises:
      InputError: an unknown loss, or `seed` is no whole number >= 0.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str]], loss: str = "mse", *, seed: int = 0, dtype: str = "float32"
    ) -> None:
        super().__init__(dtype=dtype, name="features")
        if loss not in LOSSES:
            raise input_error(
                "Unknown feature loss",
                expected=" or ".join(LOSSES),
                received=f"feature_loss={loss!r}",
                remedy=did_you_mean(loss, LOSSES, "Choose one of these"),
            )
        self.pairs, self.loss, self.seed = as_pairs(pairs), loss, whole_number("feature_seed", seed)
        self.projectors: list[keras.layers.Dense] = []
        # Not an attribute of Keras': neither network is a part of this layer.
        object.__setattr__(self, "_layers_of", {"student": (), "teacher": ()})
        # Whether `pairs` has the names of `frozen_layers.layer_names`, which are the same in every process.
        object.__setattr__(self, "_has_stable_names", {"student": False, "teacher": False})

    @classmethod
    def of(cls, student: Any, pairs: Sequence[tuple[str, str]], loss: str, seed: int) -> "Features":
        """The features of a student, which has its layers; `connect` follows."""
        wide = any(weight.dtype == "float64" for weight in student.weights)
        made = cls(pairs, loss, seed=seed, dtype="float64" if wide else "float32")
        made.connect(student, None)
        return made

    def get_config(self) -> dict[str, Any]:
        """The Distiller's arguments that make it, and the widths of its projectors."""
        pairs = [list(pair) for pair in self.pairs]
        own = {"feature_pairs": pairs, "feature_loss": self.loss, "feature_seed": self.seed}
        return own | {"feature_channels": self.channels}

    def connect(self, student: Any, teacher: Any) -> None:
        """Finds the layers, and builds the projectors.

        Args:
          student: Functional or Sequential keras.Model.
          teacher: the same, or a `ModelAdapter` of one; None: only the student's layers are checked.

        Raises:
          InputError: a layer does not exist, returns no features, or has another width than the projector.
        """
        if isinstance(teacher, tuple):
            raise input_error(
                "Features are those of one teacher",
                expected="one teacher with feature_pairs",
                received=f"{len(teacher)} teachers",
                remedy="Drop feature_pairs, or all teachers but one",
            )
        layers_of: dict[str, Any] = {"student": (), "teacher": ()}
        shapes: dict[str, Any] = {}
        names: list[Any] = [[pair[place] for pair in self.pairs] for place in (0, 1)]
        for who, model, place in (("student", student, 1), ("teacher", teacher, 0)):
            if model is not None:
                stable = (
                    frozen_layers.numbered_in_the_model() if self._has_stable_names[who] else contextlib.nullcontext()
                )
                with stable:
                    found = [layer_outputs.layer_called(model, pair[place], who) for pair in self.pairs]
                layers_of[who], shapes[who], names[place] = zip(*found, strict=True)
        if teacher is not None:
            both = [*zip(shapes["student"], shapes["teacher"], strict=True)]
            for pair, (s, t) in zip(self.pairs, both, strict=True):
                _require_comparable(pair, s, t)
            self.make([(s[-1] or 0, t[-1] or 0) for s, t in both])
        self.pairs = tuple(zip(*names, strict=True))
        self._has_stable_names.update(dict.fromkeys(shapes, True))
        self._layers_of.update(layers_of)

    def make(self, channels: Sequence[tuple[int, int]]) -> None:
        """Builds the projectors, unless they are.

        Args:
          channels: as the property.

        Raises:
          InputError: they are built for others.
        """
        if self.projectors:
            if self.channels != [*map(tuple, channels)]:
                raise input_error(
                    "The teacher's features have another width than the one that the projectors were made for",
                    expected=f"{[width for _, width in self.channels]} channels",
                    received=f"{[width for _, width in channels]}",
                    remedy="Use a teacher of the same network",
                )
            return
        for number, (width, teacher_width) in enumerate(channels):
            # SeedSequence is a published hash: neighbouring seeds and pairs get unrelated numbers.
            seeds = map(int, np.random.SeedSequence((self.seed, number)).generate_state(2))
            # As in torch.nn.Linear. The bias keeps the norm of a projected feature that is all zeros from being 0.
            kernel, bias = (keras.initializers.RandomUniform(-(width**-0.5), width**-0.5, s) for s in seeds)
            projector = keras.layers.Dense(
                teacher_width,
                kernel_initializer=kernel,
                bias_initializer=bias,
                dtype=self.dtype_policy,
                name=f"projector_{number}",
            )
            projector.build((None, width))
            self.projectors.append(projector)
        self.built = True

    def recorded(self, who: str) -> Any:
        """A context in which the features of "student" or "teacher" are recorded while that network is called."""
        return layer_outputs.recorded(self._layers_of[who])

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], count: Any) -> Tensor:
        """The feature term of each image, `[batch]` float32 or float64.

        Args:
          student, teacher: features of each pair, as `recorded` yields them.
          count: how many images count, the first ones.
        """
        terms = []
        for projector, s, t in zip(self.projectors, student, teacher, strict=True):
            s, t = _matched(*(tf.cast(part[:count], self.compute_dtype) for part in (s, tf.stop_gradient(t))))
            positions = math.prod(s.shape[1:-1])
            # One matrix product of all positions: the gradient of Keras' own would be one matrix per row of an image.
            s, t = (tf.reshape(part, [-1, part.shape[-1]]) for part in (s, t))
            s = projector(s)
            is_mse = self.loss == "mse"
            term = tf.reduce_mean(tf.square(s - t), axis=-1) if is_mse else _distance_of_units(s, t)
            terms.append(tf.reduce_mean(tf.reshape(term, [-1, positions]), axis=1))
        return tf.add_n(terms)

    @property
    def channels(self) -> list[tuple[int, int]]:
        """(student's channels, teacher's channels) of each pair; empty before `connect` and `make`."""
        return [tuple(projector.kernel.shape) for projector in self.projectors]


def of_arguments(student: Any, pairs: Any, loss: Any, weight: Any, seed: Any) -> Features | None:
    """The features that a Distiller's arguments ask for; None without pairs. `InputError` for settings without pairs."""
    pairs = as_pairs(pairs)
    if not pairs and (loss, weight) != ("mse", 1.0):
        raise input_error(
            "Without feature_pairs there is no feature term",
            expected="feature_pairs too",
            received=f"feature_loss={loss!r}, feature_weight={weight!r}",
            remedy="Give feature_pairs, or leave these out",
        )
    return Features.of(student, pairs, loss, seed) if pairs else None


def as_pairs(pairs: str | Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Pairs of layer names, also from the text of --feature_pairs; `InputError` if they are something else."""
    if isinstance(pairs, str):
        return grammar.parse_feature_pairs(pairs)
    try:
        listed: tuple[Any, ...] = tuple(pairs or ())
    except TypeError:
        listed = (pairs,)
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in listed):
        raise input_error(
            "feature_pairs are not pairs of layer names",
            expected='[("TEACHER_LAYER", "STUDENT_LAYER"), ...] or "TEACHER_LAYER:STUDENT_LAYER, ..."',
            received=f"feature_pairs={pairs!r}",
            remedy="Give a list of pairs, also for one pair",
        )
    return tuple((one, other) for one, other in listed)


def not_live() -> InputError:
    """The teacher's logits are there, but not its features."""
    return input_error(
        "feature_pairs needs the teacher in every step",
        expected="a live teacher, and x without teacher_logits",
        received="logits without the teacher that gave them",
        remedy="Set distiller.teacher and pass the images alone, or drop feature_pairs",
    )


def _require_comparable(pair, student, teacher):
    """Refuses outputs that are not features, or that have positions in different forms."""
    ranks = {len(student), len(teacher)}
    known = student[-1] is not None and teacher[-1] is not None
    if not known or not ranks <= {2, 3, 4} or ranks == {3, 4}:
        raise input_error(
            "Two layers have outputs that cannot be compared",
            expected="[batch, height, width, channels] or [batch, positions, channels] of both, or [batch, channels] of one",
            received=f"feature_pairs with {pair[0]} {teacher} of the teacher and {pair[1]} {student} of the student",
            remedy="See --list_layers for the shapes",
        )


def _matched(student, teacher):
    """Both features with the same number of positions: the smaller one along each axis."""
    if 2 in (len(student.shape), len(teacher.shape)):
        return [tf.reduce_mean(part, axis=range(1, len(part.shape) - 1)) for part in (student, teacher)]
    sizes = [tuple(part.shape[1:-1]) for part in (student, teacher)]
    if None in (*sizes[0], *sizes[1]):
        raise input_error(
            "The size of the features is not known before a step",
            expected="images of one fixed size",
            received=f"features of {sizes[0]} and {sizes[1]} positions",
            remedy="Resize the images, or set their shape",
        )
    for axis in range(1, len(student.shape) - 1):
        size = min(student.shape[axis], teacher.shape[axis])
        student, teacher = (_averaged(part, axis, size) for part in (student, teacher))
    return student, teacher


def _averaged(features, axis, size):
    """Averages features down to `size` positions along an axis.

    Position i covers those from floor(i n / size) to ceil((i + 1) n / size), as in torch's adaptive_avg_pool2d.
    """
    length = features.shape[axis]
    if length == size:
        return features
    starts = np.arange(size) * length // size
    ends = -(-np.arange(1, size + 1) * length // size)
    places = np.arange(length)
    inside = (places >= starts[:, None]) & (places < ends[:, None])
    weights = tf.constant(inside / inside.sum(axis=1, keepdims=True), features.dtype)
    axes = "bhw"[: len(features.shape) - 1] + "c"
    return tf.einsum(f"Z{axes[axis]},{axes}->{axes.replace(axes[axis], 'Z')}", weights, features)


def _distance_of_units(student, teacher):
    """The squared distance of two features scaled to norm 1, over channels: 2 - 2 cos. All zeros stay zeros.

    Multiplied out, it needs three sums over channels, and no large tensor besides the products.
    """
    (s, one), (t, other) = map(_inverse_norm, (student, teacher))
    return one + other - 2 * tf.reduce_sum(student * teacher, axis=-1) * s * t


def _inverse_norm(features):
    """1 / norm over channels, and 1; or 0 and 0 where all are zeros, whose gradient would be infinite."""
    squares = tf.reduce_sum(tf.square(features), axis=-1)
    present = tf.cast(squares > 0, features.dtype)
    return present * tf.math.rsqrt(tf.where(squares > 0, squares, 1)), present
