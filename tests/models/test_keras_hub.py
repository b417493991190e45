"""KerasHub's image classifiers: by preset, with its preprocessing, and layers that describe more than they take."""

import sys
import types

import keras
import numpy as np
import pytest

from skd_tf.errors import InputError
from skd_tf.models import deployable, keras_hub_models, precision, published
from skd_tf.models.graph import rebuilt
from skd_tf.models.student import StudentSettings, make_student
from skd_tf.runs import lineage
from skd_tf.serving import export_student
from tests.helpers import runs


@keras.saving.register_keras_serializable("tests")
class Patches(keras.layers.Layer):
    """As KerasHub's embedding of patches, it describes a number that it computes and does not take."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size, self.count = size, 64 // size**2
        self.project = keras.layers.Conv2D(4, size, strides=size, name="project")

    def build(self, shape):
        self.project.build(shape)
        self.built = True

    def call(self, images):
        return self.project(images)

    def get_config(self):
        return super().get_config() | {"size": self.size, "count": self.count}


def classifier(image_shape=(8, 8, 1), num_classes=10):
    images = keras.Input(image_shape, name="images")
    pooled = keras.layers.GlobalAveragePooling2D()(Patches(4)(images))
    return keras.Model(images, keras.layers.Dense(num_classes, name="predictions")(pooled), name="vit")


def test_a_layer_that_describes_more_than_it_takes_is_copied():
    model = precision.set_precision(classifier(), "bfloat16")
    copy = deployable.stock_copy(model)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    for one, other in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rebuilt(keras.layers.Dense(3), units=4).units == 4


@pytest.fixture
def hub(monkeypatch):
    """A package keras_hub with one preset; `asked` is what its from_preset was last given."""
    asked = {}

    def from_preset(preset, load_weights=True, **options):
        asked.update(preset=preset, load_weights=load_weights, **options)
        if preset == "kaggle://x/resnet":
            raise ValueError("Preset kaggle://x/resnet has no config.json. Make sure")
        model = classifier(**options) if options else classifier((None, None, 1))
        converter = types.SimpleNamespace(image_size=(8, 8), scale=[1 / 127.5], offset=-1.0)
        model.preprocessor = types.SimpleNamespace(image_converter=converter)
        return model

    image_classifier = types.SimpleNamespace(presets={"vit_tiny_imagenet": {}}, from_preset=from_preset)
    module = types.SimpleNamespace(models=types.SimpleNamespace(ImageClassifier=image_classifier), asked=asked)
    monkeypatch.setitem(sys.modules, "keras_hub", module)
    monkeypatch.setattr(
        keras_hub_models, "_cached_files_only", lambda preset: keras_hub_models.contextlib.nullcontext()
    )
    return module


def test_a_preset_takes_raw_pixels_at_its_own_size(hub):
    model = published.build("keras_hub:vit_tiny_imagenet", pretrained=True)
    assert model.input_shape == (None, 8, 8, 1) and hub.asked == {"preset": "vit_tiny_imagenet", "load_weights": True}
    pixels = np.random.default_rng(0).integers(0, 256, [5, 8, 8, 1]).astype("float32")
    np.testing.assert_allclose(model(pixels), model.layers[-1](pixels / 127.5 - 1), atol=1e-6)


def test_a_preset_as_a_student_has_the_datasets_classes_and_size_and_new_weights(hub):
    dataset = types.SimpleNamespace(name="grey", image_shape=(8, 8, 1), num_classes=3)
    model = make_student(StudentSettings(student="keras_hub:vit_tiny_imagenet", seed=5), dataset)
    assert model.input_shape == (None, 8, 8, 1) and model.output_shape == (None, 3)
    assert hub.asked["load_weights"] is False and hub.asked["image_shape"] == (8, 8, 3)  # for RGB, as its weights
    again = make_student(StudentSettings(student="keras_hub:vit_tiny_imagenet", seed=5), dataset)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "words"),
    [("vit_tiny_imagnet", "Did you mean vit_tiny_imagenet"), ("kaggle://x/resnet", "Add --download to let KerasHub")],
)
def test_a_preset_that_is_not_there_is_one_line(hub, name, words):
    with pytest.raises(InputError, match=words):
        published.build(f"keras_hub:{name}", pretrained=True)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(InputError, match="pip install keras-hub"):
        published.require("keras_hub:vit_tiny_imagenet")


def test_what_a_preset_was_trained_on_is_known_by_its_name_alone():
    assert lineage.read("keras_hub:vit_tiny_imagenet").trainings
    assert lineage.read("keras_hub:clip_tiny").unknown == ("keras_hub:clip_tiny",)


@pytest.mark.slow
def test_a_vision_transformer_of_kerashub_teaches_and_learns(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 1), patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    converter = keras_hub.layers.ViTImageConverter(image_size=(8, 8), scale=[1 / 127.5], offset=[-1.0])
    preprocessor = keras_hub.models.ViTImageClassifierPreprocessor(image_converter=converter)
    model = keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=10, preprocessor=preprocessor)
    model.save_to_preset(str(tmp_path / "preset"))
    model.save(tmp_path / "random.keras")
    preset = f"keras_hub:{tmp_path / 'preset'}"

    # The student of a run, from the preset's weights; then a teacher, from its workdir, live and cached.
    vit = {"student": preset, "student_checkpoint": preset, "epochs": 30, "optimizer": "adamw", "learning_rate": 0.01}
    runs.train(tmp_path / "vit", **vit)
    formats = "litert", "saved_model", "keras"  # tf2onnx has no exact GELU
    files = export_student.export_student(tmp_path / "vit", tmp_path / "export", formats=formats, check_images=50)
    assert len(files) == 5  # LiteRT in three precisions
    small = {"student": "cnn_4", "epochs": 2, "teacher_checkpoint": str(tmp_path / "vit")}
    live = runs.train(tmp_path / "live", runs.SMALL, **small)
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "teacher_cache_dtype": "float32"}
    cached = runs.train(tmp_path / "cached", runs.SMALL, **small, **cache)
    assert live["teacher"]["accuracy"] > 0.5
    assert live["student"]["nll"] == pytest.approx(cached["student"]["nll"], rel=1e-4)
    loaded = keras.models.load_model(tmp_path / "vit" / "student.keras", safe_mode=True)
    assert loaded(np.zeros([1, 8, 8, 1])).shape == (1, 10)
    with pytest.raises(InputError, match="at chance level"):
        runs.train(tmp_path / "random", runs.SMALL, **small | {"teacher_checkpoint": str(tmp_path / "random.keras")})
