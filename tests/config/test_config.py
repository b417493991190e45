"""Config: what it accepts, what it refuses and how, and its records."""

import dataclasses
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

from skd_tf.config import Config, groups, versions
from skd_tf.config.fields import rules_of
from skd_tf.errors import InputError


def _refusal(**settings):
    with pytest.raises(InputError) as caught:
        Config(**settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "value", "expected", "remedy"),
    [
        ("epochs", 0, "a whole number >= 1", "the default, 30"),
        ("epochs", 2.5, "a whole number >= 1", "the default, 30"),
        ("epochs", "many", "a whole number >= 1", "the default, 30"),
        ("epochs", True, "a whole number >= 1", "the default, 30"),
        ("epochs", None, "a whole number >= 1", "the default, 30"),
        ("batch_size", -64, "a whole number >= 1 in examples", "the default, 64"),
        ("validation_fraction", 0.51, "a number >= 0 and <= 0.5", "the default, 0.1"),
        ("temperature", 0, "a number > 0", "the default, 4.0"),
        ("temperature", float("nan"), "a number > 0", "the default, 4.0"),
        ("learning_rate", float("inf"), "a number > 0", "the default, 0.05"),
        ("learning_rate", "1e999", "a number > 0", "the default, 0.05"),
        ("label_smoothing", 1, "a number >= 0 and < 1", "the default, 0.0"),
        ("momentum", 1.0, "a number >= 0 and < 1", "the default, 0.9"),
        ("seed", -1, "a whole number >= 0", "the default, 0"),
        ("center", "maybe", "true or false", "the default, true"),
        ("center", 1, "true or false", "the default, true"),
        ("loss", "sphrical", "one of spherical, kd, cross_entropy", "Did you mean spherical?"),
        ("loss", "focal", "logit_standardization, dkd, dist", "write MODULE:FUNCTION"),
        ("student", "resnt20", "resnet8, resnet14, resnet20", "Did you mean resnet20?"),
        ("teacher", "resnett56", "resnet56", "Did you mean resnet56?"),
        ("teacher", "big.keras", "the name of a network", "use --teacher_checkpoint=big.keras"),
        ("teacher", "runs/big", "the name of a network", "use --teacher_checkpoint=runs/big"),
        ("radius", 0, "a number > 0, or one of auto, teacher_mean, teacher_sample", "the default, auto"),
        ("radius", "nan", "a number > 0, or one of auto", "the default, auto"),
        ("radius", "teacher_men", "teacher_mean", "Did you mean teacher_mean?"),
        ("seed", "0,1,2", "a whole number", "Start a run for each, with its own --workdir, or compare them"),
        ("temperature", "2,x", "a number > 0", "Leave it out for the default, 4.0"),
        ("optimizer", "adam", "one of sgd, adamw", "Did you mean adamw?"),
        ("jit_compile", "on", "one of auto, true, false", "the default, auto"),
        ("kd_weight", -0.1, "a number >= 0", "the default, 0.9"),
        ("kd_weight", "0.9 then 0.5", "0.5 from epoch 60", "--kd_weight=0.9"),
        ("kd_weight", "0.9, 0.5 from epoch 6, 0.1 from epoch 6", "from epoch 60", "Put them in order"),
        ("kd_weight", "linear 0 to 1 over 0 epochs", "linear 0 to 1 over 20 epochs", "--kd_weight=0.9"),
        ("kd_weight", None, "a number >= 0", "the default, 0.9"),
        ("label_weight", "-1", "or none", "the default, none"),
        ("lr_schedule", "cosin", "constant, cosine, linear, or multistep", "Did you mean cosine?"),
        ("lr_schedule", "multistep:", "multistep:EPOCH,EPOCH", "--lr_schedule=cosine"),
        ("lr_schedule", "multistep:30,20", "multistep:EPOCH,EPOCH", "Put them in order"),
        ("lr_schedule", "multistep:30:0", "multistep:EPOCH,EPOCH", "numbers > 0"),
        ("checkpoint_every", "0 steps", '"epoch", "N steps" (or just N)', "--checkpoint_every="),
        ("checkpoint_every", "1.5 steps", '"epoch", "N steps" (or just N)', "--checkpoint_every="),
        ("checkpoint_every", "5 epochs", '"epoch", "N steps" (or just N)', "--checkpoint_every="),
        ("dataset", "", "a name", "for its default"),
        ("dataset", 7, "text", "the default, digits"),
        ("teacher_checkpoint", "a\nb", "printable text", "Rename"),
        ("teacher_checkpoint", "runs/a #1", "no # or //", "Rename"),
        ("warmup_epochs", 31, "at most --epochs=30", "Shorten the warm-up"),
    ],
)
def test_a_bad_value_is_refused_with_flag_value_expectation_and_remedy(name, value, expected, remedy):
    message = _refusal(**{name: value})
    problem, rest = message.split(" Expected ", 1)
    expectation, received = rest.split(f" Received --{name}=", 1)
    assert problem.startswith(f"--{name} ")
    assert expected in expectation
    assert remedy in received
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("name", "given", "held"),
    [
        ("epochs", 3.0, 3),
        ("epochs", "3", 3),
        ("epochs", np.int64(3), 3),
        ("temperature", 4, 4.0),
        ("temperature", "2.5", 2.5),
        ("temperature", np.float32(0.5), 0.5),
        ("weight_decay", "-0.0", 0.0),
        ("center", "false", False),
        ("center", np.bool_(False), False),
        ("jit_compile", True, "true"),
        ("radius", "6.3", 6.3),
        ("radius", 20, 20.0),
        ("radius", "teacher_mean", "teacher_mean"),
        ("kd_weight", "0.5", 0.5),
        ("kd_weight", 1, 1.0),
        ("kd_weight", "0.9,0.50 from  epoch 60.0, 1e-1 from epoch 80", "0.9, 0.5 from epoch 60, 0.1 from epoch 80"),
        ("kd_weight", "0.5, 0.5 from epoch 3", "0.5, 0.5 from epoch 3"),
        ("kd_weight", "Linear 0 to 1 over 20 epochs", "linear 0 to 1 over 20 epochs"),
        ("kd_weight", "cosine .5 to 0 over 1 epoch", "cosine 0.5 to 0 over 1 epochs"),
        ("label_weight", "none", None),
        ("label_weight", "9", 9.0),
        ("warmup_epochs", "none", None),
        ("warmup_epochs", "1.5", 1.5),
        ("lr_schedule", "multistep: 150, 180,210:0.1", "multistep:150,180,210"),
        ("lr_schedule", "multistep:30:0.2", "multistep:30:0.2"),
        ("checkpoint_every", "100steps", "100 steps"),
        ("checkpoint_every", "1 step", "1 steps"),
        ("checkpoint_every", "30s", "30 seconds"),
        ("teacher", "", ""),
        ("teacher_checkpoint", "runs/ä b=c", "runs/ä b=c"),
    ],
)
def test_a_good_value_is_stored_in_canonical_form(name, given, held):
    value = getattr(Config(**{name: given}), name)
    assert value == held and type(value) is type(held)
    again = getattr(Config(**{name: value}), name)
    assert again == held


