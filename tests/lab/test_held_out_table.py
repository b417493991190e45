"""The table that asks the held-out images what the test split was asked, against numbers worked out by hand."""

from experiments.lab.tables import held_out as held_out_table
from tests.lab import study_cases


def rows_of(test, held_out):
    """The table's rows {what: (seeds, test split, held-out images)}, from functions of (study, pair, row, seed)."""
    records = {}
    for cell in study_cases.by_path("capacity_gap", "temperature").values():
        key = cell.study, cell.pair, cell.row, cell.seed
        records[cell] = study_cases.record(cell, test(*key), by_epoch={"val_accuracy": [0.99, held_out(*key)]})
    lines = [
        line.strip("| ").split(" | ") for line in held_out_table.held_out(records).splitlines() if line.startswith("|")
    ]
    return {what: tuple(texts) for what, *texts in lines[2:]}


def test_each_measure_is_its_own_and_differences_are_paired_by_seed():
    def test(study, pair, row, seed):
        larger = 0.01 * seed if (study, pair, row) == ("capacity_gap", "resnet56", "kd") else 0.0
        softer = {"kd_t4": 0.02, "kd_t16": 0.05, "kd_t2": 0.2, "skd_t8": 0.2}.get(
            row, 0.0
        )  # T = 2, 8: one seed, no part
        return 0.6 + 0.02 * seed + larger + softer

    def held_out(study, pair, row, seed):
        return 0.7 - 0.03 * seed + (0.04 if row == "skd" else {"skd_t1": 0.01, "skd_t16": 0.07}.get(row, 0.0))

    rows, none = rows_of(test, held_out), "+0.0000 (+0.0000 to +0.0000)"
    # KD's gain by the larger teacher is 0, 1, ... 4 points: t(0.975, 4 degrees) = 2.7764, spread 1.5811 points.
    assert rows["KD: resnet56 minus resnet20 as the teacher"] == ("5", "+0.0200 (+0.0004 to +0.0396)", none)
    assert rows["SKD: resnet56 minus resnet20 as the teacher"] == ("5", none, none)
    # -0, -1, -2 points of one teacher out of four, over the three seeds that all have: t(0.975, 2 degrees) = 4.3027.
    assert rows["SKD - KD, mean of the four teachers"] == (
        "3",
        "-0.0025 (-0.0087 to +0.0037)",
        "+0.0400 (+0.0400 to +0.0400)",
    )
    assert rows["KD: range over T = 1, 4, 16"] == ("3", "+0.0500 (+0.0500 to +0.0500)", none)
    assert rows["SKD: range over T = 1, 4, 16"] == ("3", none, "+0.0700 (+0.0700 to +0.0700)")
    assert rows["SKD's range minus KD's"] == ("3", "-0.0500 (-0.0500 to -0.0500)", "+0.0700 (+0.0700 to +0.0700)")
    # KD at T = 4 and 16 has 62 and 65 points, SKD at T = 1 and 4 has 60; held out SKD at T = 1 is 1 ahead.
    assert rows["SKD at T = 1 minus KD at T = 4"] == (
        "3",
        "-0.0200 (-0.0200 to -0.0200)",
        "+0.0100 (+0.0100 to +0.0100)",
    )
    assert rows["SKD at T = 4 minus KD at T = 16"] == ("3", "-0.0500 (-0.0500 to -0.0500)", none)
    assert rows["between these two: SKD's range minus KD's"] == (
        "3",
        "-0.0300 (-0.0300 to -0.0300)",
        "+0.0100 (+0.0100 to +0.0100)",
    )
    assert rows["KD: T = 16 minus T = 4"] == ("3", "+0.0300 (+0.0300 to +0.0300)", none)
    assert rows["SKD: T = 16 minus T = 4"] == ("3", none, "+0.0700 (+0.0700 to +0.0700)")
