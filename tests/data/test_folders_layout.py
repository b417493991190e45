"""Which folders are parts and which are classes; what in them is an image, and which links are followed."""

import os

import pytest

from skd_tf.data import folder_index
from skd_tf.data.folder_parts import part_of
from skd_tf.errors import InputError


def put(root, *files):
    """Creates files with these paths, each with its own content; the walk does not look inside."""
    for file in files:
        path = root / file.lstrip("/")  # a part may be ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(file))
    return root


def classes(root, part, count=5, names=("cat", "dog")):
    return put(root, *(f"{part}/{name}/{i}.png" for name in names for i in range(count)))


def find(root, **rules):
    return folder_index.find(f"folder:{root}", 0, **rules)


def sizes(root, **rules):
    return {part: len(files) for part, files in find(root, **rules).splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Validation", "Testing"),
        ("training_set", "val_set", "test_set"),
        ("train", "valid", "test"),
        ("TRAIN", "DEV", "TEST"),
        ("seg_train", "seg_val", "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("TrainImages", "ValImages", "TestImages"),
    ],
)
def test_common_spellings_of_the_parts(tmp_path, names):
    for count, name in zip((6, 4, 3), names, strict=True):
        classes(tmp_path, name, count)
    folder = find(tmp_path)
    assert folder.class_names == ("cat", "dog") and not folder.notes
    assert {part: len(files) for part, files in folder.splits.items()} == {"train": 12, "validation": 8, "test": 6}
    assert not folder_index.draws_test_split(f"folder:{tmp_path}")


def test_without_a_test_part_the_validation_part_is_the_test_part(tmp_path):
    classes(tmp_path, "Train"), classes(tmp_path, "Valid", 2)
    assert sizes(tmp_path) == {"train": 10, "test": 4}
    assert "Valid is the test split" in " ".join(find(tmp_path).notes)


def test_a_part_inside_its_own_part_and_pictures_to_predict(tmp_path):
    """seg_train/seg_train/CLASS and a folder seg_pred without labels, as a public data set has them."""
    classes(tmp_path, "seg_train/seg_train"), classes(tmp_path, "seg_test/seg_test", 2)
    put(tmp_path, "seg_pred/seg_pred/1.png")
    assert sizes(tmp_path) == {"train": 10, "test": 4}
    assert "seg_pred" in " ".join(find(tmp_path).notes)


def test_classes_may_be_called_like_parts(tmp_path):
    vehicles = classes(tmp_path / "a", "", names=("car", "bus", "train"))
    assert find(vehicles).class_names == ("bus", "car", "train") and folder_index.draws_test_split(f"folder:{vehicles}")
    objects = classes(tmp_path / "b", "", names=("bullet_train", "test_tube"))
    assert find(objects).class_names == ("bullet_train", "test_tube")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: [classes(r, part) for part in ("train_cats", "test_cats", "train_dogs", "test_dogs")], "several"),
        (lambda r: [classes(r, part) for part in ("train", "Training", "test")], "Two folders are the same part"),
        (lambda r: [classes(r, part) for part in ("Train", "TRAINING")], "Two folders are the same part"),
        (lambda r: [classes(r, part) for part in ("val", "test")], "one part only"),
        (
            lambda r: [classes(r, "train"), put(r, "test/1.png", "test/2.png")],
            "test part has no class folders.*2 images.*pass the training part as the folder",
        ),
        (lambda r: [classes(r, "train"), (r / "test").mkdir()], "test part has no class folders.*no images"),
        (
            lambda r: [classes(r, "train"), classes(r, "test"), (r / "val").mkdir()],
            "validation part has no class.*remove the folder",
        ),
        (
            lambda r: [classes(r, "test"), put(r, "train/1.png")],
            "train part has no class folders.*1 image w[^:]*Sort the images into class folders.$",
        ),
        (lambda r: put(r, "1.png", "2.png"), "too few classes.*2 images without a class folder"),
        (lambda r: r.mkdir(), "too few classes.*no images"),
        (lambda r: classes(r / "photos", ""), "too few classes.*Did you mean .*photos"),
        (
            lambda r: [classes(r, "train"), classes(r, "test"), put(r, "val/fox/1.png")],
            "validation part has classes.*fox",
        ),
        (lambda r: [classes(r, ""), put(r, "fox/notes.txt")], "A class has no images"),
        (lambda r: [classes(r, "test"), put(r, "train/-1/1.png")], "too few classes.*Received none in"),
    ],
)
def test_what_is_not_a_data_set_is_refused_in_one_line(tmp_path, make, words):
    root = tmp_path / "set"
    make(root)
    with pytest.raises(InputError, match=words) as caught:
        find(root)
    assert "\n" not in str(caught.value)


