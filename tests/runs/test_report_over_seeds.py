"""The report on runs of several seeds: which runs are one method, its means, and the intervals over seeds."""

import numpy as np
import pytest
from scipy import stats

from skd_tf.runs.report import run_data, seeds, several_runs, tables
from skd_tf.runtime.files import write_json
from tests.helpers.report_runs import few_charts_but, make_run, page, part, text_of
from tests.helpers.runs import read_json

few_charts = few_charts_but()
KD, SKD, ALONE = (0.80, 0.82, 0.79), (0.85, 0.86, 0.845), (0.70, 0.74, 0.72)


def run(folder, seed, accuracy, alone=None, **settings):
    """A run with this test accuracy of its students, on the same images as all others."""
    path = make_run(folder, name=str(seed), **settings)
    result = read_json(path / "result.json")
    result["config"]["seed"] = seed
    result["student"]["accuracy"] = accuracy
    if alone is not None:
        result["student_alone"]["accuracy"] = alone
    write_json(path / "result.json", result)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return [
        run(folder / loss, seed, accuracies[seed], ALONE[seed], loss=loss)
        for loss, accuracies in (("kd", KD), ("spherical", SKD))
        for seed in (2, 0, 1)
    ]


def test_means_and_paired_intervals_are_those_of_scipy(paths):
    kd, skd = methods = seeds.methods(run_data.read_all(paths))
    assert [method.name for method in methods] == ["kd", "spherical"] and list(kd.runs) == [0, 1, 2]
    found = seeds.gain(skd.values("accuracy"), kd.values("accuracy"))
    expected = stats.ttest_rel(SKD, KD).confidence_interval()
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6) and found.seeds == 3
    assert found.mean == pytest.approx(np.mean(SKD) - np.mean(KD)) and found.word == "ahead" and not found.undecided
    assert seeds.gain(kd.values("accuracy"), skd.values("accuracy")).word == "behind"
    above = seeds.above_alone(kd, "accuracy")
    expected = stats.ttest_rel(KD, ALONE).confidence_interval()
    assert above.interval == pytest.approx((expected.low, expected.high), rel=1e-6)
    for degrees in (1, 2, 4, 30):
        assert seeds.student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_the_page_compares_methods_and_not_their_seeds(paths):
    text, _ = page(*paths)
    words = text_of(text)
    assert "spherical is ahead Every other method is behind it. Intervals are over seeds" in words
    low, high = (100 * end for end in stats.ttest_rel(KD, SKD).confidence_interval())
    found = f"kd: -4.8 points (95% interval {low:+.1f} to {high:+.1f}, 3 seeds): behind."
    assert text_of(part(text, "Which is best?")) == f"spherical: 85.2% right, mean of 3 seeds. {found}"
    table = text_of(part(text, "Over seeds"))
    assert f"{np.mean(KD):.4f} ± {np.std(KD, ddof=1):.4f}" in table and f"{low:+.1f} to {high:+.1f}" in table
    assert table.index("0.8517") < table.index("0.8033")  # the best first
    assert f"{100 * np.mean(np.subtract(SKD, ALONE)):+.1f}" in table
    assert words.count("teacher of all runs") == 2 and "0, teacher" not in words  # with its calibrated form
    each = words[words.index("Each run") : words.index("Settings that differ")]
    assert "student alone of kd/2 and spherical/2" in each and ", student alone" not in each
    assert "except of times" in each


def test_runs_of_one_method_are_summed_up(paths):
    words = text_of(page(*paths[:3])[0])
    assert "Mean top-1 80.3% Means over 3 seeds. Distilled minus alone: +8.3 points (95% interval" in words


@pytest.mark.parametrize("both", [True, False])
def test_few_seeds_are_undecided(paths, both):
    chosen = [paths[0], paths[2], paths[3], *([paths[5]] if both else [])]
    runs = run_data.read_all(chosen)
    headline, answers = several_runs.headline(runs), several_runs.answers(runs)
    assert headline.word.endswith("spherical has the highest mean top-1") and "cannot be told apart" in headline.text
    line = answers[0].items[1][0]
    assert "undecided, too few seeds to tell" in line and ("2 seeds" in line) == both
    assert ("one common seed" in line) != both


def test_one_student_alone_for_all_seeds_gives_no_interval(tmp_path):
    """Its own seed may have been lucky, which no interval over the others shows."""
    one = [run(tmp_path / "kd", seed, KD[seed], 0.7, student_alone="alone/0") for seed in range(2)]
    (method,) = seeds.methods(run_data.read_all(one))
    found = seeds.above_alone(method, "accuracy")
    assert found.mean == pytest.approx(np.mean(KD[:2]) - 0.7) and found.interval is None and found.undecided
    assert found.text == "+11.0 points (mean of 2 seeds)"
    for seed, path in enumerate(one):  # another one for each seed
        result = read_json(path / "result.json")
        result["config"]["student_alone"] = f"other/{seed}"
        write_json(path / "result.json", result)
    (method,) = seeds.methods(run_data.read_all(one))
    assert seeds.above_alone(method, "accuracy").interval is not None


