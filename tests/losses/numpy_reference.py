"""Float64 numpy references for skd_tf.losses: the published formula of one image, in a loop over the batch."""

import numpy as np


def softmax(logits):
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / exponentials.sum()


def log_softmax(logits):
    shifted = logits - np.max(logits)
    return shifted - np.log(np.exp(shifted).sum())


def kl(teacher, student):
    """KL(softmax(teacher) || softmax(student)) of one image's logits."""
    return np.sum(softmax(teacher) * (log_softmax(teacher) - log_softmax(student)))


def direction(logits, center=True):
    return logits - logits.mean() if center else logits


def logit_norm(logits, center=True):
    return np.array([np.linalg.norm(direction(row, center)) for row in np.asarray(logits, "float64")])


def project(logits, radius, center=True):
    rows = [direction(row, center) for row in np.asarray(logits, "float64")]
    return np.stack([radius * row / np.linalg.norm(row) for row in rows])


def label_terms(logits, labels):
    """-log p_y; -sum_c y_c log p_c for soft labels; 0 where the label is -1."""
    log_p = [log_softmax(row) for row in np.asarray(logits, "float64")]
    if np.ndim(labels) == 2:
        return np.array([-np.sum(soft * row) for soft, row in zip(labels, log_p, strict=True)])
    return np.array([0.0 if label == -1 else -row[label] for label, row in zip(labels, log_p, strict=True)])


def _distill_terms(student, teacher, temperature):
    pairs = zip(np.asarray(student, "float64"), np.asarray(teacher, "float64"), strict=True)
    return np.array([temperature**2 * kl(t / temperature, s / temperature) for s, t in pairs])


def cross_entropy(student, teacher, labels):
    return {"label": label_terms(student, labels)}


def kd(student, teacher, labels, temperature):
    return {"label": label_terms(student, labels), "distill": _distill_terms(student, teacher, temperature)}


def spherical_kd(student, teacher, labels, temperature, radius, center=True):
    if isinstance(radius, str):
        student = project(student, 1.0, center) * logit_norm(teacher, center)[:, None]
    else:
        student, teacher = project(student, radius, center), project(teacher, radius, center)
    return kd(student, teacher, labels, temperature)


def standardize(logits):
    """Logit Standardization's Z, with the unbiased std of torch.std."""
    return np.stack([(row - row.mean()) / (1e-7 + row.std(ddof=1)) for row in np.asarray(logits, "float64")])


def logit_standardization(student, teacher, labels, temperature):
    distill = _distill_terms(standardize(student), standardize(teacher), temperature)
    return {"label": label_terms(student, labels), "distill": distill}


def dkd(student, teacher, labels, temperature, alpha, beta):
    distill = np.zeros(len(labels))
    for i, label in enumerate(labels):
        if label == -1:
            continue
        s, t = (np.asarray(logits[i], "float64") / temperature for logits in (student, teacher))
        p_s, p_t = softmax(s)[label], softmax(t)[label]
        target = p_t * np.log(p_t / p_s) + (1 - p_t) * np.log((1 - p_t) / (1 - p_s))
        others = kl(np.delete(t, label), np.delete(s, label))
        distill[i] = temperature**2 * (alpha * target + beta * others)
    return {"label": label_terms(student, labels), "distill": distill}


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8)


def dist(student, teacher, labels, temperature):
    p_s = np.stack([softmax(row / temperature) for row in np.asarray(student, "float64")])
    p_t = np.stack([softmax(row / temperature) for row in np.asarray(teacher, "float64")])
    over_classes = np.array([1 - correlation(s, t) for s, t in zip(p_s, p_t, strict=True)])
    over_batch = np.mean([1 - correlation(s, t) for s, t in zip(p_s.T, p_t.T, strict=True)])
    return {"label": label_terms(student, labels), "distill": temperature**2 * (over_classes + over_batch)}


def rld(student, teacher, labels, temperature, alpha, beta, confidence_temperature=1.0):
    distill = np.zeros(len(labels))
    for i, label in enumerate(labels):
        if label == -1:
            continue
        s, t = (np.asarray(logits[i], "float64") for logits in (student, teacher))
        a = confidence_temperature
        top, own = softmax(t / a).max(), softmax(s / a)[label]
        confidence = top * np.log(top / own) + (1 - top) * np.log((1 - top) / (1 - own))
        below = [c for c in range(len(t)) if t[c] < t[label]]
        order = kl(t[below] / temperature, s[below] / temperature) if below else 0.0
        distill[i] = alpha * a**2 * confidence + beta * temperature**2 * order
    return {"label": label_terms(student, labels), "distill": distill}


def wttm(student, teacher, labels, exponent, weighted=1.0):
    distill = []
    for s, t in zip(np.asarray(student, "float64"), np.asarray(teacher, "float64"), strict=True):
        powers = softmax(t) ** exponent
        q = powers / powers.sum()
        distill.append(powers.sum() ** weighted * np.sum(q * (np.log(q) - log_softmax(s))))
    return {"label": label_terms(student, labels), "distill": np.array(distill)}


def numeric_gradient(function, point, step=1e-5):
    """Central differences of a scalar function at a float64 array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        offset = np.zeros_like(point)
        offset[index] = step
        gradient[index] = (function(point + offset) - function(point - offset)) / (2 * step)
    return gradient
