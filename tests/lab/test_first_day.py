"""The study of the default loss: its losses against float64 formulas, measured temperatures, cells, records and tables."""

import collections
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from experiments.studies.first_day import arms, bench, losses, primary, sets, tables
from experiments.studies.first_day.target_softness import mean_entropy, temperature_for_entropy
from tests.losses import numpy_reference as reference
from tests.losses.loss_cases import batch

ROOT = pathlib.Path(__file__).resolve().parents[2]
_T, _R = 3.0, 7.0


def _expected(student, teacher, labels):
    on_sphere, teacher_on_sphere = reference.project(student, _R), reference.project(teacher, _R)
    spherical = reference.spherical_kd(student, teacher, labels, _T, _R)
    scale = reference.logit_norm(student).mean() / _R
    raw = reference.label_terms(student, labels)
    return {
        "teacher_on_sphere": reference.kd(student, teacher_on_sphere, labels, _T),
        "student_on_sphere": reference.kd(on_sphere, teacher, labels, _T),
        "label_raw": {"label": raw, "distill": spherical["distill"]},
        "label_radius": spherical | {"label": reference.label_terms(reference.project(student, 2 * _R), labels)},
        "batch_scale": {name: scale * term for name, term in spherical.items()},
        "label_scale": spherical | {"label": reference.label_terms(reference.project(student, 5.0), labels)},
    }


def _function(name):
    return losses.label_scale(lambda: tf.constant(5.0, tf.float64)) if name == "label_scale" else getattr(losses, name)


@pytest.mark.parametrize(
    "name", ["teacher_on_sphere", "student_on_sphere", "label_raw", "label_radius", "batch_scale", "label_scale"]
)
def test_a_loss_is_its_formula_and_gives_the_teacher_no_gradient(name):
    student, teacher, labels = batch()
    settings = {"temperature": _T, "radius": _R} | ({"factor": 2.0} if name == "label_radius" else {})
    z, t = tf.constant(student), tf.constant(teacher)
    with tf.GradientTape() as tape:
        tape.watch(t)
        terms = _function(name)(z, t, labels, **settings)
        total = tf.add_n([tf.reduce_sum(term) for term in terms.values()])
    assert tape.gradient(total, t) is None
    for term, value in _expected(student, teacher, labels)[name].items():
        np.testing.assert_allclose(terms[term], value, rtol=1e-10, err_msg=term)


def test_the_batch_scale_multiplies_the_gradient_and_has_none_of_its_own():
    student, teacher, labels = batch()
    gradients = []
    for function in (losses.batch_scale, losses.label_radius):
        z = tf.constant(student)
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.add_n(
                [tf.reduce_sum(t) for t in function(z, teacher, labels, temperature=_T, radius=_R).values()]
            )
        gradients.append(tape.gradient(loss, z).numpy())
    np.testing.assert_allclose(gradients[0], gradients[1] * reference.logit_norm(student).mean() / _R, rtol=1e-9)


def test_entropy_and_its_temperature():
    logits = 3 * np.random.default_rng(0).normal(size=(50, 7))
    p = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    assert mean_entropy(logits, 2.5) == pytest.approx(-(p * np.log(p)).sum(1).mean() / math.log(7), rel=1e-12)
    assert mean_entropy(1e4 * logits, 1.0) < 1e-3 < 1 - 1e-3 < mean_entropy(logits, 1e4)
    for share in (0.02, 0.5, 0.99):
        assert mean_entropy(logits, temperature_for_entropy(logits, share)) == pytest.approx(share, abs=1e-9)
    assert temperature_for_entropy(10 * logits, 0.5) == pytest.approx(10 * temperature_for_entropy(logits, 0.5))
    for bad in (np.zeros((4, 7)), np.full((4, 7), np.nan)):
        with pytest.raises(Exception, match="Check the teacher, or give --temperature as a number"):
            temperature_for_entropy(bad, 0.5)


def test_the_least_label_scale_is_what_allows_the_probability():
    """Logits of evenly spread class vectors: s for the class, -s / (C - 1) for the others."""
    for classes in (3, 10, 100):
        s = arms.least_label_scale(classes, 0.9)
        top = math.exp(s) / (math.exp(s) + (classes - 1) * math.exp(-s / (classes - 1)))
        assert top == pytest.approx(0.9)


