"""What --deterministic sets, what is said of it, and that a GPU's input is copied ahead."""

import os

import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import teacher_cache
from skd_tf.runtime import compat, replicas
from skd_tf.training import teacher
from tests.helpers.runs import read_json


@pytest.mark.parametrize("setting", ["auto", "false", "true"])
def test_deterministic_sets_kernels_tf32_autotuning_and_xla_and_keeps_the_users_flags(setting, monkeypatch):
    done = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: done.append("kernels"))
    monkeypatch.setattr(tf.config.experimental, "enable_tensor_float_32_execution", done.append)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x --xla_gpu_autotune_level=0")
    monkeypatch.setenv("TF_CUDNN_USE_AUTOTUNE", "")  # restored after the test
    monkeypatch.delenv("TF_CUDNN_USE_AUTOTUNE")
    replicas.set_determinism(setting)
    flags = os.environ["XLA_FLAGS"].split()
    if setting == "true":
        assert done == ["kernels", False] and os.environ["TF_CUDNN_USE_AUTOTUNE"] == "0"
        assert sorted(flags) == ["--xla_dump_to=x", "--xla_gpu_autotune_level=0", "--xla_gpu_deterministic_ops=true"]
    else:
        assert not done and len(flags) == 2 and "TF_CUDNN_USE_AUTOTUNE" not in os.environ


@pytest.mark.parametrize(
    ("device", "kernels", "words"),
    [("CPU", False, "yes, on this kind of CPU"), ("GPU", True, "yes, with determ"), ("GPU", False, "no: a GPU's")],
)
def test_the_promise_depends_on_the_device(device, kernels, words, monkeypatch):
    monkeypatch.setattr(replicas, "device_kind", lambda: device)
    monkeypatch.setattr(compat, "op_determinism", lambda: kernels)
    assert replicas.determinism().startswith(words)


def test_logits_of_another_kind_of_device_are_warned_of(tmp_path, monkeypatch, capsys):
    cache = teacher_cache.TeacherCache(tmp_path, "float16", print)

    def note(device, computed):
        monkeypatch.setattr(replicas, "device_kind", lambda: device)
        here = replicas.arithmetic("float32")
        teacher.note_arithmetic(cache, "key", teacher.kinds(cache, "key"), here, computed=computed)
        return "".join(capsys.readouterr())

    assert note("GPU", True) == note("GPU", False) == ""
    assert "computed on a GPU in tensorfloat32, and this is a CPU in float32" in note("CPU", False)
    assert teacher.kinds(cache, "key") == ["GPU in tensorfloat32"]


def test_batches_are_copied_to_a_gpu_ahead_of_the_step(monkeypatch):
    dataset = tf.data.Dataset.range(4)
    assert replicas.prefetched(dataset) is dataset  # on a CPU there is nothing to copy
    ahead = replicas.prefetched(dataset, "/CPU:0")
    assert ahead is not dataset and [int(x) for x in ahead] == [0, 1, 2, 3]
    used = []
    monkeypatch.setattr(replicas, "device_kind", lambda: "GPU")
    monkeypatch.setattr(
        tf.data.experimental, "prefetch_to_device", lambda device, **_: used.append(device) or (lambda d: d)
    )
    replicas.prefetched(dataset)
    assert used == ["/GPU:0"]


def test_a_killed_pass_leaves_a_note_of_its_device(digits_teacher, tmp_path, monkeypatch):
    digits = data.load(data.DataSettings(), test=False)
    config = Config(teacher_checkpoint=str(digits_teacher), teacher_cache_dir=str(tmp_path))
    killed = teacher.Teacher(digits_teacher, config, digits, tf.distribute.get_strategy())

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher.teacher_pass, "compute", die)
    with pytest.raises(KeyboardInterrupt):
        killed.epoch_logits(1)
    facts = [read_json(path)["facts"] for path in tmp_path.glob("*.json")]
    assert ["CPU in float32"] in facts
