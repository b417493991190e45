"""The first lines of a report: the verdict, and the answers to "is it good", "where does it fail" and "what next"."""

from collections import Counter
from collections.abc import Sequence

from skd_tf.errors import counted
from skd_tf.runs import next_steps, verdict
from skd_tf.runs.report import failures, several_runs
from skd_tf.runs.report.run_data import Run
from skd_tf.runs.report.sentences import Answer, Headline, score_text, warnings_of
from skd_tf.runs.result_tables import agreements

_WORDS = {
    "ahead": "Ahead of the student alone",
    "level": "Level with the student alone",
    "behind": "Behind the student alone",
    "unknown": "Not compared with the student alone",
}
_MOST_GAP = 0.03  # of accuracy and mean confidence, that is not worth a word


def headline(runs: Sequence[Run]) -> Headline:
    """The verdict on one run, or on which of several runs is best."""
    if len(runs) > 1:
        return several_runs.headline(runs)
    (run,) = runs
    judged = run.verdict
    if "teacher" not in run.result:
        share = run.result["student"]["accuracy"]
        return Headline("unknown", f"{share:.1%} right", "Trained without a teacher.", None)
    if not run.has_labels:
        return Headline("unknown", score_text(run, "agreement"), judged["text"], None)
    compared = judged["comparisons"].get("student against student_alone")
    text = judged["text"]
    if compared and not compared["paired"]:
        text += " This run recorded no predictions, so the interval is that of independent images, which is too wide."
    elif compared:
        text += f" {verdict.OVER_IMAGES}"
    unsure = compared and verdict.undecided(compared)
    word = verdict.UNDECIDED if unsure else _WORDS[judged["word"]]
    text = text.removeprefix(f"{verdict.UNDECIDED}. ") if unsure else text
    return Headline(judged["word"], word, text, compared and _bar(compared))


def _bar(comparison):
    low, high = comparison["interval"]
    reach = 1.25 * max(abs(low), abs(high), 1e-9)

    def place(value):
        return round(50 + 50 * value / reach, 2)

    gain = verdict.points(comparison["difference"], comparison["images"])
    label = f"{gain} points of top-1, {verdict.interval(comparison)}"
    return {
        "low": place(low),
        "middle": place(comparison["difference"]),
        "high": place(high),
        "label": label,
        "gain": gain,
    }


def answers(runs: Sequence[Run]) -> list[Answer]:
    """The three answers of one run, or those of several runs."""
    if len(runs) > 1:
        return several_runs.answers(runs)
    (run,) = runs
    return [
        Answer("Is it good?", [(text, False) for text in _good(run)]),
        Answer("Where does it fail?", [*((t, True) for t in warnings_of(run)), *((t, False) for t in _fails(run))]),
        Answer("What next?", [(text, False) for text in _next(run)]),
    ]


def _good(run):
    student, teacher = run.result["student"], run.result.get("teacher")
    ends = run.of_model("student").get("intervals", {}).get("accuracy" if run.has_labels else "agreement")
    images = f" of {run.test_images:,} test images" if run.test_images else " of the test images"
    sure = f" (95% interval {ends[0]:.1%} to {ends[1]:.1%})" if ends else ""
    if not run.has_labels:
        yield f"Gives the teacher's answer to {student['agreement']:.1%}{images}{sure}; how often it is right is unknown."
        yield _size(run, student, teacher)
        yield f"Its mean confidence is {student['confidence']:.1%}, the teacher's {teacher['confidence']:.1%}."
        return
    yield f"Right on {student['accuracy']:.1%}{images}{sure}."
    compared = run.verdict["comparisons"].get("student against teacher")
    if compared:
        gain = verdict.points(compared["difference"], compared["images"])
        yield f"{gain} points against the teacher's {teacher['accuracy']:.1%} ({verdict.interval(compared)})."
    yield from agreements(run.result)
    yield _size(run, student, teacher)
    shipped = student.get("calibrated") or student
    gap = (
        shipped["confidence"] - shipped["accuracy"]
        if "accuracy" in shipped
        else shipped["confidence"] - student["accuracy"]
    )
    said = f"Its mean confidence is {shipped['confidence']:.1%}"
    if abs(gap) <= _MOST_GAP:
        yield f"{said}, close to its accuracy (ECE {shipped['ece']:.3f})."
    else:
        yield f"{said}: {'over' if gap > 0 else 'under'}confident by {100 * abs(gap):.0f} points (ECE {shipped['ece']:.3f})."