def test_the_cells_are_those_of_the_protocol():
    cells = list(arms.screening_cells({"sgd": 0.1, "adamw": 0.004}, [0, 1]))
    assert len(cells) == len(set(cells)) == len({cell.key() for cell in cells})
    counts = collections.Counter((cell.arm, cell.optimizer) for cell in cells)
    assert counts["skd", "sgd"] == 2 * (5 + 2) and counts["dist", "adamw"] == counts["skd_auto_50", "sgd"] == 2 * 3
    named = {name for group in arms.PROTOCOL["arms"].values() for name in group}
    assert set(arms.ARMS) <= named
    carried = list(arms.carried_cells({"sgd": 0.1, "adamw": 0.004}, [0], ["skd_auto_50"]))
    assert collections.Counter(cell.arm for cell in carried) == {"alone": 6, "kd": 10, "skd_auto_50": 6}
    own = list(arms.carried_cells({"sgd": 0.1, "adamw": 0.004}, [0], ["skd"], {"skd": 16.0}))
    at_16 = [cell.rate for cell in own if (cell.arm, cell.optimizer, cell.temperature) == ("skd", "sgd", 16.0)]
    assert at_16 == [0.1, 0.05, 0.2] and len(own) == len({cell.key() for cell in own})
    rates = list(arms.rate_cells([0, 1, 2]))
    assert len(rates) == 3 * 12 and {cell.arm for cell in rates} == {"alone"}


class _NoTraining:
    def __init__(self):
        self.trained = []

    def run(self, cell):
        self.trained.append(cell)
        return arms.as_record(cell) | {"accuracy": 0.5, "seconds": 0.0}


def test_a_killed_run_trains_what_is_missing_and_removes_a_line_cut_off(tmp_path):
    cells, path = list(arms.rate_cells([0]))[:4], tmp_path / "records" / "digits.sgd.jsonl"
    assert bench.run_all(_NoTraining(), cells[:2], path) == 0
    whole = path.read_text()
    path.write_text(whole + '{"arm": "alo')
    again = _NoTraining()
    assert bench.run_all(again, cells, path) == 0 and again.trained == cells[2:]
    assert path.read_text().startswith(whole) and [bench.key_of(r) for r in bench.read(path)] == [
        c.key() for c in cells
    ]
    assert bench.run_all(again, list(arms.rate_cells([1]))[:3], path, until=0) == 3
    beside = path.with_name("digits.adamw.rates.jsonl")
    assert bench.run_all(again, cells, beside) == 0 and bench.read(beside) == []  # they are in the set's other file


def test_an_arm_has_its_own_temperature_if_that_is_better_by_a_standard_error():
    def screen(gains):
        columns = {}
        for t in arms.TEMPERATURES:
            for arm in ("kd", "skd"):
                seeds = {s: {"accuracy": 0.5 + (gains[arm][s] if t == 16 else 0.0)} for s in range(3)}
                columns[arm, "sgd", float(t), 0.1] = seeds
        return {("shapes", "sgd"): tables.Screen(columns, "sgd", 0.1)}

    clear, unclear = [0.02, 0.03, 0.04], [0.10, -0.09, 0.01]
    assert tables.own_temperatures(screen({"kd": clear, "skd": unclear})) == {"kd": 16.0}


