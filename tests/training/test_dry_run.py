"""What is known of a run before TensorFlow starts: devices, datasets, the dry run's text."""

import json
import pathlib

import pytest

from skd_tf.config import Config
from skd_tf.config.flags import read_flagfile
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import InputError
from skd_tf.runtime import devices
from skd_tf.training import dry_run, no_effect


def prepare(folder, name, version, train, classes, **tests):
    """TFDS' record of a prepared dataset: the lengths of each part's shards, and two labels as in CIFAR-100."""
    record = folder / name / version
    record.mkdir(parents=True)
    parts = {"train": train} | (tests or {"test": [10]})
    splits = [{"name": part, "shardLengths": [str(n) for n in lengths]} for part, lengths in parts.items()]
    keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    (record / "dataset_info.json").write_text(json.dumps({"splits": splits, "supervisedKeys": keys}))
    counts = {"coarse_label": 2, "label": classes}  # the coarse label comes first
    features = {"image": {}} | {name: {"classLabel": {"numClasses": str(n)}} for name, n in counts.items()}
    (record / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return record


def describe(workdir=None, data_dir=None, **settings):
    return dry_run.describe(Config(**settings), workdir, data_dir)


def lines(**settings):
    """The dry run's lines as {first word: rest}, settings left out."""
    pairs = [line.split(maxsplit=1) for line in describe(**settings).splitlines()]
    return {pair[0]: pair[-1] for pair in pairs if not pair[0].startswith(("--", "*"))}


def refused(words, **settings):
    with pytest.raises(InputError, match=words):
        describe(**settings)


def test_replicas():
    for strategy, virtual_devices, gpus, expected in (
        ("auto", 0, 0, ("one_device", 1)),
        ("auto", 1, 0, ("one_device", 1)),
        ("auto", 2, 0, ("mirrored", 2)),
        ("auto", 0, 4, ("mirrored", 4)),
        ("auto", 2, 2, ("mirrored", 3)),
        ("mirrored", 0, 0, ("mirrored", 1)),
        ("one_device", 4, 2, ("one_device", 1)),
    ):
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
    found = lines(teacher="resnet20", epochs=20, temperature=2, loss="spherical", workdir="runs/x")
    expected = {
        "examples": "808 to train, 90 to validate, 899 to test",  # 90 of 898 held out
        "steps": "12 per epoch, 240 in all",
        "dropped": "40 examples per epoch, the last short batch",
        "warm-up": "100 steps: the least that it takes",
        "batch": "64 global, 64 per replica",
        "teacher": "--teacher=resnet20",
    }
    assert {name: found[name] for name in expected} == expected and "runs/x" in found
    assert found["XLA"].startswith("off (auto") and found["radius"].startswith("6.3246 ")  # 2 * sqrt(10)


def test_the_rule_that_decides_the_warm_up_is_named():
    for epochs, settings, expected in (
        (5, {}, "30 steps: half of the run, the most that it may take"),  # 12 steps per epoch
        (20, {}, "100 steps: the least that it takes"),
        (200, {}, "120 steps: 5% of the run"),
        (5, {"min_warmup_steps": 0}, "3 steps: 5% of the run"),
        (5, {"warmup_epochs": 1}, "12 steps: 1 epochs"),
    ):
        assert lines(epochs=epochs, **settings)["warm-up"] == expected


def test_changed_settings_are_marked():
    text = describe(epochs=5)
    assert "  * --epochs=5\n" in text and "    --temperature=4.0\n" in text


def test_settings_without_effect_are_named():
    settings = {"optimizer": "adamw", "nesterov": True, "early_stopping_patience": 30, "loss": "kd", "center": False}
    settings |= {"warmup_epochs": 1, "min_warmup_steps": 7, "student": "resnet8", "student_preprocessing": "tf"}
    text = dry_run.describe(Config(**settings, teacher="cnn_2"))
    assert "--min_warmup_steps=7 has no effect with --warmup_epochs=1.0" in text
    assert "--nesterov=true has no effect with --optimizer=adamw" in text
    assert "--student_preprocessing=tf has no effect with --student=resnet8" in text
    assert "--early_stopping_patience=30 has no effect with --epochs=30" in text
    assert (
        "--center=false has no effect with --loss=kd" in text
        and "--momentum" not in text.partition("Without effect")[2]
    )
    settings = {"loss": "cross_entropy", "student_alone": "train", "temperature": 2}
    expected = "--student_alone=train, --teacher=cnn_2, --temperature=2.0 have no effect with --loss=cross_entropy"
    assert no_effect.lines(Config(**settings, teacher="cnn_2")) == [expected]
    settings = {"virtual_devices": 2, "strategy": "one_device", "teacher_cache_dtype": "float32"}
    assert no_effect.lines(Config(**settings, teacher_checkpoint="a", teacher_flagfile="b")) == [
        "--virtual_devices=2 has no effect with --strategy=one_device",
        "--teacher_cache_dtype=float32 has no effect without --teacher_cache_dir",
        "--teacher_flagfile=b has no effect with --teacher_checkpoint=a",
    ]
    published = "keras.applications:MobileNetV2"  # only the package's networks are compared with a loaded teacher
    assert no_effect.lines(Config(teacher=published, teacher_checkpoint="a")) == [
        f"--teacher={published} has no effect with --teacher_checkpoint=a"
    ]
    assert no_effect.lines(Config(teacher="cnn_2", teacher_checkpoint="a")) == []
    repeated = {"teacher_cache_dir": "c", "teacher_cache_epochs": 2}  # any loss repeats these epochs
    assert no_effect.lines(Config(loss="cross_entropy", **repeated)) == []
    for path in (pathlib.Path(no_effect.__file__).parents[1] / "recipes").rglob("*.flags"):
        assert path.name.startswith("tune") or no_effect.lines(read_flagfile(path)[0]) == [], path


def test_what_lost_accuracy_in_short_runs_is_said():
    for settings, words in (
        ({"loss": "spherical", "epochs": 10}, "--loss=spherical with --optimizer=sgd was up to 6 points"),
        ({"optimizer": "adamw", "epochs": 10}, "Take --temperature=1, or --optimizer=sgd"),
        ({"epochs": 10}, "120 optimizer steps are few"),
        ({"loss": "spherical", "optimizer": "adamw", "epochs": 60}, None),  # 720 steps
        ({"optimizer": "adamw", "temperature": 1, "epochs": 60}, None),
        ({"optimizer": "adamw", "epochs": 60}, "Take --temperature=1, or --optimizer=sgd"),
        ({"epochs": 60}, None),
        ({"loss": "spherical", "epochs": 70}, None),  # 840 steps
    ):
        text = describe(**settings)
        assert ("To consider" in text) == bool(words) and (words or "") in text
        assert ("optimizer steps are few" in text) == (settings["epochs"] == 10)


def test_a_sphere_that_is_too_small_or_too_large_is_said():
    sphere = {"loss": "spherical", "epochs": 70}
    assert "no class can exceed 0.1" in describe(radius=1.0, **sphere)
    assert "can get stuck opposite its label" in describe(radius=5000.0, **sphere)
    assert "To consider" not in describe(**sphere) + describe(radius="teacher_mean", **sphere)


def test_replicas_share_the_batch_or_the_run_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    found = lines(virtual_devices=4)
    assert found["batch"] == "64 global, 16 per replica" and found["strategy"] == "mirrored, replicas: 4"
    refused(r"Expected a multiple of 3\. Received --batch_size=64", virtual_devices=3)


def test_a_batch_beyond_the_training_split_is_refused():
    assert lines(batch_size=808)["steps"] == "1 per epoch, 30 in all"
    refused("at least 809 training examples", batch_size=809)
    refused("profile_steps is past the end of the run. Expected steps 1 to 360", profile_steps="1,361")


def test_a_prepared_set_is_read_from_its_newest_record(tmp_path):
    prepare(tmp_path, "flowers", "9.0.0", [7], 5)
    newest = prepare(tmp_path, "flowers", "10.1.0", [1000, 1000], 25)
    flowers = {"dataset": "flowers", "data_dir": tmp_path}
    found = lines(**flowers, validation_fraction=0.25, loss="spherical")
    assert found["examples"] == "1500 to train, 500 to validate, 10 to test"
    assert found["classes"] == "25" and found["radius"].startswith("10.0000 ")
    older = lines(dataset="flowers:9.0.0", data_dir=tmp_path, batch_size=7, validation_fraction=0)
    assert older["examples"] == "7 to train, 0 to validate, 10 to test"
    refused(r"flowers:8\.0\.0 is not prepared", dataset="flowers:8.0.0", data_dir=tmp_path)
    (newest / "dataset_info.json").write_text("{}")
    refused("damaged", **flowers)


def test_a_pinned_version_of_a_known_set_keeps_what_is_known(tmp_path):
    name, pinned = "imagenet2012", "imagenet2012:5.1.0"
    found = lines(dataset=pinned, download=True, data_dir=tmp_path)
    assert (found["images"], found["augmentation"], found["classes"]) == ("224x224", "resized_crop", "1000")
    prepare(tmp_path, name, "5.1.0", [1281167], 1000, test=[100000], validation=[50000])
    for dataset in (name, pinned):
        assert lines(dataset=dataset, data_dir=tmp_path)["examples"].endswith(", 50000 to test")


def test_a_set_that_is_not_there_is_an_error_unless_it_may_be_downloaded(tmp_path):
    for name in ("cifar100", "flowers"):
        refused(r"not prepared.*--download", dataset=name, data_dir=tmp_path)
    known, unknown = (lines(dataset=name, download=True, data_dir=tmp_path) for name in ("cifar100", "flowers"))
    assert known["examples"] == "45000 to train, 5000 to validate, 10000 to test"
    assert "unknown" in unknown["examples"] and "unknown" in unknown["steps"]


def test_a_folder_is_counted_by_its_files(tmp_path):
    for part, count in (("train", 70), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / name / f"{i}.jpg").write_text("")
    settings = {"dataset": f"folder:{tmp_path}", "augmentation": "resized_crop", "image_size": 160}
    found = lines(**settings, loss="spherical", center=False)
    assert found["examples"] == "126 to train, 14 to validate, 6 to test" and found["classes"] == "2"
    assert found["images"] == "160x160" and found["augmentation"] == "resized_crop"
    refused("Two classes", **settings, loss="spherical")  # their centred sphere has only two points
    refused("no such folder", dataset=f"folder:{tmp_path / 'typo'}")


def test_a_missing_file_or_module_is_found_before_anything_starts():
    refused("No model there.*typo.keras", teacher_checkpoint="typo.keras")
    refused("typo.flags", teacher_flagfile="typo.flags")
    refused("no module typo.*--teacher=typo:net", teacher="typo:net")
    for words, settings in (
        ("No model there.*typo.keras", {"student": "typo.keras"}),
        ("no module typo", {"student": "typo:net"}),
        ("No model there.*typo", {"student_checkpoint": "typo"}),
        ("No model there.*typo", {"student_alone": "typo"}),
        ("no module typo", {"dataset": "typo:data"}),
    ):
        refused(words, teacher="resnet8", **settings)


def test_a_workdir_agrees_or_is_refused(tmp_path):
    settings = {"teacher": "resnet8", "workdir": tmp_path}
    assert f"Workdir\n  {tmp_path}\n" in describe(**settings)
    record = Config(teacher="resnet8").to_json()
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text("")
    assert "would resume" in describe(**settings)
    refused(r"--epochs: 30 -> 5.*--overwrite", **settings, epochs=5)
    assert "restarted from scratch" in describe(**settings, epochs=5, overwrite=True)
    (tmp_path / "result.json").write_text(json.dumps({"config": record, "student": {}}))
    assert "finished" in describe(**settings)


def test_milestones_that_the_run_never_reaches_are_named():
    found = lines(epochs=5, lr_schedule="multistep:3,5,180")
    assert "never reached: epoch 5, 180" in found["learning"]


def test_the_known_sets_are_consistent():
    for known in KNOWN_DATASETS.values():
        assert len(known.mean) == len(known.std) == known.image_shape[2]
        assert all(0 < mean < 1 for mean in known.mean) and all(0 < std < 0.5 for std in known.std)
        assert 0 < known.pad <= known.image_shape[0] // 4


def test_half_precision_that_a_cpu_only_emulates_is_a_warning(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    for flags, precisions, warning in (
        ("avx avx2", ("bfloat16", "float32"), "no bfloat16 arithmetic"),
        ("avx avx2", ("float32", "float32"), ""),
        ("avx2 avx512_bf16", ("bfloat16", "float32"), ""),
        ("avx2 avx512_bf16", ("bfloat16", "float16"), "no float16"),
    ):
        cpuinfo.write_text(f"processor : 0\nflags : fpu {flags}\n")
        found = devices.half_precision_warning(precisions, cpuinfo)
        assert warning in found and bool(warning) == bool(found)
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert devices.half_precision_warning(["bfloat16"], cpuinfo) == ""  # ARM: not known


def test_a_student_alone_of_other_settings_is_refused_here_too(digits_run):
    refused("is not this training without its teacher", teacher="cnn_8", student_alone=str(digits_run))
