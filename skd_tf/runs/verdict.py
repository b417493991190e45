"""The verdict on a run, in words: did distilling help, where does the student fail, what to try next.

The end of training prints it, result.json holds it under "verdict", and the report opens with it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skd_tf.errors import counted
from skd_tf.runs import next_steps, predictions
from skd_tf.runs.columns import ROLES
from skd_tf.runs.next_steps import FEWEST_STEPS

WORDS = ("ahead", "level", "behind", "unknown")  # the distilled student, beside the student alone
UNDECIDED = "Undecided: too few test images to tell"
_CLEAR = 0.02  # of top-1: a gain or a loss that matters
OVER_IMAGES = "The interval is over test images; another seed or split may differ by more."
_Z = 1.959964  # of a two-sided 95% interval
_NAMED_CLASSES = 5
_PAIRS = (
    *(("student", "student_alone"), ("student", "student_matched")),
    *(("student", "teacher"), ("teacher", "student_alone")),
)


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The difference of two models' accuracy on the same images.

    With b and c the images that only the first and only the second model gets right, the interval is Bonett and
    Price's (2012, doi:10.3102/1076998611411915): p = (b + 1)/(n + 2), q = (c + 1)/(n + 2),
    (p - q) -+ 1.96 sqrt((p + q - (p - q)^2)/(n + 2)). The p value is McNemar's mid-p: the exact one is conservative, and can
    exceed 0.05 where the interval excludes 0 (Fagerland and others 2013, doi:10.1186/1471-2288-13-91).

    Args:
      first, second: predicted classes, integer `[n]`.
      labels: integer `[n]`.

    Returns:
      {"word", "difference" (first minus second), "interval" (95%), "only_first_right", "only_second_right", "p_value",
      "images", "paired"}. The word is "ahead", "behind", or "level" if the interval holds 0.

    Examples:
      >>> found = compare(np.array([1] * 9 + [0]), np.zeros(10, int), np.ones(10, int))
      >>> found["word"], found["difference"], found["only_first_right"]
      ('ahead', 0.9, 9)
    """
    right, other = np.asarray(first) == labels, np.asarray(second) == labels
    n, b, c = len(right), int((right & ~other).sum()), int((~right & other).sum())
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = _Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    counts = {"only_first_right": b, "only_second_right": c, "p_value": _mcnemar(b, c), "images": n}
    return _worded((b - c) / n, [p - q - half, p - q + half]) | counts | {"paired": True}


def compare_accuracies(first: float, second: float, images: int) -> dict[str, Any]:
    """As `compare`, from two accuracies alone: the interval of independent images, which is too wide for the same ones."""
    half = _Z * math.sqrt((first * (1 - first) + second * (1 - second)) / images)
    ends = [first - second - half, first - second + half]
    return _worded(first - second, ends) | {"images": images, "paired": False}


def compare_with_best(models: Sequence[tuple[str, np.ndarray]], labels: np.ndarray) -> list[dict[str, Any]]:
    """The model with the most right answers, compared with each of the others on the same images.

    Args:
      models: (name, predicted classes `[n]`) of each model.
      labels: integer `[n]`.

    Returns:
      {"first", "second" (their names)} and what `compare` gives, for each other model; [] for one model.
    """
    best = max(range(len(models)), key=lambda i: int((models[i][1] == labels).sum()))
    name, predicted = models[best]
    return [
        {"first": name, "second": other} | compare(predicted, theirs, labels)
        for i, (other, theirs) in enumerate(models)
        if i != best
    ]


def undecided(comparison: Mapping[str, Any]) -> bool:
    """Whether the images are too few to tell: the interval holds 0, and is wider than 4 points.

    It then contains differences that matter. The word of such a comparison is "level", because the interval holds 0.
    """
    low, high = comparison["interval"]
    return low <= 0 <= high and high - low > 2 * _CLEAR


