"""A student with registered layers of its own: each command imports the module that --custom_layers names."""

import pathlib
import sys

import keras
import pytest

from skd_tf import evaluate, export, predict, train
from skd_tf.errors import InputError
from skd_tf.models import deployable, loading
from tests.helpers.images import random_image, write_image

MODULE = """
import keras
import skd_tf

@keras.saving.register_keras_serializable("my_layers")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

def net(shape, classes):
    layers = [keras.layers.Rescaling(1 / 255), Twice(), keras.layers.Flatten(), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input(shape), *layers])
"""
COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "export": export}
FIRST = "--student=my_layers:net --loss=cross_entropy --epochs=1 --noreport --workdir=run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the module my_layers, pictures, and a run whose student has its layer."""
    folder = tmp_path_factory.mktemp("custom")
    (folder / "my_layers.py").write_text(MODULE)
    write_image(folder / "pictures" / "one.png", random_image(8))
    return folder


@pytest.fixture
def command(trained, monkeypatch, capsys):
    """Runs a command as a new process would: nothing of my_layers is known to Keras."""
    monkeypatch.chdir(trained)
    monkeypatch.setattr("sys.path", [*sys.path])

    def run(name, flags):
        sys.modules.pop("my_layers", None)
        keras.saving.get_custom_objects().pop("my_layers>Twice", None)
        monkeypatch.setattr("sys.argv", [name, *flags.split()])
        with pytest.raises(SystemExit) as ended:
            COMMANDS[name].cli_main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out + err

    if not pathlib.Path("run/result.json").exists():
        code, said = run("train", FIRST)
        assert code == 0, said
        (trained / "said.txt").write_text(said)
    yield run
    sys.modules.pop("my_layers", None)


def test_the_end_of_the_run_names_the_module_in_the_next_commands(command, trained):
    said = (trained / "said.txt").read_text()
    assert "skd_tf.predict run PICTURES --output=answers.csv --custom_layers=my_layers, or" in said
    assert "skd_tf.export --workdir=run --output=run_export --custom_layers=my_layers" in said


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("evaluate", "--model=run --notiming --bootstrap=0"),
        ("predict", "run pictures --output=answers.csv"),
        ("export", "--workdir=run --output=exported --format=keras --check_images=8"),
        ("train", "--student=cnn_2 --teacher_checkpoint=run --epochs=1 --noreport --workdir=taught"),
        ("train", "--student=cnn_2 --teacher_checkpoint=run --list_layers"),
    ],
)
def test_a_command_needs_the_module_and_says_so(command, name, flags):
    code, said = command(name, flags)
    assert code == 2 and "Keras does not know its class 'Twice'" in said
    assert "Add --custom_layers=my_layers, if you trust that module" in said
    code, said = command(name, f"{flags} --custom_layers=my_layers")
    assert code == 0, said
    if name == "export":
        card = pathlib.Path("exported/README.md").read_text()
        assert "import my_layers" in card and "stock layers only" not in card


@pytest.mark.parametrize(
    ("module", "words"),
    [("other_layers", "no module other_layers"), ("my-layers", "is not a module"), ("broken", "ZeroDivisionError")],
)
def test_a_wrong_module_is_one_line(command, trained, module, words):
    (trained / "broken.py").write_text("1 / 0")
    code, said = command("evaluate", f"--model=run --custom_layers={module}")
    assert code == 2 and words in said and said.count("\n") == 1


def test_a_layer_of_the_main_program_gets_no_module_of_its_name(command, tmp_path):
    @keras.saving.register_keras_serializable("main")
    class Once(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    Once.__module__ = "__main__"
    keras.Sequential([keras.Input((8, 8, 1)), Once(), keras.layers.Flatten()]).save(tmp_path / "net.keras")
    keras.saving.get_custom_objects().pop("main>Once")
    with pytest.raises(InputError, match=r"--custom_layers=MODULE, the Python module that registers it"):
        loading.load(tmp_path / "net.keras")


def test_the_modules_of_a_models_own_layers_and_functions_are_found(trained, monkeypatch):
    monkeypatch.syspath_prepend(trained)
    (trained / "my_functions.py").write_text(
        "import keras\n@keras.saving.register_keras_serializable('mine')\ndef double(x):\n    return 2 * x\n"
    )
    import my_functions
    import my_layers

    layers = [keras.Input((4,)), my_layers.Twice(), keras.layers.Dense(2, activation=my_functions.double)]
    inner = keras.Sequential(layers)
    assert deployable.own_modules(keras.Sequential([keras.Input((4,)), inner])) == "my_functions,my_layers"
    assert deployable.own_modules(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="relu")])) == ""
    sys.modules.pop("my_functions"), sys.modules.pop("my_layers")