def test_an_unset_label_weight_keeps_the_kd_weight_within_0_and_1():
    for weight in (9, "0.5, 1.5 from epoch 3", "linear 0 to 2 over 5 epochs"):
        assert "give --label_weight as well" in _refusal(kd_weight=weight)
        assert Config(kd_weight=weight, label_weight=0.1).label_weight == 0.1
        assert Config(kd_weight=weight, loss="cross_entropy")  # its label term is always at weight 1
    assert Config(kd_weight=1.0) and Config(kd_weight="linear 0 to 1 over 5 epochs")


def test_every_loss_except_cross_entropy_requires_a_teacher():
    rules = rules_of({field.name: field for field in dataclasses.fields(Config)}["loss"])
    for loss in rules.choices:
        config = Config(loss=loss)
        if loss == "cross_entropy":
            config.require_teacher()
            continue
        with pytest.raises(InputError, match=f"--loss={loss} needs a teacher"):
            config.require_teacher()
        config.replace(teacher="resnet20").require_teacher()


def test_the_most_specific_teacher_is_the_source():
    config = Config(teacher="resnet20")
    assert config.teacher_source == ("teacher", "resnet20")
    config = config.replace(teacher_flagfile="t.flags")
    assert config.teacher_source == ("teacher_flagfile", "t.flags")
    assert config.replace(teacher_checkpoint="t.keras").teacher_source == ("teacher_checkpoint", "t.keras")


def test_json_gives_an_equal_config_back():
    config = Config(kd_weight="0.9, 0.5 from epoch 60", radius=6.3, warmup_epochs=2, epochs=70, center=False)
    record = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert Config.from_json(record) == config
    assert set(record) == {"version"} | {field.name for field in dataclasses.fields(Config)}


def test_json_with_unknown_or_missing_settings_is_refused():
    record = Config().to_json()
    del record["temperature"]
    record["colour"] = "red"
    with pytest.raises(InputError, match="unknown=colour missing=temperature"):
        Config.from_json(record)


