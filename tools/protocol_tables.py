"""Tables around the studies: the searches before, what faster ways cost, the full protocols, what there is at all."""

import csv

import published
import studies
from study_numbers import group_of, mean_and_spread, training_seconds
from study_text import NOT_RUN, cell_text, difference_text, footer, label, markdown, mean_text, spread_text

SEARCHED = ("none", "kd", "skd", "skd_teacher_mean", "no_distillation")


def searched(method):
    """The trials of the search before the studies: {(kd weight or None, learning rate): validation accuracy}, or {}."""
    path = studies.ROOT / studies.RESULTS / "frozen" / f"{method}.csv"
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {(float(row["kd_weight"]) if "kd_weight" in row else None, float(row["learning_rate"])):
                float(row["val_accuracy"]) for row in csv.DictReader(file)}  # fmt: skip


def frozen(records):
    """The search that rates and weights come from; it stands in trials.csv files, not in records."""
    del records
    found = {method: searched(method) for method in SEARCHED}
    rates, rows = sorted({rate for trials in found.values() for _, rate in trials}), []
    for method, trials in found.items():
        best = max(trials, key=trials.get, default=None)
        for weight in sorted({weight for weight, _ in trials}, key=str):
            texts = [f"{trials[weight, rate]:.4f}" for rate in rates]
            texts = [f"**{text}**" if (weight, rate) == best else text for text, rate in zip(texts, rates, strict=True)]
            rows.append([label(method), "-" if weight is None else f"{weight:g}", *texts])
    head = ["validation top-1 after 4 epochs", "kd weight", *(f"rate {rate:g}" for rate in rates)]
    note = "resnet56 -> resnet8, one seed, 5,000 images (standard error 0.006); in bold what the studies use."
    return f"{markdown(head, rows)}\n\n{note}"


def frozen_cifar100(records):
    """The rates that the last study's rows were searched for."""
    del records
    study, rows = studies.STUDIES["cifar100"], []
    found = {row: searched(f"cifar100_{row}") for row in (*study.alone, *study.rows)}
    rates = sorted({rate for trials in found.values() for _, rate in trials}) or [0.05, 0.1, 0.2]
    for row, trials in found.items():
        accuracies = {rate: accuracy for (_, rate), accuracy in trials.items()}
        best = max(accuracies, key=accuracies.get, default=None)
        texts = {rate: f"{accuracies[rate]:.4f}" if rate in accuracies else NOT_RUN for rate in rates}
        rows.append([label(row), *(f"**{text}**" if rate == best else text for rate, text in texts.items())])
    head = ["validation top-1 after 4 epochs", *(f"rate {rate:g}" for rate in rates)]
    note = "resnet32 -> resnet8, one seed, 5,000 images (standard error 0.006); in bold what the study uses."
    return f"{markdown(head, rows)}\n\n{note}"


def rates(records):
    """Held-out accuracy, as rates are chosen by it; the test split stays out of this table."""
    study, rows = studies.STUDIES["rates"], []
    for method, pair in (("none", studies.NO_PAIR), ("kd", "resnet56"), ("kd_half", "resnet56"), ("skd", "resnet56")):
        texts = {}
        for rate in studies.RATES:
            columns = group_of(study, pair, f"{method}_{rate:g}", records).values("by_epoch", "val_accuracy")
            texts[rate] = spread_text([column[-1] for column in columns.values()]) if columns else NOT_RUN
        frozen_rate = studies.FROZEN_RATES.get(method)
        rows.append([label(method), *(f"**{text}**" if rate == frozen_rate else text for rate, text in texts.items())])
    head = ["validation top-1 after 12 epochs", *(f"rate {rate:g}" for rate in studies.RATES)]
    done = sum(cell in records for cell in studies.cells(study))
    note = f"resnet56 -> resnet8, seed 0, 5,000 images (standard error 0.005); in bold what the studies use; {done} of "
    return f"{markdown(head, rows)}\n\n{note}{len(studies.cells(study))} cells."


def precision(records):
    return _precision(records, "precision", 6)


def precision_long(records):
    return _precision(records, "precision_long", 12)


def _precision(records, name, epochs):
    study, pair = studies.STUDIES[name], "resnet20"
    exact = group_of(study, pair, "float32_live", records)
    rows = []
    for row in study.rows:
        group = group_of(study, pair, row, records)
        change = "-" if row == "float32_live" else difference_text(group.accuracies, exact.accuracies)
        minutes = mean_and_spread(training_seconds(record) / 60 for record in group.records.values())[0]
        rows.append([
            label(row), cell_text(group.accuracies, group.wanted), change, mean_text(group, "student", "nll"),
            mean_text(group, "student", "ece"), "-" if minutes is None else f"{minutes:.1f}",
        ])  # fmt: skip
    head = [f"SKD, resnet20 -> resnet8, {epochs} epochs", "top-1", "minus float32, paired, standard error", "NLL", "ECE"]
    return "\n".join([markdown([*head, "minutes of training"], rows), "", footer(study, records)])


def cifar100_full(records):
    return _beside_published("cifar100_full", published.CIFAR100, published.CIFAR100_SOURCE, records)


def imagenet(records):
    return _beside_published("imagenet", published.IMAGENET, published.IMAGENET_SOURCE, records)


def _beside_published(name, numbers, source, records):
    """A line a pair, a column a method: our mean and spread, then the published number in parentheses."""
    study, rows = studies.STUDIES[name], []
    for pair in study.pairs:
        texts = []
        for row in study.rows:
            group = group_of(study, pair, row, records)
            beside = f" ({numbers[pair][row] / 100:.4f})" if row in numbers[pair] else ""
            texts.append(cell_text(group.accuracies, group.wanted) + beside)
        rows.append([pair, *texts])
    head = ["top-1 (published)", *(label(row) for row in study.rows)]
    return "\n".join([markdown(head, rows), "", footer(study, records), source])


def cells(records):
    rows = []
    for study in studies.STUDIES.values():
        mine = studies.cells(study)
        done = [records[cell] for cell in mine if cell in records]
        own = [record for record in done if "same_training_as" not in record]
        times = ["-", "-"]
        if own:  # the second as it was, whatever ran beside it
            hours, longest = sum(map(training_seconds, own)) / 3600, max(record["seconds"] for record in own) / 60
            times = [f"{hours:.1f}", f"{longest:.0f}"]
        rows.append([study.name, study.question, str(len(mine)) if mine else f"reads {' and '.join(study.drawn_from)}",
                     str(len(done)) if mine else "-", str(len(done) - len(own)) if mine else "-", *times])  # fmt: skip
    head = ["study", "question", "cells", "with a record", "of them trained in another study", "hours of training",
            "longest cell, minutes"]  # fmt: skip
    return markdown(head, rows)


TABLES = {table.__name__: table for table in (
    frozen, frozen_cifar100, rates, precision, precision_long, cifar100_full, imagenet, cells,
)}  # fmt: skip
