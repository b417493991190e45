"""The test that decides about the default loss: its two conditions, from the records of the measurement sets."""

import pathlib
import statistics
from collections.abc import Sequence

from experiments.studies.first_day import tables
from experiments.studies.first_day.arms import ARMS, FACTORS, PROTOCOL, TEMPERATURES, own_temperature
from experiments.studies.first_day.tables import Interval, Screen

SETS = tuple(name for name in PROTOCOL["measurement_sets"] if name != "touched")
WORST = -0.5  # points: the lower bound of (default - alone) must be above it in every cell


def verdict(records: pathlib.Path, default: str) -> str:
    """The test of an arm, as Markdown: a line per cell, and whether it passes.

    Args:
      records: the folder of records.
      default: the arm.
    """
    own = tables.own_temperatures(tables.screens(records)).get(default, own_temperature(ARMS[default]))
    screens = tables.screens(records, "carry", SETS)
    failed = _failed(against_alone({c: s for c, s in screens.items() if _first_part(s, default, own)}, default, own))
    if failed:
        return f"{default} does not pass. It is not above alone by more than {WORST} points, at the lower bound, in: {failed}."
    missing = [cell for cell in cells(screens) if not complete(screens[cell], default, own)]
    if len(screens) < 2 * len(SETS) or missing:
        found = ", ".join(" ".join(cell) for cell in screens if cell not in missing) or "none"
        return f"{default}: not decided. Complete are: {found}."
    return _text(default, against_alone(screens, default, own), over_cells(screens, default))


def cells(screens: dict[tuple, Screen]) -> list[tuple]:
    """(set, optimizer) of each cell, in the order of the protocol."""
    return sorted(screens, key=lambda cell: (SETS.index(cell[0]), cell[1] != "sgd"))


def complete(screen: Screen, default: str, own: float) -> bool:
    """Whether all seeds of all settings of a cell are there."""
    return _first_part(screen, default, own) and _all_seeds([*_grid(screen, "kd"), *_grid(screen, default)])


def _first_part(screen, default, own):
    """Whether what the first condition needs of a cell is there."""
    return _all_seeds([screen.own("alone"), screen.own(default, own)])


def _all_seeds(parts):
    return all(len(part) >= len(PROTOCOL["seeds"]["primary_test"]) for part in parts)


def against_alone(screens: dict[tuple, Screen], default: str, own: float) -> dict[tuple, Interval]:
    """{cell: default - alone}, paired by seed, both at the common rate, the default at its own T."""
    found = {}
    for cell in cells(screens):
        one, other = screens[cell].own(default, own), screens[cell].own("alone")
        found[cell] = tables.interval([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])
    return found


def over_cells(screens: dict[tuple, Screen], default: str) -> Interval:
    """The mean over cells of (default - KD), each averaged over T and rates; paired by seed."""
    per_cell = []
    for cell in cells(screens):
        one, other = (_mean(_grid(screens[cell], arm)) for arm in (default, "kd"))
        per_cell.append({seed: one[seed] - other[seed] for seed in one.keys() & other.keys()})
    seeds = sorted(set.intersection(*(set(column) for column in per_cell)))
    return tables.interval([statistics.mean(column[seed] for column in per_cell) for seed in seeds])


def _grid(screen: Screen, arm: str) -> list[dict[int, float]]:
    """{seed: top-1} of each T and rate."""
    own = own_temperature(ARMS[arm])
    return [screen.accuracy(arm, float(t), factor) for t in (TEMPERATURES if own else [own]) for factor in FACTORS]


def _failed(alone):
    """The cells in which the first condition fails, as a text."""
    return ", ".join(" ".join(cell) for cell, value in alone.items() if value.mean - value.half <= WORST)


def _mean(columns: Sequence[dict[int, float]]) -> dict[int, float]:
    seeds = set.intersection(*(set(column) for column in columns))
    return {seed: statistics.mean(column[seed] for column in columns) for seed in seeds}


def _text(default, alone, kd):
    lines = [f"| {default}, points | minus alone, own T, common rate |", "| --- | --- |"]
    lines += [f"| {' '.join(cell)} | {value} |" for cell, value in alone.items()]
    low = _failed(alone)
    first = f"fails in {low}" if low else "holds"
    second = "holds" if kd.mean - kd.half > 0 else "fails"
    passes = "passes" if first == second == "holds" else "does not pass"
    lines += [
        "",
        f"* Above alone by more than {WORST} points, at the lower bound, in every cell: {first}.",
        f"* Above KD over T and rates, {kd}: {second}.",
        f"* {default} {passes}.",
    ]
    return "\n".join(lines)
