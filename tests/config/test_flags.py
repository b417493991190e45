"""The command line: flags from Config, flagfiles, round trips and one-line errors."""

import dataclasses
import pathlib
import sys
import textwrap

import pytest
from absl import flags
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skd_tf.config import Config, app, versions
from skd_tf.config.fields import kinds_of, rules_of
from skd_tf.config.flags import (
    _ELSEWHERE,
    FIELDS,
    PLACES,
    config_from,
    define_flags,
    explicit_names,
    parse,
    read_flagfile,
    write_flags,
)
from skd_tf.errors import InputError
from skd_tf.runs.workdir import Workdir

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CONTRACT = [
    *("workdir", "data_dir", "dataset", "download", "data_seed", "validation_fraction", "image_size"),
    *("student", "student_alone", "custom_layers", "teacher", "teacher_checkpoint", "teacher_flagfile"),
    *("loss", "temperature", "kd_weight", "label_weight", "radius", "center", "loss_settings"),
    *("epochs", "batch_size", "learning_rate", "lr_schedule", "warmup_epochs", "optimizer", "momentum"),
    "min_warmup_steps",
    *("nesterov", "weight_decay", "clip_norm", "label_smoothing", "seed"),
    *("strategy", "virtual_devices", "precision", "teacher_precision", "jit_compile", "steps_per_call"),
    *("checkpoint_every", "keep_checkpoints", "dry_run", "overwrite", "sync_batch_norm"),
    *("teacher_cache_dir", "teacher_cache_dtype", "teacher_cache_epochs", "teacher_cache_top"),
    *("augmentation", "cache_dataset", "student_checkpoint", "student_preprocessing", "teacher_preprocessing"),
    *(
        "ema_momentum",
        "profile_steps",
        "verbosity",
        "report",
        "report_images",
        "data_rules",
        "validation_split",
        "group",
    ),
    *(
        "calibrate",
        "show_augmentation",
        "callback",
        "early_stopping_patience",
        "ship",
        "freeze",
        "layer_rates",
        "list_layers",
    ),
    *("unlabelled", "unlabelled_share"),
    *(
        "teacher_weights",
        "gradient_scale",
        "deterministic",
        "micro_batches",
        "feature_pairs",
        "feature_weight",
        "feature_loss",
    ),
]


def _parsed(*arguments, names=None):
    flag_values = flags.FlagValues()
    define_flags(flag_values, *([names] if names else []))
    parse(arguments, flag_values)
    return flag_values


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_the_flags_are_the_contract_and_the_fields_one_to_one():
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    assert sorted(flag_values) == sorted(CONTRACT)
    fields = {field.name: field for field in dataclasses.fields(Config)}
    assert sorted(fields) == sorted(set(CONTRACT) - set(PLACES))
    for name, field in fields.items():
        assert flag_values[name].help == rules_of(field).help
        assert flag_values[name].boolean == (bool in kinds_of(field))


def test_flags_become_a_config_and_the_explicit_ones_are_known():
    flag_values = _parsed("--epochs=5", "--nocenter", "--temperature", "2", "--radius=6.3", "--label_weight=none")
    assert config_from(flag_values) == Config(epochs=5, center=False, temperature=2.0, radius=6.3)
    assert explicit_names(flag_values) == {"epochs", "center", "temperature", "radius", "label_weight"}
    base = Config(epochs=9, seed=4, label_weight=0.5)
    assert config_from(flag_values, base).seed == 4
    assert config_from(flag_values, base).label_weight is None
    assert flag_values.workdir is None and flag_values.data_dir is None


def test_an_entry_point_can_take_some_of_the_flags():
    flag_values = _parsed("--batch_size=8", names=("batch_size", "data_dir"))
    assert sorted(flag_values) == ["batch_size", "data_dir"]
    assert config_from(flag_values, Config(seed=3)) == Config(seed=3, batch_size=8)
    with pytest.raises(InputError, match="Unknown flag"):
        _parsed("--epochs=3", names=("batch_size",))


def test_a_later_flag_overrides_and_a_flagfile_counts_where_it_is_named(tmp_path):
    path = _write(tmp_path / "a.flags", "# a comment\n// another\n\n  --epochs=7\n--seed=2\n")
    assert config_from(_parsed(f"--flagfile={path}", "--epochs=8")) == Config(epochs=8, seed=2)
    assert config_from(_parsed("--epochs=8", "--flagfile", str(path))) == Config(epochs=7, seed=2)