def comparison_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `compare_with_best` found, a sentence for each comparison."""
    found = []
    for one in comparisons:
        gain = f"{points(one['difference'], one['images'])} points of top-1, {interval(one)}"
        images, (first, second) = counted(one["images"], "image"), (one["first"], one["second"])
        if one["word"] == "level":
            found.append(f"{first} and {second} cannot be told apart on these {images}: {gain}.")
        else:
            where = "ahead of" if one["word"] == "ahead" else "behind"
            found.append(f"{first} is {where} {second} on the same {images}: {gain}.")
    return found + ["Each interval holds for its comparison alone."] * (len(comparisons) > 1)


def judge(
    models: Mapping[str, Mapping[str, Any]],
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    *,
    class_names: Sequence[str],
    config: Mapping[str, Any],
    steps: int,
    images: int = 0,
    stopped_early: bool = False,
    data_dir: str = "",
) -> dict[str, Any]:
    """The verdict on a finished run.

    Args:
      models: "teacher", "student_alone" and "student" of a result.json, as far as they exist.
      predicted: {model: predicted classes `[n]` of the test images}; {} if they were not recorded.
      labels: integer `[n]`; None if they were not recorded.
      class_names: in the order of the labels.
      config: the run's settings.
      steps: optimizer steps of the run.
      images: number of test images, if `labels` is None.
      stopped_early: whether training ended before its last epoch, so that more epochs would change nothing.
      data_dir: where the run read its data; "" for the default folder.

    Returns:
      {"word": "ahead", "level", "behind" (the distilled student against the student alone) or "unknown", "text": a
      sentence, "warnings": sentences, "next": what to try, as `next_steps.steps` gives it, "useless": whether always
      answering the most common class is as good, "comparisons": {"student against student_alone": `compare`}}.
    """
    against: dict[str, Any] = {}
    for first, second in _PAIRS:
        if first in models and second in models:
            if labels is not None and {first, second} <= predicted.keys():
                against[f"{first} against {second}"] = compare(predicted[first], predicted[second], labels)
            elif images and "accuracy" in models[first]:
                mine, other = (models[name]["accuracy"] for name in (first, second))
                against[f"{first} against {second}"] = compare_accuracies(mine, other, images)
    helped = against.get("student against student_alone")
    weak_teacher = _weak_teacher(against.get("teacher against student_alone"), models)
    few = steps < FEWEST_STEPS and not fine_tunes(config)
    has_labels = all("accuracy" in model for model in models.values())
    who = "student" if "teacher" in models else "model"
    useless = _useless(predicted.get("student"), labels, who)
    warnings = [
        *weak_teacher,
        *_costly(against.get("student against student_matched")),
        *(useless or _lost_classes(predicted.get("student"), labels, class_names, who)),
        *([_few_steps(steps)] if few else []),
    ]
    word = helped["word"] if helped else "unknown"
    return {
        "word": word,
        "text": _headline(helped, models) if has_labels else _agreement(models["student"], images),
        "warnings": warnings,
        "next": next_steps.steps(
            word,
            models,
            config,
            max(steps, 1) if few and not stopped_early else 0,
            weak_teacher=bool(weak_teacher),
            useless=bool(useless),
            data_dir=data_dir,
        ),
        "useless": bool(useless),
        "comparisons": against,
    }


def of_run(result: Mapping[str, Any], details: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The verdict on a run, from its result.json, its measurements.json and its number of optimizer steps."""
    predicted, labels = predictions.of_record(details)
    return judge(
        {name: result[name] for name in ROLES if name in result},
        predicted,
        labels,
        class_names=result["class_names"],
        config=result["config"],
        stopped_early=result.get("epochs_trained", result["config"]["epochs"]) < result["config"]["epochs"],
        steps=steps,
        images=details.get("dataset", {}).get("test", 0),
        data_dir=details.get("dataset", {}).get("data_dir", ""),
    )


def lines(verdict: Mapping[str, Any], path: str | os.PathLike = "RUN") -> list[str]:
    """What the end of training prints of a verdict: at most a line for each thing to know, and what to try.

    Args:
      verdict: as `judge` gives it.
      path: the run's workdir, for the commands.
    """
    text = [verdict["text"]] * bool(verdict["text"])
    helped = verdict.get("comparisons", {}).get("student against student_alone")
    if helped and helped["paired"]:
        text.append(OVER_IMAGES)
    troubled = verdict["word"] in ("behind", "level") or verdict["warnings"]
    steps = [next_steps.typed(tip, path) for tip in verdict["next"]]
    tips = ["\n  ".join(["Try next:", *steps])] if troubled and steps else []
    return [*text, *verdict["warnings"], *tips]


def points(value: float, images: int) -> str:
    """A difference of accuracies in points, "+5.2"; with more digits if there are more images."""
    return f"{100 * value:+.{1 if images < 5000 else 2}f}"


def interval(comparison: Mapping[str, Any]) -> str:
    """The interval of a comparison, "95% interval +2.9 to +7.5"."""
    return "95% interval {} to {}".format(*(points(end, comparison["images"]) for end in comparison["interval"]))