def test_the_primary_test_has_the_cells_and_the_conditions_of_the_protocol(monkeypatch):
    common, seeds = {"sgd": 0.1, "adamw": 0.004}, arms.PROTOCOL["seeds"]["primary_test"]
    cells = list(arms.primary_cells(common, seeds, ["skd_batch_scale"]))
    counts = collections.Counter((cell.arm, cell.optimizer) for cell in cells)
    assert counts["kd", "sgd"] == counts["skd_batch_scale", "adamw"] == 8 * 5 * 3 and counts["alone", "sgd"] == 8
    assert len(cells) == len({cell.key() for cell in cells})

    def found(gain_over_kd, loss_to_alone_of=None):
        screens = {}
        for place in ((name, optimizer) for name in primary.SETS for optimizer in arms.OPTIMIZERS):
            columns: dict = {}
            for cell in cells:
                if cell.optimizer != place[1]:
                    continue
                accuracy = 0.5 + 0.01 * cell.seed  # what all arms of a seed share
                if cell.arm == "skd_batch_scale":
                    at_own = cell.temperature == 4 and cell.rate == common[cell.optimizer]
                    accuracy += gain_over_kd - (0.1 if at_own and place == loss_to_alone_of else 0.0)
                accuracy += 0.002 * (cell.seed % 2) * (cell.arm == "skd_batch_scale")
                columns.setdefault((cell.arm, cell.optimizer, cell.temperature, cell.rate), {})[cell.seed] = {
                    "accuracy": accuracy
                }
            screens[place] = tables.Screen(columns, place[1], common[place[1]])
        return screens

    first = arms.of_first_condition(cells, common, {"skd_batch_scale": 4.0})
    assert {(cell.arm, cell.temperature, cell.rate) for cell in first} == {
        *(("alone", 0.0, rate) for rate in common.values()),
        *(("skd_batch_scale", 4.0, rate) for rate in common.values()),
    }
    assert len(first) == 2 * 2 * 8
    good = found(0.02)
    assert all(primary.complete(screen, "skd_batch_scale", 4.0) for screen in good.values())
    assert all(
        value.mean == pytest.approx(2.1) for value in primary.against_alone(good, "skd_batch_scale", 4.0).values()
    )
    kd = primary.over_cells(good, "skd_batch_scale")
    half = 100 * 2.364624 * np.std([0, 0.002] * 4, ddof=1) / 8**0.5
    assert kd.mean == pytest.approx(2.1) and kd.half == pytest.approx(half, rel=1e-5)
    spoilt = primary.against_alone(found(0.02, ("drawings", "adamw")), "skd_batch_scale", 4.0)
    assert {cell for cell, value in spoilt.items() if value.mean < 0} == {("drawings", "adamw")}
    name = "skd_batch_scale"
    text = primary._text(name, spoilt, kd)
    assert "fails in drawings adamw" in text and text.endswith("does not pass.")
    assert primary._text(name, primary.against_alone(good, name, 4.0), kd).endswith("skd_batch_scale passes.")
    # An arm that fails the first condition anywhere is decided, though its grid was not run.
    only_first = found(0.02, ("drawings", "adamw"))
    del only_first["drawings", "adamw"]._columns["kd", "adamw", 1.0, 0.008]
    for screens, words in ((only_first, "does not pass"), (found(0.02), "skd_batch_scale passes.")):
        monkeypatch.setattr(tables, "screens", lambda *_, screens=screens: screens)
        monkeypatch.setattr(tables, "own_temperatures", lambda screens: {name: 4.0})
        assert words in primary.verdict(None, name)
    worse = primary.over_cells(found(-0.02), name)
    assert "Above KD over T and rates, -1.9 ± 0.1: fails." in primary._text(name, spoilt, worse)
    del good["drawings", "adamw"]._columns["kd", "adamw", 1.0, 0.008]
    assert not primary.complete(good["drawings", "adamw"], name, 4.0)


def test_tables_choose_rates_and_pair_seeds(tmp_path):
    def write(name, rows):
        lines = [json.dumps(arms.as_record(arms.Cell(*row[:-1])) | {"accuracy": row[-1]}) for row in rows]
        (tmp_path / f"{name}.sgd.jsonl").write_text("".join(f"{line}\n" for line in lines))

    rates = [("alone", o, 0, r, s, a) for o in ("sgd", "adamw") for s in (0, 1) for r, a in ((0.1, 0.6), (0.2, 0.7))]
    write("shapes", rates)
    write("digits", [(*row[:-1], {0.1: 0.9, 0.2: 0.75}[row[3]]) for row in rates])
    assert tables.common_rates(tmp_path, "screen") == {"sgd": 0.1, "adamw": 0.1}  # loses 0.1 on one set, not 0.15
    one, other = {0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.5, 2: 0.6, 3: 0.0}
    found = tables.difference(one, other)
    assert found.mean == pytest.approx(20) and found.half == pytest.approx(100 * 4.302653 * 0.1 / 3**0.5, rel=1e-5)


