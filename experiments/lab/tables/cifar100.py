"""The tables of CIFAR-100: its methods, equal hardness of their targets, and the students of a GPU beside them."""

import json
import pathlib

from experiments.lab import definitions
from experiments.lab.formatting import (
    cell_text,
    difference_text,
    footer,
    label,
    markdown,
    mean_and_error_text,
    mean_text,
    radius_text,
)
from experiments.lab.statistics import group_of, mean_and_spread, paired
from experiments.lab.tables.protocol import best_rate

COMPARED = ("none", "kd", "skd", "dist_authors")  # by the page in front
_PAIR = "cifar100_resnet56"
_GPU_PAIR = ("teacher_arch", "arch", "epochs", "device")


def cifar100(records):
    study = definitions.STUDIES["cifar100"]
    alone = group_of(study, definitions.NO_PAIR, "none", records)
    configs = {cell.row: definitions.config_of(cell) for cell in definitions.cells(study)}
    taught = (group_of(study, _PAIR, row, records) for row in study.rows)
    teacher = next((record["teacher"] for group in taught for record in group.records.values()), None)
    accuracy, nll, ece = (f"{teacher[name]:.4f}" if teacher else "-" for name in ("accuracy", "nll", "ece"))
    rows = [["resnet56, the teacher", "-", "-", "-", accuracy, "-", nll, ece, "-", "-", "-"]]
    rate = f"{configs['none'].learning_rate:g}"
    rows.append([label("none"), "-", rate, "-", cell_text(alone.accuracies, alone.wanted), "-", *_quality(alone)])
    for row in study.rows:
        group = group_of(study, _PAIR, row, records)
        rows.append(
            [
                label(row),
                weights_text(configs[row]),
                f"{configs[row].learning_rate:g}",
                radius_text([group]),
                cell_text(group.accuracies, group.wanted),
                difference_text(group.accuracies, alone.accuracies),
                *_quality(group),
            ]
        )
    head = ["method", "label, distill weight", "rate", "R", "top-1", "minus alone, paired, standard error"]
    head += ["NLL", "ECE", "fitted: NLL", "fitted: ECE", "agreement"]
    return "\n".join(
        [
            markdown(head, rows),
            "",
            footer(study, records),
            "Fitted: with one temperature on top, fitted on the held-out images. Agreement: with the teacher's top-1.",
            "KD's and SKD's authors' weights are the matched ones. No published number stands beside these: none is known for "
            "resnet8, and the field's tables are of 240 epochs on 50,000 images.",
        ]
    )


def cifar100_temperature(records):
    """KD and SKD at about equal R / T; of raw logits the norm that counts is the teacher's."""
    study, rates, rows = definitions.STUDIES["cifar100_temperature"], definitions.HARDNESS_RATES, []
    for temperatures in definitions.EQUAL_HARDNESS:
        line, tested, own = [], {}, {}
        for method, t in zip(("kd", "skd"), temperatures, strict=True):
            groups = {rate: group_of(study, _PAIR, f"{method}_t{t}_{rate:g}", records) for rate in rates}
            tested[method] = {rate: group.accuracies for rate, group in groups.items()}
            held_out = {rate: group.values("by_epoch", "val_accuracy") for rate, group in groups.items()}
            if all(held_out.values()):
                own[method] = best_rate({rate: found[0][-1] for rate, found in held_out.items()})
            path = ("teacher", "logit_norm") if method == "kd" else ("radius",)
            norms = [norm for group in groups.values() for norm in group.values(*path).values()]
            texts = {rate: cell_text(group.accuracies, group.wanted) for rate, group in groups.items()}
            line += [str(t), f"{norms[0] / t:.1f}" if norms else "-"]
            line += [f"**{text}**" if rate == own.get(method) else text for rate, text in texts.items()]
        line += [difference_text(tested["skd"][rate], tested["kd"][rate]) for rate in rates]
        each = difference_text(*(tested[method][own[method]] for method in ("skd", "kd"))) if len(own) == 2 else "-"
        rows.append([*line, each])
    at = [f"at {rate:g}" for rate in rates]
    head = [
        "KD: T",
        "norm / T",
        *at,
        "SKD: T",
        "R / T",
        *at,
        *(f"SKD - KD {rate}" for rate in at),
        "each at its own rate",
    ]
    return "\n".join(
        [
            markdown(head, rows),
            "",
            "The norm is the teacher's mean over the test split; in bold a method's own rate at this T, by the rule above.",
            footer(study, records),
        ]
    )


def weights_text(config):
    """The weights of label and distill term."""
    label_weight = config.label_weight
    if label_weight is None:
        label_weight = "1 - distill" if isinstance(config.kd_weight, str) else round(1 - config.kd_weight, 12)
    return ", ".join(
        weight if isinstance(weight, str) else f"{weight:g}" for weight in (label_weight, config.kd_weight)
    )


