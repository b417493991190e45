"""A run of an earlier version goes on with the rules that it started with."""

import json
import pathlib
import shutil

import pytest

from skd_tf.config import Config, versions
from skd_tf.errors import InputError
from skd_tf.runs.run_record import recorded_config, to_json, with_recorded_rules

OLD = pathlib.Path(__file__).parents[1] / "old_runs" / "0.1.0" / "interrupted"


def test_rules_of_a_record_win_over_the_default_only(tmp_path):
    old = recorded_config(OLD)
    assert old.data_rules == 1 and Config().data_rules == 2
    assert with_recorded_rules(Config(), lambda: None) == Config()
    continued = with_recorded_rules(Config(), lambda: old)
    assert continued.data_rules == 1
    # The next record of that run still says which version began it, and so does the one after it.
    shutil.copytree(OLD, tmp_path / "run")
    for _ in range(2):
        record = to_json(continued, tmp_path / "run")
        assert (record["version"], record["data_rules"]) == (1, 1)
        (tmp_path / "run" / "config.json").write_text(json.dumps(record))
        assert with_recorded_rules(Config(), lambda: recorded_config(tmp_path / "run")).data_rules == 1
    assert to_json(Config(), tmp_path)["version"] == versions.VERSION
    # What a user has set today is another run's without the flag: it is refused, not kept.
    today = Config.from_json(Config(data_rules=1, calibrate="none", min_warmup_steps=0).to_json())
    assert with_recorded_rules(Config(), lambda: today) == Config()
    assert with_recorded_rules(Config(overwrite=True), lambda: old).data_rules == 2
    assert with_recorded_rules(Config(), Config) == Config()


def test_the_loss_and_the_warmup_of_then_are_kept_and_the_loss_is_said(capsys):
    old = recorded_config(OLD)
    assert (old.loss, old.min_warmup_steps) == ("spherical", 0) and (Config().loss, Config().min_warmup_steps) == (
        "kd",
        100,
    )
    continued = with_recorded_rules(Config(), lambda: old)
    assert (continued.loss, continued.min_warmup_steps) == ("spherical", 0)
    assert capsys.readouterr().out == (
        "This run started with --loss=spherical and keeps it. A new run has --loss=kd.\n"
    )
    other = with_recorded_rules(Config(loss="dist"), lambda: old)  # refused later: the workdir belongs to another run
    assert other.loss == "dist" and not capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"started this run with other settings.*Received --loss: spherical -> kd\. Drop"
    ):
        with_recorded_rules(Config(), lambda: old, {"loss", "temperature"})
    today = Config(loss="spherical")  # its user gave the loss, so a command without it is another run
    assert with_recorded_rules(Config(), lambda: today).loss == "kd"
    # Flags that name the loss, and a workdir of today, say nothing.
    assert with_recorded_rules(Config(loss="spherical"), lambda: old).loss == "spherical"
    assert with_recorded_rules(Config(), Config).loss == "kd" and not capsys.readouterr().out


def test_every_rule_of_earlier_versions_differs_from_the_default():
    # These were not there, and are off by default.
    same = {
        "callback",
        "custom_layers",
        "deterministic",
        "early_stopping_patience",
        "freeze",
        "gradient_scale",
        "group",
        "list_layers",
    }
    same |= {
        "feature_loss",
        "feature_pairs",
        "feature_weight",
        "layer_rates",
        "micro_batches",
        "ship",
        "show_augmentation",
        "teacher_cache_top",
        "teacher_weights",
        "unlabelled",
        "unlabelled_share",
        "verbosity",
    }
    assert all(getattr(Config(), name) != value for name, (_, value) in versions.BEFORE.items() if name not in same)
