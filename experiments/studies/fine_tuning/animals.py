"""Writes a small folder of pictures: ten kinds of large animals from CIFAR-100, 60 of each to train on and 50 to test on."""

import pathlib

# By CIFAR-100's class number.
KINDS = {3: "bear", 15: "camel", 19: "cattle", 21: "chimpanzee", 31: "elephant", 38: "kangaroo"}
KINDS |= {42: "leopard", 43: "lion", 88: "tiger", 97: "wolf"}
SIZES = {"train": 60, "test": 50}  # pictures of each kind, the first of CIFAR-100's split


def write(data_dir: str, folder: pathlib.Path) -> None:
    """Writes train/KIND/NUMBER.png and test/KIND/NUMBER.png, 32 pixels high and wide, unless the folder exists.

    Args:
      data_dir: holds CIFAR-100 as TFDS prepares it.
      folder: to write.
    """
    if folder.is_dir():
        return
    import tensorflow as tf
    import tensorflow_datasets as tfds

    part = folder.with_name(folder.name + ".part")
    for split, most in SIZES.items():
        written = dict.fromkeys(KINDS, 0)
        for example in tfds.load("cifar100", split=split, data_dir=data_dir, download=False):
            number = int(example["label"])
            if written.get(number, most) < most:
                place = part / split / KINDS[number]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{written[number]}.png").write_bytes(tf.io.encode_png(example["image"]).numpy())
                written[number] += 1
    part.rename(folder)
