"""The losses by name, and what is known of each without TensorFlow: flags, checks and the dry run read this table."""

from typing import NamedTuple

_OF_THE_RUN = ("temperature", "radius", "center")


class LossFacts(NamedTuple):
    """What a loss takes and needs.

    Attributes:
      arguments: keyword arguments of its function.
      probabilities: where a student trained with it has its probabilities: the softmax of its "raw" logits, or of its
        logits on the "sphere".
      needs_teacher: whether it distils.
      needs_one_class: whether each label must be one class; label smoothing is refused then.
    """

    arguments: tuple[str, ...]
    probabilities: str = "raw"
    needs_teacher: bool = True
    needs_one_class: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        """The arguments that --loss_settings gives; the others are settings of the run."""
        return tuple(name for name in self.arguments if name not in _OF_THE_RUN)


LOSS_FACTS = {
    "spherical": LossFacts(("temperature", "radius", "center"), probabilities="sphere"),
    "kd": LossFacts(("temperature",)),
    "cross_entropy": LossFacts((), needs_teacher=False),
    "logit_standardization": LossFacts(("temperature",)),
    "dkd": LossFacts(("temperature", "alpha", "beta"), needs_one_class=True),
    "dist": LossFacts(("temperature",)),
}
LOSS_NAMES = tuple(LOSS_FACTS)
