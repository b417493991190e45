"""What TensorBoard finds in a run: scalars, HParams, and a trace if --profile_steps asks for one."""

import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.training import loop
from tests.helpers.runs import numbers, train


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    train(folder, profile_steps="22,24")  # to the last step
    return folder


def test_a_trace_is_written(traced):
    (trace,) = (traced / "tensorboard" / "plugins" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000 and b"EagerKernelExecute" in trace.read_bytes()


def test_scalars_and_hparams(traced):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util.tensor_util import make_ndarray

    def read(*part):
        return EventAccumulator(str(traced.joinpath("tensorboard", *part)), size_guidance={"tensors": 0}).Reload()

    events, parts = read(), {name: read(name) for name in ("train", "validation")}
    tags = {name: set(part.Tags()["tensors"]) for name, part in parts.items()}
    assert tags["train"] >= {"loss", "accuracy", "learning_rate", "examples_per_second"}
    assert tags["validation"] >= {"accuracy", "nll", "ece"}  # TensorBoard draws both accuracies in one chart
    for name, column in (("train", "accuracy"), ("validation", "val_accuracy")):
        drawn = [(event.step, float(make_ndarray(event.tensor_proto))) for event in parts[name].Tensors("accuracy")]
        assert drawn == [(row["step"], pytest.approx(row[column])) for row in numbers(traced)]

    def hparams(name):
        content = events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    start = hparams("session_start_info").session_start_info
    assert start.hparams["learning_rate"].number_value == 0.1 and start.hparams["student"].string_value == "cnn_2"
    assert {"epochs", "temperature", "seed"} < set(start.hparams) < set(Config().to_json()) - {"report", "overwrite"}
    columns = [info.name for info in hparams("experiment").experiment.metric_infos]
    assert columns and all(name.tag in tags[name.group] for name in columns)  # every column of the table has values


@pytest.mark.slow
def test_a_trace_changes_no_number(traced, tmp_path):
    train(tmp_path)
    assert numbers(traced) == numbers(tmp_path)
    assert not (tmp_path / "tensorboard" / "plugins").exists()


def test_a_training_that_stops_inside_the_range_leaves_a_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt), loop.Profile((1, 5), tmp_path) as profile:
        profile.switch(0)
        raise KeyboardInterrupt
    assert next((tmp_path / "plugins" / "profile").rglob("*.xplane.pb"))


def test_a_bad_range_is_refused_before_the_first_step(tmp_path):
    for value in ("3", "5,2", "0,4", "a,b", "1,2,3"):
        with pytest.raises(InputError, match="1 <= A <= B"):
            Config(profile_steps=value)
    assert Config(profile_steps=" 3 , 9").profile_steps == "3,9"
    with pytest.raises(InputError, match="steps 1 to 24"):
        train(tmp_path, profile_steps="20,25")
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))
