"""The facts about an image that stand in the first bytes of its file: size, depth, orientation. Without TensorFlow.

JPEG, PNG, GIF, BMP and WebP are known by their content, not by their names. See ITU-T T.81 (JPEG), CIPA DC-008 (EXIF),
the W3C's PNG specification, and RFC 9649 (WebP).
"""

import struct
import typing

_ORIENTATION = 0x0112  # the EXIF tag
_LONGEST_SIDE = 2**31 - 1  # TensorFlow counts pixels in int32


class ImageHeader(typing.NamedTuple):
    """One image file.

    Attributes:
      kind: "jpeg", "png", "gif", "bmp" or "webp".
      height, width: in pixels, as stored; the EXIF orientation is not applied.
      grey: whether the file has one channel, as TensorFlow decodes it.
      bits: per channel, 8 or 16.
      orientation: of EXIF, 1 to 8; 1 is upright.
    """

    kind: str
    height: int
    width: int
    grey: bool
    bits: int = 8
    orientation: int = 1


def read_header(content: bytes) -> ImageHeader:
    """The `ImageHeader` of a file.

    Args:
      content: the bytes of the file.

    Raises:
      ValueError: it is none of the five kinds, or its header is damaged.
    """
    for start, read in _READERS.items():
        if content.startswith(start):
            try:
                header = read(content)
            except (struct.error, IndexError) as error:
                raise ValueError("its header is incomplete") from error
            if header.height < 1 or header.width < 1:
                raise ValueError("its header gives no size")
            if max(header.height, header.width) > _LONGEST_SIDE:
                raise ValueError("its header gives an impossible size")
            return header
    raise ValueError("it is not a JPEG, PNG, WebP, BMP or GIF file")


def _jpeg(content):
    place, orientation = 2, 1
    while True:
        while content[place] != 0xFF:  # bytes between segments
            place += 1
        while content[place] == 0xFF:  # padding
            place += 1
        marker, place = content[place], place + 1
        if marker in (0x01, *range(0xD0, 0xD9)):  # without a length
            continue
        (length,) = struct.unpack_from(">H", content, place)
        if marker == 0xE1 and content[place + 2 : place + 8] == b"Exif\0\0":
            orientation = _orientation(content[place + 8 : place + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame
            _, height, width, components = struct.unpack_from(">BHHB", content, place + 2)
            return ImageHeader("jpeg", height, width, components == 1, 8, orientation)
        if marker in (0xD9, 0xDA):
            raise ValueError("its header gives no size")
        place += length


def _png(content):
    width, height, bits, colour = struct.unpack_from(">IIBB", content, 16)
    orientation, place = 1, 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"eXIf":
            orientation = _orientation(content[place + 8 : place + 8 + length])
        place += 12 + length
    return ImageHeader("png", height, width, colour == 0, 16 if bits == 16 else 8, orientation)


def _gif(content):
    width, height = struct.unpack_from("<HH", content, 6)
    return ImageHeader("gif", height, width, False)


def _bmp(content):
    start, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", content, 10)
    if size < 40:
        raise ValueError("its kind of BMP is not read")
    palette = content[14 + size : start]
    ramp = all(palette[4 * i : 4 * i + 3] == bytes([i] * 3) for i in range(len(palette) // 4))
    # TensorFlow takes the numbers of a palette's entries for grey levels.
    if compression not in (0, 3) or bits not in (8, 24, 32) or (bits == 8 and not (palette and ramp)):
        raise ValueError("its kind of BMP is not read: it has a palette or is compressed")
    if compression == 3 and struct.unpack_from("<3I", content, 54) != (0xFF0000, 0xFF00, 0xFF):
        raise ValueError("its kind of BMP is not read: its channels are not in the usual order")
    return ImageHeader("bmp", abs(height), abs(width), bits == 8)


def _webp(content):
    kind = content[12:16]
    if content[8:12] != b"WEBP":
        raise ValueError("it is not a JPEG, PNG, WebP, BMP or GIF file")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return ImageHeader("webp", height & 0x3FFF, width & 0x3FFF, False)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", content, 21)
        return ImageHeader("webp", (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, False)
    if kind != b"VP8X":
        raise ValueError("its header is damaged")
    if content[20] & 0x02:  # TensorFlow's decoder writes beyond its buffer
        raise ValueError("an animated WebP is not read")
    width, height = (int.from_bytes(content[place : place + 3], "little") + 1 for place in (24, 27))
    orientation, place = 1, 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        if name == b"EXIF":
            orientation = _orientation(content[place + 8 : place + 8 + length].removeprefix(b"Exif\0\0"))
        place += 8 + length + length % 2
    return ImageHeader("webp", height, width, False, 8, orientation)


def _orientation(exif):
    """The orientation in EXIF data, which is a TIFF file; 1 if there is none or the data is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION and kind == 3:
                (value,) = struct.unpack_from(f"{order}H", exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_READERS = {b"\xff\xd8\xff": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"GIF8": _gif, b"BM": _bmp, b"RIFF": _webp}
