"""Uploaded images: check them, store them, make thumbnails with Pillow."""

from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import Image, ImageOps

Size: TypeAlias = Literal["small", "medium", "large"]

PIXELS: dict[Size, int] = {"small": 96, "medium": 320, "large": 960}
"""The longest side of each thumbnail."""
FORMATS = ("PNG", "JPEG")
"""The file formats that are taken."""
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg"}
"""By Pillow's name of the format; a JPEG with several pictures, as phones make it, is an MPO."""


class NotAnImageError(ValueError):
    """The bytes are no complete image in one of the formats that are taken."""


def suffix_of(data: bytes) -> str:
    """Return the file suffix for an image.

    Raises:
        NotAnImageError: It cannot be read to its end.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            image.load()
            return SUFFIXES[image.format or ""]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAnImageError("this is no complete PNG or JPEG image") from error


def original_path(folder: Path, image_id: int, suffix: str) -> Path:
    """Where an uploaded image is kept."""
    return folder / f"image-{image_id}{suffix}"


def thumbnail_path(original: Path, size: Size) -> Path:
    """Where a thumbnail is kept."""
    return original.with_stem(f"{original.stem}-{size}")


def make_thumbnail(original: Path, size: Size) -> None:
    """Make one thumbnail. A plain function: as a task it runs in a thread."""
    target = thumbnail_path(original, size)
    unfinished = target.with_stem(f".{target.stem}")
    with Image.open(original) as image:
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((PIXELS[size], PIXELS[size]))
        upright.save(unfinished)
    unfinished.rename(target)  # so that nobody is served half an image
