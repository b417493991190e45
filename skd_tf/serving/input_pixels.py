"""How a picture becomes the student's input, in words and in two or three lines of Pillow, for the model card."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from skd_tf.data.catalog import size_and_resize, source_kind
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted


class InputPixels(NamedTuple):
    """What the model card says.

    Attributes:
      text: in words, one paragraph.
      code: two or three lines that make `image`, uint8 `[height, width, channels]`, from `path`; empty if the data are
        arrays of the right size.
    """

    text: str
    code: str


def input_pixels(settings: Mapping[str, Any], image_shape: tuple[int, int, int], png_bits: int | None) -> InputPixels:
    """The `InputPixels` of a run.

    Args:
      settings: of the run, by name.
      image_shape: (height, width, channels) of the student's images.
      png_bits: bits that hold the brightest value of the data's 16-bit PNGs; None without such files. Those that come
        later are then read with 16, as by skd_tf.predict.
    """
    names = [field.name for field in dataclasses.fields(DataSettings)]
    size, resize = size_and_resize(DataSettings(**{name: settings[name] for name in names if name in settings}))
    height, width, channels = image_shape
    kind = source_kind(settings["dataset"])
    if kind == "packaged" or (kind == "tfds" and not resize):
        text = f"The data were arrays of {height}x{width} pixels with {counted(channels, 'channel')}, used as they are."
        return InputPixels(text, "")
    upright = settings["data_rules"] != 1 and kind != "tfds"
    mode = "L" if channels == 1 else "RGB"
    steps = [
        "An image file is decoded"
        + (", turned as its EXIF orientation says" if upright else ", without EXIF orientation"),
        f"and brought to {'one grey channel' if channels == 1 else 'RGB'}; transparency is dropped, and in a GIF "
        "it is black.",
    ]
    opened = "ImageOps.exif_transpose(Image.open(path))" if upright else "Image.open(path)"
    first, bits = "", png_bits or 16
    if upright:
        # Pillow would clip such a grey image at 255, which makes it white.
        values = f"numpy.minimum(numpy.asarray(photo) // {2 ** (bits - 8)}, 255)"
        first = f"photo = {opened}\n"
        opened = f'(Image.fromarray({values}.astype("uint8")) if photo.mode[0] == "I" else photo)'
    if resize:
        steps.append(
            f"Its shorter side is scaled to {resize} pixels, bilinear with an antialias filter where it shrinks, and the "
            f"middle {size}x{size} is cut out: nothing is stretched."
        )
        code = (
            f'photo = {opened}.convert("{mode}"); w, h = (round(side * {resize} / min(photo.size)) for side in photo.size)\n'
            f"image = numpy.asarray(photo.resize((w, h), Image.Resampling.BILINEAR))"
            f"[(h - {size}) // 2 :, (w - {size}) // 2 :][:{size}, :{size}]"
        )
    else:
        steps.append(f"All files had {height}x{width} pixels: nothing is resized or cropped.")
        code = f'photo = {opened}.convert("{mode}")\nimage = numpy.asarray(photo)'
    code = first + code + (f".reshape({height}, {width}, 1)" if channels == 1 else "")
    if upright:
        steps.append(f"A value v of a 16-bit PNG becomes v // {2 ** (bits - 8)}, at most 255, before that.")
        if bits < 16 and channels == 3:
            steps.append("For a 16-bit PNG in colour, Pillow gives v // 256, so read such a file with another library.")
    if kind == "function":
        steps.append("An array that the data function returned took the place of the decoded file.")
    if upright:
        steps.append("With Pillow, equal to one grey level:")
    else:
        steps.append("With Pillow, equal to a few grey levels, since JPEG files are decoded with a faster transform:")
    return InputPixels(" ".join(steps), code)
