"""--feature_pairs: a run with features, resumed, shipped, searched and said like the others."""

import json
import shutil

import keras
import pytest

from skd_tf import data, tune
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runs import lineage
from skd_tf.search.plan import Plan
from skd_tf.training import dry_run, layers, nested_runs
from skd_tf.training.checkpoints import Checkpoints, _read
from tests.helpers.commands import exit_code
from tests.helpers.runs import SMALL, assert_same_run, numbers, read_json, train

PAIRS = "stage1_conv:stage1_relu, stage2_relu:stage2_relu"
SETTINGS = SMALL | {
    "epochs": 2,
    "loss": "kd",
    "feature_pairs": PAIRS,
    "feature_weight": "1, 0.25 from epoch 1",
    "feature_loss": "cosine",
    "ema_momentum": 0.9,
    "clip_norm": 1.0,
    "keep_checkpoints": 9,
    "report": False,
    "calibrate": "none",
}


@pytest.fixture(scope="module")
def base(digits_teacher):
    return SETTINGS | {"teacher_checkpoint": str(digits_teacher)}


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "run"
    train(folder, base)
    return folder


def test_a_dry_run_says_that_it_does_not_know_the_layers(base):
    found = dry_run.describe(Config(**base | {"layer_rates": "logits: 2"}))
    assert "Not checked here\n  --feature_pairs, --layer_rates: whether these layers exist" in found
    assert "Not checked" not in dry_run.describe(Config(**base | {"feature_pairs": ""}))


def test_layers_are_listed_from_input_to_output(base):
    config = Config(**base)
    tables = layers.tables(config, data.load(config.pick(data.DataSettings))).split("\n\n")
    assert len(tables) == 2
    for table in tables:
        names = [line.split()[0] for line in table.splitlines()]
        places = [names.index(name) for name in ("stage1_conv", "stage1_relu", "stage2_conv", "logits")]
        assert places == sorted(places)


def test_a_run_records_the_features_and_ships_the_student_alone(finished, digits_teacher):
    rows = numbers(finished)
    assert [row["feature_weight"] for row in rows] == [1.0, 0.25]
    assert 0 < rows[1]["feature_loss"] < rows[0]["feature_loss"] < 8
    arrays, _ = _read(Checkpoints(finished / "checkpoints").paths()[-1])
    assert [name for name in arrays if name.startswith("feature")] == [f"feature/{i:04d}" for i in range(5)]
    assert arrays["feature/0000"].shape == (2, 8)  # cnn_2 to cnn_8, before its BatchNorm
    result = read_json(finished / "result.json")
    shipped = keras.models.load_model(finished / "student.keras", compile=False)
    assert shipped.count_params() == 164 and result["student"]["parameters"] == 152
    assert (result["config"]["feature_pairs"], result["config"]["feature_loss"]) == (PAIRS, "cosine")
    found = lineage.read(finished / "student.keras").trainings
    assert sorted(training["via"] for training in found) == ["teacher", "weights"]


@pytest.mark.slow
def test_resumed_it_ends_with_the_same_bits(finished, base, tmp_path):
    shutil.copytree(finished, tmp_path / "resumed")
    for name in ("result.json", "measurements.json"):
        (tmp_path / "resumed" / name).unlink()
    Checkpoints(tmp_path / "resumed" / "checkpoints").paths()[-1].unlink()
    train(tmp_path / "resumed", base)
    assert_same_run(tmp_path / "resumed", finished)
    for other in ({"feature_weight": 2.0}, {"feature_loss": "mse"}, {"feature_pairs": ""}):
        with pytest.raises(InputError, match="--feature_"):
            train(tmp_path / "resumed", base, **other)


@pytest.mark.slow
def test_two_replicas_agree_with_one(finished, base, tmp_path):
    train(tmp_path / "mirrored", base, strategy="mirrored")
    for one, two in zip(numbers(finished), numbers(tmp_path / "mirrored"), strict=True):
        assert one["feature_loss"] == pytest.approx(two["feature_loss"], rel=1e-3)


def test_what_is_wrong_is_found_before_a_teacher_is_trained(base, tmp_path, monkeypatch):
    for settings, words in (
        ({"feature_pairs": "stage1_rel:stage1_relu"}, r"teacher has no layer.*Did you mean stage1_relu\?"),
        (
            {"feature_pairs": "stage1_relu:stem_relu", "teacher_checkpoint": "", "teacher": "cnn_4"},
            "student has no layer",
        ),
        ({"feature_pairs": "stage1_relu"}, "--feature_pairs is not a list of pairs of layers"),
        ({"teacher_cache_dir": str(tmp_path)}, "--feature_pairs needs the teacher's layers in every step"),
        ({"loss": "cross_entropy"}, "--feature_pairs needs a teacher.*--loss=kd --kd_weight=0"),
        ({"teacher_checkpoint": "a,b"}, "--feature_pairs works with one teacher only"),
        ({"feature_loss": "l1"}, "--feature_loss has an unknown value"),
    ):
        with pytest.raises(InputError, match=words):
            train(tmp_path / "run", base, **settings)
        assert not [*(tmp_path / "run").rglob("*.ckpt")]


def test_the_one_table_of_settings_has_them(base, tmp_path):
    config = Config(**base)
    assert f"features       {PAIRS.replace(':', ' -> ')}, cosine, weight 1, 0.25 from epoch 1" in dry_run.describe(
        config
    )
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    alone = nested_runs.student_alone_config(config)
    assert (alone.feature_pairs, alone.feature_weight, alone.feature_loss) == ("", 1.0, "mse")
    plan = Plan(
        config,
        ("feature_weight:choice:0.5|2", "feature_pairs:choice:a:b|a:b, c:d"),
        tuner="grid",
        objective="feature_loss",
    )
    assert plan.trials == 4 and plan.config_of({"feature_pairs": "a:b"}).feature_pairs == "a:b"
    with pytest.raises(InputError, match="No feature_pairs in this search reads --feature_weight"):
        Plan(Config(teacher_checkpoint="t"), ("feature_weight:log:0.1:10",))
    flags = [f"--{name}={base[name]}" for name in ("teacher_checkpoint", "student", "loss", "feature_pairs")]
    search = "--search=feature_weight:log:0.1:1"
    assert (
        exit_code(tune.cli_main, f"--workdir={tmp_path}", search, "--dry_run", *flags) == 0
    )  # without its usual cache
