"""What the records of a study come to: means, spreads, paired differences, slopes. No TensorFlow, no SciPy."""

import dataclasses
import math
import statistics

from experiments.lab import definitions

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Group:
    """The records of one row and pair, by seed.

    Attributes:
      records: {seed: record} of the cells that have one.
      wanted: how many cells there are.
    """

    records: dict
    wanted: int

    def __len__(self):
        return len(self.records)

    def values(self, *keys):
        """{seed: number} under a path of keys; without the records that have None on the way."""
        found = {}
        for seed, record in self.records.items():
            for key in keys:
                record = None if record is None else record.get(key)
            if record is not None:
                found[seed] = record
        return found

    @property
    def accuracies(self):
        return self.values("student", "accuracy")

    @property
    def held_out(self):
        """{seed: top-1 on the held-out images after the last epoch}."""
        return {seed: epochs[-1] for seed, epochs in self.values("by_epoch", "val_accuracy").items()}


def group_of(study, pair, row, records):
    """The `Group` of a row and pair of a Study, from {cell: record}."""
    cells = [cell for cell in definitions.cells(study) if (cell.pair, cell.row) == (pair, row)]
    return Group({cell.seed: records[cell] for cell in cells if cell in records}, len(cells))


def mean_and_spread(values):
    """(mean, sample standard deviation); None where it takes more values: one for a mean, two for a spread."""
    values = list(values)
    return (statistics.mean(values) if values else None), (statistics.stdev(values) if len(values) > 1 else None)


def training_seconds(record):
    """Seconds of a record's training at its median epoch's pace: a process that was stopped for a while counts no pauses."""
    return record["config"]["epochs"] * record["dataset"]["train"] / record["examples_per_second"]


def paired(values, others):
    """Differences value - other over the seeds that both have, in the order of seeds."""
    return [values[seed] - others[seed] for seed in sorted(set(values) & set(others))]


def seed_means(columns):
    """The mean over columns {seed: number} of every seed that all of them have."""
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return [sum(column[seed] for column in columns) / len(columns) for seed in seeds]


def seed_ranges(columns):
    """{seed: highest minus lowest} over columns {seed: number}, for the seeds that all of them have."""
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return {seed: max(column[seed] for column in columns) - min(column[seed] for column in columns) for seed in seeds}


def seed_changes(values, others):
    """{seed: value - other} over the seeds that both have."""
    return dict(zip(sorted(values.keys() & others.keys()), paired(values, others), strict=True))


def slope(xs, ys):
    """Least squares slope with its two-sided 95% interval.

        b = sum (x - mean x)(y - mean y) / S       S = sum (x - mean x)^2
        b +- t sqrt(sum residual^2 / (n - 2) / S)  t: quantile of Student's distribution with n - 2 degrees of freedom

    The points count as independent with one variance.

    Args:
      xs, ys: n points, three or more, at two or more places x.

    Returns:
      (b, low, high), or None where there are too few points or places.
    """
    n = len(xs)
    if n < 3 or len(set(xs)) < 2:
        return None
    x_mean, y_mean = statistics.mean(xs), statistics.mean(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    b = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    squares = sum((y - y_mean - b * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = t_quantile((1 + LEVEL) / 2, n - 2) * math.sqrt(squares / (n - 2) / spread)
    return b, b - half, b + half


def pooled_spread(groups):
    """(standard deviation, degrees of freedom) pooled over lists of values with means of their own; None with no freedom."""
    groups = [list(values) for values in groups if len(values) > 1]
    degrees = sum(len(values) - 1 for values in groups)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in groups)
    return (math.sqrt(squares / degrees), degrees) if degrees else None


def residual_spread(columns):
    """(standard deviation, degrees of freedom, seeds) of what rows and seeds, as summands, leave; None with no freedom.

        y[row, seed] = a[row] + b[seed] + e        s^2 = sum e^2 / ((rows - 1)(seeds - 1))

    Args:
      columns: {seed: value} of every row; of the seeds that all rows have.
    """
    seeds = sorted(set.intersection(*map(set, columns)))
    degrees = (len(columns) - 1) * (len(seeds) - 1)
    if degrees < 1:
        return None
    by_seed = {seed: statistics.mean(column[seed] for column in columns) for seed in seeds}
    rest = [{seed: column[seed] - by_seed[seed] for seed in seeds} for column in columns]
    squares = sum((value - statistics.mean(row.values())) ** 2 for row in rest for value in row.values())
    return math.sqrt(squares / degrees), degrees, len(seeds)


def teacher_slopes(study, rows, records, *, without=(), of_means=False):
    """Top-1 of the student per doubling of the teacher's parameters.

    Args:
      study: a Study whose pairs differ in the teacher.
      rows: names of the rows; two of them also give the slope of second minus first, paired by teacher and seed.
      records: {cell: record}.
      without: pairs to leave out.
      of_means: whether each teacher is one point, the mean over its seeds: runs of one teacher share what is the teacher's.

    Returns:
      {row, or "second - first": `slope`'s result}.
    """
    points = {row: {} for row in rows}  # row -> {(pair, seed): (log2 of parameters, accuracy)}
    for row in rows:
        for pair in (pair for pair in study.pairs if pair not in without):
            for seed, record in group_of(study, pair, row, records).records.items():
                size = math.log2(record["teacher"]["parameters"])
                points[row][pair, seed] = size, record["student"]["accuracy"]
    if len(rows) == 2:
        first, second = (points[row] for row in rows)
        both = sorted(set(first) & set(second))
        points[f"{rows[1]} - {rows[0]}"] = {key: (second[key][0], second[key][1] - first[key][1]) for key in both}
    if of_means:
        points = {name: _means(row) for name, row in points.items()}
    return {name: slope(*zip(*row.values(), strict=True)) if row else None for name, row in points.items()}


def _means(points):
    pairs = dict.fromkeys(pair for pair, _ in points)
    found = {pair: [point for (its, _), point in points.items() if its == pair] for pair in pairs}
    return {pair: tuple(map(statistics.mean, zip(*values, strict=True))) for pair, values in found.items()}


def t_quantile(probability, degrees):
    """The quantile of Student's distribution, to 1e-9, for 0.5 <= probability < 1.

    By bisection of its distribution function, which is Simpson's rule over the angle atan(t / sqrt(degrees)): there the
    density is cos^(degrees - 1), smooth and on a bounded interval.
    """
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)

    def above_half(angle, parts=400):
        step = angle / parts
        weights = (1 if i in (0, parts) else 4 if i % 2 else 2 for i in range(parts + 1))
        return scale * step / 3 * sum(w * math.cos(i * step) ** (degrees - 1) for i, w in enumerate(weights))

    low, high = 0.0, math.pi / 2
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if above_half(middle) < probability - 0.5 else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)
