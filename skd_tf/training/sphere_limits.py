"""Spheres that are too small for the teacher's answers, or so large that images can get stuck: accepted, and said."""

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.losses import sphere_geometry
from skd_tf.losses.names import facts_of

# Below this the sphere can only express "perhaps": with 100 classes, R = 10 and T = 4 no class can exceed 0.11.
_LEAST_TOP_PROBABILITY = 0.25


def warnings(config: Config, radius: float, classes: int) -> list[str]:
    """A line if the sphere is too small for these settings, and one if it is too large; none for a loss without a sphere.

    Args:
      config: of the run. A scheduled weight counts with its first value.
      radius: of the sphere.
      classes: number of classes.

    Example:
      >>> warnings(Config(loss="spherical", temperature=4.0), radius=20.0, classes=100)
      []
      >>> warnings(Config(loss="spherical", temperature=4.0), radius=10.0, classes=100)[0].partition(": ")[2]
      'no class can exceed 0.111. Lower --temperature or raise --radius.'
    """
    if facts_of(config.loss).probabilities != "sphere":
        return []
    found, top = [], sphere_geometry.top_probability(classes, radius, config.temperature)
    if top < _LEAST_TOP_PROBABILITY:
        found.append(
            "--radius / --temperature is too small for the sphere to represent the teacher: "
            f"no class can exceed {top:.3f}. Lower --temperature or raise --radius."
        )
    kd_weight = _first(config.kd_weight)
    label_weight = 1.0 - kd_weight if config.label_weight is None else _first(config.label_weight)
    if classes > 2 and (kd_weight or label_weight):
        weights = {"kd_weight": kd_weight, "label_weight": label_weight}
        second = sphere_geometry.second_minimum_radius(classes, temperature=config.temperature, **weights)
        if radius > second:
            found.append(
                f"R is {radius:.4g}. From R = {second:.3g} on, at this temperature and these weights, an image or a "
                "whole class can get stuck opposite its label (docs/sphere.md). Use a smaller --radius or a higher "
                "--temperature."
            )
    return found


def _first(weight):
    return float(schedules.loss_weight(weight, 1, 1)[0])
