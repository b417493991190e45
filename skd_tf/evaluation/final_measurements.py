"""What is measured of one model, and of the models of a run: the one path of train, evaluate and export."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from skd_tf.evaluation import bootstrap, metrics
from skd_tf.evaluation.temperature_scaling import Calibration
from skd_tf.runs import predictions

_NORM_BINS = 40
_DETAILS = ("overconfidence", "per_class_accuracy", "intervals", "raw", "predictions")  # that no result.json holds


class ModelLogits(NamedTuple):
    """The logits of one model on the test split.

    Attributes:
      logits: `[n, classes]`; their softmax is the probability before calibration.
      raw: `[n, classes]` before the sphere, for a student whose probabilities are taken on one; else None.
      parameters: number of trainable parameters.
      calibration: the temperature that divides the logits of the shipped file; None: none does.
    """

    logits: np.ndarray
    raw: np.ndarray | None = None
    parameters: int = 0
    calibration: Calibration | None = None


def measure_model(
    model: ModelLogits,
    labels: np.ndarray,
    *,
    summary: metrics.Summary | None = None,
    teacher: metrics.Summary | None = None,
    bootstrap_samples: int = bootstrap.SAMPLES,
    bootstrap_seed: int = 0,
) -> dict[str, Any]:
    """Measures the predictions of one model.

    Args:
      model: its logits.
      labels: integer `[n]`, all >= 0; or all -1 in a dataset without labels, whose models have no accuracy.
      summary: of the logits, if it is known already.
      teacher: summary of the teacher to compare with, or None.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: seed of the resampling.

    Returns:
      What `metrics.quality` and `metrics.over_classes` give, "overconfidence" (mean confidence minus accuracy),
      "per_class_accuracy"; with a teacher what `metrics.comparison` gives; "intervals" of `bootstrap.intervals`; "raw",
      quality of the raw softmax; "predictions", as `runs.predictions` encodes them; "calibrated",
      quality of the calibrated softmax with "temperature" and
      "validation_examples". All others are before calibration.
    """
    summary = summary or metrics.summarize(model.logits, labels)
    found: dict[str, Any] = summary.quality() | summary.over_classes()
    if "accuracy" in found:
        found["overconfidence"] = found["confidence"] - found["accuracy"]
        found["per_class_accuracy"] = summary.per_class_accuracy()
    if teacher is not None:
        found |= summary.comparison(teacher)
    if bootstrap_samples:
        found["intervals"] = bootstrap.intervals(summary, teacher, samples=bootstrap_samples, seed=bootstrap_seed)
    found["predictions"] = predictions.encode(np.where(summary.defined, summary.predicted, -1))
    if model.raw is not None:
        found["raw"] = metrics.quality(model.raw, labels)
    if model.calibration is not None:
        found["calibrated"] = model.calibration.effect(model.logits, labels)
    return found


def measure(models: Mapping[str, ModelLogits], labels: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures the models of a run: teacher, student alone and student, as far as they exist.

    Args:
      models: {name: `ModelLogits`}. The others are compared with "teacher".
      labels: integer `[n]`, all >= 0; or all -1 in a dataset without labels, whose models have no accuracy.

    Returns:
      (results, details), two dicts by name. A result, for result.json, has what `metrics.quality`,
      `metrics.over_classes` and `metrics.comparison` give, with the "logit_norm" of the raw logits (on a sphere every
      norm is the radius), "parameters" and, if there is a fitted temperature, "calibrated". Details, for
      measurements.json, are "reliability", "per_class_accuracy", "intervals", "norms" (a histogram) and "predictions"; for a student on
      a sphere also "raw" and "raw_reliability", those of its raw softmax; for a calibrated model "calibrated_reliability".
    """
    summaries = {name: metrics.summarize(model.logits, labels) for name, model in models.items()}
    raw = {name: metrics.summarize(model.raw, labels) for name, model in models.items() if model.raw is not None}
    norms = {name: raw.get(name, summary).norm for name, summary in summaries.items()}
    edges = _shared_edges(list(norms.values()))
    results: dict[str, Any] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        summary, teacher = summaries[name], summaries.get("teacher") if name != "teacher" else None
        found = measure_model(model._replace(raw=None), labels, summary=summary, teacher=teacher)
        results[name] = {key: value for key, value in found.items() if key not in _DETAILS}
        results[name] |= {"logit_norm": float(norms[name].mean()), "parameters": model.parameters}
        histogram = {"edges": edges.tolist(), "counts": np.histogram(_finite(norms[name]), edges)[0].tolist()}
        kept = ("per_class_accuracy", "intervals", "predictions")
        details[name] = {"norms": histogram} | {key: found[key] for key in kept if key in found}
        if name in raw:
            details[name]["raw"] = raw[name].quality()
        for kind, of_kind in (("reliability", summary), ("raw_reliability", raw.get(name))):
            if of_kind is not None and of_kind.labelled.any():
                details[name][kind] = of_kind.reliability()
        if model.calibration is not None:
            calibrated = metrics.summarize(model.calibration.scaled(model.logits), labels)
            details[name]["calibrated_reliability"] = calibrated.reliability()
    return results, details


def _shared_edges(norms: Sequence[np.ndarray]):
    """Edges of one histogram for all models, evenly spaced on a log axis: norms of two networks can differ 100-fold."""
    every = _finite(np.concatenate(norms))
    least, most = every.min(initial=np.inf), every.max(initial=0.0)
    low, high = max(min(least, most), 1e-6), max(most, 2e-6)
    edges = np.geomspace(low * 0.98, high * 1.02, _NORM_BINS + 1)
    edges[0] = min(edges[0], least)
    return edges


def _finite(norms: np.ndarray):
    """Without those of images whose logits are not finite."""
    return norms[np.isfinite(norms)]
