"""Decodes a user's own image files, and brings them to one size and one number of channels.

If all images are the same square of a side in `SIDES`, they are used as they are. Otherwise each is cropped to its
central square, which is resized to one side with Pillow's BOX: each new pixel is the mean of the old pixels whose
centres it covers, or the nearest one if it covers none. The weights need no sines, as LANCZOS's do, and Pillow sums in
integers; so the pixels are the same on every machine.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rme.data._sizes import SIDES
from rme.data.base import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

COMMON_SIDES = (16, 28, 32, 64)
"""Of these, images of several sizes get the largest that none of them falls short of."""
CHUNK = 1024
"""Images that are looked at together: after a chunk with colour, no other is decoded to find some."""


@dataclass(frozen=True)
class Picture:
    """An encoded image of a user.

    Attributes:
        name: what errors call it.
        test: whether it is a test image.
        read: returns the encoded bytes.
    """

    name: str
    test: bool
    read: Callable[[], bytes]


@contextmanager
def opened(picture: Picture) -> Iterator[Image]:
    """The image, not yet decoded. DataError, also of what is done with it, names the picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture.read())) as image:
            if kind := _more_than_8_bits(image):
                raise DataError(f"{picture.name} has {kind} pixels, expected 8 bits a channel")
            yield image
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise anything
        # without the address of the bytes in memory
        text = str(error).partition(" <_io.")[0]
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise DataError(f"{picture.name} cannot be read as an image ({' '.join(reason.split())})") from error


def _more_than_8_bits(image: Image) -> str | None:
    """What the pixels are, if 8 bits cannot hold them."""
    if image.mode.startswith("I;16"):
        return "16-bit"
    if image.mode in ("I", "F"):
        return "32-bit" if image.mode == "F" else "16- or 32-bit"
    # Pillow would drop half of the bits of a colour image; only the layout of its file shows it
    layouts = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in getattr(image, "tile", [])]
    raw = [each for layout in layouts for each in layout if isinstance(each, str)]
    return "16-bit" if any(re.search(";16[BLN]", each) for each in raw) else None


def decoded(picture: Picture) -> Image:
    """The image in mode L (grey) or RGB: upright as its EXIF tells, transparency on white, of an animation the first.

    DataError names a picture that cannot be decoded, or that has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    with opened(picture) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            picture_on_top = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, picture_on_top).convert("RGB")
        return upright.convert("L" if upright.mode in ("1", "L") else "RGB")


def is_grey(image: Image) -> bool:
    """Whether an image that `decoded` returned has no colour: one channel, or three equal ones."""
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())


def pixels_of(picture: Picture, side: int, channels: int) -> np.ndarray:
    """The image as uint8 (channels, side, side): if it is of another size, its central square resized."""
    from PIL import Image

    image = decoded(picture)
    if image.size != (side, side):
        width, height = image.size
        square = min(width, height)
        left, upper = (width - square) // 2, (height - square) // 2
        # crop first: resize(box=...) may also use pixels outside the box
        image = image.crop((left, upper, left + square, upper + square)).resize((side, side), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(side, side, channels).transpose(2, 0, 1)


def common_side(pictures: Sequence[Picture], path: str, threads: Executor) -> int:
    """The side to which the images of `path` are brought, pixels, from their headers.

    DataError names the smallest image if it has fewer than 16 pixels on a side, or one that cannot be read.
    """

    def size(picture: Picture) -> tuple[int, int]:
        with opened(picture) as image:
            return image.size

    sizes = list(threads.map(size, pictures))
    width, height = sizes[0]
    if len(set(sizes)) == 1 and width == height and width in SIDES:
        return width
    smallest = min(range(len(sizes)), key=lambda i: min(sizes[i]))
    width, height = sizes[smallest]
    sides = [side for side in COMMON_SIDES if side <= min(width, height)]
    if not sides:
        few = f"{pictures[smallest].name} has {width}x{height} pixels, fewer than {COMMON_SIDES[0]} on a side"
        raise DataError(f"{few}; remove it, or name the side to which all are resized: {path}@{COMMON_SIDES[0]}")
    return sides[-1]


def are_grey(pictures: Sequence[Picture], threads: Executor) -> bool:
    """Whether no image has colour. DataError names one that cannot be decoded, if it comes before colour."""

    def grey(picture: Picture) -> bool:
        return is_grey(decoded(picture))

    chunks = (pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK))
    return all(all(threads.map(grey, chunk)) for chunk in chunks)
