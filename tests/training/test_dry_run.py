"""What is known of a run before TensorFlow starts: devices, datasets, the dry run's text."""

import json

import pytest

from skd_tf.config import Config
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import InputError
from skd_tf.runtime import devices
from skd_tf.training import dry_run


def _prepare(folder, name, version, train, classes, tests=None):
    record = folder / name / version
    record.mkdir(parents=True)
    parts = {"train": train} | (tests or {"test": ["10"]})
    splits = [{"name": part, "shardLengths": lengths} for part, lengths in parts.items()]
    keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    (record / "dataset_info.json").write_text(json.dumps({"splits": splits, "supervisedKeys": keys}))
    # The coarse label comes first, as in CIFAR-100.
    labels = {"coarse_label": 2, "label": classes}
    features = {"image": {}} | {name: {"classLabel": {"numClasses": str(count)}} for name, count in labels.items()}
    (record / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return record


def _lines(config, **places):
    """The dry run's lines as {first word: rest}, settings left out."""
    lines = [line.split(maxsplit=1) for line in dry_run.describe(config, **places).splitlines()]
    return {line[0]: line[-1] for line in lines if not line[0].startswith(("--", "*"))}


@pytest.mark.parametrize(
    ("strategy", "virtual_devices", "gpus", "expected"),
    [
        ("auto", 0, 0, ("one_device", 1)),
        ("auto", 1, 0, ("one_device", 1)),
        ("auto", 2, 0, ("mirrored", 2)),
        ("auto", 0, 4, ("mirrored", 4)),
        ("auto", 2, 2, ("mirrored", 3)),
        ("mirrored", 0, 0, ("mirrored", 1)),
        ("one_device", 4, 2, ("one_device", 1)),
    ],
)
def test_replicas(strategy, virtual_devices, gpus, expected):
    assert devices.replicas(strategy, virtual_devices=virtual_devices, gpus=gpus) == expected


def test_gpus_are_those_of_the_driver_that_cuda_leaves_visible(tmp_path):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    visible = {None: 2, "": 0, "-1": 0, "1": 1, "0,1": 2, "0,-1,1": 1, "5": 0, "GPU-1f2e, GPU-77aa": 2}
    for value, count in visible.items():
        environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
        assert devices.gpu_count(tmp_path, environment) == count, value
    assert devices.gpu_count(tmp_path / "none", {"CUDA_VISIBLE_DEVICES": "0"}) == 0


def test_xla_is_chosen_by_device_unless_asked_for():
    assert [devices.jit_compile_choice("auto", device)[0] for device in ("CPU", "GPU")] == [False, True]
    for setting, expected in [("true", True), (True, True), ("false", False), (False, False)]:
        compiled, reason = devices.jit_compile_choice(setting, "CPU")
        assert compiled is expected and "asked for" in reason
    with pytest.raises(InputError, match="jit_compile=perhaps"):
        devices.jit_compile_choice("perhaps", "CPU")


def test_the_digits_run_is_counted_by_hand(monkeypatch):
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    lines = _lines(Config(teacher="resnet20", epochs=20, temperature=2), workdir="runs/x")
    assert lines["examples"] == "808 to train, 90 to validate, 899 to test"  # 90 of 898 held out
    assert lines["steps"] == "12 per epoch, 240 in all"
    assert lines["dropped"] == "40 examples per epoch, the last short batch"
    assert lines["warm-up"] == "5% of the run, 12 steps"
    assert lines["batch"] == "64 global, 64 per replica"
    assert lines["XLA"].startswith("off (auto")
    assert lines["radius"].startswith("6.3246 ")  # 2 * sqrt(10)
    assert lines["teacher"] == "--teacher=resnet20"
    assert "runs/x" in lines


def test_changed_settings_are_marked():
    text = dry_run.describe(Config(epochs=5))
    assert "  * --epochs=5\n" in text and "    --temperature=4.0\n" in text


def test_replicas_share_the_batch_or_the_run_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    lines = _lines(Config(virtual_devices=4))
    assert lines["batch"] == "64 global, 16 per replica" and lines["strategy"] == "mirrored, replicas: 4"
    with pytest.raises(InputError, match=r"Expected a multiple of 3\. Received --batch_size=64"):
        dry_run.describe(Config(virtual_devices=3))


def test_a_batch_beyond_the_training_split_is_refused():
    assert _lines(Config(batch_size=808))["steps"] == "1 per epoch, 30 in all"
    with pytest.raises(InputError, match="at least 809 training examples"):
        dry_run.describe(Config(batch_size=809))


def test_a_prepared_set_is_read_from_its_newest_record(tmp_path):
    _prepare(tmp_path, "flowers", "9.0.0", ["7"], 5)
    newest = _prepare(tmp_path, "flowers", "10.1.0", ["1000", "1000"], 25)
    lines = _lines(Config(dataset="flowers", validation_fraction=0.25), data_dir=tmp_path)
    assert lines["examples"] == "1500 to train, 500 to validate, 10 to test"
    assert lines["classes"] == "25" and lines["radius"].startswith("10.0000 ")
    older = Config(dataset="flowers:9.0.0", batch_size=7, validation_fraction=0)
    assert _lines(older, data_dir=tmp_path)["examples"] == "7 to train, 0 to validate, 10 to test"
    with pytest.raises(InputError, match=r"flowers:8\.0\.0 is not prepared"):
        dry_run.describe(Config(dataset="flowers:8.0.0"), data_dir=tmp_path)
    (newest / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        dry_run.describe(Config(dataset="flowers"), data_dir=tmp_path)


def test_a_pinned_version_of_a_known_set_keeps_what_is_known(tmp_path):
    lines = _lines(Config(dataset="imagenet2012:5.1.0", download=True), data_dir=tmp_path)
    assert (lines["images"], lines["augmentation"], lines["classes"]) == ("224x224", "resized_crop", "1000")
    _prepare(tmp_path, "imagenet2012", "5.1.0", ["1281167"], 1000, {"test": ["100000"], "validation": ["50000"]})
    for name in ("imagenet2012", "imagenet2012:5.1.0"):
        assert _lines(Config(dataset=name), data_dir=tmp_path)["examples"].endswith(", 50000 to test")


def test_a_set_that_is_not_there_is_an_error_unless_it_may_be_fetched(tmp_path):
    for name in ("cifar100", "flowers"):
        with pytest.raises(InputError, match=r"not prepared.*--download"):
            dry_run.describe(Config(dataset=name), data_dir=tmp_path)
    lines = _lines(Config(dataset="cifar100", download=True), data_dir=tmp_path)
    assert lines["examples"] == "45000 to train, 5000 to validate, 10000 to test"
    lines = _lines(Config(dataset="flowers", download=True), data_dir=tmp_path)
    assert "unknown" in lines["examples"] and "unknown" in lines["steps"]


def test_a_folder_is_counted_by_its_files(tmp_path):
    for part, count in (("train", 70), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_text("")
    config = Config(dataset=f"folder:{tmp_path}", augmentation="resized_crop", image_size=160, center=False)
    lines = _lines(config)
    assert lines["examples"] == "126 to train, 14 to validate, 6 to test" and lines["classes"] == "2"
    assert lines["images"] == "160x160" and lines["augmentation"] == "resized_crop"
    with pytest.raises(InputError, match="Two classes"):  # of cats and dogs there is no centred sphere
        dry_run.describe(config.replace(center=True))
    with pytest.raises(InputError, match="no such folder"):
        dry_run.describe(Config(dataset=f"folder:{tmp_path / 'typo'}"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher_checkpoint": "typo.keras"}, "No model there.*typo.keras"),
        ({"teacher_flagfile": "typo.flags"}, "typo.flags"),
        ({"teacher": "typo:net"}, "no module typo.*--teacher=typo:net"),
        ({"student": "typo.keras", "teacher": "resnet8"}, "No model there.*typo.keras"),
        ({"student": "typo:net", "teacher": "resnet8"}, "no module typo"),
        ({"student_checkpoint": "typo", "teacher": "resnet8"}, "No model there.*typo"),
        ({"student_alone": "typo", "teacher": "resnet8"}, "No model there.*typo"),
        ({"dataset": "typo:data", "teacher": "resnet8"}, "no module typo"),
    ],
)
def test_what_is_not_there_is_told_before_anything_starts(settings, words):
    with pytest.raises(InputError, match=words):
        dry_run.describe(Config(**settings))


def test_a_workdir_agrees_or_is_refused(tmp_path):
    config = Config(teacher="resnet8")
    assert dry_run.describe(config, workdir=tmp_path).endswith(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    (tmp_path / "metrics.jsonl").write_text("")
    assert "would resume" in dry_run.describe(config, workdir=tmp_path)
    with pytest.raises(InputError, match=r"--epochs: 30 -> 5.*--overwrite"):
        dry_run.describe(config.replace(epochs=5), workdir=tmp_path)
    assert "restarted from scratch" in dry_run.describe(config.replace(epochs=5, overwrite=True), workdir=tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"config": config.to_json(), "student": {}}))
    assert "finished" in dry_run.describe(config, workdir=tmp_path)


def test_milestones_that_the_run_never_reaches_are_named():
    config = Config(epochs=5, lr_schedule="multistep:3,5,180")
    assert "never reached: epoch 5, 180" in _lines(config)["learning"]


def test_the_known_sets_are_consistent():
    for known in KNOWN_DATASETS.values():
        channels = known.image_shape[2]
        assert len(known.mean) == len(known.std) == channels
        assert all(0 < mean < 1 for mean in known.mean) and all(0 < std < 0.5 for std in known.std)
        assert 0 < known.pad <= known.image_shape[0] // 4


def test_half_precision_that_a_cpu_only_emulates_is_said(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu avx avx2\n")
    assert "no bfloat16 arithmetic" in devices.half_precision_warning(("bfloat16", "float32"), cpuinfo)
    assert devices.half_precision_warning(("float32", "float32"), cpuinfo) == ""
    cpuinfo.write_text("flags : fpu avx2 avx512_bf16\n")
    assert devices.half_precision_warning(("bfloat16", "float32"), cpuinfo) == ""
    assert "no float16" in devices.half_precision_warning(("bfloat16", "float16"), cpuinfo)
