"""The list of augmentations: text to structure, and structure to its one canonical text."""

import re
from typing import NamedTuple

from skd_tf.errors import did_you_mean, flag_error

AUGMENTATION = "auto, none, or a list as in crop, mirror, trivial, erase:0.25, mixup:0.2, cutmix:1 (docs/augmentation.md has all items)"
PRESETS = ("auto", "pad_crop", "resized_crop", "none")
ITEMS = ("crop", "mirror", "trivial", "erase", "mixup", "cutmix")
_DEFAULTS = {"erase": 0.25, "mixup": 0.2, "cutmix": 1.0}
_MOST = {"erase": 1.0, "mixup": 100.0, "cutmix": 100.0}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(rf"({_NUMBER}) ?- ?({_NUMBER})")


class AugmentationList(NamedTuple):
    """What a list of augmentations asks for.

    Attributes:
      crop: "pad" (pad and crop), "resized" (crop a part and resize it) or "" for no crop.
      pad: pixels on each side, for "pad"; None: the dataset's own.
      area: range of (area of the crop) / (area of the image), for "resized".
      mirror: whether half of the images are mirrored; None: if mirrored images of the dataset keep their class.
      trivial: whether TrivialAugment is applied.
      erase: probability of random erasing.
      mixup, cutmix: parameter of the Beta distribution of the share of the image itself; 0: off.
    """

    crop: str = ""
    pad: int | None = None
    area: tuple[float, float] = (0.1, 1.0)
    mirror: bool | None = False
    trivial: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether each image is mixed with another one, which makes labels soft."""
        return bool(self.mixup or self.cutmix)


def parse_augmentation(value: str, name: str = "augmentation") -> AugmentationList:
    """Reads a list of augmentations. Their order in the text has no meaning: they are always applied in the same order.

    Args:
      value: one of `PRESETS`, or items separated by commas, of which a preset can be one. "auto" is read as "pad_crop".
      name: of the setting, for the error.

    Raises:
      InputError: an unknown item, an item given twice, or a number out of range.

    Examples:
      >>> parse_augmentation("crop:4, erase")
      AugmentationList(crop='pad', pad=4, area=(0.1, 1.0), mirror=False, trivial=False, erase=0.25, mixup=0.0, cutmix=0.0)
    """
    found = AugmentationList()
    for item, argument in _items(value, name).items():
        found = found._replace(**_fields(item, argument, value, name, mirrors=found.mirror))
    return found


def canonical_augmentation(name: str, value: str) -> str:
    """As in "crop, mirror, erase:0.25"; a preset of one word stays as it is."""
    items = _items(value, name)
    for item, argument in items.items():
        _fields(item, argument, value, name, mirrors=False)
    order = (*PRESETS, *ITEMS)
    return ", ".join(_text(item, items[item]) for item in sorted(items, key=order.index))


def _items(value, name):
    """{item: its argument as text} in the order of the text."""
    items: dict[str, str] = {}
    for piece in " ".join(str(value).lower().split()).split(","):
        item, _, argument = (part.strip() for part in piece.strip().partition(":"))
        if any(word.partition(":")[0] in (*PRESETS, *ITEMS) for word in piece.split()[1:]):
            problem = f"has no comma in {piece.strip()!r}"
            raise flag_error(name, value, problem, AUGMENTATION, f"Write for example --{name}='crop:4, mirror'")
        if item not in (*PRESETS, *ITEMS):
            remedy = did_you_mean(item, (*PRESETS, *ITEMS), f"Write for example --{name}='crop, mirror, trivial'")
            raise flag_error(name, value, f"has the unknown item {item!r}", AUGMENTATION, remedy)
        if item in items:
            raise flag_error(name, value, f"has {item} twice", AUGMENTATION, "Keep one of them")
        items[item] = argument
    crops = [item for item in items if item in (*PRESETS, "crop")]
    if len(crops) > 1 or ("none" in items and len(items) > 1):
        problem = f"combines {' and '.join(crops if len(crops) > 1 else items)}"
        raise flag_error(name, value, problem, "at most one of auto, pad_crop, resized_crop, crop and none", "Keep one")
    return items


def _fields(item, argument, value, name, *, mirrors):
    """The fields of `AugmentationList` that an item sets."""

    def refuse(problem, expected):
        return flag_error(name, value, problem, expected, f"Write {item} without a number, or one in this range")

    if item in _DEFAULTS:
        number = float(argument) if re.fullmatch(_NUMBER, argument) else -1.0 if argument else _DEFAULTS[item]
        if not 0 < number <= _MOST[item]:
            raise refuse(f"has {item} out of range", f"{item}:NUMBER, > 0 and <= {_MOST[item]:g}")
        return {item: number}
    if item == "crop":
        if argument and not (argument.isdecimal() and 1 <= int(argument) <= 1000):
            raise refuse("has a crop out of range", "crop:PIXELS, a whole number of pixels from 1 to 1000")
        return {"crop": "pad", "pad": int(argument) if argument else None}
    if item == "resized_crop":
        match = _RANGE.fullmatch(argument)
        area = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
        if argument and not 0 < area[0] <= area[1] <= 1:
            raise refuse(
                "has a crop out of range", "resized_crop:LOW-HIGH, parts of the area with 0 < LOW <= HIGH <= 1"
            )
        # Without a range it is the preset, which mirrors as it always did.
        return {"crop": "resized", "area": area} if argument else {"crop": "resized", "mirror": mirrors or None}
    if argument:
        raise flag_error(name, value, f"gives {item} a number", AUGMENTATION, f"Write {item} alone")
    if item in ("auto", "pad_crop"):
        return {"crop": "pad", "mirror": mirrors or None}
    return {"mirror": True} if item == "mirror" else {"trivial": True} if item == "trivial" else {}


def _text(item, argument):
    if item in _DEFAULTS:
        return f"{item}:{float(argument) if argument else _DEFAULTS[item]:g}"
    if item == "resized_crop" and argument:
        low, high = (float(part) for part in argument.split("-"))
        return f"{item}:{low:g}-{high:g}"
    return f"{item}:{int(argument)}" if argument else item
