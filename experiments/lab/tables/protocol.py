"""Tables around the studies: the searches before, what faster ways cost, the full protocols, what there is at all."""

import csv
import math

from experiments.lab import definitions
from experiments.lab.formatting import NOT_RUN, cell_text, difference_text, footer, label, markdown, mean_text
from experiments.lab.statistics import group_of, mean_and_spread, training_seconds
from experiments.lab.tables import published

HELD_OUT = 5_000  # images that rates are chosen by
SEARCHED = ("none", "kd", "skd", "skd_teacher_mean", "no_distillation")


def searched(method):
    """The trials of the search before the studies: {(kd weight or None, learning rate): validation accuracy}, or {}."""
    path = definitions.ROOT / definitions.RESULTS / "frozen" / f"{method}.csv"
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {
            (float(row["kd_weight"]) if "kd_weight" in row else None, float(row["learning_rate"])): float(
                row["val_accuracy"]
            )
            for row in csv.DictReader(file)
        }


def frozen(_records):
    """The search over 4 epochs; it stands in trials.csv files, not in records."""
    found = {method: searched(method) for method in SEARCHED}
    rates, rows = sorted({rate for trials in found.values() for _, rate in trials}), []
    for method, trials in found.items():
        best = max(trials, key=trials.get, default=None)
        for weight in sorted({weight for weight, _ in trials}, key=str):
            texts = [f"{trials[weight, rate]:.4f}" for rate in rates]
            texts = [f"**{text}**" if (weight, rate) == best else text for text, rate in zip(texts, rates, strict=True)]
            rows.append([label(method), "-" if weight is None else f"{weight:g}", *texts])
    head = ["validation top-1 after 4 epochs", "kd weight", *(f"rate {rate:g}" for rate in rates)]
    error = max(standard_error(accuracy) for trials in found.values() for accuracy in trials.values())
    note = f"resnet56 -> resnet8, one seed, {HELD_OUT:,} images (standard error {error:.4f} at most); in bold the best of a "
    note += "method."
    return f"{markdown(head, rows)}\n\n{note}"


def rates(records):
    return _rates(records, "rates", frozen_in="capacity_gap")


def cifar100_rates(records):
    return _rates(records, "cifar100_rates", frozen_in="cifar100")


def tried_rates(records, name):
    """{(pair, row without its rate): {rate: held-out accuracy after the last epoch, or None}} of a study of rates."""
    found = {}
    for cell in definitions.cells(definitions.STUDIES[name]):
        row, rate = cell.row.rsplit("_", 1)
        record = records.get(cell)
        found.setdefault((cell.pair, row), {})[float(rate)] = record["by_epoch"]["val_accuracy"][-1] if record else None
    return found


def best_rate(accuracies):
    """The lowest rate whose accuracy is within a standard error of the best one: a rule for ties, no test."""
    best = max(accuracies.values())
    return min(rate for rate, accuracy in accuracies.items() if accuracy >= best - standard_error(best))


def standard_error(accuracy):
    """sqrt(p (1 - p) / n) of an accuracy p on the n images held out."""
    return math.sqrt(accuracy * (1 - accuracy) / HELD_OUT)


def _rates(records, name, frozen_in):
    """Held-out accuracy, as rates are chosen by it; the test split stays out of this table."""
    study, rows = definitions.STUDIES[name], []
    frozen_cells = {(cell.pair, cell.row): cell for cell in definitions.cells(definitions.STUDIES[frozen_in])}
    for (pair, row), accuracies in tried_rates(records, name).items():
        cell = frozen_cells.get((pair, row))
        frozen_rate = cell and definitions.config_of(cell).learning_rate
        texts = {rate: NOT_RUN if accuracy is None else f"{accuracy:.4f}" for rate, accuracy in accuracies.items()}
        rows.append([label(row), *(f"**{text}**" if rate == frozen_rate else text for rate, text in texts.items())])
    head = ["validation top-1 after 12 epochs", *(f"rate {rate:g}" for rate in definitions.RATES)]
    cells, found = definitions.cells(study), [accuracies.values() for accuracies in tried_rates(records, name).values()]
    errors = [standard_error(accuracy) for values in found for accuracy in values if accuracy is not None]
    error = f" (standard error {max(errors):.4f} at most)" if errors else ""
    teacher = next(iter(study.pairs)).removeprefix("cifar100_")
    note = f"{teacher} -> resnet8, seed 0, {HELD_OUT:,} images{error}; in bold what the studies of these methods use; "
    return f"{markdown(head, rows)}\n\n{note}{sum(cell in records for cell in cells)} of {len(cells)} cells."


def precision(records):
    return _precision(records, "precision", 6)


def precision_long(records):
    return _precision(records, "precision_long", 12)


def _precision(records, name, epochs):
    study, pair = definitions.STUDIES[name], "resnet20"
    exact = group_of(study, pair, "float32_live", records)
    rows = []
    for row in study.rows:
        group = group_of(study, pair, row, records)
        change = "-" if row == "float32_live" else difference_text(group.accuracies, exact.accuracies)
        minutes = mean_and_spread(training_seconds(record) / 60 for record in group.records.values())[0]
        rows.append(
            [
                label(row),
                cell_text(group.accuracies, group.wanted),
                change,
                mean_text(group, "student", "nll"),
                mean_text(group, "student", "ece"),
                "-" if minutes is None else f"{minutes:.1f}",
            ]
        )
    head = [
        f"SKD, resnet20 -> resnet8, {epochs} epochs",
        "top-1",
        "minus float32, paired, standard error",
        "NLL",
        "ECE",
    ]
    return "\n".join([markdown([*head, "minutes of training"], rows), "", footer(study, records)])


def cifar100_full(records):
    return _beside_published("cifar100_full", published.CIFAR100, published.CIFAR100_SOURCE, records)


def imagenet(records):
    return _beside_published("imagenet", published.IMAGENET, published.IMAGENET_SOURCE, records)


def _beside_published(name, numbers, source, records):
    """A line a pair, a column a method: our mean and spread, then the published number in parentheses."""
    study, rows = definitions.STUDIES[name], []
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
    for study in definitions.STUDIES.values():
        mine = definitions.cells(study)
        done = [records[cell] for cell in mine if cell in records]
        own = [record for record in done if "same_training_as" not in record]
        times = ["-", "-"]
        if own:  # the second as it was, whatever ran beside it
            hours, longest = sum(map(training_seconds, own)) / 3600, max(record["seconds"] for record in own) / 60
            times = [f"{hours:.1f}", f"{longest:.0f}"]
        rows.append(
            [
                study.name,
                study.question,
                str(len(mine)) if mine else f"reads {' and '.join(study.drawn_from)}",
                str(len(done)) if mine else "-",
                str(len(done) - len(own)) if mine else "-",
                *times,
            ]
        )
    head = [
        "study",
        "question",
        "cells",
        "with a record",
        "of them trained in another study",
        "hours of training",
        "longest cell, minutes",
    ]
    return markdown(head, rows)


TABLES = {
    table.__name__: table
    for table in (frozen, rates, cifar100_rates, precision, precision_long, cifar100_full, imagenet, cells)
}