def test_no_path_is_not_the_current_folder(tmp_path, monkeypatch):
    """As of --dataset=folder:$PHOTOS with an unset variable."""
    monkeypatch.chdir(classes(tmp_path, ""))
    assert len(folder_index.find("folder:.", 0).class_names) == 2
    for name in ("folder:", "images: "):
        with pytest.raises(InputError, match="no such folder"):
            folder_index.find(name, 0)


def test_a_relative_path_that_leads_nowhere_is_told_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"pictures is looked for in {tmp_path}, and --dataset=folder:/ABSOLUTE/PATH"):
        folder_index.find("folder:pictures", 0)
    with pytest.raises(InputError, match=r"Check the path\.$"):
        find(tmp_path / "pictures")


def test_what_is_not_used_is_said(tmp_path):
    classes(tmp_path, "train"), classes(tmp_path, "test"), classes(tmp_path, "extra")
    put(tmp_path, "train/loose.png", "a.heic", "train/cat/b.txt", "train/cat/c.HEIC", "train/dog/d.heic")
    notes = " ".join(find(tmp_path).notes)
    assert "folders extra" in notes and "1 image in" in notes and "2 .heic, 1 .txt" in notes


def test_the_same_subfolders_in_all_classes_are_pointed_out(tmp_path):
    put(tmp_path, *(f"{c}/{view}/{i}.png" for c in ("cat", "dog") for view in ("front", "back") for i in range(5)))
    folder = find(tmp_path)
    assert folder.class_names == ("cat", "dog") and sum(map(len, folder.splits.values())) == 20
    assert "same subfolders (back, front)" in " ".join(folder.notes)


def test_hidden_folders_and_leavings_are_not_data_at_any_depth(tmp_path):
    classes(tmp_path, "", 5)
    put(tmp_path, "cat/.ipynb_checkpoints/0-checkpoint.png", "dog/a/.hidden/b/1.png", "__MACOSX/cat/._0.png")
    put(tmp_path, "cat/__MACOSX/1.png", "cat/@eaDir/0.png", "cat/._3.png", "cat/Thumbs.db", ".git/x/1.png")
    folder = find(tmp_path)
    assert folder.class_names == ("cat", "dog") and sum(map(len, folder.splits.values())) == 10 and not folder.notes


def test_all_kinds_of_images_are_found_in_any_case(tmp_path):
    kinds = ("jpg", "JPEG", "png", "WebP", "bmp", "GIF", "jfif", "jpe")
    put(tmp_path, *(f"{part}/{c}/a.{kind}" for part in ("train", "test") for c in ("x", "y") for kind in kinds))
    assert sizes(tmp_path) == {"train": 16, "test": 16}