@pytest.mark.slow
def test_a_bench_trains_as_the_package_does_and_alike_twice(digits_teacher, tmp_path, monkeypatch):
    """Cells share a step, so a cell must not see the one before; and a cell is a run of skd_tf.train to the last bit."""
    from skd_tf.training import experiment, train_student

    monkeypatch.setitem(sets._SETTINGS, "digits", sets._SETTINGS["digits"] | {"epochs": 2})
    (tmp_path / "run").mkdir()
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "teacher").symlink_to(digits_teacher)
    ready = bench.Bench("digits", tmp_path)
    cell = arms.Cell("skd", "sgd", 2.0, 0.05, 3)
    first = ready.run(cell)
    ready.run(arms.Cell("skd", "sgd", 8.0, 0.2, 1))
    second = ready.run(cell)
    assert first | {"seconds": 0} == second | {"seconds": 0}
    config = ready.config.replace(
        learning_rate=0.05, temperature=2.0, seed=3, weight_decay=5e-4, jit_compile="false", loss="spherical"
    )
    distiller, _ = train_student.train_student(config, experiment.prepare(config, tmp_path / "run"), tmp_path / "run")
    test = ready._held_out
    logits = distiller.student(test.images, training=False).numpy()
    assert first["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == test.labels), abs=1e-9)
    assert len(first["norms"]) == config.epochs and pathlib.Path(tmp_path / "logits").is_dir()
    scaled = ready.run(arms.Cell("skd_label_scale", "sgd", 2.0, 0.05, 3))
    assert scaled["label_radius"] != pytest.approx(first["radius"], abs=1e-3)  # it is learned


def test_rates_can_be_run_at_given_temperatures_and_candidates_only():
    cells = list(arms.rate_cells([0, 1], ["alone_warmup", "kd_warmup"], [1.0, 4.0], [0.05, 0.004]))
    alone, kd = ([c for c in cells if c.arm == arm] for arm in ("alone_warmup", "kd_warmup"))
    assert {(c.optimizer, c.rate) for c in cells} == {("sgd", 0.05), ("adamw", 0.004)}
    assert len(alone) == 2 * 2 and {c.temperature for c in alone} == {0.0}
    assert len(kd) == 2 * 2 * 2 and {c.temperature for c in kd} == {1.0, 4.0}


def test_the_page_has_the_numbers_of_the_records():
    page = (ROOT / "docs/studies/first_day.md").read_text(encoding="utf-8")
    records = ROOT / "experiments/results/first_day"
    sets = ("fashion_mnist_2000", "fashion_mnist_10000", "drawings")

    def minus_alone(name, optimizer, arm, t, rate, alone="alone"):
        columns = tables.read(records, name)
        one, other = (tables._accuracies(columns, *key, rate) for key in ((arm, optimizer, t), (alone, optimizer, 0.0)))
        assert len(one) == len(other) == (8 if name in sets else 5)
        return str(tables.difference(one, other))

    rates = tables.common_rates(records, "carry")
    for arm, t, line in (
        ("skd", 16.0, "SKD, T = 16"),
        ("skd_batch_scale", 4.0, "SKD, scaled gradient"),
        ("skd_clip", 4.0, "SKD, clipping"),
    ):
        found = [minus_alone(name, optimizer, arm, t, rates[optimizer]) for name in sets for optimizer in rates]
        assert f"| {line} | {' | '.join(found)} |" in page
    causes = (ROOT / "docs/studies/first_day_causes.md").read_text(encoding="utf-8")
    for t in (1.0, 4.0):
        for where, optimizer, rate in (
            ("SGD at 0.05", "sgd", 0.05),
            ("SGD at 0.4", "sgd", 0.4),
            ("AdamW at 0.032", "adamw", 0.032),
        ):
            small = [
                minus_alone(name, optimizer, "kd_warmup", t, rate, "alone_warmup") for name in ("shapes", "digits")
            ]
            found = [minus_alone(name, optimizer, "kd", t, rate) for name in sets[:2]]
            line = next(line for line in causes.splitlines() if line.startswith(f"| T = {t:g}, {where}"))
            assert line.split(" | ")[1:] == [*small, *found[:-1], f"{found[-1]} |"], line
    assert all("does not pass" in primary.verdict(records, arm) for arm in ("skd", "skd_batch_scale", "skd_clip"))