def test_flagfiles_compose_by_include_from_any_folder(tmp_path, monkeypatch):
    _write(tmp_path / "sets" / "base.flags", "--epochs=7\n--seed=2\n")
    _write(tmp_path / "sets" / "rows" / "near.flags", "--flagfile=../base.flags\n--seed=3\n")
    far = _write(tmp_path / "sets" / "rows" / "far.flags", "--flagfile=sets/base.flags\n--seed=3\n")
    monkeypatch.chdir("/")
    config, names = read_flagfile(tmp_path / "sets" / "rows" / "near.flags")
    assert config == Config(epochs=7, seed=3) and names == {"epochs", "seed"}
    with pytest.raises(InputError, match="cannot be read"):
        read_flagfile(far)
    monkeypatch.chdir(tmp_path)
    assert read_flagfile(far)[0] == config


def test_read_flagfile_ignores_workdir_and_data_dir(tmp_path):
    path = _write(tmp_path / "t.flags", "--workdir=runs/t\n--data_dir=data\n--loss=cross_entropy\n--nodownload\n")
    config, names = read_flagfile(path, base=Config(epochs=4))
    assert config == Config(loss="cross_entropy", epochs=4) and names == {"loss", "download"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--epochs=5  # quick\n", "A comment follows a flag in .*a.flags line 1.*a line of its own"),
        ("\n--dataset=digits // small\n", "A comment follows a flag in .*line 2"),
        ("epochs=5\n", "A line is not a flag in .*line 1.*Received epochs=5"),
        ("--epochs 5\n", "lacks its = in .*line 1.*Write --epochs=5"),
        ("--seed=1\n--epoch=5\n", r"Unknown flag in .*a.flags line 2.*Did you mean --epochs\?"),
        ("--flagfile=a.flags\n", "includes itself"),
        ("--flagfile=missing.flags\n", "cannot be read .*--flagfile=missing.flags"),
        ("--epochs=0\n", "--epochs is out of range"),
    ],
)
def test_a_bad_flagfile_is_one_line_that_says_where(tmp_path, text, message):
    path = _write(tmp_path / "a.flags", text)
    with pytest.raises(InputError, match=message) as caught:
        read_flagfile(path)
    assert "\n" not in str(caught.value)


def test_a_flag_with_another_project_s_name_is_answered_with_ours_where_the_command_has_it():
    for flag, names, hint in (
        ("--lr=0.1", None, "Did you mean --learning_rate?"),
        ("--T=2", None, "Did you mean --temperature?"),
        ("--bs=2", None, "Did you mean --batch_size?"),
        ("--output_dir=x", None, "Did you mean --workdir?"),
        ("--lr=0.1", ("epochs",), "See --help"),
    ):
        with pytest.raises(InputError) as caught:
            _parsed(flag, names=names)
        assert hint in str(caught.value)
    every = {name for names in _ELSEWHERE.values() for name in names}
    assert every - {"output"} <= {*PLACES, *FIELDS}


def _values(field):
    """All values that a field could have."""
    rules, kinds = rules_of(field), kinds_of(field)
    if bool in kinds:
        return st.booleans()
    options = [st.just(field.default)]
    if rules.choices:
        options.append(st.sampled_from(rules.choices))
    low = rules.low if rules.above is None else rules.above
    high = rules.high if rules.below is None else rules.below
    if int in kinds:
        options.append(st.integers(low, 2**31 - 1 if high is None else high))
    if float in kinds:
        options.append(st.floats(low, high, exclude_min=rules.above is not None, exclude_max=rules.below is not None))
    number = st.floats(0, 1e6, allow_subnormal=False)
    grammars = {
        "kd_weight": st.builds("{}, {} from epoch 3, {} from epoch 7.5".format, number, number, number),
        "label_weight": st.builds("cosine {} to {} over 2.5 epochs".format, number, number),
        "lr_schedule": st.builds("multistep:{0},{1}:{2}".format, st.integers(1, 9), st.integers(10, 99), number),
        "checkpoint_every": st.builds("{} steps".format, st.integers(1)) | st.builds("{} seconds".format, number),
    }
    if field.name in grammars:
        options.append(grammars[field.name])
    elif kinds == {str} and not rules.choices:
        options.append(st.text(max_size=20) | st.text("ab-=#/ 'é\"\\", max_size=8))
    return st.one_of(options)