def test_links_never_multiply_pictures_or_give_them_other_labels(tmp_path):
    """To itself, upwards, to the data set, to another class; from a class folder and from the top level."""
    classes(tmp_path / "set", "", 10, ("cat", "dog", "fox"))
    for place, target in {"cat/again": ".", "cat/up": "..", "cat/more/root": "../..", "dog/foxes": "../fox"}.items():
        (tmp_path / "set" / place).parent.mkdir(exist_ok=True)
        os.symlink(target, tmp_path / "set" / place)
    os.symlink(".", tmp_path / "set" / "loop")
    os.symlink(tmp_path, tmp_path / "set" / "around")
    os.symlink("itself", tmp_path / "set" / "cat" / "itself")
    folder = find(tmp_path / "set")
    files = [path for split in folder.splits.values() for path, _ in split]
    assert folder.class_names == ("cat", "dog", "fox") and len(files) == 30
    assert all(folder.class_names[label] in path for split in folder.splits.values() for path, label in split)
    assert "Not followed: 6 links" in " ".join(folder.notes)


def test_links_to_pictures_elsewhere_are_followed_once(tmp_path):
    classes(tmp_path / "store", "", 4)
    put(tmp_path, "store/more/1.png", "store/more/2.png")
    root = put(tmp_path / "set", "cat/own.png", "dog/own.png", "dog/own2.png")
    os.symlink(tmp_path / "store" / "cat", root / "cat" / "linked")
    os.symlink(tmp_path / "store" / "more", root / "fox")  # a class folder
    os.symlink(tmp_path / "store" / "more", root / "dog" / "more")  # the same again, inside another class
    folder = find(root)
    assert sum(map(len, folder.splits.values())) == 1 + 4 + 2 + 2
    assert "Not followed: 1 link to" in " ".join(folder.notes)


@pytest.mark.parametrize(
    ("link", "target"), [("set/cow", "set/cat"), ("set/test", "set/train"), ("set/a/x", "set/a/y")]
)
def test_one_folder_cannot_be_two_classes_or_two_parts(tmp_path, link, target):
    inner = {"set/cow": "", "set/test": "train", "set/a/x": "a"}[link]
    classes(tmp_path / "set", inner, names=("cat", "dog", "y"))
    os.symlink(tmp_path / target, tmp_path / link)
    root = tmp_path / "set" / ("a" if inner == "a" else "")
    with pytest.raises(InputError, match="Two class folders are one"):
        find(root)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    classes(tmp_path, "")
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\).*dog"):
        find(tmp_path)


def test_names_equal_but_for_case_are_two_classes_and_said(tmp_path):
    classes(tmp_path, "", names=("Cat", "cat", "dog"))
    folder = find(tmp_path)
    assert folder.class_names == ("Cat", "cat", "dog") and "differ only in case or spaces" in " ".join(folder.notes)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # what Linux and macOS write
    (
        classes(tmp_path / "set", "train", names=(composed, "x")),
        classes(tmp_path / "set", "test", names=(decomposed, "x")),
    )
    assert find(tmp_path / "set").class_names == (composed, "x")
    classes(tmp_path / "set", "train", names=(decomposed,))
    with pytest.raises(InputError, match="Two class folders are one"):
        find(tmp_path / "set")


def test_a_name_that_is_not_utf_8_can_be_written_to_files(tmp_path):
    classes(tmp_path, "", names=(os.fsdecode(b"k\xe4se"), "x"))
    folder = find(tmp_path)
    assert folder.class_names == ("k\\udce4se", "x") and folder.splits["train"]


def test_runs_of_earlier_versions_find_their_files_as_before(tmp_path):
    for part in ("train", "val", "test"):
        classes(tmp_path, part)
    put(tmp_path, "train/cat/.ipynb_checkpoints/x.png", "train/cat/z.webp")
    assert sizes(tmp_path, data_rules=1) == {"train": 11, "test": 10}
    assert sizes(tmp_path) == {"train": 11, "validation": 10, "test": 10}
    assert any(".ipynb" in path for path, _ in find(tmp_path, data_rules=1).splits["train"])


@pytest.mark.parametrize("name", ["cat", "Set", "chest_xray", "train_test", ""])
def test_other_names_spell_no_part(name):
    assert part_of(name)[0] is None


def test_what_the_message_about_a_flat_test_part_advises_works(tmp_path):
    classes(tmp_path, "train"), put(tmp_path, "test/1.png")
    assert sizes(tmp_path / "train")["test"] == 2