def _quality(group):
    measures = [(softmax, name) for softmax in ("student", "calibrated") for name in ("nll", "ece")]
    return [mean_text(group, *keys) for keys in (*measures, ("student", "agreement"))]


def gpu_students(_records):
    """Students of experiments/lab/jax/train_students.py at several rates."""
    found, pair = _gpu_students("gpu_students")
    rates, lines = sorted({rate for _, rate in found}), []
    own = {
        row: best_rate({rate: _mean(found[row, rate]["held_out"]) for rate in rates}) for row in ("none", "kd", "skd")
    }
    for row, rate in ((row, rate) for row in own for rate in rates):
        values = found[row, rate]
        bold, tested = "**" if rate == own[row] else "", values["accuracy"]
        gains = paired(tested, found["none", rate]["accuracy"])
        lines.append(
            [
                label(row),
                f"{rate:g}",
                f"{bold}{_mean(values['held_out']):.4f}{bold}",
                cell_text(tested, len(tested)),
                "-" if row == "none" else mean_and_error_text(gains, "{:+.4f}"),
                f"{_mean(values['nll']):.4f}",
                f"{_mean(values['ece']):.4f}",
            ]
        )
    compared = {f"at {rate:g}": (rate, rate) for rate in rates} | {"each at its own": (own["skd"], own["kd"])}
    changes = [f"{where} {_gains(found, ('skd', ours), ('kd', theirs))}" for where, (ours, theirs) in compared.items()]
    head = ["method", "rate", "held-out top-1", "test top-1", "minus alone at this rate, paired", "NLL", "ECE"]
    return (
        f"{markdown(head, lines)}\n\n{pair}; number of seeds in parentheses; in bold the rate that is a method's own by the "
        f"rule above.\nSKD - KD on the test split, seed by seed: {'; '.join(changes)}."
    )


def gpu_students_seeds(_records):
    """Students of experiments/lab/jax/train_students.py at one rate, of several seeds."""
    found, pair = _gpu_students("gpu_students_seeds")
    [rate] = {rate for _, rate in found}
    lines = []
    for row in ("none", "kd", "dist_authors", "skd"):
        values = found[row, rate]
        tested = values["accuracy"]
        lines.append(
            [
                label(row),
                f"{_mean(values['held_out']):.4f}",
                cell_text(tested, len(tested)),
                "-" if row == "skd" else _gains(found, ("skd", rate), (row, rate)),
                *(f"{_mean(values[name]):.4f}" for name in ("nll", "ece")),
                f"{_mean(values['logit_norm']):.1f}",
            ]
        )
    head = [
        f"at rate {rate:g}",
        "held-out top-1",
        "test top-1",
        "SKD minus it, seed by seed",
        "NLL",
        "ECE",
        "logit norm",
    ]
    return f"{markdown(head, lines)}\n\n{pair}; number of seeds in parentheses."


def _gpu_students(folder):
    """({(row, rate): {measure: {seed: value}}}, what they are); tests are of `skd_tf.evaluate`, after conversion."""
    students, tests = (
        json.loads((definitions.ROOT / definitions.RESULTS / folder / name).read_text(encoding="utf-8"))
        for name in ("students.json", "evaluate.json")
    )
    models, found = {pathlib.PurePath(model["path"]).stem: model for model in tests["models"]}, {}
    for student in students:
        row, rate, seed = (student[name] for name in ("row", "learning_rate", "seed"))
        model = models[f"{row}_{rate:g}_seed{seed}"] | {"held_out": student["held_out_accuracy"]}
        for name in ("held_out", "accuracy", "nll", "ece", "logit_norm"):
            found.setdefault((row, rate), {}).setdefault(name, {})[seed] = model[name]
    [(teacher, arch, epochs, device)] = {tuple(student[name] for name in _GPU_PAIR) for student in students}
    return found, (
        f"{teacher} -> {arch}, {epochs} epochs on one {device}; test split, last epoch, as the student ships; "
        "one split and one teacher, which understates the spread"
    )


def _gains(found, ours, theirs):
    """The differences on the test split, of the seeds that both have."""
    return ", ".join(f"{gain:+.4f}" for gain in paired(found[ours]["accuracy"], found[theirs]["accuracy"]))


def _mean(by_seed):
    return mean_and_spread(by_seed.values())[0]


def accuracies(records):
    """{row: {seed: top-1}} of what is compared, each row at its own rate."""
    study = definitions.STUDIES["cifar100"]
    return {
        row: group_of(study, definitions.NO_PAIR if row == "none" else _PAIR, row, records).accuracies
        for row in COMPARED
    }


def gpu_accuracies():
    """The same of the larger students of a GPU, at one rate."""
    found, _ = _gpu_students("gpu_students_seeds")
    return {row: values["accuracy"] for (row, _), values in found.items()}


TABLES = {table.__name__: table for table in (cifar100, cifar100_temperature, gpu_students, gpu_students_seeds)}
