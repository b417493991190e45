"""Keras' global settings: pinned by commands, refused from Python. Each case runs in a process of its own."""

import json
import os
import subprocess
import sys

import keras
import pytest

import skd_tf
from skd_tf.errors import InputError
from skd_tf.runtime import keras_state
from tests.helpers import runs

BAD = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1, "backend": "jax"}


def python(code, folder, settings=None, **environment):
    """(exit code, output) of a process whose keras.json holds `settings`."""
    folder.mkdir(exist_ok=True)
    (folder / "keras.json").write_text(json.dumps(settings or {}))
    others = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}  # other tests may set it
    environment = others | {"KERAS_HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_command_pins_what_keras_json_and_the_environment_change_and_says_so(tmp_path):
    code = """
from skd_tf.runtime import keras_state
keras_state.pin()
import os, keras, tensorflow as tf
assert (keras.config.backend(), keras.config.floatx(), keras.config.image_data_format()) == (
    "tensorflow", "float32", "channels_last")
assert keras.config.epsilon() == 1e-7 and keras.config.max_epochs() is None and tf.keras.__version__ == keras.__version__
from skd_tf import networks
network = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=10, seed=0)
assert network.count_params() == 78_714 and network.output.dtype == "float32", network.count_params()
keras_state.pin()  # a command that starts another finds nothing to say
"""
    environment = {"KERAS_BACKEND": "torch", "TF_USE_LEGACY_KERAS": "1", "KERAS_MAX_EPOCHS": "2"}
    status, output = python(code, tmp_path, BAD, **environment)
    assert status == 0, output
    for words in (
        "no TF_USE_LEGACY_KERAS",
        "no KERAS_MAX_EPOCHS (was 2)",
        "backend tensorflow (torch in KERAS_BACKEND)",
    ):
        assert words in output
    for words in ("floatx float32 (float64", "channels_last (channels_first", "epsilon 1e-07 (0.1"):
        assert words in output


def test_no_command_imports_keras_before_it_pins(tmp_path):
    code = "import sys\n" + "".join(
        f"import skd_tf.{name}\n" for name in ("train", "evaluate", "predict", "tune", "export", "report")
    )
    status, output = python(f"{code}assert 'keras' not in sys.modules", tmp_path)
    assert status == 0, output


def test_a_keras_json_that_keras_refuses_is_one_line(tmp_path):
    status, output = python(
        "from skd_tf.config import app\napp.run(lambda flags: 0, description='', required=())", tmp_path, {"epsilon": 1}
    )
    assert status == 2 and "Keras refuses its own settings" in output and "Traceback" not in output


USES = (
    "skd_tf.Distiller(None)",
    "skd_tf.networks.build('cnn_2', input_shape=(8, 8, 1), num_classes=3)",
    "skd_tf.run(skd_tf.Config(), 'nowhere')",
)


@pytest.mark.slow
def test_from_python_another_backend_is_one_clear_error(tmp_path):
    code = "import skd_tf\n" + "".join(
        f"try:\n    {use}\nexcept skd_tf.InputError as error:\n    print('InputError', error)\n" for use in USES
    )
    status, output = python(code, tmp_path, {"backend": "jax"})
    assert status == 0 and output.count("InputError Keras' global setting backend") == len(USES), output


def test_from_python_settings_that_change_networks_are_one_clear_error(tmp_path, monkeypatch):
    calls = [
        lambda: skd_tf.networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=3),
        lambda: skd_tf.Distiller(student),
        lambda: runs.train(tmp_path / "run"),
    ]
    student = calls[0]()
    for name in ("floatx", "image_data_format", "epsilon"):
        before, change = getattr(keras.config, name)(), getattr(keras.config, f"set_{name}")
        change(BAD[name])
        try:
            for call in calls:
                with pytest.raises(InputError, match=rf"{name}=.*Received {BAD[name]}"):
                    call()
        finally:
            change(before)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(InputError, match="Unset TF_USE_LEGACY_KERAS"):
        calls[1]()
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        keras_state.require()  # a network of Keras' own precision is a choice
        with pytest.raises(InputError, match="dtype policy"):
            calls[2]()
    finally:
        keras.config.set_dtype_policy("float32")
    assert not (tmp_path / "run").exists()
