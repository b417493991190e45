"""The first lines of a report on several runs: which is best, and how far the others are from it."""

from collections.abc import Sequence

import numpy as np

from skd_tf.errors import counted
from skd_tf.runs import verdict
from skd_tf.runs.report import seeds
from skd_tf.runs.report.run_data import Run
from skd_tf.runs.report.sentences import WORDS, Answer, Headline, listed, score_text, warnings_of


def headline(runs: Sequence[Run]) -> Headline:
    """Which of several runs, or of several methods over seeds, is best."""
    if not same_images(runs):
        text = "Accuracies on different images say nothing about which student is better."
        return Headline("unknown", "Measured on different test images", text, None)
    best, measure = _best(runs)
    methods = seeds.methods(runs)
    if methods:
        return _headline_of_methods(methods, measure)
    if measure == "agreement":
        text = "Without labels, runs are compared by how often they give their teachers' answers."
        return Headline("unknown", f"{best.name} has the highest agreement", text, None)
    others = [(run, _against(run, best)) for run in runs if run is not best]
    level = [run.name for run, found in others if found and found["word"] == "level"]
    unknown = [run.name for run, found in others if not found]
    text = f"{listed(level)} cannot be told apart from it with these test images." if level else ""
    if unknown:
        text += f" {listed(unknown)}: {_why_not_compared(runs)}."
    text = text.strip() or "Every other run is behind it."
    if len(unknown) < len(others):
        text += " Intervals are over test images; another seed may differ by more."
    word = f"{best.name} has the highest top-1" if level or unknown else f"{best.name} is ahead"
    return Headline("unknown" if unknown else "level" if level else "ahead", word, text, None)


def answers(runs: Sequence[Run]) -> list[Answer]:
    """How far each run, or each method over seeds, is from the best; and what to know."""
    best, measure = _best(runs)
    methods = seeds.methods(runs) if same_images(runs) else []
    if methods:
        items = [(text, False) for text in _over_seeds(methods, measure)]
    elif same_images(runs):
        score = best.result["student"].get(measure)
        equal = [run.name for run in runs if run is not best and run.result["student"].get(measure) == score]
        most = f"the most, as {listed(equal)}" if equal else "the most"
        items = [(f"{best.name}: {score_text(best, measure)}, {most}.", False)]
        items += [(_distance(run, best, measure), False) for run in runs if run is not best]
    else:
        items = [(f"{run.name}: {score_text(run, measure)}, on {_images_of(run)}.", False) for run in runs]
    warnings = [
        (text, True) for text in [*_versions(runs), *_pixels(runs), *(_left_out(runs, methods) if methods else [])]
    ]
    said: dict[str, list[str]] = {}
    for run in runs:
        for text in warnings_of(run):
            said.setdefault(text, []).append(run.name)
    for text, names in said.items():
        who = names[0] if len(names) == 1 else counted(len(names), "run")
        warnings.append((f"{who}: {text}", True))
    return [Answer("Which is best?", items), *([Answer("What to know?", warnings)] if warnings else [])]


def _headline_of_methods(methods, measure):
    best = seeds.ranked(methods, measure)[0]
    noun = "agreement" if measure == "agreement" else "top-1"
    many = f"Means over {counted(len(best.runs), 'seed')}"
    if len(methods) == 1:
        gained = seeds.above_alone(best, measure)
        text = f" Distilled minus alone: {gained.text}." if gained else ""
        return Headline(
            gained.word if gained else "unknown", f"Mean {noun} {best.mean(measure):.1%}", f"{many}.{text}", None
        )
    gains = {
        method.name: seeds.gain(best.values(measure), method.values(measure))
        for method in methods
        if method is not best
    }
    level = [name for name, found in gains.items() if found and found.word != "ahead"]
    apart = [name for name, found in gains.items() if not found]
    highest = max(methods, key=lambda method: seeds.common_mean(method, methods, measure))
    word = f"{best.name} has the highest mean {noun}" if best is highest else f"No method is ahead of {best.name}"
    word = word if level or apart else f"{best.name} is ahead"
    text = f"{listed(level)} cannot be told apart from it." if level else ""
    text += f" It has no seed in common with {listed(apart)}, so their difference is not judged." if apart else ""
    text = text.strip() or "Every other method is behind it."
    text += " Intervals are over seeds, paired by seed. Each holds for its comparison alone."
    return Headline("unknown" if apart else "level" if level else "ahead", word, text, None)