def _worded(gain, interval):
    low, high = interval
    word = "ahead" if low > 0 else "behind" if high < 0 else "level"
    return {"word": word, "difference": float(gain), "interval": [float(low), float(high)]}


def _mcnemar(b, c):
    """The two-sided mid-p value of b and c under equal odds.

    2 sum over k < m of C(b + c, k) / 2^(b + c) + C(b + c, m) / 2^(b + c), where m = min(b, c); 1 if b = c.
    """
    n, k = b + c, np.arange(1, min(b, c) + 1)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log(n - k + 1) - np.log(k))]) - n * math.log(2)
    terms = np.exp(log_terms)
    return 1.0 if b == c else float(2 * terms.sum() - terms[-1])


def _headline(helped, models):
    if helped is None:
        distilled = "teacher" in models
        return (
            "Whether distilling helped is unknown: --student_alone=train also trains the student without its teacher, "
            "and compares." * distilled
        )
    images, gain = counted(helped["images"], "test image"), points(helped["difference"], helped["images"])
    if undecided(helped):
        return f"{UNDECIDED}. With {images}, distilled minus alone is {gain} points of top-1 ({interval(helped)})."
    if helped["word"] == "level":
        return f"Distilled and alone cannot be told apart with {images}: {gain} points of top-1 ({interval(helped)})."
    how, against = ("helped", "over") if helped["word"] == "ahead" else ("made it WORSE", "against")
    return f"Distilling {how}: {gain} points of top-1 {against} the student alone ({interval(helped)}, {images})."


def _agreement(student, images):
    """What is known of a student without any label."""
    return (
        f"The student gives the teacher's answer to {student['agreement']:.1%} of {counted(images, 'test image')}, at a KL "
        f"divergence of {student['kl_to_teacher']:.4f} nats. These images have no labels, so no accuracy is known."
    )


def _weak_teacher(comparison, models):
    """Sentences about a teacher that is no better than the student alone."""
    if comparison is None or comparison["difference"] >= 0:
        return []
    teacher, alone = (models[name]["accuracy"] for name in ("teacher", "student_alone"))
    noise = "" if comparison["word"] == "behind" else ", though not by more than chance"
    return [
        f"The teacher (top-1 {teacher:.4f}) is below the student alone ({alone:.4f}){noise}: it has little to teach."
    ]


def _costly(comparison):
    """A sentence about a student alone that is ahead if it may compute as much as distilling did."""
    if comparison is None or comparison["word"] != "behind":
        return []
    gain = points(comparison["difference"], comparison["images"])
    return [
        "With as much computation as distilling took, the student alone is better: distilled minus alone is "
        f"{gain} points of top-1 ({interval(comparison)})."
    ]


def _useless(predicted, labels, who):
    """A sentence about a model that has learned nothing."""
    if predicted is None or labels is None or not len(labels):
        return []
    right, most_common = int((predicted == labels).sum()), int(np.bincount(labels).max())
    if right > most_common:
        return []
    return [
        f"The {who} (top-1 {right / len(labels):.4f}) is no better than always answering the most common "
        f"class ({most_common / len(labels):.4f}): it has learned nothing useful."
    ]


def _lost_classes(predicted, labels, class_names, who):
    """Sentences about classes that a model never gets right."""
    if predicted is None or labels is None or not len(labels):
        return []
    examples = np.bincount(labels, minlength=len(class_names))
    hits = np.bincount(labels[predicted == labels], minlength=len(class_names))
    lost = [c for c in np.argsort(-examples, kind="stable") if examples[c] and not hits[c]]
    if not lost:
        return []
    named = ", ".join(f"{class_names[c]} ({counted(int(examples[c]), 'image')})" for c in lost[:_NAMED_CLASSES])
    more = f" and {len(lost) - _NAMED_CLASSES} more" if len(lost) > _NAMED_CLASSES else ""
    count = f"{len(lost)} of {counted(len(class_names), 'class')}"
    return [f"The {who} gets every test image of {count} wrong: {named}{more}."]


def _few_steps(steps):
    count = counted(steps, "optimizer step")
    return f"The run had {count}, fewer than any skd_tf recipe that trains from scratch ({FEWEST_STEPS:,} or more)."


def fine_tunes(config: Mapping[str, Any]) -> bool:
    """Whether the student starts from trained weights, so that it may need few steps."""
    return bool(config.get("student_checkpoint")) or config.get("student", "").endswith(".keras")
