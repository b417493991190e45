"""What is measured of a model on the test split: one model, or all models of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from skd_tf.evaluation import bootstrap, metrics

Logits = Mapping[str, np.ndarray]  # `[n, classes]` by the name of the model
_NORM_BINS = 40
_DETAILS = ("overconfidence", "per_class_accuracy", "intervals", "raw")  # of `measure_model`, that no result.json holds


def measure_model(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    teacher_logits: np.ndarray | None = None,
    raw_logits: np.ndarray | None = None,
    bootstrap_samples: int = bootstrap.SAMPLES,
    bootstrap_seed: int = 0,
) -> dict[str, Any]:
    """Measures the predictions of one model.

    Args:
      logits: `[n, classes]`; their softmax is the probability.
      labels: integer `[n]`, all >= 0.
      teacher_logits: `[n, classes]` of the teacher to compare with, or None.
      raw_logits: `[n, classes]` before the sphere, for a student whose probabilities are taken on one; else None.
      bootstrap_samples: resampled test splits for the 95% intervals; 0 for no intervals.
      bootstrap_seed: seed of the resampling.

    Returns:
      What `metrics.quality` and `metrics.over_classes` give, "overconfidence" (mean confidence minus accuracy), "per_class_accuracy"; with a
      teacher what `metrics.comparison` gives; "intervals" of `bootstrap.intervals`; "raw", quality of the raw softmax.
    """
    found: dict[str, Any] = metrics.quality(logits, labels) | metrics.over_classes(logits, labels)
    found["overconfidence"] = found["confidence"] - found["accuracy"]
    found["per_class_accuracy"] = metrics.per_class_accuracy(logits, labels)
    if teacher_logits is not None:
        found |= metrics.comparison(logits, teacher_logits)
    if bootstrap_samples:
        draws = {"samples": bootstrap_samples, "seed": bootstrap_seed}
        found["intervals"] = bootstrap.intervals(logits, labels, teacher_logits, **draws)
    if raw_logits is not None:
        found["raw"] = metrics.quality(raw_logits, labels)
    return found


def measure(
    logits: Logits, raw_logits: Logits, labels: np.ndarray, parameters: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures the models of a run: teacher, student alone and student, as far as they exist.

    Args:
      logits: {name: `[n, classes]`} whose softmax is the probability. The others are compared with "teacher".
      raw_logits: {name: `[n, classes]`} before the sphere, of the models whose probabilities are taken on one.
      labels: integer `[n]`, all >= 0.
      parameters: {name: number of trainable parameters}.

    Returns:
      (results, details), two dicts by name. A result, for result.json, has what `metrics.quality`,
      `metrics.over_classes` and `metrics.comparison` give, with the "logit_norm" of the raw logits (on a sphere every norm is the radius), and
      "parameters". Details, for measurements.json, are "reliability", "per_class_accuracy", "intervals" and "norms" (a
      histogram); for a student on a sphere also "raw" and "raw_reliability", those of its raw softmax.
    """
    raw = {name: raw_logits.get(name, z) for name, z in logits.items()}
    norms = {name: metrics.norms(z) for name, z in raw.items()}
    edges = _shared_edges(norms.values())
    results, details = {}, {}
    for name, z in logits.items():
        teacher = logits.get("teacher") if name != "teacher" else None
        found = measure_model(z, labels, teacher_logits=teacher, raw_logits=raw_logits.get(name))
        results[name] = {key: value for key, value in found.items() if key not in _DETAILS}
        results[name] |= {"logit_norm": float(norms[name].mean()), "parameters": parameters[name]}
        details[name] = {
            "reliability": metrics.reliability(z, labels),
            "per_class_accuracy": found["per_class_accuracy"],
            "intervals": found["intervals"],
            "norms": {"edges": edges.tolist(), "counts": np.histogram(norms[name], edges)[0].tolist()},
        }
        if "raw" in found:
            details[name] |= {"raw": found["raw"], "raw_reliability": metrics.reliability(raw[name], labels)}
    return results, details


def _shared_edges(norms):
    """Edges of one histogram for all models, evenly spaced on a log axis: norms of two networks can differ 100-fold."""
    every = np.concatenate(list(norms))
    low, high = max(every.min(), 1e-6), max(every.max(), 2e-6)
    edges = np.geomspace(low * 0.98, high * 1.02, _NORM_BINS + 1)
    edges[0] = min(edges[0], every.min())
    return edges
