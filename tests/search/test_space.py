"""The grammar of --search, and which losses and optimizers read a searched setting."""

import dataclasses

import pytest

from skd_tf.config import Config
from skd_tf.distillation.optimizers import make_optimizer
from skd_tf.errors import InputError
from skd_tf.search.space import READ_BY, SEARCHABLE, parse_dimension, parse_space
from tests.search.cases import one_line_with

CONFIG = Config(teacher_checkpoint="teacher", student="cnn_2", loss="spherical")


@pytest.mark.parametrize(
    "text, kind, ends, values",
    [
        ("temperature:log:1:16", "log", (1.0, 16.0), ()),
        ("temperature:log:1:16:5", "log", (1.0, 16.0), (1.0, 2.0, 4.0, 8.0, 16.0)),
        ("kd_weight:linear:0:1:3", "linear", (0.0, 1.0), (0.0, 0.5, 1.0)),
        ("epochs:int:1:9", "int", (1, 9), ()),
        ("epochs:int:1:9:3", "int", (1, 9), (1, 5, 9)),
        ("temperature:int:1:4", "int", (1.0, 4.0), ()),
        ("loss:choice:spherical,kd", "choice", (), ("spherical", "kd")),
        ("radius:choice:auto,3,teacher_mean", "choice", (), ("auto", 3.0, "teacher_mean")),
        ("center:choice:true,false", "choice", (), (True, False)),
        ("warmup_epochs:choice:none,1", "choice", (), (None, 1.0)),
        ("lr_schedule:choice:cosine|multistep:10,20", "choice", (), ("cosine", "multistep:10,20")),
        ("kd_weight:choice:0.9|0.9, 0.1 from epoch 9", "choice", (), (0.9, "0.9, 0.1 from epoch 9")),
    ],
)
def test_the_grammar_of_a_search(text, kind, ends, values):
    dimension = parse_dimension(text, CONFIG)
    assert (dimension.kind, dimension.ends, dimension.values) == (kind, ends, values)
    assert parse_dimension(dimension.text, CONFIG) == dimension
    for value in values:
        assert value in dimension and dimension.to_config(dimension.to_keras_tuner(value)) == value


BAD = {
    "names no setting": ["", "dataset:choice:digits,cifar10"],
    "not follow its grammar": ["temperature", "temperature:uniform:1:2"],
    "Did you mean temperature?": ["temprature:log:1:4"],
    "ends out of order": ["temperature:log:4:1", "temperature:log:0:4", "temperature:log:nan:4"],
    "--temperature is out of range": ["temperature:linear:0:4"],
    "--momentum is out of range": ["momentum:linear:0.5:1"],
    "not give two numbers": ["temperature:log:1", "epochs:int:1.5:3"],
    "COUNT": ["temperature:log:1:16:1", "temperature:log:1:16:3:3"],
    "only one": ["temperature:choice:4"],
    "repeats a value": ["temperature:choice:4,4.0"],
    "Use epochs:int": ["epochs:linear:1:3"],
    "Use loss:choice": ["loss:linear:1:3"],
    "--loss is not a loss": ["loss:choice:spherical,nonsense"],
}


@pytest.mark.parametrize("words", BAD)
def test_a_bad_search_is_one_line(words):
    for text in BAD[words]:
        with one_line_with(words, "Received --"):
            parse_dimension(text, CONFIG)


def test_every_searchable_name_is_a_setting_and_each_is_searched_once():
    assert set(SEARCHABLE) <= {field.name for field in dataclasses.fields(Config)}
    both = r"searched twice.*=temperature:log:1.0:4.0 and --search=temperature:choice:1.0,2.0\. .*flagfile or recipe"
    with pytest.raises(InputError, match=both):
        parse_space(["temperature:log:1:4", "temperature:choice:1,2"], CONFIG)


@pytest.mark.parametrize(
    "fixed, searched, words",
    [
        ({"loss": "kd"}, ["radius:choice:auto,2"], "Received --search=radius:choice:auto,2.0 with --loss=kd."),
        ({}, ["loss:choice:kd,dist", "center:choice:true,false"], "with --search=loss:choice:kd,dist."),
        ({"loss": "cross_entropy"}, ["temperature:log:1:16"], "No loss in this search reads --temperature"),
        ({"loss": "cross_entropy"}, ["kd_weight:linear:0:1"], "No loss in this search reads --kd_weight"),
        ({"optimizer": "adamw"}, ["momentum:linear:0:0.9"], "Expected --optimizer=sgd."),
        (
            {"loss": "spherical"},
            ["loss:choice:spherical,kd", "gradient_scale:choice:none,student_norm"],
            "only for a loss on the sphere",
        ),
    ],
)
def test_what_no_loss_or_optimizer_of_a_search_reads_is_refused(fixed, searched, words):
    with one_line_with(words):
        parse_space(searched, CONFIG.replace(**fixed))


def test_what_one_of_several_losses_or_optimizers_reads_may_be_searched():
    for fixed, searched, setting in (
        ({"loss": "kd"}, "loss:choice:kd,spherical", "radius:choice:auto,2"),
        ({"loss": "cross_entropy"}, "loss:choice:cross_entropy,kd", "temperature:log:1:16"),
        ({"optimizer": "adamw"}, "optimizer:choice:adamw,sgd", "nesterov:choice:true,false"),
    ):
        assert len(parse_space([setting, searched], CONFIG.replace(**fixed))) == 2


def test_each_optimizer_reads_what_is_searched_for_it_alone():
    class Reading:
        def __getattr__(self, name):
            reads.add(name)
            return getattr(config, name)

    for config in (CONFIG, CONFIG.replace(optimizer="adamw")):
        reads = set()
        make_optimizer(Reading(), 0.1)
        for name in ("momentum", "nesterov", "weight_decay", "clip_norm", "ema_momentum"):
            assert (name in reads) == (config.optimizer in READ_BY.get(name, ("", ("sgd", "adamw")))[1]), name