def test_the_best_is_that_over_common_seeds(tmp_path):
    """Seed 2 of the first is not compared with anything."""
    paths = [run(tmp_path / "a", seed, value) for seed, value in enumerate((0.5, 0.52, 0.95))]
    paths += [run(tmp_path / "b", seed, value, loss="kd") for seed, value in enumerate((0.6, 0.61))]
    words = text_of(page(*paths)[0])
    assert "b is ahead Every other method is behind it" in words and "a: -9.5 points" in words


def test_what_another_is_ahead_of_is_not_called_the_best(tmp_path):
    """The only seed that all three have is the one in which a is lucky."""
    paths = [run(tmp_path / "a", seed, value) for seed, value in enumerate((0.6, 0.5, 0.5, 0.5, 0.5))]
    paths += [
        run(tmp_path / "b", seed, value, loss="kd") for seed, value in enumerate((0.599, 0.52, 0.521, 0.52, 0.521))
    ]
    paths += [run(tmp_path / "c", seed, 0.59, loss="dist") for seed in (0, 9)]
    assert seeds.ranked(seeds.methods(run_data.read_all(paths)), "accuracy")[0].name == "b"
    found = several_runs.headline(run_data.read_all(paths))
    assert found.word == "No method is ahead of b" and found.text.startswith("c cannot be told apart from it.")


def test_settings_that_change_no_result_make_no_method(tmp_path):
    settings = {"student_checkpoint": "start"}, {"student_checkpoint": "start/", "verbosity": "full"}
    paths = [run(tmp_path / "kd", seed, KD[seed], **own) for seed, own in enumerate(settings)]
    assert len(seeds.methods(run_data.read_all(paths))) == 1


def test_a_loss_whose_code_has_changed_is_another_method(tmp_path):
    paths = [run(tmp_path / "own", seed, KD[seed], loss="my_losses:js") for seed in range(3)]
    for path, code in zip(paths, ("aaaa", "aaaa", "bbbb"), strict=True):
        record = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        write_json(path / "config.json", record | {"resolved": {"loss": code}})
    found = seeds.methods(run_data.read_all(paths))
    assert sorted(len(method.runs) for method in found) == [1, 2]
    assert {"aaaa", "bbbb"} <= {word for method in found for word in method.name.split()}


def test_a_run_with_the_teacher_that_another_run_trained_is_a_seed_of_it(tmp_path):
    """As in the command that a report gives for another seed."""
    first = run(tmp_path / "runs", 0, KD[0])
    second = run(tmp_path / "runs", 1, KD[1], teacher_checkpoint=str(first / "teacher"))
    other = run(tmp_path / "runs", 2, KD[2], teacher_checkpoint=str(tmp_path / "another" / "teacher"))
    (method,) = seeds.methods(run_data.read_all([first, second]))
    assert list(method.runs) == [0, 1]
    assert len(seeds.methods(run_data.read_all([first, second, other]))) == 2


def test_runs_that_are_no_seeds_of_a_method_are_compared_one_by_one(paths, tmp_path):
    assert seeds.methods(run_data.read_all([paths[0], paths[3]])) == []  # one seed each
    hot = [run(tmp_path / "runs", seed, KD[seed % 3], temperature=2.0 + seed // 3) for seed in (0, 1, 3, 4)]
    names = [method.name for method in seeds.methods(run_data.read_all(hot))]
    assert names == ["temperature 2.0", "temperature 3.0"]  # in one folder, the settings tell them apart


def test_of_two_runs_of_one_seed_the_first_counts_and_the_page_says_so(paths, tmp_path):
    again = run(tmp_path / "again", 0, 0.1, loss="kd")
    assert read_json(paths[1] / "result.json")["config"]["seed"] == 0
    kd, _ = seeds.methods(run_data.read_all([*paths, again]))
    assert kd.values("accuracy") == dict(enumerate(KD))
    words = text_of(page(*paths, again)[0])
    assert "has the settings and the seed of kd/0, so only kd/0 counts in the means." in words
    assert "counts in the means" not in text_of(page(*paths)[0])


def test_methods_without_a_common_seed_are_not_called_level(tmp_path):
    paths = [run(tmp_path / "a", seed, value) for seed, value in enumerate((0.5, 0.52))]
    paths += [run(tmp_path / "b", seed, value, loss="kd") for seed, value in enumerate((0.6, 0.61), 2)]
    headline = several_runs.headline(run_data.read_all(paths))
    assert (headline.word, headline.tone) == ("b has the highest mean top-1", "unknown")
    assert headline.text.startswith("It has no seed in common with a, so their difference is not judged.")


def test_times_of_several_runs_are_not_ranked(paths):
    for chosen, ranked in ((paths[:1], True), (paths, False)):
        runs = run_data.read_all(chosen)
        for run, milliseconds in zip(runs, (0.25, 0.5) * 3, strict=False):
            run.details["models"]["student"]["cost"]["latency_ms"]["median"] = milliseconds
            run.details["models"]["teacher"]["cost"] = {"latency_ms": {"median": 9.0}}
        first, _ = tables.tables(runs, [])
        place = [column.key for column in first.columns].index("latency_ms")
        assert any(row.cells[place].best for row in first.rows) == ranked
        assert any(row.cells[0].best for row in first.rows)
