"""What TensorBoard finds in a run: scalars, HParams, and a trace if --profile_steps asks for one."""

import json

import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.training import experiment

SMALL = {"student": "cnn_2", "epochs": 3, "batch_size": 100, "loss": "cross_entropy"}
SMALL |= {"strategy": "one_device", "report": False}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    experiment.run(Config(profile_steps="10,13", **SMALL), folder)
    return folder


def test_scalars_and_hparams(traced):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(traced / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = set(events.Tags()["tensors"])
    assert tags >= {"loss", "accuracy", "val_accuracy", "learning_rate", "examples_per_second"}
    assert [event.step for event in events.Tensors("val_accuracy")] == [8, 16, 24]

    def hparams(name):
        content = events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    start = hparams("session_start_info").session_start_info
    assert start.hparams["learning_rate"].number_value == 0.05 and start.hparams["student"].string_value == "cnn_2"
    assert {"epochs", "temperature", "seed"} < set(start.hparams) < set(Config().to_json()) - {"report", "overwrite"}
    assert {
        info.name.tag for info in hparams("experiment").experiment.metric_infos
    } <= tags  # every column of the table has values


def test_a_trace_is_written_and_changes_no_number(traced, tmp_path):
    (trace,) = (traced / "tensorboard" / "plugins" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000 and b"EagerKernelExecute" in trace.read_bytes()
    experiment.run(Config(**SMALL), tmp_path)
    rows = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (traced, tmp_path)]
    for one, other in zip(*rows, strict=True):
        for name in ("loss", "accuracy", "val_nll", "student_logit_norm"):
            assert one[name] == other[name], name
    assert not (tmp_path / "tensorboard" / "plugins").exists()


@pytest.mark.parametrize("value", ["3", "5,2", "0,4", "a,b", "1,2,3"])
def test_a_bad_range_is_an_input_error(value):
    with pytest.raises(InputError, match="1 <= A <= B"):
        Config(profile_steps=value)
    assert Config(profile_steps=" 3 , 9").profile_steps == "3,9"


def test_a_range_beyond_the_run_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(InputError, match="steps 1 to 24"):
        experiment.run(Config(profile_steps="20,25", **SMALL), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))