def _size(run, student, teacher):
    """Parameters and latency, beside the teacher's."""
    text = f"{student['parameters']:,} parameters"
    if teacher and teacher["parameters"] > student["parameters"]:
        text += f", {teacher['parameters'] / student['parameters']:,.1f}x fewer than the teacher"
    own, other = (run.of_model(role).get("cost", {}).get("latency_ms") for role in ("student", "teacher"))
    if own:
        text += f"; {own['median']:.2g} ms an image" + (f", the teacher {other['median']:.2g} ms" if other else "")
    return f"{text}."


def _fails(run):
    worst = failures.worst_classes(run)
    failing = [(name, value) for name, value in worst if value < 1]
    if failing:
        yield "Least accurate classes: " + ", ".join(f"{name} ({value:.0%} right)" for name, value in failing) + "."
    elif worst:
        yield "Every test image is right. A larger or harder test split would tell more."
    confused = failures.pairs(run, most=3)
    if confused:
        yield "Most confused: " + ", ".join(f"{p.label} taken for {p.said} ({p.images}x)" for p in confused) + "."
    if run.labels is not None and {"student", "teacher"} <= run.predicted.keys():
        student, teacher = run.predicted["student"], run.predicted["teacher"]
        apart = student != teacher
        taught = (apart & (teacher == run.labels)).sum()
        better = (apart & (student == run.labels)).sum()
        if apart.any():
            yield (
                f"Student and teacher disagree on {counted(apart.sum(), 'image')}: the teacher is right on {taught:,} of "
                f"them, the student on {better:,}."
            )
        else:
            yield "Student and teacher give the same answer to every test image."
    elif not run.has_labels:
        classes = zip(*(run.predicted.get(role, ()) for role in ("teacher", "student")), strict=True)
        apart = Counter(pair for pair in classes if pair[0] != pair[1])
        names = run.result["class_names"]
        common = "; ".join(f"{names[t]} / {names[s]} ({n}x)" for (t, s), n in apart.most_common(3))
        often = f", most often (teacher / student): {common}" * bool(common)
        yield f"Teacher and student disagree on {counted(apart.total(), 'image')}{often}."
    elif not worst:
        yield "This run recorded neither predictions nor accuracies by class."


def _next(run):
    config, student, useless = run.result["config"], run.result["student"], run.verdict.get("useless", False)
    has_teacher, data_dir = "teacher" in run.result, run.details.get("dataset", {}).get("data_dir", "")

    held_out = any("val_accuracy" in epoch for epoch in run.epochs)

    def again(name, flags):
        return next_steps.again(name, flags, config, has_teacher=has_teacher, data_dir=data_dir)

    tips = list(run.verdict["next"])
    if run.verdict["word"] == "unknown" and has_teacher and run.has_labels:
        tips.insert(0, f"see whether distilling helped: {again('with_alone', '--student_alone=train')}")
    if run.verdict["word"] in ("ahead", "level"):
        seed = config.get("seed", 0) + 1
        flags = f"--seed={seed} {next_steps.own_alone(config)}".rstrip()
        tips.append(f"repeat it, because one seed is one draw: {again(f'seed_{seed}', flags)}")
    if not run.has_labels:
        tips.append("measure it on labelled images: python -m skd_tf.evaluate --model=RUN --dataset=folder:PATH")
    elif not useless and config.get("calibrate", "none") == "none" and held_out and student["ece"] > _MOST_GAP:
        tips.append(f"calibrate it: {next_steps.command('evaluate', '--model=RUN --calibrate', config, data_dir)}")
    if run.verdict["word"] != "behind" and not useless:
        flags = "--workdir=RUN --output=RUN_export --format=litert"
        tips.append(f"ship it: {next_steps.command('export', flags, config, data_dir)}")
    for tip in tips:
        end = "" if "python -m" in tip else "."  # a command that is copied takes no full stop along
        yield next_steps.typed(f"{tip[0].upper()}{tip[1:]}{end}", run.path)
