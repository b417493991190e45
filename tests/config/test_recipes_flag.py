"""--recipe=NAME: flagfiles of the package, the same from every folder."""

import pytest
from absl import flags

from skd_tf.config import Config, recipes
from skd_tf.config.flags import config_from, define_flags, parse, read_flagfile
from skd_tf.errors import InputError


def read(*arguments):
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse(arguments, flag_values)
    return config_from(flag_values)


def test_a_recipe_reads_the_same_from_every_folder(tmp_path, monkeypatch):
    before = read("--recipe=digits")
    (tmp_path / "base.flags").write_text("--epochs=1\n")  # no file here takes the place of one that a recipe includes
    (tmp_path / "teacher.flags").write_text("--epochs=1\n")
    monkeypatch.chdir(tmp_path)
    assert read("--recipe=digits") == read("--recipe", "digits/skd") == read("--flagfile=recipe:digits") == before
    assert (before.epochs, before.student, before.teacher_flagfile) == (60, "cnn_4", "recipe:digits/teacher")
    assert read_flagfile(before.teacher_flagfile)[0].epochs == 30
    assert read("--recipe=digits", "--epochs=2").epochs == 2 and read("--epochs=2", "--recipe=digits").epochs == 60


def test_paths_of_an_earlier_version_still_mean_the_recipe(tmp_path, monkeypatch):
    """A run of 0.1.0 recorded --teacher_flagfile=experiments/digits/teacher.flags."""
    monkeypatch.chdir(tmp_path)
    old = "experiments/digits/teacher.flags"
    assert read("--flagfile=experiments/digits/skd.flags") == read("--recipe=digits")
    assert read_flagfile(old) == read_flagfile("recipe:digits/teacher")
    assert Config(teacher_flagfile=old).differences(Config(teacher_flagfile="recipe:digits/teacher")) == []
    assert len(Config(teacher_flagfile=old).differences(Config(teacher_flagfile="t.flags"))) == 1
    mine = tmp_path / "experiments" / "digits" / "skd.flags"
    mine.parent.mkdir(parents=True)
    mine.write_text("--epochs=3\n")
    assert read("--flagfile=experiments/digits/skd.flags") == Config(epochs=3)


def test_a_flagfile_names_files_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "skd.flags").write_text("--recipe=digits\n--teacher_flagfile=teacher.flags\n")
    (folder / "teacher.flags").write_text("--epochs=4\n")
    monkeypatch.chdir(tmp_path)
    config = read("--flagfile=mine/skd.flags")
    assert (config.student, config.teacher_flagfile) == ("cnn_4", str(folder / "teacher.flags"))
    assert read_flagfile(config.teacher_flagfile)[0].epochs == 4
    assert not config.differences(config.replace(teacher_flagfile="mine/teacher.flags"))  # as earlier versions wrote it
    assert config.differences(config.replace(teacher_flagfile="teacher.flags"))
    monkeypatch.chdir(folder)  # the run resumes from any folder
    assert read("--flagfile=skd.flags") == config


@pytest.mark.parametrize("name", ["digit", "../recipes/digits", "", "digits/skd.flags"])
def test_an_unknown_recipe_is_one_line(name):
    if not name:
        assert read("--recipe=") == Config()  # as an empty --flagfile
        return
    with pytest.raises(
        InputError, match=r"Unknown recipe\. Expected one of those that --list_recipes prints\."
    ) as caught:
        read(f"--recipe={name}")
    assert "\n" not in str(caught.value)
    assert name != "digit" or "Did you mean digits?" in str(caught.value)


def test_the_listing_has_every_recipe_with_what_it_does():
    lines = {line.split()[0]: line for line in recipes.listing().splitlines() if line.startswith("  ")}
    parts = {name for name in recipes.names() if name.rpartition("/")[2] == "base"}
    assert set(lines) == {recipes.short_name(name) for name in recipes.names()} - parts
    assert "resnet8 -> cnn_4 on digits" in lines["digits"] and "DIST" in lines["cifar100/methods/dist"]
