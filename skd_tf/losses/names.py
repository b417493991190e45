"""LOSS_FACTS and facts_of: what is known about each loss without TensorFlow. Flags, checks and the dry run read it."""

from typing import NamedTuple

from skd_tf.errors import did_you_mean

RUN_SETTINGS = ("temperature", "radius", "center", "teacher_weights")  # of any loss that names them


class LossFacts(NamedTuple):
    """What a loss takes and needs.

    Attributes:
      arguments: the keyword arguments of its function.
      probabilities: where the probabilities of a student trained with it are taken: the softmax of its "raw" logits, or
        of its logits on the "sphere".
      needs_teacher: whether the loss uses a teacher.
      needs_one_class: whether each label must be a single class; label smoothing is then refused.
      standardizes: whether the distill term sees standardized logits. With two classes these are one of two points,
        without a gradient.
      positive: settings that must be above 0; the others may be 0.
    """

    arguments: tuple[str, ...]
    probabilities: str = "raw"
    needs_teacher: bool = True
    needs_one_class: bool = False
    standardizes: bool = False
    positive: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The arguments given in --loss_settings. The others have flags of their own."""
        return tuple(name for name in self.arguments if name not in RUN_SETTINGS)

    @property
    def takes_several_teachers(self) -> bool:
        """Whether the distill term depends on one distribution of the teacher, which several can share."""
        return "teacher_weights" in self.arguments


LOSS_FACTS = {
    "spherical": LossFacts(RUN_SETTINGS, probabilities="sphere"),
    "kd": LossFacts(("temperature", "teacher_weights")),
    "cross_entropy": LossFacts((), needs_teacher=False),
    "logit_standardization": LossFacts(("temperature", "teacher_weights"), standardizes=True),
    "dkd": LossFacts(("temperature", "alpha", "beta", "teacher_weights"), needs_one_class=True),
    "dist": LossFacts(("temperature", "teacher_weights")),
    "rld": LossFacts(
        ("temperature", "alpha", "beta", "confidence_temperature"),
        needs_one_class=True,
        positive=("confidence_temperature",),
    ),
    "wttm": LossFacts(("exponent", "weighted"), positive=("exponent",)),
}
LOSS_NAMES = tuple(LOSS_FACTS)
OF_SEVERAL_TEACHERS = tuple(name for name, facts in LOSS_FACTS.items() if facts.takes_several_teachers)
_OWN = LossFacts(RUN_SETTINGS)


def facts_of(loss: str) -> LossFacts:
    """What is known about a loss by name. MODULE:FUNCTION is known to be a loss on raw logits, and no more."""
    return LOSS_FACTS.get(loss, _OWN)


def did_you_mean_loss(name: str, otherwise: str) -> str:
    """A remedy for an unknown name: the loss that is meant, or `otherwise`.

    Example:
      >>> did_you_mean_loss("SKD", "Choose one"), did_you_mean_loss("dsit", "Choose one"), did_you_mean_loss("x", "Choose one")
      ('Spherical KD is called spherical', 'Did you mean dist?', 'Choose one')
    """
    if name.lower() in ("skd", "spherical_kd", "spherical kd"):
        return "Spherical KD is called spherical"
    return did_you_mean(name, LOSS_NAMES, otherwise)