def test_replace_checks_as_construction_does():
    config = Config()
    assert config.replace(epochs=5) == Config(epochs=5) and config.epochs == 30
    with pytest.raises(InputError, match="--epochs is out of range"):
        config.replace(epochs=0)
    with pytest.raises(InputError, match=r"Did you mean epochs\?"):
        config.replace(epoch=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 5


def test_one_folder_has_many_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to("pictures")
    run = Config(dataset="folder:pictures", unlabelled="images:pictures")
    for path in ("./pictures/", tmp_path / "pictures", "link"):
        assert run.differences(Config(dataset=f"folder:{path}", unlabelled=f"images:{path}")) == []
    assert len(run.differences(run.replace(dataset="folder:other"))) == 1


def test_differences_list_only_what_could_change_a_number():
    this = Config(epochs=5, label_weight=0.1)
    assert this.differences(this.replace()) == []
    other = this.replace(epochs=6, label_weight=None, center=False)
    assert this.differences(other) == ["--label_weight: 0.1 -> none", "--center: true -> false", "--epochs: 5 -> 6"]
    silent = {
        "download": True,
        "custom_layers": "my_layers",
        "steps_per_call": 1,
        "checkpoint_every": "5 steps",
        "keep_checkpoints": 5,
        "cache_dataset": "none",
        "data_rules": 1,  # the identity of the data is compared instead: the rules change the pixels of some sets only
        "profile_steps": "3,4",
        "report": False,
        "report_images": 5,
        "dry_run": True,
        "overwrite": True,
        "verbosity": "full",
        "show_augmentation": "aug.png",
        "list_layers": True,
        "callback": "my_code:log",
    }
    assert this.differences(this.replace(**silent)) == []
    paths = {"dataset": "folder:a", "unlabelled": "images:b", "student_checkpoint": "c", "teacher_checkpoint": "d,e"}
    named = this.replace(**paths, student_alone="f")  # a shell completes each of them with a slash
    slashed = {name: path.replace(",", "/,") + "/" for name, path in paths.items()}
    assert named.differences(named.replace(**slashed, student_alone="f/")) == []
    assert named.differences(named.replace(student_checkpoint="")) == ["--student_checkpoint: c -> empty"]
    fields = dataclasses.fields(Config)
    assert {field.name for field in fields if not rules_of(field).affects_result} == set(silent)


def test_every_default_passes_its_own_check_and_every_setting_has_help():
    config = Config()
    for field in dataclasses.fields(Config):
        assert getattr(config, field.name) == field.default
        assert len(rules_of(field).help) > 5


def test_an_earlier_version_is_read_as_it_was_meant():
    before = {"nesterov": (2, True), "seed": (1, 7)}  # introduced by version 2 and 1
    assert versions.upgrade({"version": 1, "epochs": 3}, before) == {"epochs": 3, "nesterov": True}
    assert versions.upgrade({"epochs": 3, "nesterov": False}, before) == {"epochs": 3, "nesterov": False}
    with pytest.raises(InputError, match="A later version of skd_tf"):
        versions.upgrade({"version": versions.VERSION + 1})


def test_a_dataclass_gets_the_settings_that_its_fields_name():
    kind = dataclasses.make_dataclass("Kind", ["epochs", "radius"])
    assert Config(epochs=5, radius=2).pick(kind) == kind(5, 2.0)


@pytest.mark.parametrize(
    "code",
    [
        "import skd_tf.config.app",
        "import skd_tf.runtime.compat, skd_tf.runtime.console, skd_tf.runtime.devices, skd_tf.runtime.files",
        "from skd_tf.config import Config; from skd_tf.training import dry_run; "
        "dry_run.describe(Config(teacher='resnet20'))",
    ],
)
def test_what_needs_no_tensorflow_does_not_import_it(code):
    code += "; import sys; assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_and_the_distiller_have_the_same_default_loss():
    from skd_tf import Distiller

    defaults = {name: p.default for name, p in inspect.signature(Distiller.__init__).parameters.items()}
    names = ("loss", "temperature", "kd_weight", "label_weight", "radius", "center", "gradient_scale")
    assert {name: defaults[name] for name in names} == {name: getattr(Config(), name) for name in names}
    assert Config().loss == "kd"


def test_text_that_a_flagfile_would_lose_is_refused_for_every_setting():
    for name in ("dataset", "unlabelled", "freeze"):
        with pytest.raises(InputError, match="does not fit on a line of a flagfile"):
            Config(**{name: "images:/data/my #1 photos"})


def test_each_setting_is_in_one_group():
    """A new setting needs a decision: does a teacher that the run trains have it, and does the student alone?"""
    each = [*groups.DATA_AND_MACHINE, *groups.RECIPE, *groups.OF_THE_STUDENT, *groups.DISTILLING]
    assert sorted(each) == sorted(field.name for field in dataclasses.fields(Config))
    assert set(groups.SAME_GRAPH) < set(each)