@pytest.mark.parametrize("examples", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_written_flags_are_read_back_equal(tmp_path, examples):
    @settings(deadline=None, max_examples=examples, database=None)
    @given(st.fixed_dictionaries({}, optional={field.name: _values(field) for field in dataclasses.fields(Config)}))
    def written_and_read(values):
        for name in list(values):  # drop the values that are refused, keep the others
            try:
                Config(**{name: values[name], "label_weight": 1, "epochs": 10_000})
            except InputError:
                del values[name]
        try:
            config = Config(**values)
        except InputError:
            assume(False)
        path = tmp_path / "written.flags"
        path.write_text(write_flags(config), encoding="utf-8")
        again, names = read_flagfile(path)
        left_out = {"overwrite": False, "dry_run": False, "show_augmentation": "", "list_layers": False}
        repeated = config.replace(**left_out)
        assert again == repeated
        assert names == {
            field.name for field in dataclasses.fields(Config) if getattr(repeated, field.name) != field.default
        }
        assert Config.from_json(config.to_json()) == config

    written_and_read()


def test_a_home_folder_is_found_behind_a_flag_and_in_a_flagfile(tmp_path, monkeypatch):
    """A shell expands ~ at the start of a word only."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some.flags").write_text("--teacher_checkpoint=~/teacher\n--student_alone=~other\n")
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse(["--workdir=~/run", "--flagfile=~/some.flags"], flag_values)
    config = config_from(flag_values)
    assert flag_values.workdir == f"{tmp_path}/run" and config.teacher_checkpoint == f"{tmp_path}/teacher"
    assert config.student_alone == "~other"


def test_the_command_to_resume_does_not_restart_from_scratch(tmp_path, monkeypatch):
    """Nor if a flagfile holds --overwrite."""
    file = tmp_path / "some.flags"
    file.write_text("--epochs=2\n")
    monkeypatch.setattr(sys, "argv", ["skd-train", f"--flagfile={file}", "--overwrite", f"--workdir={tmp_path / 'w'}"])
    monkeypatch.setitem(app._overwritten, "done", False)
    unchanged = app.command_line()
    assert "--overwrite" in unchanged  # the earlier run is still there
    Workdir(tmp_path / "w", Config(overwrite=True))
    assert app.command_line() == unchanged.replace(" --overwrite", "")
    file.write_text("--epochs=2\n--overwrite\n")
    assert app.command_line() == unchanged.replace(" --overwrite", "") + " --nooverwrite"


def test_a_flag_of_a_command_may_share_the_name_of_a_setting():
    flag_values = flags.FlagValues()
    define_flags(flag_values, ("seed",))
    flags.DEFINE_string("radius", "1", rules_of(FIELDS["radius"]).help, flag_values=flag_values)
    parse(["--radius=2", "--seed=3"], flag_values)
    assert explicit_names(flag_values) == {"seed"} and config_from(flag_values) == Config(seed=3)


def test_flags_of_an_earlier_version_s_run_say_what_a_new_run_does_otherwise(tmp_path, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "flags.txt").write_text("--epochs=3\n")

    def said(workdir, *more):
        flag_values = flags.FlagValues()
        define_flags(flag_values)
        parse([f"--flagfile={old / 'flags.txt'}", f"--workdir={workdir}", *more], flag_values)
        return capsys.readouterr().err

    assert said(new) == ""  # nothing tells its version
    (old / "config.json").write_text("{}")
    text = said(new)
    assert text.count("earlier version") == 1 and "a new run has" in text and "--validation_split=stratified" in text
    assert "--validation_split=uniform" in text.partition("add ")[2] and "--data_rules=1" in text
    assert "validation_split" not in said(new, "--validation_split=uniform")
    assert said(old) == ""  # there the run goes on as it began
    (old / "config.json").write_text(f'{{"version": {versions.VERSION}}}')
    assert said(new) == ""