def same_images(runs: Sequence[Run]) -> bool:
    """Whether the runs may have been measured on the same test images: their labels are the same ones in one order.

    Of a run without recorded labels, the data and the number of images are known.
    """
    known = [run.labels for run in runs if run.labels is not None]
    if not all(np.array_equal(labels, known[0]) for labels in known):
        return False
    sizes = {run.test_images for run in runs if run.test_images}
    return len(known) == len(runs) or (len({run.result["config"]["dataset"] for run in runs}) == 1 and len(sizes) < 2)


def _versions(runs):
    """What to know of runs whose data has other versions: it may have other test images."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if "version" in run.details.get("dataset", {}):
            found.setdefault(run.details["dataset"]["version"], []).append(run.name)
    if len(found) < 2:
        return []
    each = listed([f"{version} ({listed(names)})" for version, names in found.items()])
    return [f"The data of these runs has the versions {each}. Compare them only if the test images are the same."]


def _pixels(runs):
    """What to know of runs whose test images have the same labels and other pixels."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if "test_pixels" in run.details.get("dataset", {}):
            found.setdefault(run.details["dataset"]["test_pixels"], []).append(run.name)
    if len(found) < 2 or not same_images(runs):
        return []
    each = " and those of ".join(listed(names) for names in found.values())
    return [
        f"The test images of {each} have other pixels: another size, another preparation, or other pictures with the same "
        "labels. Compare the runs only if the pictures are the same."
    ]


def _left_out(runs, methods):
    """A sentence for each run that is in no mean, because an earlier one has its settings and its seed."""
    firsts = {seeds.key(run, runs): run for method in methods for run in method.runs.values()}
    for run in runs:
        first = firsts[seeds.key(run, runs)]
        if run is not first:
            yield f"{run.name} has the settings and the seed of {first.name}, so only {first.name} counts in the means."


def _against(run, best):
    """The comparison of two runs' students on the same test images; None if the number of images is unknown."""
    both = run.labels is not None and best.labels is not None
    if both and np.array_equal(run.labels, best.labels):
        return verdict.compare(run.predicted["student"], best.predicted["student"], run.labels)
    if not (run.has_labels and best.has_labels):
        return None
    images = min(run.test_images, best.test_images)
    first, second = (one.result["student"]["accuracy"] for one in (run, best))
    return verdict.compare_accuracies(first, second, images) if images else None


def _over_seeds(methods, measure):
    """A line for each method, the best first."""
    best, *others = seeds.ranked(methods, measure)
    yield f"{best.name}: {best.mean(measure):.1%} {WORDS[measure]}, mean of {counted(len(best.runs), 'seed')}."
    for method in others:
        found = seeds.gain(method.values(measure), best.values(measure))
        unsure = "undecided, too few seeds to tell"
        word = found and (unsure if found.undecided else found.word)
        yield f"{method.name}: {f'{found.text}: {word}' if found else 'no common seed'}."


def measure_of(runs: Sequence[Run]) -> str:
    """What runs are ranked by: "accuracy", or "agreement" with the teacher where a run has no labels."""
    return "accuracy" if all(run.has_labels for run in runs) else "agreement"


def _best(runs):
    """(the best run, the measure of its student)."""
    measure = measure_of(runs)
    return max(runs, key=lambda run: run.result["student"].get(measure, 0.0)), measure


def _images_of(run):
    count = counted(run.test_images, "test image") if run.test_images else "test images"
    return f"{count} of {run.result['config']['dataset']}"


def _why_not_compared(runs):
    """Why `_against` found nothing between some of these runs."""
    uncounted = listed([run.name for run in runs if not run.test_images])
    return f"not compared, because measurements.json of {uncounted} is missing or has no number of test images"


def _distance(run, best, measure):
    if measure == "agreement":
        return f"{run.name}: {score_text(run, measure)}."
    found = _against(run, best)
    if found is None:
        return f"{run.name}: {score_text(run, measure)}; {_why_not_compared([run, best])}."
    gain = verdict.points(found["difference"], found["images"])
    word = "undecided, too few test images to tell" if verdict.undecided(found) else found["word"]
    return f"{run.name}: {gain} points ({verdict.interval(found)}): {word}."
