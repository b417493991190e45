"""What a run knows of its models on the test split: the rows of result.json, and the details that a report draws."""

import numpy as np

from skd_tf.evaluation import bootstrap, metrics

FILE = "measurements.json"
_NORM_BINS = 40


def measure(logits, raw_logits, labels, parameters):
    """Measures teacher, student alone and student, those there are.

    Args:
      logits: {name: `[n, classes]`} whose softmax is the probability; "teacher" among them is who the others are compared
        with.
      raw_logits: {name: `[n, classes]`} before the readout, for names whose readout is not "raw".
      labels: integer `[n]`, all >= 0.
      parameters: {name: trainable parameters}.

    Returns:
      (rows, details). rows: {name: `metrics.quality`, `metrics.comparison` with the teacher, "parameters"}; its "logit_norm"
      is of the raw logits: on a sphere every norm is the radius. details: {name: {"reliability", "per_class_accuracy",
      "intervals", "norms", and for a student on a sphere "raw": quality of its raw softmax}}.
    """
    raw = {name: raw_logits.get(name, z) for name, z in logits.items()}
    teacher = logits.get("teacher")
    norms = {name: metrics.norms(z) for name, z in raw.items()}
    edges = _shared_edges(norms.values())
    rows, details = {}, {}
    for name, z in logits.items():
        rival = teacher if name != "teacher" else None
        rows[name] = metrics.quality(z, labels) | (metrics.comparison(z, rival) if rival is not None else {})
        rows[name] |= {"logit_norm": float(norms[name].mean()), "parameters": parameters[name]}
        details[name] = {
            "reliability": metrics.reliability(z, labels),
            "per_class_accuracy": metrics.per_class_accuracy(z, labels),
            "intervals": bootstrap.intervals(z, labels, rival),
            "norms": {"edges": edges.tolist(), "counts": np.histogram(norms[name], edges)[0].tolist()},
        }
        if name in raw_logits:
            details[name]["raw"] = metrics.quality(raw[name], labels)
            details[name]["raw_reliability"] = metrics.reliability(raw[name], labels)
    return rows, details


def _shared_edges(norms):
    """Edges of one histogram for all, evenly spaced on a log axis: norms of two nets can differ a hundredfold."""
    every = np.concatenate(list(norms))
    low, high = max(every.min(), 1e-6), max(every.max(), 2e-6)
    edges = np.geomspace(low * 0.98, high * 1.02, _NORM_BINS + 1)
    edges[0] = min(edges[0], every.min())
    return edges
